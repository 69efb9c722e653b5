"""SELU: ELU with two constants that keep mean 0 and variance 1 from layer to layer.

Source: Klambauer et al. 2017, arXiv:1706.02515, equation 2, and section 2 for the fixed point.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vocab.activations.elu import elu
from vocab.check import expect

__all__ = ["SELU", "selu"]

ALPHA = 1.6732632423543772
SCALE = 1.0507009873554805


def selu(x: Tensor) -> Tensor:
    """Scales an ELU so that a standard normal input gives an output of mean 0 and variance 1.

    Args:
        x: Any shape.

    Shapes:
        x ``(...)`` -> ``(...)``, above -1.758.

    Examples:
        >>> selu(torch.tensor([-100.0, 0.0, 1.0]))
        tensor([-1.7581,  0.0000,  1.0507])
    """
    expect("x", x, "...")
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return (SCALE * elu(wide, ALPHA)).to(x.dtype)


class SELU(nn.Module):
    """The function ``selu`` as a layer without parameters.

    Shapes:
        x ``(...)`` -> ``(...)``.

    Examples:
        >>> SELU()(torch.tensor([-1.0]))
        tensor([-1.1113])
    """

    def forward(self, x: Tensor) -> Tensor:
        return selu(x)
