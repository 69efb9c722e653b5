"""ConvNeXt block: a large depthwise kernel, then a two-layer network at every pixel, and the sum.

Source: Liu et al. 2022, arXiv:2201.03545, section 2 and figure 4; global response normalization in Woo et al. 2023,
arXiv:2301.00808, section 3.2.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vocab.check import expect

__all__ = ["ConvNeXtBlock", "GlobalResponseNorm"]

# B batch, C channels, H height, W width, k kernel size


class ConvNeXtBlock(nn.Module):
    """``x + scale * narrow(gelu(widen(norm(depthwise(x)))))`` with one normalization and one activation.

    Args:
        dim: Channels C of input and output.
        kernel_size: Taps k of the depthwise convolution along each side, odd.
        expansion: How many times wider the two-layer network is inside.
        layer_scale: Where the factor of each channel of the branch starts; None for no factor (the second version).
        drop_path: Probability that a sample's branch is left out in training; the others are raised to make up for it.
        grn: Whether ``GlobalResponseNorm`` follows the activation, as in the second version.

    Shapes:
        x ``(B, C, H, W)`` -> ``(B, C, H, W)``.

    Raises:
        ValueError: If a size is below 1, ``kernel_size`` is even, ``drop_path`` is not from 0 to below 1, or ``x`` has
            other channels.

    Examples:
        >>> block, x = ConvNeXtBlock(16), torch.randn(2, 16, 9, 9)
        >>> (block(x) - x).abs().max().item() < 1e-4  # nearly the identity at the start
        True
    """

    def __init__(
        self,
        dim: int,
        *,
        kernel_size: int = 7,
        expansion: int = 4,
        layer_scale: float | None = 1e-6,
        drop_path: float = 0.0,
        grn: bool = False,
    ) -> None:
        super().__init__()
        for name, value in dict(dim=dim, kernel_size=kernel_size, expansion=expansion).items():
            if value < 1:
                raise ValueError(f"{name}={value} is below 1")
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size={kernel_size} is even; the block needs a centre to keep the size")
        if not 0 <= drop_path < 1:
            raise ValueError(f"drop_path={drop_path} is not from 0 to below 1")
        self.dim, self.drop_path = dim, drop_path
        self.depthwise = nn.Conv2d(dim, dim, kernel_size, padding=kernel_size // 2, groups=dim)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.widen, self.narrow = nn.Linear(dim, expansion * dim), nn.Linear(expansion * dim, dim)
        self.grn = GlobalResponseNorm(expansion * dim) if grn else None
        self.scale = None if layer_scale is None else nn.Parameter(torch.full((dim,), float(layer_scale)))

    def forward(self, x: Tensor) -> Tensor:
        expect("x", x, "batch dim height width", dim=self.dim)
        y_BHWC = self.depthwise(x).permute(0, 2, 3, 1)
        y_BHWC = F.gelu(self.widen(self.norm(y_BHWC)))
        if self.grn is not None:
            y_BHWC = self.grn(y_BHWC)
        y_BHWC = self.narrow(y_BHWC)
        if self.scale is not None:
            y_BHWC = y_BHWC * self.scale
        if self.training and self.drop_path:
            kept = torch.rand(len(x), 1, 1, 1, device=x.device) >= self.drop_path
            y_BHWC = y_BHWC * kept / (1 - self.drop_path)
        return x + y_BHWC.permute(0, 3, 1, 2)


class GlobalResponseNorm(nn.Module):
    """Raises channels that answer more than the average channel of the image, and lowers the others.

    ``x + bias + weight * x * length / mean length``, where a channel's length is the root of its summed squares over the
    image. Starts as the identity.

    Args:
        dim: Channels C.

    Shapes:
        x ``(B, H, W, C)`` -> ``(B, H, W, C)``.

    Raises:
        ValueError: If ``x`` has other channels.

    Examples:
        >>> norm, x = GlobalResponseNorm(3), torch.randn(1, 2, 2, 3)
        >>> torch.equal(norm(x), x)
        True
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.zeros(dim)), nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        expect("x", x, "batch height width dim", dim=len(self.weight))
        length = torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True)
        relative = length / (length.mean(-1, keepdim=True) + 1e-6)  # of 1 on average
        return x + self.bias + self.weight * (x * relative)
