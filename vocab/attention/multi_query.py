"""Multi-query attention: all query heads share one key head and one value head.

Source: Shazeer 2019, arXiv:1911.02150, section 3.
"""

from __future__ import annotations

from vocab.attention.grouped_query import GroupedQueryAttention
from vocab.positional.rope import RotaryEmbedding

__all__ = ["MultiQueryAttention"]


class MultiQueryAttention(GroupedQueryAttention):
    """Self-attention with ``n_heads`` query heads and a single key/value head: grouped-query attention with one group.

    A KV cache for it is made with ``n_kv_heads=1`` and is ``n_heads`` times smaller than that of multi-head attention.

    Args:
        d_model: Width D of the input and output.
        n_heads: Query heads H.
        head_dim: Width d of one head; ``d_model // n_heads`` if not given.
        bias: Whether the four projections have a bias.
        dropout: Share of attention weights set to zero in training.
        rotary: Turns queries and keys by their positions; without it, position must be in the input already.

    Shapes:
        x ``(B, T, D)`` -> ``(B, T, D)``.

    Examples:
        >>> attention = MultiQueryAttention(d_model=64, n_heads=8)
        >>> attention.q_proj.out_features, attention.k_proj.out_features
        (64, 8)
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        *,
        head_dim: int | None = None,
        bias: bool = False,
        dropout: float = 0.0,
        rotary: RotaryEmbedding | None = None,
    ) -> None:
        super().__init__(d_model, n_heads, 1, head_dim=head_dim, bias=bias, dropout=dropout, rotary=rotary)
