"""Spatial pyramid pooling: one map pooled to several grids at once; and its relative in YOLO, which keeps the map.

Source: He et al. 2014, arXiv:1406.4729, section 2.2 (vector); Zhao et al. 2017, arXiv:1612.01105, section 3.2 (grids upsampled again);
SPPF is the block of YOLOv5's code.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vocab.check import expect
from vocab.normalization.batch import BatchNorm2d
from vocab.pooling.adaptive import AdaptivePool2d
from vocab.pooling.max import MaxPool2d

__all__ = ["SPPF", "SpatialPyramidPool"]

# B batch, C channels, H height, W width, l bins along a side of a level


class SpatialPyramidPool(nn.Module):
    """Pools a map to grids of l by l bins for every level l and puts all bins into one vector.

    Args:
        levels: Bins along a side of each level.
        mode: ``"max"`` or ``"avg"``.

    Shapes:
        x ``(B, C, H, W)`` -> ``(B, C * sum(l**2))``: level by level, in each of them channel by channel.

    Raises:
        TypeError: If ``x`` is no floating-point tensor.
        ValueError: If there is no level, one is below 1, ``mode`` is another word, or ``x`` has other dimensions or no pixel.

    Examples:
        >>> pool = SpatialPyramidPool((1, 2, 4))
        >>> [pool(torch.randn(1, 3, *size)).shape[1] for size in ((7, 9), (32, 20))]
        [63, 63]
    """

    def __init__(self, levels: tuple[int, ...] = (1, 2, 4), mode: str = "max") -> None:
        super().__init__()
        if not levels:
            raise ValueError("levels is empty; a pyramid needs at least one")
        self.pools = nn.ModuleList(AdaptivePool2d(level, mode) for level in levels)

    def forward(self, x: Tensor) -> Tensor:
        expect("x", x, "batch channels height width")
        return torch.cat([pool(x).flatten(1) for pool in self.pools], 1)


class SPPF(nn.Module):
    """Concatenates a map with its maxima over windows of three sizes, and mixes them; height and width stay.

    The three windows come from one pooling used three times: two in a row see ``2 k - 1`` pixels, three ``3 k - 2``.

    Args:
        channels: Channels C of the input.
        k: Side of the smallest window; odd.
        out_channels: Channels of the output; C if not given.

    Shapes:
        x ``(B, C, H, W)`` -> ``(B, out_channels, H, W)``.

    Raises:
        TypeError: If ``x`` is no floating-point tensor.
        ValueError: If ``channels`` is below 2, ``k`` is even or below 1, or ``x`` has other channels.

    Examples:
        >>> SPPF(8)(torch.randn(1, 8, 6, 7)).shape
        torch.Size([1, 8, 6, 7])
    """

    def __init__(self, channels: int, k: int = 5, *, out_channels: int | None = None) -> None:
        super().__init__()
        if channels < 2:
            raise ValueError(f"channels={channels} is below 2, and half of them are pooled")
        if k < 1 or k % 2 == 0:
            raise ValueError(f"k={k} is not odd and positive: an even window has no middle")
        self.channels = channels
        self.reduce = nn.Conv2d(channels, channels // 2, 1, bias=False)
        self.norm_in = BatchNorm2d(channels // 2)
        self.pool = MaxPool2d(k, stride=1, padding=k // 2)
        self.mix = nn.Conv2d(4 * (channels // 2), out_channels or channels, 1, bias=False)
        self.norm_out = BatchNorm2d(out_channels or channels)

    def forward(self, x: Tensor) -> Tensor:
        expect("x", x, "batch channels height width", channels=self.channels)
        pyramid = [F.silu(self.norm_in(self.reduce(x)))]
        for _ in range(3):
            pyramid.append(self.pool(pyramid[-1]))
        return F.silu(self.norm_out(self.mix(torch.cat(pyramid, 1))))
