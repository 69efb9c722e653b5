"""Mean absolute error, and the pinball loss that generalizes it to quantiles.

Source: Koenker and Bassett 1978, doi:10.2307/1913643.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vocab.losses.cross_entropy import check_reduction, reduced
from vocab.losses.mse import error

__all__ = ["L1Loss", "PinballLoss"]


class L1Loss(nn.Module):
    """The size of the difference between prediction and target, averaged over all elements.

    Where they are equal the gradient is 0, one of the many slopes that fit under the corner.

    Args:
        reduction: ``"mean"``, ``"sum"``, or ``"none"``. The mean over no element is 0.

    Shapes:
        input ``(...)``, target ``(...)`` -> a scalar, or ``(...)`` without reduction.

    Raises:
        ValueError: If the shapes differ (nothing is broadcast) or ``reduction`` is another word.

    Examples:
        >>> L1Loss()(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 2.0, 6.0]))
        tensor(1.)
    """

    def __init__(self, reduction: str = "mean") -> None:
        super().__init__()
        check_reduction(reduction)
        self.reduction = reduction

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return reduced(error(input, target).abs(), self.reduction)


class PinballLoss(nn.Module):
    """An absolute error whose two sides cost differently; its best prediction is a quantile of the targets.

    Args:
        quantile: Share of the targets that should lie below the prediction. At 0.5 the loss is half the absolute error.
        reduction: ``"mean"``, ``"sum"``, or ``"none"``.

    Shapes:
        input ``(...)``, target ``(...)`` -> a scalar, or ``(...)`` without reduction.

    Raises:
        ValueError: If ``quantile`` is not between 0 and 1, the shapes differ, or ``reduction`` is another word.

    Examples:
        >>> loss = PinballLoss(0.9, "none")
        >>> loss(torch.tensor([0.0, 2.0]), torch.tensor([1.0, 1.0]))  # too low costs nine times as much as too high
        tensor([0.9000, 0.1000])
    """

    def __init__(self, quantile: float = 0.5, reduction: str = "mean") -> None:
        super().__init__()
        if not 0 < quantile < 1:
            raise ValueError(f"quantile={quantile} is not between 0 and 1")
        check_reduction(reduction)
        self.quantile, self.reduction = quantile, reduction

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        too_high = error(input, target)
        return reduced(torch.maximum((1 - self.quantile) * too_high, -self.quantile * too_high), self.reduction)
