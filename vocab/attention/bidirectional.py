"""Bidirectional attention: every token reads all tokens of its sequence, on both sides.

Source: Devlin et al. 2018, arXiv:1810.04805, section 3; the layer is Vaswani et al. 2017, arXiv:1706.03762, section 3.2.3.
"""

from __future__ import annotations

from torch import Tensor

from vocab.attention.masks import padding_mask
from vocab.attention.multi_head import MultiHeadAttention
from vocab.check import expect

__all__ = ["BidirectionalAttention", "padding_mask"]

# B batch, T tokens, D model width, H heads


class BidirectionalAttention(MultiHeadAttention):
    """Multi-head self-attention without a causal mask, for sequences of mixed lengths in one batch.

    The only mask is that of the padding. Outputs at padded places are computed, mean nothing, and have to be left out
    of what follows.

    Args:
        d_model: Width D of the tokens.
        n_heads: Heads H.
        bias: Whether the projections have a bias.
        dropout: Share of attention weights set to zero in training.

    Examples:
        >>> import torch
        >>> attention, x = BidirectionalAttention(8, 2), torch.randn(2, 5, 8)
        >>> y = attention(x, padding_mask(torch.tensor([5, 3]), 5)[:, 0, 0])
        >>> torch.allclose(y[1:, :3], attention(x[1:, :3]), atol=1e-6)  # as if the shorter sequence were alone
        True
    """

    def __init__(self, d_model: int, n_heads: int, *, bias: bool = True, dropout: float = 0.0) -> None:
        super().__init__(d_model, n_heads, bias=bias, dropout=dropout)

    def forward(
        self, x: Tensor, key_mask: Tensor | None = None, *, return_weights: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Mixes the tokens of each sequence.

        Args:
            x: ``(B, T, D)``.
            key_mask: Booleans ``(B, T)``, true where there is a token and false where there is padding; the opposite
                of ``key_padding_mask`` in ``torch.nn.MultiheadAttention``. All are tokens if not given.
            return_weights: Whether to return the weights ``(B, H, T, T)`` too.

        Returns:
            ``(B, T, D)``, and with ``return_weights`` the weights.

        Raises:
            ValueError: If a shape does not fit.
        """
        expect("x", x, "batch time d_model", d_model=self.d_model)
        attn_mask = None
        if key_mask is not None:
            expect("key_mask", key_mask, "batch time", dtype="bool", batch=x.shape[0], time=x.shape[1])
            attn_mask = key_mask[:, None, None]
        return super().forward(x, attn_mask=attn_mask, return_weights=return_weights)
