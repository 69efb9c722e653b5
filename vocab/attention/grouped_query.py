"""Grouped-query attention: several query heads share one key/value head.

Source: Ainslie et al. 2023, arXiv:2305.13245, section 2.2; mean-pooled conversion in section 2.1.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from vocab.attention.multi_head import MultiHeadAttention, split_heads
from vocab.attention.scaled_dot_product import scaled_dot_product_attention
from vocab.check import expect
from vocab.inference.kv_cache import KVCache
from vocab.positional.rope import RotaryEmbedding

__all__ = ["GroupedQueryAttention", "mean_pool_kv"]

# B batch, T queries, S keys, D model width, H query heads, G key/value heads, d head width


class GroupedQueryAttention(MultiHeadAttention):
    """Self-attention with ``n_heads`` query heads and ``n_kv_heads`` key/value heads.

    Query head ``i`` reads key/value head ``i // (n_heads // n_kv_heads)``. As many key/value heads as query heads is
    multi-head attention, a single one multi-query attention. The KV cache shrinks by ``n_heads / n_kv_heads``; the
    multiply-adds of attention do not.

    Args:
        d_model: Width D of the input and output.
        n_heads: Query heads H.
        n_kv_heads: Key/value heads G; divides ``n_heads``.
        head_dim: Width d of one head; ``d_model // n_heads`` if not given.
        bias: Whether the four projections have a bias.
        dropout: Share of attention weights set to zero in training.
        rotary: Turns queries and keys by their positions; without it, position must be in ``x`` already.

    Examples:
        >>> attention = GroupedQueryAttention(d_model=64, n_heads=8, n_kv_heads=2).eval()
        >>> x = torch.randn(1, 5, 64)
        >>> cache = KVCache(n_layers=1, batch=1, n_kv_heads=2, head_dim=8, max_len=5)
        >>> steps = [attention(x[:, t : t + 1], cache=cache) for t in range(5)]
        >>> torch.allclose(torch.cat(steps, 1), attention(x), atol=1e-6)
        True
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        n_kv_heads: int,
        *,
        head_dim: int | None = None,
        bias: bool = False,
        dropout: float = 0.0,
        rotary: RotaryEmbedding | None = None,
    ) -> None:
        if n_kv_heads < 1 or n_heads % n_kv_heads:
            raise ValueError(f"n_heads={n_heads} is not a multiple of n_kv_heads={n_kv_heads}")
        super().__init__(d_model, n_heads, head_dim=head_dim, bias=bias, dropout=dropout)
        self.n_kv_heads, self.rotary = n_kv_heads, rotary
        self.k_proj = nn.Linear(d_model, n_kv_heads * self.head_dim, bias=bias)
        self.v_proj = nn.Linear(d_model, n_kv_heads * self.head_dim, bias=bias)

    def forward(
        self,
        x: Tensor,
        *,
        is_causal: bool = True,
        attn_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: KVCache | None = None,
        layer: int = 0,
    ) -> Tensor:
        """Attends within ``x``, and to the tokens before it where there is a cache.

        Args:
            x: ``(B, T, D)``; with a cache, the new tokens only.
            is_causal: Whether a token sees itself and earlier tokens only.
            attn_mask: As in ``MultiHeadAttention``; it broadcasts to ``(B, H, T, S)``.
            position_ids: ``(T,)`` or ``(B, T)``, for ``rotary``; counts on from the cache if not given.
            cache: Where earlier keys and values are, and where those of ``x`` are added.
            layer: Which layer of the cache is this module's.

        Returns:
            ``(B, T, D)``.

        Raises:
            ValueError: If a shape does not fit, ``position_ids`` come without ``rotary``, or a cache with
                ``is_causal=False``: there, a new token would change what old tokens computed.
        """
        expect("x", x, "batch time d_model", d_model=self.d_model)
        if position_ids is not None and self.rotary is None:
            raise ValueError("position_ids are given, but this attention has no rotary embedding")
        q_BHTd = split_heads(self.q_proj(x), self.head_dim)
        k_BGSd, v_BGSd = self.keys_and_values(x)
        if self.rotary is not None:
            if position_ids is None:
                start = cache.lengths[layer] if cache is not None else 0
                position_ids = torch.arange(start, start + x.shape[1], device=x.device)
            q_BHTd, k_BGSd = self.rotary(q_BHTd, k_BGSd, position_ids)
        settings = dict(attn_mask=attn_mask, is_causal=is_causal, cache=cache, layer=layer)
        return self.attend(q_BHTd, k_BGSd, v_BGSd, **settings)

    def weighted_mean(self, q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Every query head with the key/value head of its group: neighbours share."""
        if attn_mask is not None and attn_mask.ndim > 2:  # heads into groups as well, or its batch would meet the groups
            attn_mask = attn_mask.unflatten(-3, (self.n_kv_heads, -1) if attn_mask.shape[-3] > 1 else (1, 1))
        q = q.unflatten(1, (self.n_kv_heads, -1))  # (B, G, H / G, T, d) against (B, G, 1, S, d)
        dropout_p = self.dropout if self.training else 0.0
        settings = dict(attn_mask=attn_mask, dropout_p=dropout_p, return_weights=True)
        out, weights = scaled_dot_product_attention(q, k.unsqueeze(2), v.unsqueeze(2), **settings)
        return out.flatten(1, 2), weights.flatten(1, 2)


def mean_pool_kv(state_dict: Mapping[str, Tensor], n_kv_heads: int, *, head_dim: int) -> dict[str, Tensor]:
    """Makes grouped weights of a multi-head checkpoint, by averaging the key and the value heads of each group.

    The result computes something else until it is trained on; the paper does so for 5 % of the original steps.

    Args:
        state_dict: Of one ``GroupedQueryAttention`` or of a whole model; what is in a ``k_proj`` or ``v_proj`` is
            pooled, all else is passed on.
        n_kv_heads: Key/value heads to be left.
        head_dim: Width d of one head.

    Returns:
        A new state dict; the given one stays as it is.

    Raises:
        ValueError: If a projection's heads cannot be divided into ``n_kv_heads`` groups, or there is none.

    Examples:
        >>> heads = torch.tensor([1.0, 3.0, 10.0, 20.0])[:, None]  # four heads of width 1
        >>> mean_pool_kv({"k_proj.weight": heads, "v_proj.weight": heads}, 2, head_dim=1)["k_proj.weight"].flatten()
        tensor([ 2., 15.])
    """
    pooled = dict(state_dict)
    found = [name for name in pooled if name.split(".")[-2:-1] in (["k_proj"], ["v_proj"])]
    if not found:
        raise ValueError(f"state_dict has no k_proj or v_proj, only {list(pooled)[:4]}")
    for name in found:
        rows = pooled[name].shape[0]
        if n_kv_heads < 1 or rows % (n_kv_heads * head_dim):
            raise ValueError(f"{name} has {rows} rows, not n_kv_heads={n_kv_heads} groups of heads of width {head_dim}")
        pooled[name] = pooled[name].unflatten(0, (n_kv_heads, -1, head_dim)).mean(1).flatten(0, 1)
    return pooled
