"""Mish: every number is multiplied by the tanh of its softplus.

Source: Misra 2019, arXiv:1908.08681, equation 1.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vocab.activations.softplus import softplus
from vocab.check import expect

__all__ = ["Mish", "mish"]


def mish(x: Tensor) -> Tensor:
    """Multiplies each element by tanh(log(1 + exp(x))), a gate between 0 and 1.

    Args:
        x: Any shape.

    Shapes:
        x ``(...)`` -> ``(...)``.

    Examples:
        >>> mish(torch.tensor([-1.0, 0.0, 1.0, 100.0]))
        tensor([ -0.3034,   0.0000,   0.8651, 100.0000])
    """
    expect("x", x, "...")
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return (wide * torch.tanh(softplus(wide))).to(x.dtype)


class Mish(nn.Module):
    """The function ``mish`` as a layer without parameters.

    Args:
        inplace: Whether the result is written over the input. The gradient needs the input, so a copy is kept.

    Shapes:
        x ``(...)`` -> ``(...)``.

    Examples:
        >>> Mish()(torch.tensor([-2.0, 2.0]))
        tensor([-0.2525,  1.9440])
    """

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.inplace = inplace

    def forward(self, x: Tensor) -> Tensor:
        expect("x", x, "...")
        return x.copy_(mish(x.clone())) if self.inplace else mish(x)

    def extra_repr(self) -> str:
        return "inplace=True" if self.inplace else ""
