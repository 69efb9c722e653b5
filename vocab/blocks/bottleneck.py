"""Bottleneck block: fewer channels for the costly convolution, then as many as before, and the sum.

Source: He et al. 2016, arXiv:1512.03385, figure 5 (right); groups as in Xie et al. 2017, arXiv:1611.05431, figure 3c.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from vocab.blocks.residual import Residual, conv
from vocab.check import expect

__all__ = ["BottleneckBlock"]

# B batch, C input channels, M channels in the middle, O output channels, H height, W width


class BottleneckBlock(nn.Module):
    """The block of ResNet-50 and deeper: 1 by 1 to fewer channels, 3 by 3, 1 by 1 to more; a sum and a ReLU.

    Batch normalization follows each convolution, ReLU the first two and the sum. Where the size or the number of channels
    changes, the shortcut is a 1 by 1 convolution with batch normalization.

    Args:
        in_channels: Channels C of the input.
        mid_channels: Channels M of the 3 by 3 convolution.
        out_channels: Channels O of the output; ``expansion * mid_channels`` if not given.
        stride: Of the block and its shortcut.
        groups: Parts of the 3 by 3 convolution; 32 in ResNeXt.
        expansion: How many times more channels come out than are in the middle.
        stride_in_3x3: Whether the 3 by 3 convolution has the stride ("v1.5", PyTorch's ResNets), or the first one, as in
            the paper.
        zero_init: Whether the last normalization's scale starts at zero, so that the block starts as its shortcut.

    Shapes:
        x ``(B, C, H, W)`` -> ``(B, O, ceil(H / stride), ceil(W / stride))``.

    Raises:
        ValueError: If a size is below 1, ``groups`` does not divide ``mid_channels``, or ``x`` has other channels.

    Examples:
        >>> import torch
        >>> block = BottleneckBlock(256, 64)
        >>> block(torch.zeros(2, 256, 4, 4)).shape, sum(w.numel() for w in block.parameters() if w.ndim == 4)
        (torch.Size([2, 256, 4, 4]), 69632)
    """

    def __init__(
        self,
        in_channels: int,
        mid_channels: int,
        out_channels: int | None = None,
        *,
        stride: int = 1,
        groups: int = 1,
        expansion: int = 4,
        stride_in_3x3: bool = True,
        zero_init: bool = False,
    ) -> None:
        super().__init__()
        out_channels = expansion * mid_channels if out_channels is None else out_channels
        for name, value in dict(
            in_channels=in_channels, mid_channels=mid_channels, out_channels=out_channels, stride=stride, groups=groups
        ).items():
            if value < 1:
                raise ValueError(f"{name}={value} is below 1")
        if mid_channels % groups:
            raise ValueError(f"groups={groups} does not divide mid_channels={mid_channels}")
        self.in_channels = in_channels
        first, second = (1, stride) if stride_in_3x3 else (stride, 1)
        branch = nn.Sequential(
            conv(in_channels, mid_channels, 1, first), nn.BatchNorm2d(mid_channels), nn.ReLU(),
            conv(mid_channels, mid_channels, 3, second, groups), nn.BatchNorm2d(mid_channels), nn.ReLU(),
            conv(mid_channels, out_channels, 1), nn.BatchNorm2d(out_channels),
        )  # fmt: skip
        shortcut = None
        if stride > 1 or in_channels != out_channels:
            shortcut = nn.Sequential(conv(in_channels, out_channels, 1, stride), nn.BatchNorm2d(out_channels))
        self.sum = Residual(branch, shortcut)
        if zero_init:
            nn.init.zeros_(branch[-1].weight)

    def forward(self, x: Tensor) -> Tensor:
        expect("x", x, "batch in_channels height width", in_channels=self.in_channels)
        return F.relu(self.sum(x))
