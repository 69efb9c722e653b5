"""Adaptive layer normalization: gain, shift and gate of a block come from a condition; and FiLM, the same for any features.

Source: Peebles and Xie 2023, arXiv:2212.09748, section 3.2 (adaLN-Zero); Perez et al. 2018, arXiv:1709.07871, equation 2 (FiLM).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vocab.check import expect
from vocab.normalization.layer import layer_norm

__all__ = ["AdaLayerNorm", "film"]

# B batch, T tokens, D model width, K condition width, C channels


class AdaLayerNorm(nn.Module):
    """Layer normalization with gain ``1 + scale(cond)`` and shift ``shift(cond)``, and the gate for the branch behind it.

    Used as ``x = x + gate * f(y)`` with ``y, gate = norm(x, cond)``. With ``zero_init`` all three start at 0, so that a block is the
    identity, whatever f and the condition are.

    Args:
        d_model: Width D.
        d_cond: Width K of the condition.
        zero_init: Whether the projection of the condition starts at zero.
        gate: Whether there is a gate.
        eps: Added to the variance under the root.

    Shapes:
        x ``(B, T, D)``, cond ``(B, K)`` -> ``(B, T, D)`` and the gate ``(B, 1, D)``; only the first without ``gate``.

    Raises:
        TypeError: If an argument is no floating-point tensor.
        ValueError: If a shape does not fit, or a size or ``eps`` is out of range.

    Examples:
        >>> norm, f = AdaLayerNorm(8, 4), nn.Linear(8, 8)
        >>> x, cond = torch.randn(2, 5, 8), torch.randn(2, 4)
        >>> y, gate = norm(x, cond)
        >>> torch.equal(x + gate * f(y), x)
        True
    """

    def __init__(self, d_model: int, d_cond: int, *, zero_init: bool = True, gate: bool = True, eps: float = 1e-6) -> None:
        super().__init__()
        for name, size in (("d_model", d_model), ("d_cond", d_cond)):
            if size < 1:
                raise ValueError(f"{name}={size} is below 1")
        if not eps >= 0:
            raise ValueError(f"eps={eps} is negative")
        self.d_model, self.d_cond, self.gate, self.eps = d_model, d_cond, gate, eps
        self.modulation = nn.Linear(d_cond, (3 if gate else 2) * d_model)
        if zero_init:
            nn.init.zeros_(self.modulation.weight)
            nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Tensor, cond: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        expect("x", x, "batch time d_model", d_model=self.d_model)
        expect("cond", cond, "batch d_cond", batch=x.shape[0], d_cond=self.d_cond)
        shift, scale, *gate = self.modulation(F.silu(cond)).split(self.d_model, -1)
        # 1 + scale: the projection starts near 0, and a gain of 0 would silence the branch.
        y = film(layer_norm(x, eps=self.eps), 1 + scale, shift, dim=-1)
        return (y, gate[0].unsqueeze(1)) if self.gate else y


def film(x: Tensor, gamma: Tensor, beta: Tensor, *, dim: int = 1) -> Tensor:
    """Feature-wise linear modulation: one gain and one shift for each example and feature.

    Args:
        x: Features.
        gamma: Gains.
        beta: Shifts.
        dim: The dimension of the features; 1 for images, -1 for tokens.

    Shapes:
        x ``(B, C, *)`` for ``dim=1``, gamma and beta ``(B, C)`` -> as x.

    Raises:
        TypeError: If an argument is no floating-point tensor.
        ValueError: If ``dim`` is no feature dimension, or gamma or beta has another shape.

    Examples:
        >>> film(torch.ones(1, 2, 3), torch.tensor([[2.0, 3.0]]), torch.tensor([[0.0, 10.0]]))
        tensor([[[ 2.,  2.,  2.],
                 [13., 13., 13.]]])
    """
    expect("x", x, "...")
    if not (1 <= dim < x.ndim or 1 <= dim + x.ndim < x.ndim):
        raise ValueError(f"dim={dim} is no feature dimension of x with shape {tuple(x.shape)}")
    expect("gamma", gamma, "batch features", batch=x.shape[0], features=x.shape[dim])
    expect("beta", beta, "batch features", batch=x.shape[0], features=x.shape[dim])
    shape = [x.shape[0], *[1] * (x.ndim - 1)]
    shape[dim] = x.shape[dim]
    return gamma.view(shape) * x + beta.view(shape)
