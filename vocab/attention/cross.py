"""Cross-attention: the tokens of one sequence read from another one.

Source: Vaswani et al. 2017, arXiv:1706.03762, section 3.2.3 ("encoder-decoder attention").
"""

from __future__ import annotations

from torch import Tensor

from vocab.attention.multi_head import MultiHeadAttention, split_heads
from vocab.check import expect

__all__ = ["CrossAttention"]

# B batch, T queries, S context tokens, D model width, C context width, H heads, d head width


class CrossAttention(MultiHeadAttention):
    """Multi-head attention with queries from ``x`` and keys and values from ``context``.

    There is no causal mask: the context is there as a whole. As it does not change while ``x`` grows, its keys and
    values can be computed once, with ``keys_and_values(context)``, and given to every call.

    Args:
        d_model: Width D of the tokens that read.
        n_heads: Heads H.
        d_context: Width C of the tokens that are read; ``d_model`` if not given.
        bias: Whether the projections have a bias.
        dropout: Share of attention weights set to zero in training.

    Examples:
        >>> import torch
        >>> attention = CrossAttention(d_model=8, n_heads=2, d_context=6)
        >>> x, context = torch.randn(1, 3, 8), torch.randn(1, 5, 6)
        >>> once = attention.keys_and_values(context)
        >>> torch.allclose(attention(x[:, 2:], kv_cache=once), attention(x, context)[:, 2:], atol=1e-6)
        True
    """

    def __init__(
        self, d_model: int, n_heads: int, *, d_context: int | None = None, bias: bool = False, dropout: float = 0.0
    ) -> None:
        super().__init__(d_model, n_heads, d_context=d_context, bias=bias, dropout=dropout)

    def forward(
        self,
        x: Tensor,
        context: Tensor | None = None,
        *,
        context_mask: Tensor | None = None,
        kv_cache: tuple[Tensor, Tensor] | None = None,
        return_weights: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Lets every token of ``x`` read the context.

        Args:
            x: ``(B, T, D)``.
            context: ``(B, S, C)``; may be left out where ``kv_cache`` is given.
            context_mask: Booleans ``(B, S)``, true where there is a token and false where there is padding.
            kv_cache: The result of ``keys_and_values(context)``: keys and values ``(B, H, S, d)``.
            return_weights: Whether to return the weights ``(B, H, T, S)`` too.

        Returns:
            ``(B, T, D)``, and with ``return_weights`` the weights. A sequence whose context is all padding reads zeros.

        Raises:
            ValueError: If a shape does not fit, or not exactly one of ``context`` and ``kv_cache`` is given.
        """
        expect("x", x, "batch time d_model", d_model=self.d_model)
        if (context is None) == (kv_cache is None):
            raise ValueError("give either context or kv_cache, what keys_and_values(context) returned")
        if kv_cache is None:
            expect("context", context, "batch keys d_context", batch=x.shape[0], d_context=self.d_context)
            kv_cache = self.keys_and_values(context)
        k_BHSd, v_BHSd = kv_cache
        attn_mask = None
        if context_mask is not None:
            sizes = dict(batch=x.shape[0], keys=k_BHSd.shape[2])
            expect("context_mask", context_mask, "batch keys", dtype="bool", **sizes)
            attn_mask = context_mask[:, None, None]
        q_BHTd = split_heads(self.q_proj(x), self.head_dim)
        return self.attend(q_BHTd, k_BHSd, v_BHSd, attn_mask=attn_mask, return_weights=return_weights)
