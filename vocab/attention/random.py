"""Random sparse attention (BigBird): blocks read their neighbours, a few random blocks, and global blocks.

Source: Zaheer et al. 2020, arXiv:2007.14062, section 2 and appendix D (blocks).
"""

from __future__ import annotations

import torch
from torch import Tensor

from vocab.attention.multi_head import MultiHeadAttention, merge_heads, split_heads
from vocab.attention.scaled_dot_product import scaled_dot_product_attention
from vocab.attention.sparse import KeyLists, gathered_attention
from vocab.check import expect

__all__ = ["BigBirdAttention", "bigbird_lists", "bigbird_mask"]

# B batch, T tokens, D model width, H heads, d head width, N blocks, b block size


class BigBirdAttention(MultiHeadAttention):
    """Multi-head self-attention of an encoder in blocks, with a number of keys per query that does not grow with T.

    Args:
        d_model: Width D of the tokens.
        n_heads: Heads H.
        block_size: Tokens in a block.
        num_random_blocks: Random blocks that each block reads, drawn once by ``seed`` and then fixed.
        window_blocks: Neighbouring blocks that are read, the own one included; odd.
        num_global_blocks: Leading blocks that read all and are read by all.
        seed: Which random blocks; give each layer its own.
        bias: Whether the projections have a bias.
        dropout: Share of attention weights set to zero in training.

    Shapes:
        x ``(B, T, D)`` -> ``(B, T, D)``.

    Raises:
        ValueError: If a number of blocks is negative, ``block_size`` not positive or ``window_blocks`` even.

    Examples:
        >>> attention = BigBirdAttention(8, 2, block_size=4, num_random_blocks=1, num_global_blocks=1)
        >>> attention(torch.randn(1, 40, 8)).shape  # 10 blocks, of which each reads 5
        torch.Size([1, 40, 8])
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        *,
        block_size: int = 64,
        num_random_blocks: int = 3,
        window_blocks: int = 3,
        num_global_blocks: int = 2,
        seed: int = 0,
        bias: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(d_model, n_heads, bias=bias, dropout=dropout)
        self.pattern = (block_size, num_random_blocks, window_blocks, num_global_blocks, seed)
        _check(*self.pattern)

    def forward(self, x: Tensor) -> Tensor:
        expect("x", x, "batch time d_model", d_model=self.d_model)
        q_BHTd, (k_BHTd, v_BHTd) = split_heads(self.q_proj(x), self.head_dim), self.keys_and_values(x)
        dropout_p = self.dropout if self.training else 0.0
        lists = bigbird_lists(x.shape[1], *self.pattern, device=x.device)
        out_BHTd = gathered_attention(q_BHTd, k_BHTd, v_BHTd, lists, dropout_p=dropout_p)
        n_global = min(self.pattern[0] * self.pattern[3], x.shape[1])
        if n_global:  # these read everything, so their rows are computed again
            rows = scaled_dot_product_attention(q_BHTd[:, :, :n_global], k_BHTd, v_BHTd, dropout_p=dropout_p)
            out_BHTd = torch.cat((rows, out_BHTd[:, :, n_global:]), 2)
        return self.o_proj(merge_heads(out_BHTd))


def bigbird_lists(
    T: int,
    block_size: int = 64,
    num_random_blocks: int = 3,
    window_blocks: int = 3,
    num_global_blocks: int = 2,
    seed: int = 0,
    *,
    device: torch.device | None = None,
) -> KeyLists:
    """For each block of queries: the global blocks, its neighbours and its random blocks, all of one length.

    The random blocks are the largest of a hash of (seed, row, column), so that no state of a generator is involved, and the same
    pattern comes out on every device, in every call.

    Args:
        T: Tokens.
        block_size: As in ``BigBirdAttention``.
        num_random_blocks: As in ``BigBirdAttention``.
        window_blocks: As in ``BigBirdAttention``.
        num_global_blocks: As in ``BigBirdAttention``.
        seed: As in ``BigBirdAttention``.
        device: Where to make them.
    """
    _check(block_size, num_random_blocks, window_blocks, num_global_blocks, seed)
    N, half = -(-T // block_size), window_blocks // 2
    block = torch.arange(N, device=device)
    row = block[:, None]
    fixed = (block < num_global_blocks) | ((row - block).abs() <= half if window_blocks else block < 0)
    luck = _hash(_hash(_hash(torch.tensor(seed, device=device)) + row) + block).masked_fill(fixed, -1)
    drawn = luck.topk(min(num_random_blocks, N), 1)
    near = row + torch.arange(-half, half + 1, device=device)[: window_blocks or 0]
    everywhere = torch.arange(min(num_global_blocks, N), device=device).expand(N, -1)
    blocks = torch.cat((everywhere, near, drawn.indices), 1)
    # A neighbour that is global, or beyond the ends, is on the list already, or is not there.
    real = torch.cat((everywhere >= 0, (near >= num_global_blocks) & (near < N), drawn.values >= 0), 1)
    keys = (blocks[:, :, None] * block_size + torch.arange(block_size, device=device)).flatten(1)
    seen = real.repeat_interleave(block_size, 1) & (keys >= 0) & (keys < T)
    return KeyLists(keys.clamp(0, T - 1), seen[:, None].expand(-1, block_size, -1))


def bigbird_mask(
    T: int,
    block_size: int = 64,
    num_random_blocks: int = 3,
    window_blocks: int = 3,
    num_global_blocks: int = 2,
    seed: int = 0,
) -> Tensor:
    """The pattern as a whole, ``(T, T)``, true where seen: for pictures and comparisons.

    Args:
        T: Tokens.
        block_size: As in ``BigBirdAttention``.
        num_random_blocks: As in ``BigBirdAttention``.
        window_blocks: As in ``BigBirdAttention``.
        num_global_blocks: As in ``BigBirdAttention``.
        seed: As in ``BigBirdAttention``.
    """
    lists = bigbird_lists(T, block_size, num_random_blocks, window_blocks, num_global_blocks, seed)
    mask = torch.zeros(len(lists.keys), T, dtype=torch.bool)
    for row, keys, seen in zip(mask, lists.keys, lists.seen[:, 0]):
        row[keys[seen]] = True
    mask = mask.repeat_interleave(block_size, 0)[:T]
    mask[: block_size * num_global_blocks] = True
    return mask


def _hash(x: Tensor) -> Tensor:
    """Mixes integers, 31 bits in and out, by multiplications and shifts."""
    for factor in (0x45D9F3B, 0x119DE1F3):
        x = ((x ^ (x >> 15)) * factor) & 0x7FFFFFFF
    return x ^ (x >> 15)


def _check(block_size: int, num_random_blocks: int, window_blocks: int, num_global_blocks: int, seed: int) -> None:
    if block_size < 1:
        raise ValueError(f"block_size={block_size} is not positive")
    numbers = dict(num_random_blocks=num_random_blocks, window_blocks=window_blocks, num_global_blocks=num_global_blocks, seed=seed)
    for name, number in numbers.items():
        if number < 0:
            raise ValueError(f"{name}={number} is negative")
    if window_blocks and window_blocks % 2 == 0:
        raise ValueError(f"window_blocks={window_blocks} is even; as many blocks on the left as on the right make it odd")
