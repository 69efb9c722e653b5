"""Multi-head attention: several small attentions side by side, each in its own projection of the tokens.

Source: Vaswani et al. 2017, arXiv:1706.03762, section 3.2.2.
"""

from __future__ import annotations

from torch import Tensor, nn

from vocab.attention.masks import both, causal_mask
from vocab.attention.scaled_dot_product import scaled_dot_product_attention
from vocab.check import expect
from vocab.inference.kv_cache import KVCache

__all__ = ["MultiHeadAttention", "merge_heads", "split_heads"]

# B batch, T queries, S keys, D model width, C context width, H heads, d head width


class MultiHeadAttention(nn.Module):
    """Attention with ``n_heads`` heads, within a sequence or from it to another one.

    Args:
        d_model: Width D of the input and output.
        n_heads: Heads H.
        head_dim: Width d of one head; ``d_model // n_heads`` if not given.
        d_context: Width C of the other sequence; ``d_model`` if not given.
        bias: Whether the four projections have a bias.
        dropout: Share of attention weights set to zero in training.

    Examples:
        >>> import torch
        >>> attention = MultiHeadAttention(d_model=64, n_heads=8)
        >>> x = torch.randn(1, 5, 64)
        >>> later = torch.cat((x[:, :4], torch.randn(1, 1, 64)), 1)  # the last token is another one
        >>> torch.equal(attention(x, is_causal=True)[:, :4], attention(later, is_causal=True)[:, :4])
        True
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        *,
        head_dim: int | None = None,
        d_context: int | None = None,
        bias: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if n_heads < 1:
            raise ValueError(f"n_heads={n_heads} is not positive")
        if head_dim is None and d_model % n_heads:
            raise ValueError(f"d_model={d_model} is not a multiple of n_heads={n_heads}; give head_dim")
        if not 0 <= dropout <= 1:
            raise ValueError(f"dropout={dropout} is not from 0 to 1")
        self.d_model, self.n_heads, self.dropout = d_model, n_heads, dropout
        self.head_dim = head_dim or d_model // n_heads
        self.d_context = d_context or d_model
        self.q_proj = nn.Linear(d_model, n_heads * self.head_dim, bias=bias)
        self.k_proj = nn.Linear(self.d_context, n_heads * self.head_dim, bias=bias)
        self.v_proj = nn.Linear(self.d_context, n_heads * self.head_dim, bias=bias)
        self.o_proj = nn.Linear(n_heads * self.head_dim, d_model, bias=bias)

    def forward(
        self,
        x: Tensor,
        context: Tensor | None = None,
        *,
        attn_mask: Tensor | None = None,
        is_causal: bool = False,
        cache: KVCache | None = None,
        layer: int = 0,
        return_weights: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Attends within ``x``, or from ``x`` to ``context``.

        Args:
            x: ``(B, T, D)``; with a cache, the new tokens only.
            context: ``(B, S, C)``, where keys and values come from; ``x`` if not given.
            attn_mask: Booleans, true where a key may be seen, or numbers that are added to the scores; it broadcasts
                to ``(B, H, T, S)``.
            is_causal: Whether a token sees itself and earlier tokens only; joined with ``attn_mask``.
            cache: Where earlier keys and values are, and where those of ``x`` are added.
            layer: Which layer of the cache is this module's.
            return_weights: Whether to return the weights ``(B, H, T, S)`` of every head too.

        Returns:
            ``(B, T, D)``, and with ``return_weights`` the weights.

        Raises:
            ValueError: If a shape does not fit, ``context`` comes with ``is_causal``, or a cache without.
        """
        expect("x", x, "batch time d_model", d_model=self.d_model)
        if context is None and self.d_context != self.d_model:
            raise ValueError(f"context is missing: keys and values come from another sequence of width {self.d_context}")
        if context is not None:
            expect("context", context, "batch keys d_context", batch=x.shape[0], d_context=self.d_context)
            if is_causal:
                raise ValueError("is_causal=True with a context: no token of another sequence is later; use attn_mask")
        q_BHTd = split_heads(self.q_proj(x), self.head_dim)
        k_BHSd, v_BHSd = self.keys_and_values(x if context is None else context)
        settings = dict(attn_mask=attn_mask, is_causal=is_causal, cache=cache, layer=layer, return_weights=return_weights)
        return self.attend(q_BHTd, k_BHSd, v_BHSd, **settings)

    def keys_and_values(self, source: Tensor) -> tuple[Tensor, Tensor]:
        """What can be found in ``source`` ``(B, S, C)``: keys and values ``(B, H, S, d)``."""
        return split_heads(self.k_proj(source), self.head_dim), split_heads(self.v_proj(source), self.head_dim)

    def attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        attn_mask: Tensor | None = None,
        is_causal: bool = False,
        window: int | None = None,
        cache: KVCache | None = None,
        layer: int = 0,
        return_weights: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """The part after the projections: cache, mask, the mean of every head, and the output projection.

        Subclasses come in here with queries and keys that were turned, or computed before.

        Args:
            q: Queries ``(B, H, T, d)``.
            k: Keys ``(B, H, S, d)``.
            v: Values ``(B, H, S, d)``.
            attn_mask: As in ``forward``.
            is_causal: As in ``forward``.
            window: How many tokens a causal query may look back on, itself included; all if not given.
            cache: As in ``forward``.
            layer: As in ``forward``.
            return_weights: As in ``forward``.
        """
        if cache is not None:
            if not is_causal:
                raise ValueError("is_causal=False with a cache: old tokens would have to be computed again")
            k, v = cache.update(layer, k, v)
        if is_causal:
            windows = [w for w in (window, cache and cache.window) if w is not None]
            seen = causal_mask(q.shape[2], k.shape[2], min(windows, default=None), device=q.device)
            attn_mask = both(attn_mask, seen)
        out_BHTd, weights_BHTS = self.weighted_mean(q, k, v, attn_mask)
        out = self.o_proj(merge_heads(out_BHTd))
        return (out, weights_BHTS) if return_weights else out

    def weighted_mean(self, q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """The sum itself, and its weights: what a subclass with another kind of sum replaces."""
        dropout_p = self.dropout if self.training else 0.0
        return scaled_dot_product_attention(q, k, v, attn_mask=attn_mask, dropout_p=dropout_p, return_weights=True)


def split_heads(x: Tensor, head_dim: int) -> Tensor:
    """Cuts the last axis into heads and moves them before time, where a matrix product treats them as a batch.

    Args:
        x: ``(..., T, H * d)``.
        head_dim: Width d of one head.

    Returns:
        ``(..., H, T, d)``.

    Examples:
        >>> import torch
        >>> split_heads(torch.arange(8).view(1, 2, 4), 2)[0, 1]  # the second head, at both times
        tensor([[2, 3],
                [6, 7]])
    """
    return x.unflatten(-1, (-1, head_dim)).transpose(-3, -2)


def merge_heads(x: Tensor) -> Tensor:
    """Puts heads side by side again: the inverse of ``split_heads``.

    Args:
        x: ``(..., H, T, d)``.

    Returns:
        ``(..., T, H * d)``.

    Examples:
        >>> import torch
        >>> x = torch.randn(2, 5, 12)
        >>> torch.equal(merge_heads(split_heads(x, 3)), x)
        True
    """
    return x.transpose(-3, -2).flatten(-2)
