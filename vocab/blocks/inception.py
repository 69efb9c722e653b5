"""Inception module: 1 by 1, 3 by 3, 5 by 5 and pooling side by side, the costly ones behind 1 by 1 reductions.

Source: Szegedy et al. 2015, arXiv:1409.4842, section 4 and figure 2b.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vocab.check import expect

__all__ = ["InceptionModule"]

# B batch, C input channels, H height, W width


class InceptionModule(nn.Module):
    """Four branches over the same input, put side by side in this order: 1 by 1, 3 by 3, 5 by 5, pooling.

    ReLU follows every convolution.

    Args:
        in_channels: Channels C of the input.
        c1x1: Channels of the 1 by 1 branch.
        c3x3_reduce: Channels of the 1 by 1 convolution in front of the 3 by 3.
        c3x3: Channels of the 3 by 3 branch.
        c5x5_reduce: Channels of the 1 by 1 convolution in front of the 5 by 5.
        c5x5: Channels of the 5 by 5 branch.
        pool_proj: Channels of the 1 by 1 convolution behind the 3 by 3 maximum.
        norm: Whether batch normalization stands before each ReLU; the convolutions then have no bias.

    Shapes:
        x ``(B, C, H, W)`` -> ``(B, c1x1 + c3x3 + c5x5 + pool_proj, H, W)``.

    Raises:
        ValueError: If a number of channels is below 1, or ``x`` has other channels.

    Examples:
        >>> module = InceptionModule(192, 64, 96, 128, 16, 32, 32)  # "3a" of GoogLeNet
        >>> module(torch.zeros(1, 192, 7, 7)).shape, sum(p.numel() for p in module.parameters() if p.ndim > 1)
        (torch.Size([1, 256, 7, 7]), 163328)
    """

    def __init__(
        self,
        in_channels: int,
        c1x1: int,
        c3x3_reduce: int,
        c3x3: int,
        c5x5_reduce: int,
        c5x5: int,
        pool_proj: int,
        *,
        norm: bool = False,
    ) -> None:
        super().__init__()
        for name, value in dict(
            in_channels=in_channels, c1x1=c1x1, c3x3_reduce=c3x3_reduce, c3x3=c3x3, c5x5_reduce=c5x5_reduce, c5x5=c5x5,
            pool_proj=pool_proj,
        ).items():  # fmt: skip
            if value < 1:
                raise ValueError(f"{name}={value} is below 1")
        self.in_channels = in_channels
        self.one = _unit(in_channels, c1x1, 1, norm)
        self.three = nn.Sequential(_unit(in_channels, c3x3_reduce, 1, norm), _unit(c3x3_reduce, c3x3, 3, norm))
        self.five = nn.Sequential(_unit(in_channels, c5x5_reduce, 1, norm), _unit(c5x5_reduce, c5x5, 5, norm))
        self.pool = nn.Sequential(nn.MaxPool2d(3, stride=1, padding=1), _unit(in_channels, pool_proj, 1, norm))

    def forward(self, x: Tensor) -> Tensor:
        expect("x", x, "batch in_channels height width", in_channels=self.in_channels)
        return torch.cat([branch(x) for branch in (self.one, self.three, self.five, self.pool)], 1)


def _unit(in_channels: int, out_channels: int, kernel_size: int, norm: bool) -> nn.Sequential:
    layer = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=not norm)
    return nn.Sequential(layer, *[nn.BatchNorm2d(out_channels)] * norm, nn.ReLU())
