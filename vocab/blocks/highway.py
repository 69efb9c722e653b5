"""Highway layer: a gate decides, number by number, how much is transformed and how much passes unchanged.

Source: Srivastava et al. 2015, arXiv:1505.00387, equation 3.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vocab.check import expect

__all__ = ["HighwayLayer"]

_ACTIVATIONS = {"relu": F.relu, "tanh": torch.tanh}


class HighwayLayer(nn.Module):
    """``y = T(x) * H(x) + (1 - T(x)) * x`` with a layer ``H`` and a gate ``T`` from 0 to 1.

    Args:
        dim: Numbers in and out.
        activation: Of ``H``: ``"relu"`` or ``"tanh"``.
        gate_bias: Where the gate's bias starts; below 0 the layer begins by letting most of ``x`` pass.

    Shapes:
        x ``(..., dim)`` -> ``(..., dim)``.

    Raises:
        ValueError: If ``dim`` is below 1, ``activation`` is another word, or ``x`` has another last axis.

    Examples:
        >>> layer, x = HighwayLayer(4, gate_bias=-1000.0), torch.randn(2, 4)
        >>> torch.equal(layer(x), x)
        True
    """

    def __init__(self, dim: int, *, activation: str = "relu", gate_bias: float = -2.0) -> None:
        super().__init__()
        if dim < 1:
            raise ValueError(f"dim={dim} is below 1")
        if activation not in _ACTIVATIONS:
            raise ValueError(f"activation={activation!r} is not 'relu' or 'tanh'")
        self.dim, self.activation = dim, activation
        self.transform, self.gate = nn.Linear(dim, dim), nn.Linear(dim, dim)
        nn.init.constant_(self.gate.bias, gate_bias)

    def forward(self, x: Tensor) -> Tensor:
        expect("x", x, "... dim", dim=self.dim)
        candidate = _ACTIVATIONS[self.activation](self.transform(x))
        return torch.lerp(x, candidate, torch.sigmoid(self.gate(x)))
