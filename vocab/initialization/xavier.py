"""Xavier (Glorot) initialization: one variance for both directions, the mean of what each would need.

Source: Glorot and Bengio 2010, AISTATS, equations 10 to 12 (the two conditions and the compromise) and 16 (the uniform form).
"""

from __future__ import annotations

import torch
from torch import Tensor

from vocab.check import expect

__all__ = ["fans", "xavier_normal_", "xavier_uniform_"]


@torch.no_grad()
def xavier_uniform_(tensor: Tensor, gain: float = 1.0, generator: torch.Generator | None = None) -> Tensor:
    """Fills a weight in place with uniform numbers within ``± gain · sqrt(6 / (fan_in + fan_out))``.

    Args:
        tensor: Weight of a linear layer or a convolution.
        gain: Factor for the activation in front of these weights.
        generator: Source of the random numbers.

    Shapes:
        tensor ``(out, in, ...)`` -> the same tensor.

    Raises:
        ValueError: If ``tensor`` has fewer than two dimensions or a fan of 0.

    Examples:
        >>> bool(xavier_uniform_(torch.empty(100, 50)).abs().max() <= 0.2)
        True
    """
    bound = gain * (6 / sum(fans(tensor))) ** 0.5
    return tensor.uniform_(-bound, bound, generator=generator)


@torch.no_grad()
def xavier_normal_(tensor: Tensor, gain: float = 1.0, generator: torch.Generator | None = None) -> Tensor:
    """Fills a weight in place with normal numbers of variance ``2 gain² / (fan_in + fan_out)``.

    Args:
        tensor: Weight of a linear layer or a convolution.
        gain: Factor for the activation in front of these weights.
        generator: Source of the random numbers.

    Shapes:
        tensor ``(out, in, ...)`` -> the same tensor.

    Raises:
        ValueError: If ``tensor`` has fewer than two dimensions or a fan of 0.

    Examples:
        >>> print(f"{xavier_normal_(torch.empty(300, 500)).std():.2f}")
        0.05
    """
    return tensor.normal_(0, gain * (2 / sum(fans(tensor))) ** 0.5, generator=generator)


def fans(tensor: Tensor) -> tuple[int, int]:
    """Counts what one output sums over (fan_in) and what one input feeds (fan_out), from the shape of a weight.

    For a convolution each counts the taps of the kernel too. Right for groups=1; with groups the count of the outputs is
    that of all groups, and a transposed convolution, whose weight is stored as (in, out, ...), gets the two swapped.

    Args:
        tensor: Weight of a linear layer or a convolution.

    Shapes:
        tensor ``(out, in, ...)`` -> ``(fan_in, fan_out)``.

    Raises:
        ValueError: If ``tensor`` has fewer than two dimensions or a fan of 0.

    Examples:
        >>> fans(torch.empty(64, 16, 3, 3))
        (144, 576)
    """
    expect("tensor", tensor, "...")
    if tensor.ndim < 2:
        raise ValueError(f"tensor has shape {tuple(tensor.shape)}; expected (out, in, ...): a bias has no fan")
    taps = tensor[0, 0].numel() if tensor.numel() else 0
    fan_in, fan_out = tensor.shape[1] * taps, tensor.shape[0] * taps
    if not taps:
        raise ValueError(f"tensor has shape {tuple(tensor.shape)}; a fan of 0 has no variance")
    return fan_in, fan_out
