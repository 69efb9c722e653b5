"""Contrastive loss of pairs: springs that pull like together, and push unlike apart within a margin.

Source: Hadsell, Chopra and LeCun 2006, doi:10.1109/CVPR.2006.100, equation 4.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vocab.check import expect
from vocab.losses.cross_entropy import check_reduction, reduced, same_shape
from vocab.losses.mse import error
from vocab.losses.triplet import distance

__all__ = ["ContrastiveLoss"]


class ContrastiveLoss(nn.Module):
    """Half the squared distance of a pair that belongs together, half the squared shortfall from the margin of one that does not.

    Args:
        margin: Distance from which an unlike pair costs nothing.
        reduction: ``"mean"``, ``"sum"``, or ``"none"``. The mean over no pair is 0.

    Shapes:
        x1 ``(N, D)``, x2 ``(N, D)``, same ``(N,)`` of booleans -> a scalar, or ``(N,)`` without reduction.

    Raises:
        TypeError: If ``same`` is not of booleans: numbers are used with both meanings.
        ValueError: If ``margin`` is not above 0, ``reduction`` is another word, or a shape differs.

    Examples:
        >>> x1, x2 = torch.zeros(3, 1), torch.tensor([[0.6], [0.6], [2.0]])
        >>> ContrastiveLoss(1.0, "none")(x1, x2, torch.tensor([True, False, False]))
        tensor([0.1800, 0.0800, 0.0000])
    """

    def __init__(self, margin: float = 1.0, reduction: str = "mean") -> None:
        super().__init__()
        if not margin > 0:
            raise ValueError(f"margin={margin} is not above 0")
        check_reduction(reduction)
        self.margin, self.reduction = margin, reduction

    def forward(self, x1: Tensor, x2: Tensor, same: Tensor) -> Tensor:
        expect("x1", x1, "pairs dim")
        expect("x2", x2, "pairs dim")
        same_shape("x2", x2, "x1", x1)
        expect("same", same, "pairs", dtype="bool", pairs=len(x1))
        pull = 0.5 * error(x1, x2).square().sum(-1)  # without a root, so that its gradient is exact at 0
        push = 0.5 * (self.margin - distance(x1, x2)).relu().square()
        return reduced(torch.where(same, pull, push), self.reduction)
