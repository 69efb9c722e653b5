"""Fire module: a few 1 by 1 filters in front of a mixture of 1 by 1 and 3 by 3 filters.

Source: Iandola et al. 2016, arXiv:1602.07360, section 3.2 and figure 1.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vocab.check import expect

__all__ = ["FireModule"]

# B batch, C input channels, s squeeze channels, e1 and e3 expand channels, H height, W width


class FireModule(nn.Module):
    """Squeezes to few channels with a 1 by 1 convolution, then expands with 1 by 1 and 3 by 3 ones side by side.

    ReLU follows each. There is no normalization, as in the original.

    Args:
        in_channels: Channels C of the input.
        squeeze_channels: Channels s in between.
        expand1x1_channels: Channels e1 of the 1 by 1 half, the first of the output.
        expand3x3_channels: Channels e3 of the 3 by 3 half; as many as the other half if not given.

    Shapes:
        x ``(B, C, H, W)`` -> ``(B, e1 + e3, H, W)``.

    Raises:
        ValueError: If a number of channels is below 1, or ``x`` has other channels.

    Examples:
        >>> fire2 = FireModule(96, 16, 64)
        >>> fire2(torch.zeros(1, 96, 5, 5)).shape, sum(p.numel() for p in fire2.parameters())
        (torch.Size([1, 128, 5, 5]), 11920)
    """

    def __init__(
        self, in_channels: int, squeeze_channels: int, expand1x1_channels: int, expand3x3_channels: int | None = None
    ) -> None:
        super().__init__()
        expand3x3_channels = expand1x1_channels if expand3x3_channels is None else expand3x3_channels
        for name, value in dict(
            in_channels=in_channels, squeeze_channels=squeeze_channels, expand1x1_channels=expand1x1_channels,
            expand3x3_channels=expand3x3_channels,
        ).items():  # fmt: skip
            if value < 1:
                raise ValueError(f"{name}={value} is below 1")
        self.in_channels = in_channels
        self.squeeze = nn.Conv2d(in_channels, squeeze_channels, 1)
        self.expand1x1 = nn.Conv2d(squeeze_channels, expand1x1_channels, 1)
        self.expand3x3 = nn.Conv2d(squeeze_channels, expand3x3_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        expect("x", x, "batch in_channels height width", in_channels=self.in_channels)
        narrow = F.relu(self.squeeze(x))
        return F.relu(torch.cat([self.expand1x1(narrow), self.expand3x3(narrow)], 1))
