"""GEGLU: the feed-forward layer whose hidden units are gated by a GELU.

Source: Shazeer 2020, arXiv:2002.05202, equation 6.
"""

from __future__ import annotations

from vocab.layers.gated_linear_unit import GatedFeedForward

__all__ = ["GEGLU"]

# B batch, T time, D model width, F hidden width


class GEGLU(GatedFeedForward):
    """Feed-forward layer ``down(gelu(gate(x)) * up(x))``, as in T5 1.1 and Gemma.

    ``proj`` holds the rows of ``up`` and then those of ``gate``.

    Args:
        d_model: Width D of input and output.
        d_ff: Hidden width F; two thirds of ``4 * d_model`` if not given.
        approximate: ``"none"`` for the exact GELU, ``"tanh"`` for the form of T5 1.1 and Gemma.
        bias: Whether the three maps have a bias.
        backend: ``"auto"``, ``"torch"`` or ``"triton"`` (one kernel for all between the matrices).

    Shapes:
        x ``(B, T, D)`` -> ``(B, T, D)``.

    Raises:
        ValueError: If ``approximate`` is another word or ``x`` has another shape.
        RuntimeError: If ``backend="triton"`` cannot run here; the message says why.

    Examples:
        >>> import torch
        >>> layer = GEGLU(d_model=6, approximate="tanh")
        >>> layer.down.in_features, layer(torch.zeros(1, 2, 6)).abs().max().item()
        (16, 0.0)
    """

    def __init__(
        self, d_model: int, d_ff: int | None = None, *, approximate: str = "none", bias: bool = False, backend: str = "auto"
    ) -> None:
        if approximate not in ("none", "tanh"):
            raise ValueError(f"approximate={approximate!r} is neither 'none' nor 'tanh'")
        super().__init__(d_model, d_ff, activation="gelu" if approximate == "none" else "gelu_tanh", bias=bias, backend=backend)
