"""Parallel scan: all states of a linear recurrence in about 2 log2(T) rounds instead of T steps.

Source: Blelloch 1990, CMU-CS-90-190, sections 1.2 and 1.4 (first-order recurrences as scans of pairs); in neural networks Martin and
Cundy 2018, arXiv:1709.04057, section 2.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from vocab.check import expect
from vocab.kernels.scan import applies, fused

__all__ = ["associative_scan", "compose", "linear_scan"]

Elements = tuple[Tensor, ...]


def linear_scan(
    a: Tensor, b: Tensor, h0: Tensor | None = None, *, axis: int = -1, reverse: bool = False, backend: str = "auto"
) -> Tensor:
    """All states of ``h_t = a_t * h_{t-1} + b_t`` at once.

    Computes in 32 bits or more and returns the dtype of ``b``. Nothing is divided, so small ``a`` cannot underflow to NaN.

    Args:
        a: What is kept of the state, elementwise.
        b: What is added; of the shape of ``a``.
        h0: The state before the first step (after the last one where ``reverse`` is set), without the time axis; zero if not given.
        axis: Which axis is time.
        reverse: Whether time runs backwards, ``h_t = a_t * h_{t+1} + b_t``.
        backend: ``"auto"``, ``"torch"`` or ``"triton"`` (one kernel that keeps states in registers).

    Shapes:
        a and b ``(B, D, T)``, or any other with time on ``axis``, h0 ``(B, D)`` -> h, of the shape of b.

    Raises:
        ValueError: If the shapes differ, or there is no such axis or no step.
        RuntimeError: If ``backend="triton"`` cannot run here; the message says why.

    Examples:
        >>> linear_scan(torch.full((1, 1, 4), 0.5), torch.ones(1, 1, 4))
        tensor([[[1.0000, 1.5000, 1.7500, 1.8750]]])
    """
    for name, x in [("a", a), ("b", b)] + [("h0", h0)] * (h0 is not None):
        expect(name, x, "...")
    if a.shape != b.shape:
        raise ValueError(f"b has shape {tuple(b.shape)}, a has {tuple(a.shape)}; they must be the same")
    axis = _axis(axis, b)
    state_shape = b.shape[:axis] + b.shape[axis + 1:]
    if h0 is not None and h0.shape != state_shape:
        raise ValueError(f"h0 has shape {tuple(h0.shape)}; expected that of b without axis {axis}, {tuple(state_shape)}")
    dtype, out = torch.promote_types(b.dtype, torch.float32), b.dtype  # in 16 bits a decay of 0.999 rounds to 1
    if a.dtype != b.dtype:
        a, b = a.to(dtype), b.to(dtype)
    if applies(a, b, axis, backend) and b.shape[axis]:
        places = math.prod(b.shape[:axis]), b.shape[axis], math.prod(b.shape[axis + 1:])
        start = None if h0 is None else h0.reshape(places[0], places[2])
        return fused(a.reshape(places), b.reshape(places), start, reverse=reverse).view(b.shape).to(out)
    a, b = a.to(dtype), b.to(dtype)
    if reverse:
        a, b = a.flip(axis), b.flip(axis)
    if h0 is not None:  # the first step can be taken at once
        first = a.narrow(axis, 0, 1) * h0.to(dtype).unsqueeze(axis) + b.narrow(axis, 0, 1)
        b = torch.cat([first, b.narrow(axis, 1, b.shape[axis] - 1)], axis)
    _, h = associative_scan(compose, (a, b), axis)
    return (h.flip(axis) if reverse else h).to(out)


def compose(first: Elements, second: Elements) -> Elements:
    """Two steps ``h -> a * h + b``, one after the other, as one step of the same form.

    Args:
        first: ``(a, b)`` of the earlier step.
        second: ``(a, b)`` of the later step.

    Examples:
        >>> compose((2.0, 1.0), (10.0, 3.0))  # 10 * (2 h + 1) + 3
        (20.0, 13.0)
    """
    (a1, b1), (a2, b2) = first, second
    return a2 * a1, a2 * b1 + b2


def associative_scan(op: Callable[[Elements, Elements], Elements], elems: Elements, axis: int = -1) -> Elements:
    """Running results of any associative operator: the first element, the first two joined, the first three ...

    Pairs of neighbours are joined, their half as long sequence is scanned by the same method, and one more round fills
    the places between: fewer than 2 T joins, in at most 2 log2(T) rounds.

    Args:
        op: Joins elements, the earlier one first; takes and returns tuples of tensors and works on all places at once.
        elems: Tensors of one length along ``axis``; an element is one place in all of them.
        axis: Which axis is scanned.

    Returns:
        Tensors of the same shapes.

    Raises:
        ValueError: If there is no tensor, no such axis, or lengths differ or are 0.

    Examples:
        >>> associative_scan(lambda x, y: (torch.maximum(x[0], y[0]),), (torch.tensor([3, 1, 4, 1, 5]),))
        (tensor([3, 3, 4, 4, 5]),)
    """
    if not elems:
        raise ValueError("elems is empty; a scan needs one tensor or more")
    lengths = [x.shape[_axis(axis, x)] for x in elems]
    if len(set(lengths)) > 1 or lengths[0] == 0:
        raise ValueError(f"elems have lengths {lengths} along axis {axis}; expected one length above 0")
    return _scan(op, tuple(x.movedim(axis, 0) for x in elems), axis)


def _scan(op: Callable, elems: Elements, axis: int) -> Elements:
    """Scans along the first axis and puts it back to its place."""
    levels = []
    while len(elems[0]) > 1:
        even, odd = tuple(x[::2] for x in elems), tuple(x[1::2] for x in elems)
        levels.append(even)
        elems = op(tuple(x[: len(y)] for x, y in zip(even, odd)), odd)
    for even in reversed(levels):
        done = elems  # the results at the odd places; an even one is the result before it, joined with its own element
        firsts = tuple(x[:1] for x in even)
        if len(even[0]) > 1:
            later = op(tuple(x[: len(y) - 1] for x, y in zip(done, even)), tuple(x[1:] for x in even))
            firsts = tuple(torch.cat(pair) for pair in zip(firsts, later))
        elems = tuple(_interleave(x, y) for x, y in zip(firsts, done))
    return tuple(x.movedim(0, axis) for x in elems)


def _interleave(even: Tensor, odd: Tensor) -> Tensor:
    both = torch.stack([even[: len(odd)], odd], 1).flatten(0, 1)
    return both if len(even) == len(odd) else torch.cat([both, even[-1:]])


def _axis(axis: int, x: Tensor) -> int:
    if not -x.ndim <= axis < x.ndim:
        raise ValueError(f"axis={axis} is none of the {x.ndim} axes of shape {tuple(x.shape)}")
    return axis % x.ndim
