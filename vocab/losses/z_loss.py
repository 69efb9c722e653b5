"""z-loss: keeps the logarithm of the softmax's normalizer near zero.

Source: Chowdhery et al. 2022, arXiv:2204.02311, section 5; Zoph et al. 2022, arXiv:2202.08906, equation 5 (for routers).
"""

from __future__ import annotations

import torch
from torch import Tensor

from vocab.check import expect
from vocab.losses.cross_entropy import reduced, same_shape, widen

__all__ = ["z_loss"]


def z_loss(logits: Tensor, coef: float = 1e-4, mask: Tensor | None = None) -> Tensor:
    """Computes ``coef`` times the mean square of log Z, where Z is the sum of the exponentials of a row of logits.

    Logits of 16 bits are widened to 32. The mean over no row is 0.

    Args:
        logits: Logits of a softmax: of the output, or of a router.
        coef: Weight of the penalty.
        mask: True for the rows that count; all by default. Padding must not.

    Shapes:
        logits ``(..., V)``, mask ``(...)`` -> a scalar.

    Raises:
        ValueError: If ``coef`` is negative or a shape does not fit.

    Examples:
        >>> z_loss(torch.zeros(2, 1000), coef=1.0)  # (ln 1000) squared
        tensor(47.7171)
    """
    expect("logits", logits, "... vocabulary")
    if not coef >= 0:
        raise ValueError(f"coef={coef} is not 0 or more")
    log_z = torch.logsumexp(widen(logits), -1)
    if mask is None:
        return coef * reduced(log_z.square(), "mean")
    expect("mask", mask, "...", dtype="bool")
    same_shape("mask", mask, "the rows of logits", log_z)
    return coef * reduced(torch.where(mask, log_z, 0.0).square(), "mean", mask.to(log_z.dtype))
