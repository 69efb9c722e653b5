"""IoU losses of boxes (IoU, GIoU, DIoU, CIoU) and of soft masks.

Source: Yu et al. 2016, arXiv:1608.01471 (IoU); Rezatofighi et al. 2019, arXiv:1902.09630, algorithm 2 (GIoU); Zheng et al. 2020,
arXiv:1911.08287, equations 7 and 8 (DIoU), 9 to 11 (CIoU).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vocab.check import expect
from vocab.losses.cross_entropy import check_reduction, reduced, same_shape, widen
from vocab.losses.dice import check_share, overlap_sums, ratio

__all__ = ["box_iou_loss", "corners", "soft_iou_loss"]

# N pairs of boxes; B images


def box_iou_loss(pred: Tensor, target: Tensor, kind: str = "iou", fmt: str = "xyxy", reduction: str = "none") -> Tensor:
    """One minus the intersection over the union of each predicted box with its target, plus what the kind adds.

    ``"iou"`` adds nothing and has no gradient for boxes that do not touch. ``"giou"`` adds the share of the smallest enclosing box that
    neither box covers. ``"diou"`` adds the squared distance of the centers over the squared diagonal of the enclosing box. ``"ciou"`` adds
    to that the difference in aspect ratio, weighted by ``alpha``, which gets no gradient. Coordinates of 16 bits are widened to 32.

    Args:
        pred: Predicted boxes.
        target: The box that each should be.
        kind: ``"iou"``, ``"giou"``, ``"diou"`` or ``"ciou"``.
        fmt: What the four numbers are: ``"xyxy"`` (two corners), ``"xywh"`` (a corner and the sides), ``"cxcywh"`` (the center and the sides).
        reduction: ``"none"``, ``"mean"`` (0 for no boxes) or ``"sum"``.

    Shapes:
        pred ``(N, 4)``, target ``(N, 4)`` -> ``(N,)``, or a scalar with reduction.

    Raises:
        ValueError: If an option is another word, a shape does not fit, a box has a negative side, or a target has no area (boxes are not
            looked at while compiling).

    Examples:
        >>> pred, target = torch.tensor([[0.0, 0.0, 2.0, 2.0]]), torch.tensor([[3.0, 0.0, 5.0, 2.0]])
        >>> box_iou_loss(pred, target)
        tensor([1.])
        >>> box_iou_loss(pred, target, "giou")  # a fifth of the enclosing 5 x 2 is empty
        tensor([1.2000])
    """
    if kind not in ("iou", "giou", "diou", "ciou"):
        raise ValueError(f"kind={kind!r} is not 'iou', 'giou', 'diou' or 'ciou'")
    check_reduction(reduction)
    expect("pred", pred, "boxes numbers", numbers=4)
    expect("target", target, "boxes numbers", numbers=4)
    same_shape("target", target, "pred", pred)
    low_p, high_p = corners("pred", pred, fmt)
    low_t, high_t = corners("target", target, fmt)
    if not torch.compiler.is_compiling() and ((high_t - low_t) == 0).any():
        i = int(((high_t - low_t) == 0).any(1).nonzero()[0])
        raise ValueError(f"target {i} has no area: {target[i].tolist()}")

    size_p, size_t = high_p - low_p, high_t - low_t
    shared = (torch.minimum(high_p, high_t) - torch.maximum(low_p, low_t)).clamp(min=0).prod(1)
    union = size_p.prod(1) + size_t.prod(1) - shared
    iou = ratio(shared, union)
    loss = 1 - iou

    enclosing = torch.maximum(high_p, high_t) - torch.minimum(low_p, low_t)
    if kind == "giou":
        area = enclosing.prod(1)
        loss = loss + (area - union) / area
    if kind in ("diou", "ciou"):
        between = (low_p + high_p - low_t - high_t) / 2
        loss = loss + between.square().sum(1) / enclosing.square().sum(1)
    if kind == "ciou":
        # atan2 and not atan of a quotient: a box without height has a slope too
        angle_p, angle_t = (torch.atan2(size[:, 0], size[:, 1]) for size in (size_p, size_t))
        aspect = (2 / math.pi * (angle_p - angle_t)) ** 2
        with torch.no_grad():
            alpha = ratio(aspect, 1 - iou + aspect)
        loss = loss + alpha * aspect
    return reduced(loss, reduction)


def corners(name: str, boxes: Tensor, fmt: str = "xyxy") -> tuple[Tensor, Tensor]:
    """Turns boxes into their low and their high corner.

    Args:
        name: Name of the argument, for the message.
        boxes: The boxes, ``(N, 4)``.
        fmt: ``"xyxy"``, ``"xywh"`` or ``"cxcywh"``.

    Shapes:
        boxes ``(N, 4)`` -> two of ``(N, 2)``.

    Raises:
        ValueError: If ``fmt`` is another word, or a box ends before it begins (not looked for while compiling).

    Examples:
        >>> corners("box", torch.tensor([[5.0, 5.0, 4.0, 2.0]]), "cxcywh")
        (tensor([[3., 4.]]), tensor([[7., 6.]]))
    """
    if fmt not in ("xyxy", "xywh", "cxcywh"):
        raise ValueError(f"fmt={fmt!r} is not 'xyxy', 'xywh' or 'cxcywh'")
    first, second = widen(boxes).split(2, 1)
    low = first - second / 2 if fmt == "cxcywh" else first
    high = second if fmt == "xyxy" else low + second
    if not torch.compiler.is_compiling():
        wrong = (high < low).any(1)
        if wrong.any():
            i = int(wrong.nonzero()[0])
            raise ValueError(f"{name} {i} ends before it begins: {boxes[i].tolist()} as {fmt}")
    return low, high


def soft_iou_loss(prob: Tensor, mask: Tensor, smooth: float = 1.0, reduction: str = "mean") -> Tensor:
    """One minus the intersection over the union of soft masks, one overlap for each image.

    With ``p`` the prediction and ``t`` the truth, ``1 - (sum(p t) + smooth) / (sum(p) + sum(t) - sum(p t) + smooth)``.

    Args:
        prob: Probabilities.
        mask: The truth, numbers from 0 to 1.
        smooth: Pixels that both masks are given for free, 0 or more.
        reduction: ``"mean"`` (0 for no images), ``"sum"`` or ``"none"``.

    Shapes:
        prob ``(B, ...)``, mask ``(B, ...)`` -> a scalar, or ``(B,)`` without reduction.

    Raises:
        ValueError: If an option is out of range, the shapes differ, or a number is not between 0 and 1 (not looked at while compiling).

    Examples:
        >>> soft_iou_loss(torch.tensor([[0.0, 1.0, 1.0]]), torch.tensor([[1.0, 1.0, 0.0]]), smooth=0.0)
        tensor(0.6667)
    """
    if not smooth >= 0:
        raise ValueError(f"smooth={smooth} is not 0 or more")
    check_reduction(reduction)
    expect("prob", prob, "...")
    expect("mask", mask, "...")
    if not prob.ndim:
        raise ValueError("prob has shape (); expected (B, ...)")
    same_shape("mask", mask, "prob", prob)
    check_share("prob", prob)
    check_share("mask", mask)
    both, areas = overlap_sums(widen(prob), widen(mask), [*range(1, prob.ndim)])
    return reduced(1 - ratio(both + smooth, areas - both + smooth), reduction)
