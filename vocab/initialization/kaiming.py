"""Kaiming (He) initialization: the gain of the activation over the root of one fan.

Source: He et al. 2015, arXiv:1502.01852, equations 10 (forward), 14 (backward) and 15 (leaky ReLU).
"""

from __future__ import annotations

import torch
from torch import Tensor

from vocab.initialization.gain import calculate_gain
from vocab.initialization.xavier import fans

__all__ = ["kaiming_normal_", "kaiming_uniform_"]


@torch.no_grad()
def kaiming_normal_(
    tensor: Tensor,
    a: float = 0.0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Fills a weight in place with normal numbers of standard deviation ``gain / sqrt(fan)``.

    Args:
        tensor: Weight of a linear layer or a convolution.
        a: Slope below zero of the leaky ReLU in front of these weights; 0 is ReLU. Other functions take none.
        mode: ``"fan_in"`` keeps the signal on its way forward, ``"fan_out"`` the gradient on its way back.
        nonlinearity: The activation in front, as ``calculate_gain`` names it.
        generator: Source of the random numbers.

    Shapes:
        tensor ``(out, in, ...)`` -> the same tensor.

    Raises:
        ValueError: If ``tensor`` has fewer than two dimensions, or ``mode`` or ``nonlinearity`` is another word.

    Examples:
        >>> print(f"{kaiming_normal_(torch.empty(300, 800)).std():.2f}")
        0.05
    """
    return tensor.normal_(0, _std(tensor, a, mode, nonlinearity), generator=generator)


@torch.no_grad()
def kaiming_uniform_(
    tensor: Tensor,
    a: float = 0.0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Fills a weight in place with uniform numbers within ``± gain · sqrt(3 / fan)``.

    Args:
        tensor: Weight of a linear layer or a convolution.
        a: Slope below zero of the leaky ReLU in front. PyTorch's layers start with ``sqrt(5)``, a trick: bounds of
            ``1 / sqrt(fan_in)`` come out.
        mode: ``"fan_in"`` or ``"fan_out"``.
        nonlinearity: The activation in front, as ``calculate_gain`` names it.
        generator: Source of the random numbers.

    Shapes:
        tensor ``(out, in, ...)`` -> the same tensor.

    Raises:
        ValueError: If ``tensor`` has fewer than two dimensions, or ``mode`` or ``nonlinearity`` is another word.

    Examples:
        >>> bool(kaiming_uniform_(torch.empty(50, 100), a=5**0.5).abs().max() <= 0.1)
        True
    """
    bound = 3**0.5 * _std(tensor, a, mode, nonlinearity)
    return tensor.uniform_(-bound, bound, generator=generator)


def _std(tensor, a, mode, nonlinearity):
    if mode not in ("fan_in", "fan_out"):
        raise ValueError(f"mode={mode!r} is not 'fan_in' or 'fan_out'")
    fan_in, fan_out = fans(tensor)
    gain = calculate_gain(nonlinearity, a if nonlinearity == "leaky_relu" else None)
    return gain / (fan_in if mode == "fan_in" else fan_out) ** 0.5
