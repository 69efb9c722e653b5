"""Softplus: the logarithm of 1 + e^x, a smooth ReLU whose results are positive.

Source: Dugas et al. 2001 (NIPS 2000).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from vocab.check import expect

__all__ = ["Softplus", "inverse_softplus", "softplus"]


def softplus(x: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """Computes log(1 + exp(beta x)) / beta without ever forming a large exponential.

    Args:
        x: Any shape.
        beta: Sharpness; the larger, the closer to ReLU.
        threshold: Where ``beta * x`` is above it, the result is ``x`` itself.

    Shapes:
        x ``(...)`` -> ``(...)``.

    Raises:
        ValueError: If ``beta`` is not positive.

    Examples:
        >>> softplus(torch.tensor([-100.0, 0.0, 100.0]))
        tensor([3.7835e-44, 6.9315e-01, 1.0000e+02])
    """
    expect("x", x, "...")
    _check(beta)
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    z = beta * wide
    # log(e^z + e^0): logaddexp takes the larger of z and 0 out of the sum before it exponentiates.
    y = torch.logaddexp(z, torch.zeros_like(z)) / beta
    return torch.where(z > threshold, wide, y).to(x.dtype)


def inverse_softplus(y: Tensor, beta: float = 1.0) -> Tensor:
    """Finds the x whose softplus is ``y``: for a parameter that must start at a chosen positive value.

    Args:
        y: Positive numbers; 0 gives -inf, a negative number NaN.
        beta: Sharpness of the softplus.

    Shapes:
        y ``(...)`` -> ``(...)``.

    Raises:
        ValueError: If ``beta`` is not positive.

    Examples:
        >>> inverse_softplus(torch.tensor([0.001, 1.0, 50.0]))
        tensor([-6.9073,  0.5413, 50.0000])
    """
    expect("y", y, "...")
    _check(beta)
    # log(e^z - 1) = z + log(1 - e^-z): no overflow for large z, and expm1 keeps the digits of a small one.
    return y + torch.log(-torch.expm1(-beta * y)) / beta


def _check(beta: float) -> None:
    if not 0 < beta < math.inf:
        raise ValueError(f"beta={beta} is not a positive number")


class Softplus(nn.Module):
    """The function ``softplus`` as a layer without parameters.

    Args:
        beta: Sharpness.
        threshold: Where ``beta * x`` is above it, the result is ``x`` itself.

    Shapes:
        x ``(...)`` -> ``(...)``.

    Raises:
        ValueError: If ``beta`` is not positive.

    Examples:
        >>> Softplus(beta=2.0)(torch.tensor([0.0, 30.0]))
        tensor([ 0.3466, 30.0000])
    """

    def __init__(self, beta: float = 1.0, threshold: float = 20.0) -> None:
        super().__init__()
        _check(beta)
        self.beta, self.threshold = beta, threshold

    def forward(self, x: Tensor) -> Tensor:
        return softplus(x, self.beta, self.threshold)

    def extra_repr(self) -> str:
        return f"beta={self.beta}, threshold={self.threshold}"
