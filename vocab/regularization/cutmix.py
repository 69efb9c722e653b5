"""CutMix: a rectangle of each image is replaced by that of another one, and the labels are mixed by the areas.

Source: Yun et al. 2019, arXiv:1905.04899, section 3.1 and algorithm A1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vocab.check import expect
from vocab.regularization.mixup import batch_targets, blend, draw_weight, pairing

__all__ = ["cut_box", "cutmix"]

# B batch, C channels, H height, W width


def cutmix(
    x: Tensor, y: Tensor, alpha: float = 1.0, *, n_classes: int | None = None, lam: float | None = None,
    center: tuple[float, float] | None = None, permutation: Tensor | None = None, generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Pastes one rectangle, at the same place of all images, from each image's partner in the batch.

    Args:
        x: Images.
        y: Class numbers, or class probabilities.
        alpha: The share to keep is drawn from Beta(alpha, alpha), before the rectangle is clipped at the border.
        n_classes: How many classes there are; needed for class numbers.
        lam: A share to use instead of drawing one.
        center: Center of the rectangle, from 0 to 1 in height and width, instead of drawing it.
        permutation: The partner of each example, instead of a random order of the batch.
        generator: Of the draws, on the CPU.

    Shapes:
        x ``(B, C, H, W)``, y ``(B,)`` or ``(B, ...)`` -> x_mix like x, y_mix ``(B, n_classes)`` or like y, lam ``()``: the share of the
        pixels that were really kept.

    Raises:
        TypeError: If ``x`` is no floating-point tensor.
        ValueError: If shapes do not fit, or an option is out of range.

    Examples:
        >>> x = torch.stack([torch.zeros(1, 2, 2), torch.ones(1, 2, 2)])
        >>> mixed, labels, lam = cutmix(x, torch.tensor([0, 1]), n_classes=2, lam=0.75, center=(0.0, 0.0), permutation=torch.tensor([1, 0]))
        >>> mixed[0, 0]
        tensor([[1., 0.],
                [0., 0.]])
        >>> labels[0]
        tensor([0.7500, 0.2500])
    """
    expect("x", x, "batch channels height width")
    height, width = x.shape[-2:]
    y = batch_targets(x, y, n_classes)
    share = draw_weight(None, alpha, lam, generator).item()
    if center is None:
        center = tuple(torch.rand(2, generator=generator).tolist())
    order = pairing(x, permutation, generator)
    top, bottom, left, right = cut_box(height, width, share, center)
    mixed = x.clone()
    mixed[:, :, top:bottom, left:right] = x[order, :, top:bottom, left:right]
    # Not the share that was drawn: at the border less is pasted, and the label must say so.
    kept = torch.tensor(1 - (bottom - top) * (right - left) / (height * width), dtype=y.dtype, device=x.device)
    return mixed, blend(y, order, kept), kept


def cut_box(height: int, width: int, lam: float, center: tuple[float, float]) -> tuple[int, int, int, int]:
    """A rectangle of the shape of the image with ``1 - lam`` of its area, clipped at the border.

    Args:
        height: Of the image.
        width: Of the image.
        lam: Share of the image to keep.
        center: Its center, from 0 to 1 in height and width.

    Returns:
        Rows ``top`` to ``bottom`` and columns ``left`` to ``right``, the latter of each not included.

    Raises:
        ValueError: If ``lam`` or ``center`` is not within 0 and 1.

    Examples:
        >>> cut_box(8, 8, lam=0.75, center=(0.5, 0.5)), cut_box(8, 8, lam=0.75, center=(0.0, 1.0))
        ((2, 6, 2, 6), (0, 2, 6, 8))
    """
    if not (0 <= lam <= 1 and all(0 <= c <= 1 for c in center)):
        raise ValueError(f"lam={lam}, center={center}: expected numbers from 0 to 1")
    edges = []
    for size, at in zip((height, width), center):
        side = round(size * (1 - lam) ** 0.5)
        first = int(at * size) - side // 2
        edges += [max(first, 0), min(first + side, size)]
    return tuple(edges)
