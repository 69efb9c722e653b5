"""Hard swish: SiLU with a gate made of straight pieces.

Source: Howard et al. 2019, arXiv:1905.02244, section 5.2.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vocab.activations.hardsigmoid import relu6
from vocab.check import expect

__all__ = ["Hardswish", "hardswish"]


def hardswish(x: Tensor) -> Tensor:
    """Multiplies each element by its hard sigmoid, which is 0 below -3 and 1 above 3.

    Args:
        x: Any shape.

    Shapes:
        x ``(...)`` -> ``(...)``.

    Examples:
        >>> hardswish(torch.tensor([-4.0, -1.5, 0.0, 1.5, 4.0]))
        tensor([-0.0000, -0.3750,  0.0000,  1.1250,  4.0000])
    """
    expect("x", x, "...")
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return (wide * relu6(wide + 3) / 6).to(x.dtype)


class Hardswish(nn.Module):
    """The function ``hardswish`` as a layer without parameters.

    Args:
        inplace: Whether the result is written over the input. The gradient needs the input, so a copy is kept.

    Shapes:
        x ``(...)`` -> ``(...)``.

    Examples:
        >>> Hardswish()(torch.tensor([-3.0, 3.0]))
        tensor([-0., 3.])
    """

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.inplace = inplace

    def forward(self, x: Tensor) -> Tensor:
        expect("x", x, "...")
        return x.copy_(hardswish(x.clone())) if self.inplace else hardswish(x)

    def extra_repr(self) -> str:
        return "inplace=True" if self.inplace else ""
