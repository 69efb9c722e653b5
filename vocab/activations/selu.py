"""SELU: ELU with two constants that keep mean 0 and variance 1 from layer to layer.

Source: Klambauer et al. 2017, arXiv:1706.02515, equation 2, and section 2 for the fixed point.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vocab.activations.elu import elu
from vocab.check import expect

__all__ = ["SELU", "lecun_normal_", "selu"]

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


@torch.no_grad()
def lecun_normal_(weight: Tensor) -> Tensor:
    """Fills a weight with normal numbers of variance 1 / fan_in, which SELU is made for.

    Args:
        weight: Of a linear layer or a convolution: output size first, the rest is what one output sums over.

    Shapes:
        weight ``(out, in, ...)`` -> the same tensor.

    Raises:
        ValueError: If ``weight`` has fewer than two dimensions.

    Examples:
        >>> weight = lecun_normal_(torch.empty(1000, 400))
        >>> print(f"{weight.std():.2f}")
        0.05
    """
    expect("weight", weight, "...")
    if weight.ndim < 2:
        raise ValueError(f"weight has shape {tuple(weight.shape)}; expected (out, in, ...)")
    return weight.normal_(0, weight[0].numel() ** -0.5)


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
