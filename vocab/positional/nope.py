"""NoPE: a decoder without any positional encoding, which learns positions from its causal mask.

Source: Kazemnejad et al. 2023, arXiv:2305.19466, section 5 and theorem 1; Haviv et al. 2022, arXiv:2203.16634.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vocab.attention.causal import CausalSelfAttention
from vocab.attention.scaled_dot_product import scaled_dot_product_attention
from vocab.check import expect
from vocab.layers.feed_forward import FeedForward
from vocab.normalization.layer import LayerNorm

__all__ = ["NoPEDecoderBlock", "count_head"]

# B batch, T tokens, D model width


class NoPEDecoderBlock(nn.Module):
    """A pre-norm Transformer decoder block that is told nothing of positions.

    Args:
        d_model: Width D of the tokens.
        n_heads: Heads of the attention.

    Shapes:
        x ``(B, T, D)`` -> ``(B, T, D)``.

    Raises:
        ValueError: If ``n_heads`` does not divide ``d_model`` or ``x`` has another shape.

    Examples:
        >>> block = NoPEDecoderBlock(16, 2)
        >>> x = torch.randn(1, 5, 16)
        >>> torch.allclose(block(x[:, [1, 0, 2, 3, 4]])[:, 4], block(x)[:, 4], atol=1e-6)  # the past as a multiset
        True
    """

    def __init__(self, d_model: int, n_heads: int) -> None:
        super().__init__()
        self.attention_norm, self.feed_forward_norm = LayerNorm(d_model), LayerNorm(d_model)
        self.attention = CausalSelfAttention(d_model, n_heads)
        self.feed_forward = FeedForward(d_model)
        self.d_model = d_model

    def forward(self, x: Tensor) -> Tensor:
        expect("x", x, "batch time d_model", d_model=self.d_model)
        x = x + self.attention(self.attention_norm(x))
        return x + self.feed_forward(self.feed_forward_norm(x))


def count_head(n_tokens: int, *, causal: bool = True) -> Tensor:
    """Runs the head by which a decoder can count: all scores are equal, and only the first token has the value 1.

    Args:
        n_tokens: Tokens T, the first of which is marked (a token that begins every text).
        causal: Whether a token sees itself and earlier ones only.

    Returns:
        ``(T,)`` in float64: 1, 1/2, 1/3, ... with the mask, 1/T everywhere without it.

    Raises:
        ValueError: If there is no token.

    Examples:
        >>> count_head(4)
        tensor([1.0000, 0.5000, 0.3333, 0.2500], dtype=torch.float64)
    """
    if n_tokens < 1:
        raise ValueError(f"n_tokens={n_tokens} is below 1")
    nothing = torch.zeros(n_tokens, 1, dtype=torch.float64)  # queries and keys: every score is 0
    first = nothing.clone()
    first[0] = 1
    return scaled_dot_product_attention(nothing, nothing, first, is_causal=causal)[:, 0]
