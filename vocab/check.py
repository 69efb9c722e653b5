"""Checks of arguments whose errors say what came and what is allowed."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["expect"]

_KINDS = {
    "float": (lambda d: d.is_floating_point, "a floating-point dtype"),
    "int": (lambda d: not (d.is_floating_point or d.is_complex or d == torch.bool), "an integer dtype"),
    "bool": (lambda d: d == torch.bool, "torch.bool"),
}


def expect(name: str, x: Tensor, dims: str, *, dtype: str = "float", **sizes: int) -> None:
    """Raises unless ``x`` is a tensor with these dimensions.

    Args:
        name: The argument's name, for the message.
        x: The argument.
        dims: Names of its dimensions, ``"batch time d_model"``; a leading ``...`` stands for any number of them.
        dtype: ``"float"``, ``"int"`` or ``"bool"``.
        sizes: The size that a named dimension must have.

    Raises:
        TypeError: If ``x`` is no tensor or has another kind of dtype.
        ValueError: If its shape does not fit.

    Examples:
        >>> expect("x", torch.zeros(2, 3), "batch time d_model", d_model=3)
        Traceback (most recent call last):
        ValueError: x has shape (2, 3); expected (batch, time, d_model=3)
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} is a {type(x).__name__}; expected a tensor")
    fits, wanted = _KINDS[dtype]
    if not fits(x.dtype):
        raise TypeError(f"{name} has dtype {x.dtype}; expected {wanted}")
    names = dims.split()
    free = bool(names) and names[0] == "..."
    fixed = names[1:] if free else names
    shape = x.shape[x.ndim - len(fixed):] if free else x.shape
    if len(shape) != len(fixed) or any(sizes.get(n, size) != size for n, size in zip(fixed, shape)):
        shown = ", ".join(["..."] * free + [f"{n}={sizes[n]}" if n in sizes else n for n in fixed])
        raise ValueError(f"{name} has shape {tuple(x.shape)}; expected ({shown})")
