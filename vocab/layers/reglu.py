"""ReGLU: the feed-forward layer whose hidden units are gated by a ReLU.

Source: Shazeer 2020, arXiv:2002.05202, equation 6; zeros that save work: Mirzadeh et al. 2023, arXiv:2310.04564.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vocab.check import expect
from vocab.layers.gated_linear_unit import GatedFeedForward

__all__ = ["ReGLU"]

# B batch, T time, D model width, F hidden width


class ReGLU(GatedFeedForward):
    """Feed-forward layer ``down(relu(gate(x)) * up(x))``, many of whose hidden units are exactly zero.

    ``proj`` holds the rows of ``up`` and then those of ``gate``.

    Args:
        d_model: Width D of input and output.
        d_ff: Hidden width F; two thirds of ``4 * d_model`` if not given.
        bias: Whether the three maps have a bias.
        backend: ``"auto"``, ``"torch"`` or ``"triton"`` (one kernel for all between the matrices).

    Shapes:
        x ``(B, T, D)`` -> ``(B, T, D)``.

    Raises:
        ValueError: If ``x`` has another shape.
        RuntimeError: If ``backend="triton"`` cannot run here; the message says why.

    Examples:
        >>> layer = ReGLU(d_model=6)
        >>> layer.down.in_features, float(layer.sparsity(torch.zeros(1, 2, 6)))
        (16, 1.0)
    """

    def __init__(self, d_model: int, d_ff: int | None = None, *, bias: bool = False, backend: str = "auto") -> None:
        super().__init__(d_model, d_ff, activation="relu", bias=bias, backend=backend)

    @torch.no_grad()
    def sparsity(self, x: Tensor) -> Tensor:
        """The share of hidden units whose gate is zero, over all tokens: what a kernel could skip.

        Args:
            x: ``(B, T, D)``.
        """
        expect("x", x, "batch time d_model", d_model=self.proj.in_features)
        gate_BTF = self.proj(x).chunk(2, -1)[1]
        return (gate_BTF <= 0).to(x.dtype).mean()
