"""Hard sigmoid, ReLU6 and hardtanh: straight pieces between two ends.

Source: Howard et al. 2019, arXiv:1905.02244, section 5.2 (slope 1/6); Courbariaux et al. 2015, arXiv:1511.00363 (slope 1/2).
"""

from __future__ import annotations

import torch
from torch import Tensor

from vocab.check import expect

__all__ = ["hardsigmoid", "hardtanh", "relu6"]


def hardsigmoid(x: Tensor) -> Tensor:
    """Rises from 0 at -3 to 1 at 3 on a straight line: PyTorch's and MobileNetV3's stand-in for the sigmoid.

    Args:
        x: Any shape.

    Shapes:
        x ``(...)`` -> ``(...)``, from 0 to 1.

    Examples:
        >>> hardsigmoid(torch.tensor([-4.0, -1.5, 0.0, 3.0]))
        tensor([0.0000, 0.2500, 0.5000, 1.0000])
    """
    expect("x", x, "...")
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return (relu6(wide + 3) / 6).to(x.dtype)


def relu6(x: Tensor) -> Tensor:
    """ReLU that stops rising at 6.

    Args:
        x: Any shape.

    Shapes:
        x ``(...)`` -> ``(...)``, from 0 to 6.

    Examples:
        >>> relu6(torch.tensor([-1.0, 5.0, 7.0]))
        tensor([0., 5., 6.])
    """
    return hardtanh(x, 0.0, 6.0)


def hardtanh(x: Tensor, min_val: float = -1.0, max_val: float = 1.0) -> Tensor:
    """Cuts numbers off at two ends; the gradient is zero outside and at the ends themselves.

    Args:
        x: Any shape.
        min_val: Lower end.
        max_val: Upper end.

    Shapes:
        x ``(...)`` -> ``(...)``.

    Raises:
        ValueError: If ``min_val`` is not below ``max_val``.

    Examples:
        >>> hardtanh(torch.tensor([-2.0, 0.5, 2.0]))
        tensor([-1.0000,  0.5000,  1.0000])
    """
    expect("x", x, "...")
    if not min_val < max_val:
        raise ValueError(f"min_val={min_val} is not below max_val={max_val}")
    # Not clamp: up to PyTorch 2.13 that lets the gradient through where x equals an end.
    return x.masked_fill(x <= min_val, min_val).masked_fill(x >= max_val, max_val)
