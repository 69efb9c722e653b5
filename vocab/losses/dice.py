"""Dice loss: one minus the overlap of a soft mask with the truth, image by image and channel by channel.

Source: Milletari et al. 2016, arXiv:1606.04797, section 3 (with squares); the coefficient without squares, Sudre et al. 2017, arXiv:1707.03237.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vocab.check import expect
from vocab.losses.cross_entropy import check_reduction, reduced, same_shape, widen

__all__ = ["DiceLoss", "check_share", "overlap_sums", "ratio"]

# B images, C channels (classes or questions); "..." positions: height and width, or a volume.


class DiceLoss(nn.Module):
    """One minus twice the overlap over the sum of the two areas, both counted with soft predictions.

    With ``p`` the prediction and ``t`` the truth, ``1 - (2 sum(p t) + smooth) / (sum(p) + sum(t) + smooth)``. Inputs of 16 bits are
    widened to 32. Where nothing is predicted, nothing is there and ``smooth`` is 0, the loss is 0 with gradient 0 (not 0/0).

    Args:
        smooth: Pixels that both masks are given for free, 0 or more. Decides what an empty truth costs.
        square: Sum the squares in the denominator, as V-Net does.
        from_logits: Whether the input goes through a sigmoid here. Otherwise it is probabilities, for example of a softmax.
        per_channel: One overlap for each channel, then their mean. Otherwise all channels of an image are one mask.
        batch: One overlap over the whole batch instead of one for each image.
        weight: One factor per channel, ``(C,)``, in the mean over channels; 1 for all by default.
        reduction: ``"mean"``, ``"sum"``, or ``"none"``.

    Shapes:
        logits ``(B, C, ...)``, target ``(B, C, ...)`` of 0 and 1 or between, mask ``(B, C, ...)`` of bool: True where a pixel counts
        -> a scalar; without reduction ``(B, C)``, less the axes that are summed over.

    Raises:
        ValueError: If an option is out of range, shapes differ, or target or probabilities are not between 0 and 1 (not looked at while
            compiling).

    Examples:
        >>> truth = torch.tensor([[[1.0, 1.0, 0.0, 0.0]]])
        >>> found = torch.tensor([[[0.0, 1.0, 1.0, 0.0]]])
        >>> DiceLoss(smooth=0.0, from_logits=False)(found, truth)
        tensor(0.5000)
    """

    weight: Tensor | None

    def __init__(self, smooth: float = 1.0, square: bool = False, from_logits: bool = True, per_channel: bool = True, *,
                 batch: bool = False, weight: Tensor | None = None, reduction: str = "mean") -> None:
        super().__init__()
        if not smooth >= 0:
            raise ValueError(f"smooth={smooth} is not 0 or more")
        if weight is not None:
            if not per_channel:
                raise ValueError("weight is for the mean over channels; per_channel=False has none")
            expect("weight", weight, "channels")
            if not (weight >= 0).all():
                raise ValueError(f"weight holds {weight[~(weight >= 0)][0].item()}; expected numbers of 0 or more")
        check_reduction(reduction)
        self.register_buffer("weight", weight)
        self.smooth, self.square, self.from_logits = smooth, square, from_logits
        self.per_channel, self.batch, self.reduction = per_channel, batch, reduction

    def forward(self, logits: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        expect("logits", logits, "...")
        expect("target", target, "...")
        if logits.ndim < 2:
            raise ValueError(f"logits has shape {tuple(logits.shape)}; expected (B, C, ...)")
        same_shape("target", target, "logits", logits)
        if mask is not None:
            expect("mask", mask, "...", dtype="bool")
            same_shape("mask", mask, "logits", logits)
            logits, target = torch.where(mask, logits, 0.0), torch.where(mask, target, 0.0)  # what does not count may be NaN, or 255
        check_share("target", target)
        if self.weight is not None and len(self.weight) != logits.shape[1]:
            raise ValueError(f"weight has {len(self.weight)} channels; logits has {logits.shape[1]}")
        if self.from_logits:
            prob = widen(logits).sigmoid()
        else:
            check_share("logits (probabilities here, from_logits=False)", logits)
            prob = widen(logits)
        if mask is not None and self.from_logits:
            prob = torch.where(mask, prob, 0.0)  # the sigmoid of 0 is not 0

        axes = [*range(2, logits.ndim)] + [1] * (not self.per_channel) + [0] * self.batch
        both, areas = overlap_sums(prob, widen(target), axes, self.square)
        loss = 1 - ratio(2 * both + self.smooth, areas + self.smooth)
        if self.weight is None:
            return reduced(loss, self.reduction)
        weight = self.weight.to(loss.dtype).expand_as(loss)
        return reduced(weight * loss, self.reduction, weight)


def overlap_sums(prob: Tensor, target: Tensor, axes: list[int], square: bool = False) -> tuple[Tensor, Tensor]:
    """Sums the product of two soft masks, and the two masks.

    Args:
        prob: A soft mask.
        target: Another one, of the same shape.
        axes: Axes to sum over; none for an empty list.
        square: Sum the squares of the masks instead of the masks.

    Examples:
        >>> overlap_sums(torch.tensor([0.5, 1.0]), torch.tensor([0.0, 1.0]), [0])
        (tensor(1.), tensor(2.5000))
    """
    both, areas = prob * target, prob**2 + target**2 if square else prob + target
    return (both.sum(axes), areas.sum(axes)) if axes else (both, areas)


def ratio(part: Tensor, whole: Tensor) -> Tensor:
    """Divides; nothing of nothing is 1, with gradient 0: two empty masks agree.

    Args:
        part: Numerators.
        whole: Denominators; where one is 0, so is the numerator.

    Examples:
        >>> ratio(torch.tensor([1.0, 0.0]), torch.tensor([2.0, 0.0]))
        tensor([0.5000, 1.0000])
    """
    empty = whole == 0
    return torch.where(empty, 1.0, part / torch.where(empty, 1.0, whole))


def check_share(name: str, x: Tensor) -> None:
    """Raises unless all numbers are between 0 and 1, give or take a thousandth. They are not looked at while compiling; NaN passes.

    Args:
        name: Name of the argument.
        x: The argument.

    Raises:
        ValueError: If one is not: a mask stored as 0 and 255, class numbers, or logits where probabilities belong.
    """
    if not torch.compiler.is_compiling():
        wrong = (x < -1e-3) | (x > 1 + 1e-3)
        if wrong.any():
            raise ValueError(f"{name} holds {x[wrong][0].item():g}; expected numbers from 0 to 1")
