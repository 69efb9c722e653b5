"""Disentangled attention (DeBERTa): what a token is and how far away it stands are compared apart.

Source: He et al. 2021, arXiv:2006.03654, section 3.1, equations 2 to 4; the index of the third term as in the released code.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn

from vocab.attention.multi_head import MultiHeadAttention, merge_heads, split_heads
from vocab.attention.scaled_dot_product import masked_softmax
from vocab.check import expect

__all__ = ["DisentangledAttention", "relative_index"]

# B batch, H heads, T tokens, D model width, d head width, R = 2 k relative positions


class DisentangledAttention(MultiHeadAttention):
    """Multi-head self-attention with scores content-content, content-position and position-content.

    Args:
        d_model: Width D of the tokens.
        n_heads: Heads H.
        max_relative: Distances k that are told apart, on each side; those beyond share the last one.
        pos_att_type: Which of ``"c2p"`` and ``"p2c"`` are added to the content.
        share_att_key: Whether relative positions are projected by the matrices of the content.
        bias: Whether the projections have a bias.

    Examples:
        >>> attention = DisentangledAttention(8, 2, max_relative=3)
        >>> attention(torch.randn(1, 5, 8)).shape, attention.relative.shape
        (torch.Size([1, 5, 8]), torch.Size([6, 8]))
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        *,
        max_relative: int = 256,
        pos_att_type: Collection[str] = ("c2p", "p2c"),
        share_att_key: bool = False,
        bias: bool = True,
    ) -> None:
        super().__init__(d_model, n_heads, bias=bias)
        if max_relative < 1:
            raise ValueError(f"max_relative={max_relative} is not positive")
        if not set(pos_att_type) <= {"c2p", "p2c"}:
            raise ValueError(f"pos_att_type={pos_att_type!r} names something else than 'c2p' and 'p2c'")
        self.max_relative, self.pos_att_type = max_relative, frozenset(pos_att_type)
        self.scale = (self.head_dim * (1 + len(self.pos_att_type))) ** -0.5  # as many terms of variance d are summed
        if self.pos_att_type:
            self.relative = nn.Parameter(torch.randn(2 * max_relative, d_model) * 0.02)
        width = n_heads * self.head_dim
        self.pos_k_proj = self.pos_q_proj = None
        if not share_att_key and "c2p" in self.pos_att_type:
            self.pos_k_proj = nn.Linear(d_model, width, bias=bias)
        if not share_att_key and "p2c" in self.pos_att_type:
            self.pos_q_proj = nn.Linear(d_model, width, bias=bias)

    def forward(self, x: Tensor, mask: Tensor | None = None, *, return_weights: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """Mixes the tokens.

        Args:
            x: ``(B, T, D)``.
            mask: Booleans ``(B, T)``, true where there is a token and false where there is padding.
            return_weights: Whether to return the weights ``(B, H, T, T)`` too.

        Returns:
            ``(B, T, D)``, and with ``return_weights`` the weights.

        Raises:
            ValueError: If a shape does not fit.
        """
        expect("x", x, "batch time d_model", d_model=self.d_model)
        if mask is not None:
            expect("mask", mask, "batch time", dtype="bool", batch=x.shape[0], time=x.shape[1])
            mask = mask[:, None, None]
        q_BHTd, (k_BHTd, v_BHTd) = split_heads(self.q_proj(x), self.head_dim), self.keys_and_values(x)
        index_TT = relative_index(x.shape[1], self.max_relative).to(x.device)
        scores = q_BHTd @ k_BHTd.transpose(-2, -1)
        if "c2p" in self.pos_att_type:
            key_HRd = split_heads((self.pos_k_proj or self.k_proj)(self.relative), self.head_dim)
            scores = scores + _pick(q_BHTd @ key_HRd.transpose(-2, -1), index_TT)
        if "p2c" in self.pos_att_type:
            query_HRd = split_heads((self.pos_q_proj or self.q_proj)(self.relative), self.head_dim)
            # Rows are keys here: each picks by the query it meets, and the result is turned back.
            scores = scores + _pick(k_BHTd @ query_HRd.transpose(-2, -1), index_TT.T).transpose(-2, -1)
        weights = masked_softmax(scores * self.scale, mask)
        out = self.o_proj(merge_heads(weights @ v_BHTd))
        return (out, weights) if return_weights else out


def relative_index(T: int, max_relative: int) -> Tensor:
    """The row of the table for query i and key j: ``i - j + k``, from 0 to ``2 k - 1``.

    Args:
        T: Tokens.
        max_relative: Distances k on each side.

    Examples:
        >>> relative_index(4, 2)
        tensor([[2, 1, 0, 0],
                [3, 2, 1, 0],
                [3, 3, 2, 1],
                [3, 3, 3, 2]])
    """
    place = torch.arange(T)
    return (place[:, None] - place + max_relative).clamp(0, 2 * max_relative - 1)


def _pick(scores_BHTR: Tensor, index_TT: Tensor) -> Tensor:
    """For each row and column the score of their relative position."""
    return scores_BHTR.gather(-1, index_TT.expand(*scores_BHTR.shape[:-1], -1))
