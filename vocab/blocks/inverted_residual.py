"""Inverted residual (MBConv): widen, look around channel by channel, narrow without an activation, add.

Source: Sandler et al. 2018, arXiv:1801.04381, section 3.3 and table 1; with squeeze-and-excitation as in Tan and Le 2019,
arXiv:1905.11946.
"""

from __future__ import annotations

from torch import Tensor, nn

from vocab.blocks.residual import Residual, conv
from vocab.blocks.squeeze_excitation import SqueezeExcitation
from vocab.check import expect

__all__ = ["InvertedResidual"]

# B batch, C input channels, O output channels, t expansion, H height, W width, k kernel size

_ACTIVATIONS = {"relu": nn.ReLU, "relu6": nn.ReLU6, "silu": nn.SiLU, "hardswish": nn.Hardswish}


class InvertedResidual(nn.Module):
    """The block of MobileNetV2, MobileNetV3 and EfficientNet.

    Batch normalization follows each of the three convolutions, the activation the first two only. What came in is added if
    the size and the number of channels stay.

    Args:
        in_channels: Channels C of the input.
        out_channels: Channels O of the output.
        stride: Of the depthwise convolution.
        expansion: How many times wider the middle is, t; 1 leaves the first convolution out.
        kernel_size: Taps k of the depthwise convolution, odd.
        se_ratio: Hidden numbers of a squeeze-and-excitation gate, as a share of ``in_channels``; 0 for none.
        activation: ``"relu6"`` (MobileNetV2), ``"hardswish"`` (V3, whose gate is then a hard sigmoid), ``"silu"``
            (EfficientNet) or ``"relu"``.

    Shapes:
        x ``(B, C, H, W)`` -> ``(B, O, ceil(H / stride), ceil(W / stride))``.

    Raises:
        ValueError: If a size is below 1, ``kernel_size`` is even, ``se_ratio`` is negative, ``activation`` is another word, or
            ``x`` has other channels.

    Examples:
        >>> import torch
        >>> block = InvertedResidual(24, 32, stride=2)
        >>> block(torch.zeros(2, 24, 8, 8)).shape
        torch.Size([2, 32, 4, 4])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        stride: int = 1,
        expansion: int = 6,
        kernel_size: int = 3,
        se_ratio: float = 0.0,
        activation: str = "relu6",
    ) -> None:
        super().__init__()
        for name, value in dict(
            in_channels=in_channels, out_channels=out_channels, stride=stride, expansion=expansion, kernel_size=kernel_size
        ).items():
            if value < 1:
                raise ValueError(f"{name}={value} is below 1")
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size={kernel_size} is even; the block needs a centre to keep the size")
        if se_ratio < 0:
            raise ValueError(f"se_ratio={se_ratio} is below 0")
        if activation not in _ACTIVATIONS:
            raise ValueError(f"activation={activation!r} is not one of {', '.join(map(repr, _ACTIVATIONS))}")
        self.in_channels = in_channels
        wide, act = expansion * in_channels, _ACTIVATIONS[activation]
        layers = []
        if expansion > 1:
            layers += [conv(in_channels, wide, 1), nn.BatchNorm2d(wide), act()]
        layers += [conv(wide, wide, kernel_size, stride, groups=wide), nn.BatchNorm2d(wide), act()]
        if se_ratio:
            layers.append(
                SqueezeExcitation(
                    wide,
                    hidden_channels=max(1, int(in_channels * se_ratio)),
                    gate="hardsigmoid" if activation == "hardswish" else "sigmoid",
                    activation="silu" if activation == "silu" else "relu",
                )
            )
        layers += [conv(wide, out_channels, 1), nn.BatchNorm2d(out_channels)]
        branch = nn.Sequential(*layers)
        self.layers = Residual(branch) if stride == 1 and in_channels == out_channels else branch

    def forward(self, x: Tensor) -> Tensor:
        expect("x", x, "batch in_channels height width", in_channels=self.in_channels)
        return self.layers(x)
