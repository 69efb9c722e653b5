"""Leaky ReLU: negative numbers are scaled down instead of dropped.

Source: Maas, Hannun and Ng 2013 (ICML workshop), equation 2; slopes compared in Xu et al. 2015, arXiv:1505.00853.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from vocab.check import expect

__all__ = ["LeakyReLU", "leaky_relu"]


def leaky_relu(x: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
    """Keeps positive numbers and multiplies all others by a small slope.

    Args:
        x: Any shape.
        negative_slope: The factor s of numbers below zero: 0 is ReLU, 1 the identity, -1 the absolute value.
        inplace: Whether the result is written over ``x``.

    Shapes:
        x ``(...)`` -> ``(...)``.

    Raises:
        ValueError: If ``negative_slope`` is not a finite number.

    Examples:
        >>> leaky_relu(torch.tensor([-2.0, 0.0, 3.0]), negative_slope=0.25)
        tensor([-0.5000,  0.0000,  3.0000])
    """
    expect("x", x, "...")
    if not math.isfinite(negative_slope):
        raise ValueError(f"negative_slope={negative_slope} is not a finite number")
    y = torch.where(x > 0, x, negative_slope * x)
    return x.copy_(y) if inplace else y


class LeakyReLU(nn.Module):
    """The function ``leaky_relu`` as a layer without parameters.

    Args:
        negative_slope: The factor of numbers below zero.
        inplace: Whether the result is written over the input.

    Shapes:
        x ``(...)`` -> ``(...)``.

    Raises:
        ValueError: If ``negative_slope`` is not a finite number.

    Examples:
        >>> LeakyReLU(0.2)(torch.tensor([-10.0, 10.0]))
        tensor([-2., 10.])
    """

    def __init__(self, negative_slope: float = 0.01, inplace: bool = False) -> None:
        super().__init__()
        leaky_relu(torch.zeros(0), negative_slope)  # a wrong slope should not wait for the first batch
        self.negative_slope, self.inplace = negative_slope, inplace

    def forward(self, x: Tensor) -> Tensor:
        return leaky_relu(x, self.negative_slope, self.inplace)

    def extra_repr(self) -> str:
        return f"negative_slope={self.negative_slope}" + (", inplace=True" if self.inplace else "")
