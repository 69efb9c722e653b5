"""ELU and CELU: negative numbers saturate exponentially at a negative value.

Source: Clevert et al. 2016, arXiv:1511.07289, equation 15; CELU in Barron 2017, arXiv:1704.07483, equation 2.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from vocab.check import expect

__all__ = ["ELU", "celu", "elu"]


def elu(x: Tensor, alpha: float = 1.0) -> Tensor:
    """Keeps positive numbers; negative ones become alpha (exp(x) - 1).

    Args:
        x: Any shape.
        alpha: Where the left side ends, with the opposite sign. The slope is continuous at 0 for 1 only.

    Shapes:
        x ``(...)`` -> ``(...)``, above ``-alpha``.

    Raises:
        ValueError: If ``alpha`` is not positive.

    Examples:
        >>> elu(torch.tensor([-100.0, -1.0, 0.0, 2.0]))
        tensor([-1.0000, -0.6321,  0.0000,  2.0000])
    """
    return _exponential_below_zero(x, alpha, 1.0)


def celu(x: Tensor, alpha: float = 1.0) -> Tensor:
    """Keeps positive numbers; negative ones become alpha (exp(x / alpha) - 1), with slope 1 at 0 for every alpha.

    Args:
        x: Any shape.
        alpha: Where the left side ends, with the opposite sign, and how slowly.

    Shapes:
        x ``(...)`` -> ``(...)``, above ``-alpha``.

    Raises:
        ValueError: If ``alpha`` is not positive.

    Examples:
        >>> celu(torch.tensor([-100.0, -1.0, 2.0]), alpha=2.0)
        tensor([-2.0000, -0.7869,  2.0000])
    """
    return _exponential_below_zero(x, alpha, alpha)


def _exponential_below_zero(x: Tensor, alpha: float, scale: float) -> Tensor:
    expect("x", x, "...")
    _check(alpha)
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    # Both branches of where are computed, and both send a gradient back. Without the zeros a large positive x would
    # overflow in the branch that is not used: infinity times zero is NaN. (Clamp has no gradient at 0 since PyTorch 2.14.)
    below = alpha * torch.expm1(wide.masked_fill(wide > 0, 0.0) / scale)
    return torch.where(wide > 0, wide, below).to(x.dtype)


def _check(alpha: float) -> None:
    if not 0 < alpha < math.inf:
        raise ValueError(f"alpha={alpha} is not a positive number")


class ELU(nn.Module):
    """The function ``elu`` as a layer without parameters.

    Args:
        alpha: Where the left side ends, with the opposite sign.

    Shapes:
        x ``(...)`` -> ``(...)``.

    Raises:
        ValueError: If ``alpha`` is not positive.

    Examples:
        >>> ELU(alpha=0.5)(torch.tensor([-100.0, 1.0]))
        tensor([-0.5000,  1.0000])
    """

    def __init__(self, alpha: float = 1.0) -> None:
        super().__init__()
        _check(alpha)
        self.alpha = alpha

    def forward(self, x: Tensor) -> Tensor:
        return elu(x, self.alpha)

    def extra_repr(self) -> str:
        return f"alpha={self.alpha}"
