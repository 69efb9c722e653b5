"""Causal self-attention: a token reads itself and earlier tokens only.

Source: Vaswani et al. 2017, arXiv:1706.03762, section 3.2.3; as the only attention of a model: Radford et al. 2018.
"""

from __future__ import annotations

from torch import Tensor

from vocab.attention.masks import causal_mask
from vocab.attention.multi_head import MultiHeadAttention
from vocab.inference.kv_cache import KVCache

__all__ = ["CausalSelfAttention", "causal_mask"]

# B batch, T tokens, D model width


class CausalSelfAttention(MultiHeadAttention):
    """Multi-head self-attention in which no token sees a later one.

    Output t depends on tokens 0 to t alone. So one pass over a text trains all of its next-token predictions, and
    what was computed for earlier tokens stays valid when a new one comes: keys and values can be kept in a cache.

    Args:
        d_model: Width D of the tokens.
        n_heads: Heads H.
        max_len: Longest sequence that is let through, cached tokens included; any length if not given.
        bias: Whether the projections have a bias.
        dropout: Share of attention weights set to zero in training.

    Examples:
        >>> import torch
        >>> attention, x = CausalSelfAttention(8, 2), torch.randn(1, 5, 8)
        >>> torch.allclose(attention(x[:, :3]), attention(x)[:, :3], atol=1e-6)  # a prefix does not know what follows
        True
    """

    def __init__(
        self, d_model: int, n_heads: int, *, max_len: int | None = None, bias: bool = True, dropout: float = 0.0
    ) -> None:
        super().__init__(d_model, n_heads, bias=bias, dropout=dropout)
        self.max_len = max_len

    def forward(
        self, x: Tensor, cache: KVCache | None = None, *, layer: int = 0, return_weights: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Mixes each token with those before it.

        Args:
            x: ``(B, T, D)``; with a cache, the new tokens only.
            cache: Where earlier keys and values are, and where those of ``x`` are added.
            layer: Which layer of the cache is this module's.
            return_weights: Whether to return the weights ``(B, H, T, S)`` too.

        Returns:
            ``(B, T, D)``, and with ``return_weights`` the weights.

        Raises:
            ValueError: If the shape does not fit, or the sequence is longer than ``max_len``.
        """
        past = cache.lengths[layer] if cache is not None else 0
        # A wrong x is left to the check behind this one.
        if self.max_len is not None and isinstance(x, Tensor) and x.ndim == 3 and past + x.shape[1] > self.max_len:
            raise ValueError(f"x has {x.shape[1]} tokens after {past} cached ones, more than max_len={self.max_len}")
        return super().forward(x, is_causal=True, cache=cache, layer=layer, return_weights=return_weights)
