"""RoIAlign and RoI pooling: a grid of fixed size from every box of a feature map.

Source: He et al. 2017, arXiv:1703.06870, section 3 (RoIAlign); Girshick 2015, arXiv:1504.08083, section 2.1 (RoI pooling).
"""

from __future__ import annotations

import torch
from torch import Tensor

from vocab.check import expect

__all__ = ["roi_align", "roi_pool"]

# B batch, C channels, H height, W width, K boxes, o bins along a side, s samples along a side of a bin


def roi_align(
    features: Tensor,
    boxes: Tensor,
    output_size: int | tuple[int, int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = 2,
    aligned: bool = True,
) -> Tensor:
    """Divides each box into bins and averages bilinear samples in each of them; no coordinate is rounded.

    Samples less than a pixel outside the map take the value at its border, those farther out are zero, as in torchvision. Samples form
    a grid, and bilinear interpolation is a product of one along rows and one along columns: so is the whole operation.

    Args:
        features: Maps.
        boxes: Rows (index in the batch, x1, y1, x2, y2), in coordinates of the image.
        output_size: Bins along height and width; one number for both.
        spatial_scale: Size of the map over that of the image, 1 / stride.
        sampling_ratio: Samples s along each side of a bin.
        aligned: Whether pixel i has its centre at i + 0.5 of the box's coordinates; without, boxes lie half a pixel off, and no side is
            shorter than 1.

    Shapes:
        features ``(B, C, H, W)``, boxes ``(K, 5)`` -> ``(K, C, oh, ow)``.

    Raises:
        TypeError: If an argument is no floating-point tensor.
        ValueError: If a shape does not fit, or a number is not positive.

    Examples:
        >>> ramp = torch.arange(8.0).expand(1, 1, 8, 8)  # pixel x holds x, at x + 0.5 of the box's coordinates
        >>> roi_align(ramp, torch.tensor([[0.0, 1.25, 2.0, 3.25, 4.0]]), (1, 2))
        tensor([[[[1.2500, 2.2500]]]])
    """
    oh, ow = _check(features, boxes, output_size, spatial_scale)
    if sampling_ratio < 1:
        raise ValueError(f"sampling_ratio={sampling_ratio} is below 1")
    x1, y1, x2, y2 = (boxes[:, 1:] * spatial_scale - (0.5 if aligned else 0.0)).unbind(1)
    along = []
    for low, high, bins, n in ((y1, y2, oh, features.shape[2]), (x1, x2, ow, features.shape[3])):
        side = high - low if aligned else (high - low).clamp(min=1.0)
        at = (torch.arange(bins * sampling_ratio, dtype=boxes.dtype, device=boxes.device) + 0.5) / (bins * sampling_ratio)
        along.append(_bilinear(low[:, None] + side[:, None] * at, n).unflatten(1, (bins, sampling_ratio)).mean(2).to(features.dtype))
    rows_KoH, columns_KpW = along
    return rows_KoH[:, None] @ features[boxes[:, 0].round().long()] @ columns_KpW[:, None].mT


def _bilinear(at: Tensor, n: int) -> Tensor:
    """Weights of n pixels in the values at positions: ``(K, S)`` -> ``(K, S, n)``."""
    inside = (at >= -1) & (at <= n)
    distance = (at.clamp(0, n - 1)[..., None] - torch.arange(n, device=at.device)).abs()
    return (1 - distance).clamp(min=0) * inside[..., None]


def roi_pool(features: Tensor, boxes: Tensor, output_size: int | tuple[int, int], spatial_scale: float = 1.0) -> Tensor:
    """Rounds each box to pixels, divides it into bins, rounds those, and takes the maximum of each.

    Args:
        features: Maps.
        boxes: Rows (index in the batch, x1, y1, x2, y2), in coordinates of the image; the last pixel belongs to the box.
        output_size: Bins along height and width; one number for both.
        spatial_scale: Size of the map over that of the image, 1 / stride.

    Shapes:
        features ``(B, C, H, W)``, boxes ``(K, 5)`` -> ``(K, C, oh, ow)``; a bin outside the map gives 0.

    Raises:
        TypeError: If an argument is no floating-point tensor.
        ValueError: If a shape does not fit, or a number is not positive.

    Examples:
        >>> ramp = torch.arange(8.0).expand(1, 1, 8, 8)
        >>> roi_pool(ramp, torch.tensor([[0.0, 1.25, 2.0, 3.25, 4.0]]), (1, 2))
        tensor([[[[2., 3.]]]])
    """
    oh, ow = _check(features, boxes, output_size, spatial_scale)
    # Away from zero at a half, as C's round does and Python's does not.
    corners = boxes[:, 1:] * spatial_scale
    x1, y1, x2, y2 = (corners.sign() * (corners.abs() + 0.5).floor()).unbind(1)
    members = []
    for low, high, bins, n in ((y1, y2, oh, features.shape[2]), (x1, x2, ow, features.shape[3])):
        size = (high - low + 1).clamp(min=1)[:, None] / bins
        i, pixel = torch.arange(bins, device=boxes.device), torch.arange(n, device=boxes.device)
        start, end = low[:, None] + (i * size).floor(), low[:, None] + ((i + 1) * size).ceil()
        members.append((pixel >= start[..., None]) & (pixel < end[..., None]))
    rows_KoH, columns_KpW = members
    chosen = features[boxes[:, 0].round().long()]
    over_rows = chosen[:, :, None].masked_fill(~rows_KoH[:, None, :, :, None], -torch.inf).amax(3)
    pooled = over_rows[:, :, :, None].masked_fill(~columns_KpW[:, None, None], -torch.inf).amax(4)
    empty = ~(rows_KoH.any(2)[:, :, None] & columns_KpW.any(2)[:, None])
    # A box with NaN has no pixels at all; its result must not look like an empty bin.
    lost = boxes.isnan().any(1)[:, None, None, None]
    return pooled.masked_fill(empty[:, None], 0.0).masked_fill(lost, torch.nan)


def _check(features: Tensor, boxes: Tensor, output_size: int | tuple[int, int], spatial_scale: float) -> tuple[int, int]:
    expect("features", features, "batch channels height width")
    expect("boxes", boxes, "boxes columns", columns=5)
    if not spatial_scale > 0:
        raise ValueError(f"spatial_scale={spatial_scale} is not positive")
    oh, ow = (output_size, output_size) if isinstance(output_size, int) else output_size
    if min(oh, ow) < 1:
        raise ValueError(f"output_size={output_size} has a side below 1")
    if not torch.compiler.is_compiling() and len(boxes):
        first, last = boxes[:, 0].min().round().item(), boxes[:, 0].max().round().item()
        if not 0 <= first <= last < len(features):
            raise ValueError(f"boxes name images {first:g} to {last:g}; features has 0 to {len(features) - 1}")
    return oh, ow
