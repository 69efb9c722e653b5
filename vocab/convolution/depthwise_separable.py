"""Depthwise separable convolution: look around channel by channel, then mix channels pixel by pixel.

Source: Chollet 2017, arXiv:1610.02357, section 1; with normalization and ReLU as in Howard et al. 2017, arXiv:1704.04861,
figure 3.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vocab.check import expect
from vocab.convolution.depthwise import DepthwiseConv2d
from vocab.convolution.pointwise import PointwiseConv2d

__all__ = ["DepthwiseSeparableConv2d", "nearest_separable"]

# B batch, C input channels, m kernels for each, O output channels, H height, W width, k kernel size


class DepthwiseSeparableConv2d(nn.Sequential):
    """A depthwise and a pointwise layer, which together stand in for a full convolution.

    Args:
        in_channels: Channels C of the input.
        out_channels: Channels O of the output.
        kernel_size: Taps of the depthwise layer; here and below one number, or one for rows and one for columns.
        stride: Pixels from one output to the next.
        padding: Pixels added on each side; ``"same"`` keeps H and W at stride 1.
        dilation: Pixels from one tap to the next.
        multiplier: Kernels m for each input channel; more come closer to a full convolution.
        norm_act: Whether batch normalization and ReLU follow each of the two layers, as in MobileNet. Without them
            there is nothing in between, as in Xception, and the pointwise layer has a bias.

    Shapes:
        x ``(B, C, H, W)`` -> ``(B, O, H', W')``.

    Raises:
        ValueError: If a size is out of range, or ``x`` has other channels or is smaller than the kernel's span.

    Examples:
        >>> layer = DepthwiseSeparableConv2d(64, 128)
        >>> layer(torch.zeros(1, 64, 8, 8)).shape, sum(w.numel() for w in layer.parameters() if w.ndim > 1)
        (torch.Size([1, 128, 8, 8]), 8768)
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int] = 3,
        *,
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] | str = 1,
        dilation: int | Sequence[int] = 1,
        multiplier: int = 1,
        norm_act: bool = False,
    ) -> None:
        middle = in_channels * multiplier
        depthwise = DepthwiseConv2d(
            in_channels, kernel_size, multiplier=multiplier, stride=stride, padding=padding, dilation=dilation
        )
        pointwise = PointwiseConv2d(middle, out_channels, bias=not norm_act)
        if norm_act:
            super().__init__(
                depthwise, nn.BatchNorm2d(middle), nn.ReLU(), pointwise, nn.BatchNorm2d(out_channels), nn.ReLU()
            )
        else:
            super().__init__(depthwise, pointwise)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


def nearest_separable(weight: Tensor, multiplier: int = 1) -> tuple[Tensor, Tensor]:
    """Finds the separable layer that is nearest to a full one, by a singular value decomposition for each input channel.

    For an input channel the full kernels are a matrix, output channels by taps. A separable layer has one of rank
    ``multiplier`` there, so the first singular vectors are the best that it can do.

    Args:
        weight: Of a full convolution, ``(O, C, k, k)``.
        multiplier: Kernels m for each input channel.

    Returns:
        The depthwise weight ``(m * C, 1, k, k)`` and the pointwise weight ``(O, m * C, 1, 1)``.

    Raises:
        ValueError: If ``weight`` has another shape, or the matrices have fewer singular values than ``multiplier``.

    Examples:
        >>> depthwise, pointwise = nearest_separable(torch.randn(128, 64, 3, 3))
        >>> depthwise.shape, pointwise.shape
        (torch.Size([64, 1, 3, 3]), torch.Size([128, 64, 1, 1]))
    """
    expect("weight", weight, "out_channels in_channels rows columns")
    matrices_COK = weight.transpose(0, 1).flatten(2)
    most = min(matrices_COK.shape[1:])
    if not 1 <= multiplier <= most:
        raise ValueError(f"multiplier={multiplier} is not from 1 to {most}, the rank that a kernel bank of this size can have")
    u, s, v = torch.linalg.svd(matrices_COK, full_matrices=False)
    pointwise_COm, depthwise_CmK = u[..., :multiplier] * s[:, None, :multiplier], v[:, :multiplier]
    depthwise = depthwise_CmK.flatten(0, 1).unflatten(-1, weight.shape[2:])[:, None]
    return depthwise, pointwise_COm.transpose(0, 1).flatten(1)[..., None, None]
