"""Sub-pixel convolution: make r² maps at low resolution, then lay their pixels out as one map r times as large.

Source: Shi et al. 2016, arXiv:1609.05158, section 2.2, equation 4; the start of the weights in Aitken et al. 2017,
arXiv:1707.02937, section 3.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vocab.check import expect
from vocab.convolution.conv2d import Conv2d

__all__ = ["SubPixelConv2d", "pixel_shuffle", "pixel_unshuffle"]

# B batch, C channels, H height, W width, r scale


class SubPixelConv2d(nn.Module):
    """Enlarges a map: a convolution to r² times the channels, and ``pixel_shuffle``.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        scale: How many times larger each side becomes, r.
        kernel_size: Taps of the convolution along each side, at low resolution.
        icnr: Whether the r² kernels behind an output channel start equal, so that the first output is that of a smaller
            convolution with every pixel repeated: no checkerboard.

    Shapes:
        x ``(B, in_channels, H, W)`` -> ``(B, out_channels, r H, r W)``.

    Raises:
        ValueError: If a size is below 1, or ``x`` has other channels.

    Examples:
        >>> twice = SubPixelConv2d(64, 3, scale=2)
        >>> twice(torch.zeros(1, 64, 5, 7)).shape
        torch.Size([1, 3, 10, 14])
    """

    def __init__(
        self, in_channels: int, out_channels: int, scale: int, kernel_size: int = 3, *, icnr: bool = True
    ) -> None:
        super().__init__()
        if scale < 1:
            raise ValueError(f"scale={scale} is below 1")
        self.scale = scale
        self.conv = Conv2d(in_channels, out_channels * scale**2, kernel_size, padding="same")
        if icnr:
            with torch.no_grad():
                for parameter in self.conv.parameters():
                    parameter.copy_(parameter[:: scale**2].repeat_interleave(scale**2, 0))

    def forward(self, x: Tensor) -> Tensor:
        return pixel_shuffle(self.conv(x), self.scale)


def pixel_shuffle(x: Tensor, scale: int) -> Tensor:
    """Turns channels into pixels: ``out[c, h r + i, w r + j] = x[c r² + i r + j, h, w]``.

    Args:
        x: ``(B, C r², H, W)``.
        scale: r.

    Returns:
        ``(B, C, r H, r W)``.

    Raises:
        ValueError: If the channels are not a multiple of r², or ``x`` has not four axes.

    Examples:
        >>> pixel_shuffle(torch.arange(4.0).view(1, 4, 1, 1), 2)
        tensor([[[[0., 1.],
                  [2., 3.]]]])
    """
    expect("x", x, "batch channels height width")
    if scale < 1 or x.shape[1] % scale**2:
        raise ValueError(f"x has {x.shape[1]} channels; expected a multiple of scale² with scale={scale} at least 1")
    x_BCijHW = x.unflatten(1, (-1, scale, scale))
    return x_BCijHW.permute(0, 1, 4, 2, 5, 3).flatten(4).flatten(2, 3)


def pixel_unshuffle(x: Tensor, scale: int) -> Tensor:
    """Turns squares of pixels into channels, the inverse of ``pixel_shuffle``.

    Args:
        x: ``(B, C, r H, r W)``.
        scale: r.

    Returns:
        ``(B, C r², H, W)``.

    Raises:
        ValueError: If height or width is not a multiple of r, or ``x`` has not four axes.

    Examples:
        >>> pixel_unshuffle(torch.tensor([[[[0.0, 1.0], [2.0, 3.0]]]]), 2).flatten()
        tensor([0., 1., 2., 3.])
    """
    expect("x", x, "batch channels height width")
    if scale < 1 or x.shape[2] % scale or x.shape[3] % scale:
        raise ValueError(f"x is {x.shape[2]} by {x.shape[3]} pixels; expected multiples of scale={scale}, which is at least 1")
    x_BCHiWj = x.unflatten(3, (-1, scale)).unflatten(2, (-1, scale))
    return x_BCHiWj.permute(0, 1, 3, 5, 2, 4).flatten(1, 3)
