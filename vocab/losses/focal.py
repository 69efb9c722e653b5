"""Focal loss: cross-entropy that fades out for what is already classified well.

Source: Lin et al. 2017, arXiv:1708.02002, equation 5; the prior bias in section 3.3.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vocab.check import expect
from vocab.losses.cross_entropy import check_reduction, reduced, same_shape, widen

__all__ = ["FocalLoss", "prior_bias"]


class FocalLoss(nn.Module):
    """Binary focal loss of logits, one independent yes-or-no question per element.

    With the probability ``p_t`` that the model gives to the truth, an element costs
    ``-alpha_t * (1 - p_t)**gamma * log(p_t)``. ``gamma = 0`` leaves weighted cross-entropy.

    A target between 0 and 1 counts as that share of a positive and the rest of a negative example. Logits of 16 bits are widened
    to 32, and the loss stays there. The mean over no element is 0.

    Args:
        alpha: Weight of positive elements; negative ones get ``1 - alpha``. ``None`` weighs both with 1.
        gamma: How fast an element fades as it is classified better, 0 or more.
        reduction: ``"mean"``, ``"sum"`` (detectors divide it by the number of positives), or ``"none"``.

    Shapes:
        logits ``(N, ...)``, target ``(N, ...)`` -> a scalar, or ``(N, ...)`` without reduction.

    Raises:
        ValueError: If ``alpha`` is not in [0, 1], ``gamma`` is negative, ``reduction`` is another word, or shapes differ.

    Examples:
        >>> loss = FocalLoss(alpha=None, gamma=2.0)
        >>> loss(torch.tensor([math.log(9.0)]), torch.tensor([1.0]))  # p_t = 0.9: a hundredth of 0.1054
        tensor(0.0011)
    """

    def __init__(self, alpha: float | None = 0.25, gamma: float = 2.0, reduction: str = "mean") -> None:
        super().__init__()
        if alpha is not None and not 0 <= alpha <= 1:
            raise ValueError(f"alpha={alpha} is not between 0 and 1")
        if not gamma >= 0:
            raise ValueError(f"gamma={gamma} is not 0 or more")
        check_reduction(reduction)
        self.alpha, self.gamma, self.reduction = alpha, gamma, reduction

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        expect("logits", logits, "...")
        expect("target", target, "...")
        same_shape("target", target, "logits", logits)
        logits, target = widen(logits), widen(target)
        positive, negative = (1.0, 1.0) if self.alpha is None else (self.alpha, 1 - self.alpha)
        loss = positive * target * self._fading(logits) + negative * (1 - target) * self._fading(-logits)
        return reduced(loss, self.reduction)

    def _fading(self, x: Tensor) -> Tensor:
        """Cross-entropy of an element whose truth has the logit ``x``, times ``(1 - p_t)**gamma``.

        ``1 - p_t`` is ``exp(-softplus(x))``. As a power of an exponential its gradient exists everywhere; that of
        ``pow`` is infinite at ``p_t = 1`` for ``gamma < 1``, and infinity times zero is NaN.
        """
        return torch.exp(-self.gamma * F.softplus(x)) * F.softplus(-x)


def prior_bias(prior: float = 0.01) -> float:
    """The bias of the last layer with which every element starts at probability ``prior``.

    Args:
        prior: The probability of a positive before anything is learned.

    Raises:
        ValueError: If ``prior`` is not inside (0, 1).

    Examples:
        >>> round(prior_bias(0.01), 3)
        -4.595
    """
    if not 0 < prior < 1:
        raise ValueError(f"prior={prior} is not between 0 and 1")
    return -math.log((1 - prior) / prior)
