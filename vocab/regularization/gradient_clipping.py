"""Gradient clipping: gradients that are too long together are shortened together, before the optimizer sees them.

Source: Pascanu, Mikolov and Bengio 2013, arXiv:1211.5063, algorithm 1 (by norm); by value as in torch.nn.utils.clip_grad_value_.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from vocab.check import expect
from vocab.regularization.weight_decay import listed

__all__ = ["clip_grad_norm_", "clip_grad_value_", "total_norm"]


@torch.no_grad()
def clip_grad_norm_(
    params: Tensor | Iterable[Tensor], max_norm: float, norm_type: float = 2.0, error_if_nonfinite: bool = False
) -> Tensor:
    """Multiplies all gradients by one factor, such that their norm together is at most ``max_norm``.

    The factor is ``max_norm / (norm + 1e-6)``, or 1 if that is larger: the direction stays.

    Args:
        params: The parameters whose ``grad`` is changed in place; those without one are skipped.
        max_norm: The largest norm allowed, 0 or more. ``math.inf`` only measures.
        norm_type: Which norm: 2 for Euclid's, ``math.inf`` for the largest number.
        error_if_nonfinite: Whether a norm that is NaN or infinite is an error. Otherwise it spoils all gradients.

    Returns:
        The norm before clipping, to be logged.

    Raises:
        ValueError: If ``max_norm`` or ``norm_type`` is out of range.
        RuntimeError: If the norm is not finite and ``error_if_nonfinite`` is set; the gradients are then as they were.

    Examples:
        >>> w = torch.nn.Parameter(torch.zeros(2))
        >>> w.grad = torch.tensor([3.0, 4.0])
        >>> clip_grad_norm_([w], max_norm=1.0)
        tensor(5.)
        >>> w.grad
        tensor([0.6000, 0.8000])
    """
    if not max_norm >= 0:
        raise ValueError(f"max_norm={max_norm} is not 0 or more")
    gradients = [w.grad for w in listed(params) if w.grad is not None]
    norm = total_norm(gradients, norm_type) if gradients else torch.zeros(())
    if error_if_nonfinite and not norm.isfinite():
        raise RuntimeError(f"the gradients have the norm {norm.item()}: at least one number of them is not finite")
    # No branch on the value of the norm: on a GPU that would make the host wait. Dividing infinity by infinity is kept out.
    factor = torch.ones_like(norm) if max_norm == math.inf else (max_norm / (norm + 1e-6)).clamp(max=1.0)
    for g in gradients:
        g.mul_(factor.to(g.device, g.dtype))
    return norm


@torch.no_grad()
def clip_grad_value_(params: Tensor | Iterable[Tensor], clip_value: float) -> None:
    """Cuts every number of every gradient off at plus and minus ``clip_value``; the direction may change.

    Args:
        params: The parameters whose ``grad`` is changed in place.
        clip_value: The largest magnitude allowed, 0 or more.

    Raises:
        ValueError: If ``clip_value`` is negative.

    Examples:
        >>> w = torch.nn.Parameter(torch.zeros(2))
        >>> w.grad = torch.tensor([10.0, 1.0])
        >>> clip_grad_value_([w], 1.0)
        >>> w.grad  # it pointed along the first weight; now it points between both
        tensor([1., 1.])
    """
    if not clip_value >= 0:
        raise ValueError(f"clip_value={clip_value} is not 0 or more")
    for w in listed(params):
        if w.grad is not None:
            w.grad.clamp_(-clip_value, clip_value)


def total_norm(tensors: Iterable[Tensor], norm_type: float = 2.0) -> Tensor:
    """The norm of all tensors as if they were one long vector, in float32 or better.

    Args:
        tensors: Gradients, or norms of the shards of gradients: a norm of norms is the norm of the whole.
        norm_type: Above 0; ``math.inf`` for the largest magnitude.

    Raises:
        ValueError: If ``norm_type`` is not above 0.

    Examples:
        >>> total_norm([torch.tensor([3.0]), torch.tensor([0.0, 4.0])])
        tensor(5.)
    """
    if not norm_type > 0:
        raise ValueError(f"norm_type={norm_type} is not above 0")
    tensors = list(tensors)
    for i, t in enumerate(tensors):
        expect(f"tensors[{i}]", t, "...")
    # In float16 a norm above 65,504 would be infinite, and everything would be clipped to 0.
    norms = [torch.linalg.vector_norm(t, norm_type, dtype=torch.promote_types(t.dtype, torch.float32)) for t in tensors]
    widest = max((n.dtype for n in norms), key=lambda d: d.itemsize)
    return torch.linalg.vector_norm(torch.stack([n.to(norms[0].device, widest) for n in norms]), norm_type)
