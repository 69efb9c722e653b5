"""Feedback attention memory: block sliding-window attention with a few vectors that attend to themselves, block after block.

Source: Hwang et al. 2024, arXiv:2404.09173, section 3 (TransformerFAM).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from vocab.attention.multi_head import MultiHeadAttention, merge_heads, split_heads
from vocab.attention.scaled_dot_product import scaled_dot_product_attention
from vocab.check import expect

__all__ = ["FeedbackAttentionMemory", "FeedbackState"]

# B batch, H heads, T tokens, D model width, d head width, F feedback vectors, S tokens whose keys are kept


class FeedbackState(NamedTuple):
    """What a later call needs: the feedback vectors, and the keys and values that are still in the window.

    The vectors alone are not enough: with them only, the first tokens of the next call would miss the blocks before.

    Attributes:
        fam: ``(B, F, D)``, as they were after the last full block.
        keys: ``(B, H, S, d)`` of up to ``memory_blocks`` full blocks and of the block that has begun.
        values: ``(B, H, S, d)``.
    """

    fam: Tensor
    keys: Tensor
    values: Tensor


class FeedbackAttentionMemory(MultiHeadAttention):
    """Multi-head causal attention to the own block, some blocks before and F vectors that sum up all the rest.

    After each full block the vectors ask, with the same projections as tokens, what to keep of the block and of
    themselves. What they get replaces them.

    Args:
        d_model: Width D of the tokens and of the feedback vectors.
        n_heads: Heads H.
        block_len: Tokens in a block, after which the vectors change.
        fam_len: Feedback vectors F; none makes it block sliding-window attention.
        memory_blocks: Full blocks before the own one that are read exactly.
        bias: Whether the projections have a bias.

    Attributes:
        first_fam: The vectors before the first block, ``(F, D)``, learned; all else that is learned, plain attention has too.

    Examples:
        >>> attention, x = FeedbackAttentionMemory(8, 2, block_len=3, fam_len=2), torch.randn(1, 10, 8)
        >>> first, state = attention(x[:, :5])  # a call may end anywhere
        >>> torch.allclose(attention(x[:, 5:], state)[0], attention(x)[0][:, 5:], atol=1e-6)
        True
    """

    def __init__(
        self, d_model: int, n_heads: int, block_len: int, fam_len: int, *, memory_blocks: int = 1, bias: bool = False
    ) -> None:
        super().__init__(d_model, n_heads, bias=bias)
        if block_len < 1:
            raise ValueError(f"block_len={block_len} is not positive")
        for name, value in (("fam_len", fam_len), ("memory_blocks", memory_blocks)):
            if value < 0:
                raise ValueError(f"{name}={value} is negative")
        self.block_len, self.memory_blocks = block_len, memory_blocks
        # Random, since vectors that start equal ask the same, get the same, and stay equal for ever.
        self.first_fam = nn.Parameter(torch.randn(fam_len, d_model))

    def forward(self, x: Tensor, state: FeedbackState | None = None) -> tuple[Tensor, FeedbackState]:
        """Goes through the blocks.

        Args:
            x: ``(B, T, D)``, the tokens that follow those of earlier calls.
            state: What the earlier call returned; that of an empty text if not given.

        Returns:
            ``(B, T, D)`` and the state after ``x``.

        Raises:
            ValueError: If a shape does not fit, or the state holds more tokens than this layer keeps.
        """
        expect("x", x, "batch time d_model", d_model=self.d_model)
        q_BHTd, (k_BHTd, v_BHTd) = split_heads(self.q_proj(x), self.head_dim), self.keys_and_values(x)
        fam, k, v = self._start(q_BHTd) if state is None else self._checked(state, len(x))
        outs, done = [], 0
        while done < x.shape[1]:
            new = slice(done, done + self.block_len - k.shape[2] % self.block_len)  # to the end of the block
            k, v = torch.cat((k, k_BHTd[:, :, new]), 2), torch.cat((v, v_BHTd[:, :, new]), 2)
            k_fam, v_fam = self.keys_and_values(fam)
            # The vectors stand before all tokens, so that the causal mask lets every token see them.
            seen = torch.cat((k_fam, k), 2), torch.cat((v_fam, v), 2)
            outs.append(scaled_dot_product_attention(q_BHTd[:, :, new], *seen, is_causal=True))
            if k.shape[2] % self.block_len == 0:
                own = k[:, :, -self.block_len :], v[:, :, -self.block_len :]
                q_fam = split_heads(self.q_proj(fam), self.head_dim)
                out = scaled_dot_product_attention(q_fam, torch.cat((k_fam, own[0]), 2), torch.cat((v_fam, own[1]), 2))
                fam = self.o_proj(merge_heads(out))
                old = max(0, k.shape[2] - self.memory_blocks * self.block_len)
                k, v = k[:, :, old:], v[:, :, old:]
            done = new.stop
        return self.o_proj(merge_heads(torch.cat(outs, 2))), FeedbackState(fam, k, v)

    def _start(self, q: Tensor) -> FeedbackState:
        nothing = q[:, :, :0]
        return FeedbackState(self.first_fam.expand(len(q), -1, -1), nothing, nothing)

    def _checked(self, state: FeedbackState, batch: int) -> FeedbackState:
        fam, k, v = state
        expect("state.fam", fam, "batch fam_len d_model", batch=batch, fam_len=len(self.first_fam), d_model=self.d_model)
        expect("state.keys", k, "batch heads tokens width", batch=batch, heads=self.n_heads, width=self.head_dim)
        expect("state.values", v, "batch heads tokens width", batch=batch, heads=self.n_heads, tokens=k.shape[2], width=self.head_dim)
        most = (self.memory_blocks + 1) * self.block_len - 1
        if k.shape[2] > most:
            raise ValueError(f"state.keys holds {k.shape[2]} tokens; at most {most} are kept between calls")
        return state
