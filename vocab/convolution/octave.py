"""Octave convolution: some channels are kept at half the resolution, and all four paths between the two are convolutions.

Source: Chen et al. 2019, arXiv:1904.05049, section 3.2, equation 3; strides as in section 3.3 by average pooling.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vocab.check import expect
from vocab.convolution.conv1d import convolve

__all__ = ["OctConv2d", "cost"]

# B batch, C input channels, O output channels, H height, W width of the high part; the low part has H / 2 and W / 2


class OctConv2d(nn.Module):
    """Convolution between pairs of maps, one at full and one at half resolution.

    The four weights are blocks of one full kernel, so parameters and ``state_dict`` are those of ``torch.nn.Conv2d``.

    Args:
        in_channels: Channels C of the input, both parts together.
        out_channels: Channels O of the output, both parts together.
        kernel_size: Taps k along each side.
        alpha_in: Share of the input channels in the low part, rounded down; 0 in the first layer of a network.
        alpha_out: Share of the output channels in the low part; 0 in the last layer.
        stride: Both parts are averaged over squares of this side first.
        padding: Zeros on each side, in either resolution; ``(k - 1) / 2`` keeps the size.
        bias: Whether a number per output channel is added.

    Shapes:
        high ``(B, C - int(alpha_in * C), H, W)``, low ``(B, int(alpha_in * C), H/2, W/2)`` -> the same for the output. A
        part without channels is None.

    Raises:
        ValueError: If a size is out of range, a share is not from 0 to 1, a part is missing or too many, a shape does
            not fit, or H or W is not a multiple of ``2 * stride``.

    Examples:
        >>> first = OctConv2d(3, 16, alpha_in=0, alpha_out=0.25)
        >>> high, low = first(torch.zeros(1, 3, 8, 8))
        >>> high.shape, low.shape
        (torch.Size([1, 12, 8, 8]), torch.Size([1, 4, 4, 4]))
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        *,
        alpha_in: float = 0.5,
        alpha_out: float = 0.5,
        stride: int = 1,
        padding: int = 1,
        bias: bool = True,
    ) -> None:
        super().__init__()
        for name, value, least in [
            ("in_channels", in_channels, 1), ("out_channels", out_channels, 1), ("kernel_size", kernel_size, 1),
            ("stride", stride, 1), ("padding", padding, 0),
        ]:  # fmt: skip
            if value < least:
                raise ValueError(f"{name}={value} is below {least}")
        for name, value in [("alpha_in", alpha_in), ("alpha_out", alpha_out)]:
            if not 0 <= value <= 1:
                raise ValueError(f"{name}={value} is not from 0 to 1")
        self.low_in, self.low_out = int(alpha_in * in_channels), int(alpha_out * out_channels)
        self.high_in, self.high_out = in_channels - self.low_in, out_channels - self.low_out
        self.stride, self.padding = stride, padding
        bound = (in_channels * kernel_size**2) ** -0.5
        shape = out_channels, in_channels, kernel_size, kernel_size
        self.weight = nn.Parameter(torch.empty(shape).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(out_channels).uniform_(-bound, bound)) if bias else None

    def forward(self, high: Tensor | None, low: Tensor | None = None) -> tuple[Tensor | None, Tensor | None]:
        self._check(high, low)
        if self.stride > 1:  # averaged, not every second pixel: both resolutions stay on one grid
            high, low = (x if x is None else F.avg_pool2d(x, self.stride) for x in (high, low))
        to_high, to_low = self.weight[: self.high_out], self.weight[self.high_out :]
        y_high, y_low = [], []
        if high is not None:
            y_high.append(self._conv(high, to_high[:, : self.high_in]))
            y_low.append(self._conv(F.avg_pool2d(high, 2), to_low[:, : self.high_in]))
        if low is not None:
            y_high.append(self._conv(low, to_high[:, self.high_in :]).repeat_interleave(2, 2).repeat_interleave(2, 3))
            y_low.append(self._conv(low, to_low[:, self.high_in :]))
        bias = self.weight.new_zeros(len(self.weight)) if self.bias is None else self.bias
        return (
            sum(y_high) + bias[: self.high_out, None, None] if self.high_out else None,
            sum(y_low) + bias[self.high_out :, None, None] if self.low_out else None,
        )

    def _conv(self, x: Tensor, weight: Tensor) -> Tensor:
        return convolve(F.pad(x, (self.padding,) * 4), weight)

    def _check(self, high: Tensor | None, low: Tensor | None) -> None:
        for name, x, channels in [("high", high, self.high_in), ("low", low, self.low_in)]:
            if (x is None) != (channels == 0):
                raise ValueError(f"{name} is {'None' if x is None else 'given'}; this layer takes {channels} channels there")
            if x is not None:
                expect(name, x, "batch channels height width", channels=channels)
        if high is not None:
            H, W = high.shape[2:]
            if H % (2 * self.stride) or W % (2 * self.stride):
                raise ValueError(f"high is {H} by {W} pixels; both must be multiples of {2 * self.stride} (2 · stride)")
            if low is not None:
                expect("low", low, "batch channels height width", batch=len(high), height=H // 2, width=W // 2)
        elif low.shape[2] % self.stride or low.shape[3] % self.stride:
            raise ValueError(f"low is {low.shape[2]} by {low.shape[3]} pixels; both must be multiples of stride={self.stride}")


def cost(alpha: float) -> tuple[float, float]:
    """Gives multiply-adds and activation memory relative to an ordinary layer, if input and output have the same share.

    Args:
        alpha: Share of the channels in the low part.

    Returns:
        ``1 - 3/4 alpha (2 - alpha)`` and ``1 - 3/4 alpha``.

    Raises:
        ValueError: If ``alpha`` is not from 0 to 1.

    Examples:
        >>> cost(0.5)
        (0.4375, 0.625)
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha={alpha} is not from 0 to 1")
    return 1 - 0.75 * alpha * (2 - alpha), 1 - 0.75 * alpha
