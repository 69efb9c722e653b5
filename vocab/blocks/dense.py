"""Dense block: every layer reads the outputs of all layers before it, side by side.

Source: Huang et al. 2017, arXiv:1608.06993, section 3 (DenseNet-BC).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recompute

from vocab.blocks.residual import conv
from vocab.check import expect

__all__ = ["DenseBlock", "TransitionLayer"]

# B batch, C input channels, L layers, k growth rate, H height, W width


class DenseBlock(nn.Module):
    """Stack of layers that each add ``growth_rate`` channels to what they read.

    A layer is: normalization, ReLU, 1 by 1 convolution, normalization, ReLU, 3 by 3 convolution.

    Args:
        num_layers: Layers L.
        in_channels: Channels C of the input.
        growth_rate: Channels k that each layer adds.
        bn_size: Channels between the two convolutions, in multiples of k.
        dropout: Share of a layer's output set to zero in training.
        checkpoint: Whether the concatenation and the first convolution of a layer are computed again in the backward pass
            instead of being stored: memory grows with L, not with its square. The running statistics of the normalizations
            then see each batch twice.

    Shapes:
        x ``(B, C, H, W)`` -> ``(B, C + L k, H, W)``; the first C channels are the input.

    Raises:
        ValueError: If a size is below 1, ``dropout`` is not from 0 to 1, or ``x`` has other channels.

    Examples:
        >>> block = DenseBlock(6, 64)  # the first of DenseNet-121
        >>> block(torch.zeros(2, 64, 4, 4)).shape
        torch.Size([2, 256, 4, 4])
    """

    def __init__(
        self,
        num_layers: int,
        in_channels: int,
        growth_rate: int = 32,
        *,
        bn_size: int = 4,
        dropout: float = 0.0,
        checkpoint: bool = False,
    ) -> None:
        super().__init__()
        for name, value in dict(
            num_layers=num_layers, in_channels=in_channels, growth_rate=growth_rate, bn_size=bn_size
        ).items():
            if value < 1:
                raise ValueError(f"{name}={value} is below 1")
        if not 0 <= dropout <= 1:
            raise ValueError(f"dropout={dropout} is not from 0 to 1")
        self.in_channels, self.checkpoint = in_channels, checkpoint
        middle = bn_size * growth_rate
        widths = [in_channels + i * growth_rate for i in range(num_layers)]
        self.mix = nn.ModuleList(nn.Sequential(nn.BatchNorm2d(c), nn.ReLU(), conv(c, middle, 1)) for c in widths)
        self.look = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(middle), nn.ReLU(), conv(middle, growth_rate, 3), nn.Dropout(dropout))
            for _ in widths
        )

    def forward(self, x: Tensor) -> Tensor:
        expect("x", x, "batch in_channels height width", in_channels=self.in_channels)
        features = [x]
        for mix, look in zip(self.mix, self.look):

            def mixed(*features: Tensor, mix: nn.Module = mix) -> Tensor:
                return mix(torch.cat(features, 1))

            if self.checkpoint and torch.is_grad_enabled():
                features.append(look(recompute(mixed, *features, use_reentrant=False)))
            else:
                features.append(look(mixed(*features)))
        return torch.cat(features, 1)


class TransitionLayer(nn.Sequential):
    """Between two dense blocks: normalization, ReLU, 1 by 1 convolution to fewer channels, mean over 2 by 2 squares.

    Args:
        in_channels: Channels of the input.
        compression: Share of the channels that is left, rounded down.

    Shapes:
        x ``(B, C, H, W)`` -> ``(B, int(compression * C), H // 2, W // 2)``.

    Raises:
        ValueError: If ``compression`` is not above 0 and at most 1, or no channel would be left.

    Examples:
        >>> TransitionLayer(256)(torch.zeros(2, 256, 8, 8)).shape
        torch.Size([2, 128, 4, 4])
    """

    def __init__(self, in_channels: int, compression: float = 0.5) -> None:
        if not 0 < compression <= 1:
            raise ValueError(f"compression={compression} is not above 0 and at most 1")
        out_channels = int(compression * in_channels)
        if out_channels < 1:
            raise ValueError(f"compression={compression} of in_channels={in_channels} leaves no channel")
        super().__init__(
            nn.BatchNorm2d(in_channels), nn.ReLU(), conv(in_channels, out_channels, 1), nn.AvgPool2d(2)
        )

    def forward(self, x: Tensor) -> Tensor:
        expect("x", x, "batch in_channels height width", in_channels=self[0].num_features)
        return super().forward(x)
