"""4D convolution: a kernel along four axes, made of 3D convolutions, as PyTorch has none.

Source: Choy et al. 2019, arXiv:1904.08755, section 4 (there on sparse data); dense in Rocco et al. 2018, arXiv:1810.10510,
section 3.2.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F

from vocab.convolution.conv1d import ConvNd, output_size, unfold

__all__ = ["Conv4d"]

# B batch, C input channels, O output channels, T time, D depth, H height, W width, k taps along time


class Conv4d(ConvNd):
    """Convolution over time, depth, height and width.

    Args:
        in_channels: Channels C of the input.
        out_channels: Channels O of the output.
        kernel_size: Taps; here and below one number, or one for each of the four axes.
        padding: Zeros on each side; ``"same"`` keeps the size.
        dilation: Positions from one tap to the next.
        bias: Whether a number per output channel is added.

    Shapes:
        x ``(B, C, T, D, H, W)`` -> ``(B, O, T', D', H', W')``, each side as in ``output_size``.

    Raises:
        ValueError: If a size is out of range, or ``x`` has not six axes, has other channels or is smaller than the
            kernel's span.

    Examples:
        >>> import torch
        >>> conv = Conv4d(1, 2, kernel_size=3, padding="same")
        >>> conv(torch.zeros(1, 1, 4, 5, 6, 7)).shape, conv.weight[0, 0].numel()
        (torch.Size([1, 2, 4, 5, 6, 7]), 81)
    """

    axes = ("time", "depth", "height", "width")

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        *,
        padding: int | Sequence[int] | str = 0,
        dilation: int | Sequence[int] = 1,
        bias: bool = True,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, padding=padding, dilation=dilation, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.padded(x)
        for size, taps, step in zip(x.shape[2:], self.kernel_size, self.dilation):
            output_size(size, taps, dilation=step)  # a kernel that does not fit is said in words
        # The taps along time become channels and the outputs along time become samples: what is left is one 3D
        # convolution. Only time is copied, k times; all windows at once would be as many copies as the kernel has taps.
        windows_BCTDHWk = unfold(x, (self.kernel_size[0], 1, 1, 1), dilation=(self.dilation[0], 1, 1, 1))[..., 0, 0, 0]
        frames = windows_BCTDHWk.permute(0, 2, 1, 6, 3, 4, 5).flatten(2, 3)
        y = F.conv3d(frames.flatten(0, 1), self.weight.flatten(1, 2), self.bias, dilation=self.dilation[1:])
        return y.unflatten(0, frames.shape[:2]).transpose(1, 2)
