"""Infini-attention: exact attention within a segment, and a memory of fixed size for all segments before.

Source: Munkhdalai et al. 2024, arXiv:2404.07143, section 2.1, equations 2 to 10.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vocab.attention.linear import FEATURE_MAPS, State
from vocab.attention.multi_head import MultiHeadAttention, merge_heads, split_heads
from vocab.attention.scaled_dot_product import scaled_dot_product_attention
from vocab.check import expect

__all__ = ["InfiniAttention"]

# B batch, H heads, T tokens, D model width, d width of keys, e of values; M (B, H, d, e) and z (B, H, d) the memory


class InfiniAttention(MultiHeadAttention):
    """Multi-head causal attention within segments, mixed by a gate per head with what a compressive memory returns.

    The memory is that of linear attention: ``M`` sums ``phi(k)^T v`` and ``z`` sums ``phi(k)`` over finished segments.

    Args:
        d_model: Width D of the tokens.
        n_heads: Heads H.
        segment_len: Tokens that are read exactly.
        delta_rule: Whether a value is stored less what the memory returns for its key already.
        bias: Whether the projections have a bias.

    Attributes:
        gate: One number beta per head; the memory has the share ``sigmoid(beta)``.

    Examples:
        >>> attention, x = InfiniAttention(8, 2, segment_len=3), torch.randn(1, 6, 8)
        >>> first, memory = attention(x[:, :3])
        >>> torch.allclose(attention(x[:, 3:], memory)[0], attention(x)[0][:, 3:], atol=1e-6)
        True
    """

    def __init__(self, d_model: int, n_heads: int, segment_len: int, *, delta_rule: bool = True, bias: bool = False) -> None:
        super().__init__(d_model, n_heads, bias=bias)
        if segment_len < 1:
            raise ValueError(f"segment_len={segment_len} is not positive")
        self.segment_len, self.delta_rule = segment_len, delta_rule
        self.gate = nn.Parameter(torch.zeros(n_heads))

    def forward(self, x: Tensor, memory: State | None = None) -> tuple[Tensor, State]:
        """Goes through the segments.

        Args:
            x: ``(B, T, D)``. A call begins a new segment, so all but the last call of a text end with a full one.
            memory: What an earlier call returned; empty if not given.

        Returns:
            ``(B, T, D)`` and the memory ``(M, z)`` that includes ``x``.

        Raises:
            ValueError: If a shape does not fit.
        """
        expect("x", x, "batch time d_model", d_model=self.d_model)
        q_BHTd, (k_BHTd, v_BHTd) = split_heads(self.q_proj(x), self.head_dim), self.keys_and_values(x)
        B, H, _, d = q_BHTd.shape
        if memory is None:
            memory = q_BHTd.new_zeros(B, H, d, d), q_BHTd.new_zeros(B, H, d)
        expect("memory[0]", memory[0], "batch heads width value_width", batch=B, heads=H, width=d, value_width=d)
        expect("memory[1]", memory[1], "batch heads width", batch=B, heads=H, width=d)
        phi, outs = FEATURE_MAPS["elu+1"], []
        share = self.gate.sigmoid()[:, None, None]
        for q, k, v in zip(*(y.split(self.segment_len, 2) for y in (q_BHTd, k_BHTd, v_BHTd))):
            # Read before writing: the segment itself is what the local part is for.
            recalled = _read(phi(q), memory)
            local = scaled_dot_product_attention(q, k, v, is_causal=True)
            outs.append(share * recalled + (1 - share) * local)
            new = v - _read(phi(k), memory) if self.delta_rule else v
            memory = memory[0] + phi(k).transpose(-2, -1) @ new, memory[1] + phi(k).sum(-2)
        return self.o_proj(merge_heads(torch.cat(outs, 2))), memory


def _read(features: Tensor, memory: State) -> Tensor:
    """The mean of stored values with weights phi(q).phi(k); zero from an empty memory, where it would be 0/0."""
    M, z = memory
    weight = features @ z.unsqueeze(-1)
    return features @ M / weight.masked_fill(weight == 0, 1.0)
