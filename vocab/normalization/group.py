"""Group normalization: one mean and deviation for each group of channels of each image.

Source: Wu and He 2018, arXiv:1803.08494, equations 1, 2 and 7.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vocab.check import expect
from vocab.normalization.layer import moments, standardize

__all__ = ["GroupNorm", "group_norm"]

# B batch, C channels, G groups, * any positions


class GroupNorm(nn.Module):
    """Normalises neighbouring channels together over space, image by image, with a gain and a shift per channel.

    Args:
        num_groups: Groups G; divides ``num_channels``.
        num_channels: Channels C.
        eps: Added to the variance under the root.
        affine: Whether there is a gain and a shift per channel.
        activation: ``None`` or ``"silu"``, applied to the result: the pair that diffusion networks use everywhere.

    Shapes:
        x ``(B, C, *)`` -> the same.

    Raises:
        TypeError: If ``x`` is no floating-point tensor.
        ValueError: If the groups do not come out even, ``activation`` is another word, or ``x`` has other channels.

    Examples:
        >>> norm = GroupNorm(2, 4)
        >>> norm(torch.tensor([[1.0, 3.0, 10.0, 30.0]])).round().tolist()
        [[-1.0, 1.0, -1.0, 1.0]]
    """

    def __init__(
        self, num_groups: int, num_channels: int, eps: float = 1e-5, affine: bool = True, *, activation: str | None = None
    ) -> None:
        super().__init__()
        if num_groups < 1 or num_channels < 1 or num_channels % num_groups:
            raise ValueError(f"num_channels={num_channels} is not a multiple of num_groups={num_groups}")
        if not eps >= 0:
            raise ValueError(f"eps={eps} is negative")
        if activation not in (None, "silu"):
            raise ValueError(f"activation={activation!r} is neither None nor 'silu'")
        self.num_groups, self.num_channels, self.eps, self.activation = num_groups, num_channels, eps, activation
        self.weight = nn.Parameter(torch.ones(num_channels)) if affine else None
        self.bias = nn.Parameter(torch.zeros(num_channels)) if affine else None

    def forward(self, x: Tensor) -> Tensor:
        expect("x", x, "...")
        if x.ndim < 2 or x.shape[1] != self.num_channels:
            raise ValueError(f"x has shape {tuple(x.shape)}; expected (batch, num_channels={self.num_channels}, ...)")
        y = group_norm(x, self.num_groups, self.weight, self.bias, self.eps)
        return F.silu(y) if self.activation else y

    def extra_repr(self) -> str:
        return f"{self.num_groups}, {self.num_channels}, eps={self.eps}, activation={self.activation}"


def group_norm(
    x: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """Gives each group of channels of each image mean 0 and deviation 1, then each channel its gain and shift.

    Args:
        x: What is normalised.
        num_groups: Groups G of neighbouring channels.
        weight: gamma, a gain per channel; none is 1.
        bias: beta, a shift per channel; none is 0.
        eps: Added to the variance under the root.

    Shapes:
        x ``(B, C, *)``, weight ``(C,)``, bias ``(C,)`` -> ``(B, C, *)``.

    Examples:
        >>> group_norm(torch.tensor([[1.0, 3.0, 10.0, 30.0]]), 2, eps=0.0)
        tensor([[-1.,  1., -1.,  1.]])
    """
    grouped = x.unflatten(1, (num_groups, -1))
    y = standardize(grouped, moments(grouped, tuple(range(2, grouped.ndim))), eps).flatten(1, 2)
    channel = (-1, *[1] * (x.ndim - 2))
    y = y if weight is None else y * weight.view(channel)
    y = y if bias is None else y + bias.view(channel)
    return y.to(x.dtype)
