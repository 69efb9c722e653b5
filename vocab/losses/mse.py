"""Mean squared error.

Source: Bishop 2006, Pattern Recognition and Machine Learning, sections 1.2.5 (as a likelihood) and 3.2 (bias and variance).
"""

from __future__ import annotations

from torch import Tensor, nn

from vocab.check import expect
from vocab.losses.cross_entropy import check_reduction, reduced, same_shape, widen

__all__ = ["MSELoss", "error"]


class MSELoss(nn.Module):
    """The square of the difference between prediction and target, averaged over all elements.

    Numbers of 16 bits are widened to 32 before the square, and the loss stays there. The mean over no element is 0.

    Args:
        reduction: ``"mean"``, ``"sum"``, or ``"none"``.

    Shapes:
        input ``(...)``, target ``(...)`` -> a scalar, or ``(...)`` without reduction.

    Raises:
        ValueError: If the shapes differ (nothing is broadcast) or ``reduction`` is another word.

    Examples:
        >>> import torch
        >>> MSELoss()(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 2.0, 6.0]))
        tensor(3.)
    """

    def __init__(self, reduction: str = "mean") -> None:
        super().__init__()
        check_reduction(reduction)
        self.reduction = reduction

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return reduced(error(input, target).square(), self.reduction)


def error(input: Tensor, target: Tensor) -> Tensor:
    """Computes prediction minus target, in 32 bits or more; refuses to broadcast.

    Args:
        input: Predictions.
        target: What they should be.

    Raises:
        ValueError: If the shapes differ.
    """
    expect("input", input, "...")
    expect("target", target, "...")
    same_shape("target", target, "input", input)
    return widen(input) - widen(target)
