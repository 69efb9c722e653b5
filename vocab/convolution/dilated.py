"""Dilated convolution: a kernel whose taps stand ``dilation`` pixels apart, and the pyramid of DeepLab v3.

Source: Yu and Koltun 2016, arXiv:1511.07122, section 2; ASPP as in Chen et al. 2017, arXiv:1706.05587, section 3.3.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vocab.check import expect
from vocab.convolution import conv2d
from vocab.convolution.conv1d import same_padding

__all__ = ["ASPP", "DilatedConv2d", "receptive_field", "seen_offsets"]

# B batch, C channels, O output channels, H height, W width, k kernel size, r dilation


class DilatedConv2d(nn.Module):
    """Convolution that reads every ``dilation``-th pixel: ``y[p] = sum over i of w[i] * x[p + dilation * i]``.

    The kernel spans ``dilation * (kernel_size - 1) + 1`` pixels with the weights and multiply-adds of a dense one.

    Args:
        in_channels: Channels C of the input.
        out_channels: Channels O of the output.
        kernel_size: Taps k along each side.
        dilation: Distance r between taps; 1 is an ordinary convolution.
        padding: ``"same"`` keeps H and W; ``"valid"`` only uses windows that lie inside, and shortens each side
            by ``dilation * (kernel_size - 1)``.
        bias: Whether a number per output channel is added.

    Shapes:
        x ``(B, C, H, W)`` -> ``(B, O, H, W)``.

    Raises:
        ValueError: If a size is below 1, ``padding`` is another word, or ``x`` has other channels or is smaller
            than the kernel's span where nothing pads it.

    Examples:
        >>> conv = DilatedConv2d(3, 8, kernel_size=3, dilation=4)
        >>> conv(torch.zeros(1, 3, 20, 30)).shape
        torch.Size([1, 8, 20, 30])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        dilation: int = 2,
        *,
        padding: str = "same",
        bias: bool = True,
    ) -> None:
        super().__init__()
        for name, value in [("in_channels", in_channels), ("out_channels", out_channels)]:
            if value < 1:
                raise ValueError(f"{name}={value} is below 1")
        _check_stack(kernel_size, [dilation])
        if padding not in ("same", "valid"):
            raise ValueError(f"padding={padding!r} is neither 'same' nor 'valid'")
        self.in_channels, self.kernel_size, self.dilation, self.padding = in_channels, kernel_size, dilation, padding
        self.reach = dilation * (kernel_size - 1)
        # Zeros between taps carry no weight, so the fan-in, and with it the scale, is that of the dense kernel.
        bound = (in_channels * kernel_size**2) ** -0.5
        shape = out_channels, in_channels, kernel_size, kernel_size
        self.weight = nn.Parameter(torch.empty(shape).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(out_channels).uniform_(-bound, bound)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        expect("x", x, "batch in_channels height width", in_channels=self.in_channels)
        if self.padding == "same":
            x = F.pad(x, same_padding(self.kernel_size, self.dilation) * 2)
        elif min(x.shape[2:]) <= self.reach:
            raise ValueError(f"x is {x.shape[2]} by {x.shape[3]} pixels; the kernel spans {self.reach + 1}")
        return F.conv2d(x, self.weight, self.bias, dilation=self.dilation)


def receptive_field(kernel_size: int, dilations: list[int]) -> int:
    """Counts the pixels along one side of the window that one output of a stack can depend on.

    Args:
        kernel_size: Taps k of every layer.
        dilations: The rate of each layer, in any order.

    Raises:
        ValueError: If a size is below 1.

    Examples:
        >>> receptive_field(2, [2**i for i in range(10)])  # one block of WaveNet
        1024
    """
    _check_stack(kernel_size, dilations)
    return conv2d.receptive_field([(kernel_size, 1, 0, r) for r in dilations])[0]


def seen_offsets(kernel_size: int, dilations: list[int]) -> list[int]:
    """Lists which pixels of that window are really read, counted from its left edge.

    Where pixels are missing the stack leaves a grid of holes. In two dimensions a pixel is read if its row and its
    column are, so the share of the window that counts is ``(len(seen) / receptive_field) ** 2``.

    Args:
        kernel_size: Taps k of every layer.
        dilations: The rate of each layer, in any order.

    Raises:
        ValueError: If a size is below 1.

    Examples:
        >>> seen_offsets(3, [2, 2, 2])
        [0, 2, 4, 6, 8, 10, 12]
    """
    _check_stack(kernel_size, dilations)
    seen = {0}
    for dilation in dilations:
        seen = {offset + tap * dilation for offset in seen for tap in range(kernel_size)}
    return sorted(seen)


def _check_stack(kernel_size: int, dilations: list[int]) -> None:
    if kernel_size < 1:
        raise ValueError(f"kernel_size={kernel_size} is below 1")
    for dilation in dilations:
        if dilation < 1:
            raise ValueError(f"dilation={dilation} is below 1")


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling: one map read at several rates at once, and as a whole.

    A 1 by 1 convolution, a 3 by 3 one per rate and the image's mean, each with batch normalization and ReLU, are
    concatenated and mixed by another 1 by 1 convolution.

    Args:
        in_channels: Channels C of the input.
        out_channels: Channels O of every branch and of the output; 256 in DeepLab v3.
        rates: Dilation of each 3 by 3 branch; (6, 12, 18) where the map is 16 times smaller than the image.

    Shapes:
        x ``(B, C, H, W)`` -> ``(B, O, H, W)``.

    Raises:
        ValueError: If there are no rates, ``x`` has other channels, or one image is given in training.

    Examples:
        >>> pyramid = ASPP(16, 8).eval()
        >>> pyramid(torch.zeros(1, 16, 33, 33)).shape
        torch.Size([1, 8, 33, 33])
    """

    def __init__(self, in_channels: int, out_channels: int, rates: tuple[int, ...] = (6, 12, 18)) -> None:
        super().__init__()
        if not rates:
            raise ValueError("rates is empty; ASPP needs at least one")
        self.in_channels = in_channels
        self.pixel = _block(in_channels, out_channels)
        self.pyramid = nn.ModuleList(_block(in_channels, out_channels, 3, rate) for rate in rates)
        self.image = _block(in_channels, out_channels)
        self.project = _block((2 + len(rates)) * out_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        expect("x", x, "batch in_channels height width", in_channels=self.in_channels)
        if self.training and len(x) == 1:
            raise ValueError("x holds one image; in training the image branch normalizes over the batch and needs two")
        image = self.image(x.mean((2, 3), keepdim=True)).expand(-1, -1, *x.shape[2:])
        return self.project(torch.cat([self.pixel(x), *(branch(x) for branch in self.pyramid), image], 1))


def _block(in_channels: int, out_channels: int, kernel_size: int = 1, dilation: int = 1) -> nn.Module:
    conv = DilatedConv2d(in_channels, out_channels, kernel_size, dilation, bias=False)  # the normalization has one
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels), nn.ReLU())
