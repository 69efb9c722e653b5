"""Self-attention: every token of a sequence reads from all tokens of the same sequence.

Source: Vaswani et al. 2017, arXiv:1706.03762, section 3.2, with one head. The name: Lin et al. 2017, arXiv:1703.03130.
"""

from __future__ import annotations

from torch import Tensor, nn

from vocab.attention.masks import both, causal_mask
from vocab.attention.scaled_dot_product import scaled_dot_product_attention
from vocab.check import expect

__all__ = ["SelfAttention"]

# B batch, T tokens, D model width, d head width


class SelfAttention(nn.Module):
    """One head of attention of a sequence with itself.

    Each token is projected three times: to a query (what it looks for), a key (what it can be found by) and a value
    (what it hands over). It has no notion of order: without a mask, permuted tokens give permuted outputs.

    Args:
        d_model: Width D of the tokens.
        d_head: Width d of queries, keys and values; ``d_model`` if not given.
        bias: Whether the projections have a bias.

    Examples:
        >>> import torch
        >>> attention = SelfAttention(4)
        >>> x, order = torch.randn(1, 3, 4), torch.tensor([2, 0, 1])
        >>> torch.allclose(attention(x[:, order]), attention(x)[:, order], atol=1e-6)
        True
    """

    def __init__(self, d_model: int, d_head: int | None = None, *, bias: bool = False) -> None:
        super().__init__()
        self.d_model, self.d_head = d_model, d_model if d_head is None else d_head
        if self.d_head < 1:
            raise ValueError(f"d_head={d_head} is not positive")
        self.q_proj = nn.Linear(d_model, self.d_head, bias=bias)
        self.k_proj = nn.Linear(d_model, self.d_head, bias=bias)
        self.v_proj = nn.Linear(d_model, self.d_head, bias=bias)
        self.o_proj = nn.Linear(self.d_head, d_model, bias=bias)

    def forward(
        self, x: Tensor, *, is_causal: bool = False, attn_mask: Tensor | None = None, return_weights: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Mixes the tokens.

        Args:
            x: ``(B, T, D)``, batch first.
            is_causal: Whether a token sees itself and earlier tokens only; joined with ``attn_mask``.
            attn_mask: Booleans, true where a key may be seen, or numbers that are added to the scores; it broadcasts
                to ``(B, T, T)``.
            return_weights: Whether to return the weights ``(B, T, T)`` too.

        Returns:
            ``(B, T, D)``, and with ``return_weights`` the weights.

        Raises:
            ValueError: If a shape does not fit.
        """
        expect("x", x, "batch time d_model", d_model=self.d_model)
        q_BTd, k_BTd, v_BTd = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        if is_causal:
            attn_mask = both(attn_mask, causal_mask(x.shape[1], device=x.device))
        out_BTd, weights_BTT = scaled_dot_product_attention(q_BTd, k_BTd, v_BTd, attn_mask=attn_mask, return_weights=True)
        out = self.o_proj(out_BTd)
        return (out, weights_BTT) if return_weights else out
