"""Oscillating attention: a stack whose layers look in turn both ways, back, and ahead.

Source: no paper with this name is known. Forward and backward masks side by side: Shen et al. 2018, arXiv:1709.04696, section 3.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vocab.attention.masks import causal_mask
from vocab.attention.multi_head import MultiHeadAttention
from vocab.check import expect

__all__ = ["OscillatingAttention", "direction_mask"]

# B batch, T tokens, D model width


class OscillatingAttention(nn.Module):
    """Multi-head self-attention layers that take turns with masks of different directions. For encoders only.

    There are no residual connections in between; those belong to the blocks around.

    Args:
        d_model: Width D of the tokens.
        n_heads: Heads.
        n_layers: Layers; layer l has direction ``cycle[l % len(cycle)]``.
        cycle: Directions, in their order: ``"bidirectional"``, ``"forward"`` (a token sees itself and earlier ones) or
            ``"backward"`` (itself and later ones).
        bias: Whether the projections have a bias.
        dropout: Share of attention weights set to zero in training.

    Shapes:
        x ``(B, T, D)`` -> ``(B, T, D)``.

    Raises:
        ValueError: If a direction is unknown, there is none, ``n_layers`` is not positive, or the shape does not fit.

    Examples:
        >>> OscillatingAttention(8, 2, n_layers=2).predicts_next_tokens
        False
        >>> OscillatingAttention(8, 2, n_layers=2, cycle=("forward",)).predicts_next_tokens
        True
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        n_layers: int,
        *,
        cycle: Sequence[str] = ("bidirectional", "forward", "backward"),
        bias: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if n_layers < 1:
            raise ValueError(f"n_layers={n_layers} is not positive")
        if not cycle:
            raise ValueError("cycle is empty; it names at least one direction")
        self.d_model = d_model
        self.directions = [cycle[i % len(cycle)] for i in range(n_layers)]
        for kind in cycle:
            direction_mask(1, kind)
        self.layers = nn.ModuleList(MultiHeadAttention(d_model, n_heads, bias=bias, dropout=dropout) for _ in range(n_layers))

    @property
    def predicts_next_tokens(self) -> bool:
        """Whether no output depends on a later token, so that the stack can be trained to write."""
        return all(kind == "forward" for kind in self.directions)

    def forward(self, x: Tensor) -> Tensor:
        expect("x", x, "batch time d_model", d_model=self.d_model)
        for kind, layer in zip(self.directions, self.layers):
            x = layer(x, attn_mask=direction_mask(x.shape[1], kind, device=x.device))
        return x


def direction_mask(T: int, kind: str, *, device: torch.device | None = None) -> Tensor:
    """Who may be seen, ``(T, T)``, true where seen. The own token always is, so that no row is empty.

    Args:
        T: Tokens.
        kind: ``"bidirectional"``, ``"forward"`` (earlier tokens are seen) or ``"backward"`` (later ones).
        device: Where to make it.

    Examples:
        >>> direction_mask(3, "backward").int()
        tensor([[1, 1, 1],
                [0, 1, 1],
                [0, 0, 1]], dtype=torch.int32)
    """
    if kind == "bidirectional":
        return torch.ones(T, T, dtype=torch.bool, device=device)
    if kind == "forward":
        return causal_mask(T, device=device)
    if kind == "backward":
        return causal_mask(T, device=device).T
    raise ValueError(f"kind={kind!r} is not 'bidirectional', 'forward' or 'backward'")
