"""L1 regularization: the sum of the magnitudes of the weights, as a penalty and as its proximal step (soft thresholding).

Source: Tibshirani 1996, doi:10.1111/j.2517-6161.1996.tb02080.x; the proximal step as in Beck and Teboulle 2009, doi:10.1137/080716542, section 2.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from vocab.check import expect
from vocab.regularization.l2 import check_strength
from vocab.regularization.weight_decay import listed

__all__ = ["l1_penalty", "prox_l1_", "soft_threshold"]


def l1_penalty(params: Tensor | Iterable[Tensor], lam: float) -> Tensor:
    """``lam * sum(|w|)`` over all numbers of all tensors.

    Added to a loss under SGD or Adam it brings weights near zero, not to zero. For that, leave it out and call ``prox_l1_`` after each step.

    Args:
        params: The weights; leave out intercepts and gains.
        lam: Strength, 0 or more.

    Returns:
        A scalar to be added to the loss.

    Raises:
        ValueError: If ``lam`` is negative or there are no weights.

    Examples:
        >>> l1_penalty([torch.tensor([3.0, -4.0])], lam=0.1)
        tensor(0.7000)
    """
    check_strength(lam)
    return lam * sum(w.abs().sum() for w in listed(params))


@torch.no_grad()
def prox_l1_(params: Tensor | Iterable[Tensor], threshold: float) -> None:
    """Moves every weight by ``threshold`` towards zero, in place, and to exactly zero if it is nearer.

    After a gradient step of size ``step`` on the loss alone, the threshold ``step * lam`` makes it a step of proximal gradient descent (ISTA).

    Args:
        params: The weights.
        threshold: The product of step size and strength, 0 or more.

    Examples:
        >>> w = torch.tensor([3.0, -0.5, -2.0])
        >>> prox_l1_(w, 1.0)
        >>> w
        tensor([ 2.,  0., -1.])
    """
    for w in listed(params):
        w.copy_(soft_threshold(w, threshold))


def soft_threshold(w: Tensor, threshold: float) -> Tensor:
    """``sign(w) * max(|w| - threshold, 0)``: the minimum of ``0.5 * (v - w)**2 + threshold * |v|`` over v.

    Args:
        w: Any floating-point tensor.
        threshold: How far each number moves towards zero, 0 or more.

    Raises:
        ValueError: If ``threshold`` is negative.

    Examples:
        >>> soft_threshold(torch.tensor([0.3]), 0.1)
        tensor([0.2000])
    """
    expect("w", w, "...")
    if not threshold >= 0:
        raise ValueError(f"threshold={threshold} is not 0 or more")
    return w - w.clamp(-threshold, threshold)  # what is inside the band is taken away whole: an exact zero
