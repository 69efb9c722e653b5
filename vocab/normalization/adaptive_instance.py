"""Adaptive instance normalization: the channel means and deviations of one image replaced by those of another.

Source: Huang and Belongie 2017, arXiv:1703.06868, equation 8; learned from a vector as in Karras et al. 2019, arXiv:1812.04948, equation 1.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vocab.check import expect
from vocab.normalization.layer import moments, standardize

__all__ = ["AdaIN", "adain"]

# B batch, C channels, H height, W width


def adain(content: Tensor, style: Tensor, alpha: float = 1.0, *, eps: float = 1e-5) -> Tensor:
    """Gives each channel of ``content`` the mean and deviation that it has in ``style``.

    Args:
        content: Where the pattern comes from.
        style: Where mean and deviation come from; its height and width may differ.
        alpha: How far to go from ``content`` (0) to the full transfer (1).
        eps: Added to both variances under the root, so that an image keeps its own style exactly.

    Shapes:
        content ``(B, C, H, W)``, style ``(B, C, Hs, Ws)`` -> ``(B, C, H, W)``.

    Raises:
        TypeError: If an image is no floating-point tensor.
        ValueError: If batch or channels differ, or ``alpha`` is not from 0 to 1.

    Examples:
        >>> content, style = torch.tensor([0.0, 2.0]).view(1, 1, 1, 2), torch.tensor([10.0, 30.0, 10.0, 30.0]).view(1, 1, 2, 2)
        >>> adain(content, style).flatten().round(decimals=3).tolist()
        [10.0, 30.0]
        >>> adain(content, style, alpha=0.5).flatten().round(decimals=3).tolist()
        [5.0, 16.0]
    """
    expect("content", content, "batch channels height width")
    expect("style", style, "batch channels height width", batch=content.shape[0], channels=content.shape[1])
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha={alpha} is not from 0 to 1")
    mean, variance = moments(style, (2, 3))
    transferred = standardize(content, moments(content, (2, 3)), eps) * (variance + eps).sqrt() + mean
    return (alpha * transferred + (1 - alpha) * content).to(content.dtype)


class AdaIN(nn.Module):
    """Instance normalization whose gain and shift are a linear function of a style vector, as in StyleGAN.

    Args:
        num_features: Channels C.
        style_dim: Size S of the style vector.
        eps: Added to the variance under the root.

    Shapes:
        x ``(B, C, H, W)``, s ``(B, S)`` -> ``(B, C, H, W)``.

    Raises:
        TypeError: If an argument is no floating-point tensor.
        ValueError: If a size is below 1, ``eps`` is negative, or a shape does not fit.

    Examples:
        >>> layer, x = AdaIN(3, 8), torch.randn(2, 3, 16, 16)
        >>> plain = layer(x, torch.zeros(2, 8))  # the bias alone: gain 1, shift 0
        >>> torch.allclose(plain.std((2, 3), correction=0), torch.ones(2, 3), atol=1e-3)
        True
    """

    def __init__(self, num_features: int, style_dim: int, eps: float = 1e-5) -> None:
        super().__init__()
        for name, size in (("num_features", num_features), ("style_dim", style_dim)):
            if size < 1:
                raise ValueError(f"{name}={size} is below 1")
        if not eps >= 0:
            raise ValueError(f"eps={eps} is negative")
        self.num_features, self.style_dim, self.eps = num_features, style_dim, eps
        self.from_style = nn.Linear(style_dim, 2 * num_features)
        nn.init.zeros_(self.from_style.bias)

    def forward(self, x: Tensor, s: Tensor) -> Tensor:
        expect("x", x, "batch num_features height width", num_features=self.num_features)
        expect("s", s, "batch style_dim", batch=x.shape[0], style_dim=self.style_dim)
        scale, shift = self.from_style(s)[:, :, None, None].chunk(2, 1)
        # 1 + scale: with scale itself, which starts near 0, hardly any signal would pass.
        return (standardize(x, moments(x, (2, 3)), self.eps) * (1 + scale) + shift).to(x.dtype)
