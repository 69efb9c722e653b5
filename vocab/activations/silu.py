"""SiLU and Swish: every number is multiplied by its own sigmoid.

Source: Elfwing et al. 2017, arXiv:1702.03118, equation 4; Swish with beta in Ramachandran et al. 2017, arXiv:1710.05941.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from vocab.check import expect

__all__ = ["Swish", "silu"]


def silu(x: Tensor) -> Tensor:
    """Multiplies each element by its sigmoid.

    Args:
        x: Any shape.

    Shapes:
        x ``(...)`` -> ``(...)``.

    Examples:
        >>> silu(torch.tensor([-2.0, 0.0, 2.0]))
        tensor([-0.2384,  0.0000,  1.7616])
    """
    expect("x", x, "...")
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return (wide * torch.sigmoid(wide)).to(x.dtype)


class Swish(nn.Module):
    """SiLU with a gate of another steepness: x times the sigmoid of beta x.

    Args:
        beta: Steepness: 0 is x / 2, 1 is SiLU, 1.702 is quick GELU; the larger, the closer to ReLU.
        learnable: Whether ``beta`` is a parameter; one for the whole layer.

    Shapes:
        x ``(...)`` -> ``(...)``.

    Raises:
        ValueError: If ``beta`` is not a finite number.

    Examples:
        >>> Swish(beta=0.0)(torch.tensor([-2.0, 4.0]))
        tensor([-1.,  2.])
    """

    def __init__(self, beta: float = 1.0, learnable: bool = False) -> None:
        super().__init__()
        if not math.isfinite(beta):
            raise ValueError(f"beta={beta} is not a finite number")
        self.beta = nn.Parameter(torch.tensor(float(beta))) if learnable else float(beta)

    def forward(self, x: Tensor) -> Tensor:
        expect("x", x, "...")
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        return (wide * torch.sigmoid(self.beta * wide)).to(x.dtype)

    def extra_repr(self) -> str:
        return f"beta={float(torch.as_tensor(self.beta).detach()):g}, learnable={isinstance(self.beta, nn.Parameter)}"
