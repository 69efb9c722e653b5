"""Global and local attention: everyone reads its neighbours and a few global tokens, which read everyone.

Source: Beltagy et al. 2020, arXiv:2004.05150, section 3.1 ("Global Attention", "Linear Projections for Global Attention").
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from vocab.attention.multi_head import MultiHeadAttention, merge_heads, split_heads
from vocab.attention.scaled_dot_product import scaled_dot_product_attention
from vocab.attention.sliding_window import band_mask
from vocab.check import expect

__all__ = ["GlobalLocalAttention", "global_local_mask"]

# B batch, T tokens, D model width, H heads, d head width


class GlobalLocalAttention(MultiHeadAttention):
    """Longformer's attention, for encoders: a symmetric window, and global tokens that see all and are seen by all.

    It computes what a kernel for this pattern has to compute, with masks over full products: T² scores, not T w.

    Args:
        d_model: Width D of the tokens.
        n_heads: Heads H.
        window: Total width: ``window // 2`` tokens on each side, and the own one.
        separate_global_projections: Whether global tokens ask with projections of their own, of all tokens' own global
            keys and values. They start as copies of the local ones.
        bias: Whether the projections have a bias.
        dropout: Share of attention weights set to zero in training.

    Examples:
        >>> attention, x = GlobalLocalAttention(8, 2, window=2), torch.randn(1, 6, 8, requires_grad=True)
        >>> first_is_global = torch.tensor([[True, False, False, False, False, False]])
        >>> attention(x, first_is_global)[0, 5].sum().backward()
        >>> (x.grad[0].abs().sum(-1) > 0).int()  # the last token read itself, its neighbour, and the global token
        tensor([1, 0, 0, 0, 1, 1], dtype=torch.int32)
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        window: int,
        *,
        separate_global_projections: bool = True,
        bias: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(d_model, n_heads, bias=bias, dropout=dropout)
        if window < 1:
            raise ValueError(f"window={window} is not positive")
        self.window, self.separate = window, separate_global_projections
        if self.separate:
            self.q_global, self.k_global, self.v_global = map(copy.deepcopy, (self.q_proj, self.k_proj, self.v_proj))

    def forward(self, x: Tensor, global_mask: Tensor) -> Tensor:
        """Mixes the tokens.

        Args:
            x: ``(B, T, D)``.
            global_mask: Booleans ``(B, T)``, true for global tokens; any number of them, also none.

        Returns:
            ``(B, T, D)``.

        Raises:
            ValueError: If a shape does not fit.
        """
        expect("x", x, "batch time d_model", d_model=self.d_model)
        expect("global_mask", global_mask, "batch time", dtype="bool", batch=x.shape[0], time=x.shape[1])
        seen_B1TT = global_local_mask(global_mask, self.window)
        q_BHTd, (k_BHTd, v_BHTd) = split_heads(self.q_proj(x), self.head_dim), self.keys_and_values(x)
        if not self.separate:
            return self.attend(q_BHTd, k_BHTd, v_BHTd, attn_mask=seen_B1TT)
        dropout_p = self.dropout if self.training else 0.0
        local_BHTd = scaled_dot_product_attention(q_BHTd, k_BHTd, v_BHTd, attn_mask=seen_B1TT, dropout_p=dropout_p)
        wide = [split_heads(project(x), self.head_dim) for project in (self.q_global, self.k_global, self.v_global)]
        global_BHTd = scaled_dot_product_attention(*wide, dropout_p=dropout_p)
        return self.o_proj(merge_heads(torch.where(global_mask[:, None, :, None], global_BHTd, local_BHTd)))


def global_local_mask(global_mask: Tensor, window: int) -> Tensor:
    """A band, and for every global token its whole row and its whole column.

    Args:
        global_mask: Booleans ``(B, T)``, true for global tokens.
        window: Total width of the band.

    Returns:
        Booleans ``(B, 1, T, T)``, true where seen.

    Examples:
        >>> global_local_mask(torch.tensor([[False, True, False, False]]), 1)[0, 0].int()
        tensor([[1, 1, 0, 0],
                [1, 1, 1, 1],
                [0, 1, 1, 0],
                [0, 1, 0, 1]], dtype=torch.int32)
    """
    expect("global_mask", global_mask, "batch time", dtype="bool")
    band_TT = band_mask(global_mask.shape[1], window, causal=False).to(global_mask.device)
    return band_TT | global_mask[:, None, :, None] | global_mask[:, None, None]
