"""Huber loss: a parabola with straight arms.

Source: Huber 1964, doi:10.1214/aoms/1177703732; Girshick 2015, arXiv:1504.08083, equation 3 (smooth L1).
"""

from __future__ import annotations

from torch import Tensor, nn

from vocab.losses.cross_entropy import check_reduction, reduced
from vocab.losses.mse import error

__all__ = ["HuberLoss", "SmoothL1Loss"]


class HuberLoss(nn.Module):
    """Half the square of a small error, and a straight line of slope ``delta`` for a large one.

    Args:
        delta: Where the parabola ends, in the unit of the targets. ``inf`` leaves half the squared error.
        reduction: ``"mean"``, ``"sum"``, or ``"none"``. The mean over no element is 0.

    Shapes:
        input ``(...)``, target ``(...)`` -> a scalar, or ``(...)`` without reduction.

    Raises:
        ValueError: If ``delta`` is not above 0, the shapes differ (nothing is broadcast) or ``reduction`` is another word.

    Examples:
        >>> import torch
        >>> HuberLoss(delta=2.0, reduction="none")(torch.tensor([1.0, 2.0, 10.0]), torch.zeros(3))
        tensor([ 0.5000,  2.0000, 18.0000])
    """

    def __init__(self, delta: float = 1.0, reduction: str = "mean") -> None:
        super().__init__()
        if not delta > 0:
            raise ValueError(f"delta={delta} is not above 0")
        check_reduction(reduction)
        self.delta, self.reduction = delta, reduction

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return reduced(_huber(error(input, target), self.delta), self.reduction)


class SmoothL1Loss(nn.Module):
    """Huber's loss divided by its threshold: the arms have slope 1 whatever ``beta`` is.

    Args:
        beta: Where the parabola ends. 0 leaves the absolute error.
        reduction: ``"mean"``, ``"sum"``, or ``"none"``. The mean over no element is 0.

    Shapes:
        input ``(...)``, target ``(...)`` -> a scalar, or ``(...)`` without reduction.

    Raises:
        ValueError: If ``beta`` is negative or infinite, the shapes differ (nothing is broadcast) or ``reduction`` is another word.

    Examples:
        >>> import torch
        >>> SmoothL1Loss(beta=2.0, reduction="none")(torch.tensor([1.0, 2.0, 10.0]), torch.zeros(3))
        tensor([0.2500, 1.0000, 9.0000])
    """

    def __init__(self, beta: float = 1.0, reduction: str = "mean") -> None:
        super().__init__()
        if not 0 <= beta < float("inf"):
            raise ValueError(f"beta={beta} is not a number of 0 or more")
        check_reduction(reduction)
        self.beta, self.reduction = beta, reduction

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        e = error(input, target)
        return reduced(_huber(e, self.beta) / self.beta if self.beta else e.abs(), self.reduction)


def _huber(e: Tensor, delta: float) -> Tensor:
    # One product for both pieces, without a branch whose unused side could be infinite: the square ends where the clamp begins.
    size = e.abs()
    bent = size.clamp(max=delta)
    return bent * (size - bent / 2)
