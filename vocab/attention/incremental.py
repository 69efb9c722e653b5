"""Incremental attention: a decoding step computes the new tokens only and reads the rest from a buffer.

Source: Shazeer 2019, arXiv:1911.02150, section 2.4 ("Multi-Head Attention (Incremental)"); sizes as in Pope et al. 2022,
arXiv:2211.05102.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vocab.attention.grouped_query import GroupedQueryAttention
from vocab.check import expect
from vocab.inference.kv_cache import KVCache
from vocab.positional.rope import RotaryEmbedding

__all__ = ["IncrementalAttention", "KVBuffer"]

# B sequences, t new tokens, S tokens so far, D model width, G key/value heads, d head width


class KVBuffer(KVCache):
    """Keys and values of one layer, in memory that is allocated once, and can be rolled back and reordered.

    Args:
        batch: Sequences B.
        n_kv_heads: Key/value heads G.
        max_len: Tokens of a sequence that can be held.
        head_dim: Width d of one head.
        dtype: Of the stored numbers.
        device: Where it is stored.

    Examples:
        >>> buffer = KVBuffer(batch=1, n_kv_heads=1, max_len=4, head_dim=1)
        >>> for token in (1.0, 2.0, 3.0):
        ...     keys, values = buffer.append(*torch.full((2, 1, 1, 1, 1), token))
        >>> buffer.truncate(1)  # two drafted tokens were rejected
        >>> buffer.append(*torch.full((2, 1, 1, 1, 1), 9.0))[0].flatten(), buffer.length
        (tensor([1., 9.]), 2)
    """

    def __init__(
        self,
        batch: int,
        n_kv_heads: int,
        max_len: int,
        head_dim: int,
        dtype: torch.dtype = torch.float32,
        *,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__(1, batch, n_kv_heads, head_dim, max_len, dtype, device=device)

    @property
    def length(self) -> int:
        """Tokens held of each sequence; the position of the next one."""
        return self.lengths[0]

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Adds the keys and values ``(B, G, t, d)`` of new tokens, and returns those of all ``(B, G, S, d)``."""
        return self.update(0, k, v)

    def truncate(self, n: int) -> None:
        """Forgets all but the first ``n`` tokens, as after rejected drafts; nothing is moved."""
        if not 0 <= n <= self.length:
            raise ValueError(f"n={n} is not from 0 to the {self.length} tokens held")
        self.lengths[0] = n

    def reorder(self, index: Tensor) -> None:
        """Lets sequence b go on from what sequence ``index[b]`` has, as beam search does when it drops and doubles beams."""
        expect("index", index, "batch", dtype="int", batch=self.batch)
        if not 0 <= index.min() <= index.max() < self.batch:
            raise ValueError(f"index has {index.min()} to {index.max()}; allowed are 0 to {self.batch - 1}")
        self.store = self.store[:, :, index]


class IncrementalAttention(GroupedQueryAttention):
    """Causal self-attention for decoding: ``x`` holds the new tokens, the buffer those before them.

    Prefill is the same call with many new tokens. Each sees the buffer and those of its own chunk that are not later.

    Args:
        d_model: Width D of the tokens.
        n_heads: Query heads H.
        n_kv_heads: Key/value heads G; as many as query heads if not given.
        max_len: Tokens for which ``new_buffer`` makes room.
        bias: Whether the four projections have a bias.
        rotary: Turns queries and keys by their absolute positions, which are counted on from the buffer.

    Examples:
        >>> attention, x = IncrementalAttention(8, 2, max_len=5), torch.randn(1, 5, 8)
        >>> buffer = attention.new_buffer(batch=1)
        >>> steps = [attention(x[:, :3], buffer), attention(x[:, 3:4], buffer), attention(x[:, 4:], buffer)]
        >>> torch.allclose(torch.cat(steps, 1), attention(x), atol=1e-6)
        True
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        n_kv_heads: int | None = None,
        *,
        max_len: int,
        bias: bool = False,
        rotary: RotaryEmbedding | None = None,
    ) -> None:
        super().__init__(d_model, n_heads, n_heads if n_kv_heads is None else n_kv_heads, bias=bias, rotary=rotary)
        if max_len < 1:
            raise ValueError(f"max_len={max_len} is not positive")
        self.max_len = max_len

    def new_buffer(self, batch: int) -> KVBuffer:
        """An empty buffer of the right size, dtype and device."""
        weight = self.k_proj.weight
        return KVBuffer(batch, self.n_kv_heads, self.max_len, self.head_dim, weight.dtype, device=weight.device)

    def forward(self, x: Tensor, cache: KVBuffer | None = None) -> Tensor:
        """Attends from the new tokens to all so far.

        Args:
            x: ``(B, t, D)``, the new tokens only.
            cache: What ``new_buffer`` made; without it ``x`` is a whole text.

        Returns:
            ``(B, t, D)``.

        Raises:
            ValueError: If the shape does not fit, or the buffer has no room.
        """
        return super().forward(x, cache=cache)
