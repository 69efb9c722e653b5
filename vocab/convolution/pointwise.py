"""Pointwise (1 by 1) convolution: the same linear layer at every pixel, over the channels only.

Source: Lin et al. 2014, arXiv:1312.4400, section 3.1, where it is called a cascaded cross channel pooling layer.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vocab.convolution.conv2d import Conv2d

__all__ = ["PointwiseConv2d"]

# B batch, G groups, I input channels of a group, O output channels of a group, H height, W width


class PointwiseConv2d(Conv2d):
    """Mixes channels, pixel by pixel: ``y[:, i, j] = weight @ x[:, i, j] + bias``.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        stride: Keeps every ``stride``-th pixel and drops the others unread.
        groups: Parts into which the channels are cut; each output channel sees one part.
        bias: Whether a number per output channel is added.

    Shapes:
        x ``(B, in_channels, H, W)`` -> ``(B, out_channels, ceil(H / stride), ceil(W / stride))``.

    Raises:
        ValueError: If a size is below 1, ``groups`` does not divide both channel counts, or ``x`` has other channels.

    Examples:
        >>> mix = PointwiseConv2d(256, 64)
        >>> mix(torch.zeros(1, 256, 14, 14)).shape, mix.weight.numel()
        (torch.Size([1, 64, 14, 14]), 16384)
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, stride: int = 1, groups: int = 1, bias: bool = True
    ) -> None:
        super().__init__(in_channels, out_channels, 1, stride, groups=groups, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        down, right = self.stride
        x_BGIHW = self.padded(x)[:, :, ::down, ::right].unflatten(1, (self.groups, -1))
        weight_GOI = self.weight.flatten(1).unflatten(0, (self.groups, -1))
        y = torch.einsum("goi,bgihw->bgohw", weight_GOI, x_BGIHW).flatten(1, 2)
        return y if self.bias is None else y + self.bias[:, None, None]
