"""GELU: every number is multiplied by the probability that a standard normal one is smaller.

Source: Hendrycks and Gimpel 2016, arXiv:1606.08415, section 2 (the definition and both approximations).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from vocab.check import expect

__all__ = ["GELU", "gelu"]


def gelu(x: Tensor, approximate: str = "none") -> Tensor:
    """Multiplies each element by a smooth gate between 0 and 1 that the element itself opens.

    Half precision is computed in float32 and rounded once at the end, as ``torch.nn.functional.gelu`` does.

    Args:
        x: Any shape.
        approximate: The gate: ``"none"`` is the standard normal CDF (BERT's papers, PyTorch's default), ``"tanh"`` the
            one that GPT-2 was trained with, ``"sigmoid"`` the one of OpenAI's CLIP ("quick GELU").

    Shapes:
        x ``(...)`` -> ``(...)``.

    Raises:
        ValueError: If ``approximate`` is another word.

    Examples:
        >>> gelu(torch.tensor([-1.0, 0.0, 1.0]))
        tensor([-0.1587,  0.0000,  0.8413])
    """
    expect("x", x, "...")
    wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    if approximate == "none":
        # erfc, not 1 + erf: for x = -6 that sum would keep one correct digit in float32 and none for x = -9 in float64.
        gate = torch.erfc(-wide / math.sqrt(2)) / 2
    elif approximate == "tanh":
        # (1 + tanh(u)) / 2 is sigmoid(2 u), without the difference of two nearly equal numbers for negative u.
        gate = torch.sigmoid(2 * math.sqrt(2 / math.pi) * (wide + 0.044715 * wide**3))
    elif approximate == "sigmoid":
        gate = torch.sigmoid(1.702 * wide)
    else:
        raise ValueError(f"approximate={approximate!r} is not 'none', 'tanh' or 'sigmoid'")
    return (wide * gate).to(x.dtype)


class GELU(nn.Module):
    """The function ``gelu`` as a layer without parameters.

    Args:
        approximate: The gate, ``"none"``, ``"tanh"`` or ``"sigmoid"``.

    Shapes:
        x ``(...)`` -> ``(...)``.

    Raises:
        ValueError: If ``approximate`` is another word.

    Examples:
        >>> GELU("tanh")(torch.tensor([3.0]))
        tensor([2.9964])
    """

    def __init__(self, approximate: str = "none") -> None:
        super().__init__()
        gelu(torch.zeros(0), approximate)  # a wrong word should not wait for the first batch
        self.approximate = approximate

    def forward(self, x: Tensor) -> Tensor:
        return gelu(x, self.approximate)

    def extra_repr(self) -> str:
        return f"approximate={self.approximate!r}"
