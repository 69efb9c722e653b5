"""Depthwise convolution: every channel is filtered by a kernel of its own, and no channel sees another.

Source: Sifre 2014 (PhD thesis), section 6.2; Chollet 2017, arXiv:1610.02357, section 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

from torch import Tensor

from vocab.convolution.conv1d import unfold
from vocab.convolution.conv2d import Conv2d

__all__ = ["DepthwiseConv2d"]

# B batch, C channels, m outputs for each channel, H' and W' height and width of the output


class DepthwiseConv2d(Conv2d):
    """Filters channel by channel: output ``m * c + n`` is channel ``c`` under its ``n``-th kernel.

    The same as ``torch.nn.Conv2d(C, m * C, ..., groups=C)``, with which it shares its ``state_dict``.

    Args:
        channels: Channels C of the input.
        kernel_size: Taps; here and below one number, or one for the rows and one for the columns.
        multiplier: Kernels m for each channel.
        stride: Pixels from one output to the next.
        padding: Pixels added on each side; ``"same"`` keeps H and W and needs stride 1.
        dilation: Pixels from one tap to the next.
        bias: Whether a number per output channel is added.

    Shapes:
        x ``(B, C, H, W)`` -> ``(B, m * C, H', W')``.

    Raises:
        ValueError: If a size is out of range, ``"same"`` comes with a stride, or ``x`` has other channels or is
            smaller than the kernel's span.

    Examples:
        >>> import torch
        >>> blur = DepthwiseConv2d(8, 7)
        >>> blur(torch.zeros(1, 8, 20, 20)).shape, blur.weight.numel()
        (torch.Size([1, 8, 20, 20]), 392)
    """

    def __init__(
        self,
        channels: int,
        kernel_size: int | Sequence[int],
        *,
        multiplier: int = 1,
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] | str = "same",
        dilation: int | Sequence[int] = 1,
        bias: bool = False,
    ) -> None:
        if multiplier < 1:
            raise ValueError(f"multiplier={multiplier} is below 1")
        super().__init__(channels, multiplier * channels, kernel_size, stride, padding, dilation, channels, bias)

    def forward(self, x: Tensor) -> Tensor:
        windows_BCHWkk = unfold(self.padded(x), self.kernel_size, self.stride, self.dilation)
        weight_Cmkk = self.weight.view(self.in_channels, -1, *self.kernel_size)
        # One tap at a time, the shifted map times a number per channel: a matrix product would have a single row per
        # channel, and would need every window copied.
        y_BCmHW = sum(
            windows_BCHWkk[:, :, None, ..., i, j] * weight_Cmkk[..., i, j, None, None]
            for i, j in product(*map(range, self.kernel_size))
        )
        y = y_BCmHW.flatten(1, 2)
        return y if self.bias is None else y + self.bias[:, None, None]
