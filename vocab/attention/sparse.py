"""Sparse attention: each query reads a short list of keys, chosen so that two layers still connect everything.

Source: Child et al. 2019, arXiv:1904.10509, section 4.2 (strided) and 4.3 (fixed).
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from vocab.attention.multi_head import MultiHeadAttention, merge_heads, split_heads
from vocab.attention.scaled_dot_product import scaled_dot_product_attention
from vocab.check import expect
from vocab.kernels.attention import BLOCK, applies, fused

__all__ = ["KeyLists", "SparseAttention", "block_lists", "block_table", "fixed_lists", "fixed_mask", "gathered_attention",
           "strided_lists", "strided_mask"]

# B batch, T tokens, D model width, H heads, d head width; N runs of t neighbouring queries, m keys in the list of a run


class KeyLists(NamedTuple):
    """Which keys are read by which run of neighbouring queries.

    Attributes:
        keys: ``(N, m)`` integers: the keys that run n reads. Lists are of one length; what fills them up is not seen.
        seen: ``(N, t, m)`` booleans: whether query i of run n may see entry j of its list.
    """

    keys: Tensor
    seen: Tensor


class SparseAttention(MultiHeadAttention):
    """Causal multi-head self-attention over lists of keys: time and memory are T times the length of a list.

    Args:
        d_model: Width D of the tokens.
        n_heads: Heads H.
        pattern: ``"strided"`` (the last ``stride`` tokens, and every ``stride``-th before), ``"fixed"`` (the own block of
            ``stride`` tokens, and the last ``summary`` of each block before), or lists of your own.
        stride: About the square root of the length.
        summary: Tokens at the end of each block that later ones may read, for ``"fixed"``.
        bias: Whether the projections have a bias.
        dropout: Share of attention weights set to zero in training.
        backend: ``"auto"``, ``"torch"`` or ``"triton"``. The kernel visits the blocks of ``block_table``, and takes no dropout.

    Shapes:
        x ``(B, T, D)`` -> ``(B, T, D)``.

    Raises:
        ValueError: If ``pattern`` is unknown, or ``stride`` or ``summary`` cannot be.
        RuntimeError: If ``backend="triton"`` cannot run here; the message says why.

    Examples:
        >>> attention = SparseAttention(8, 2, stride=4)
        >>> attention(torch.randn(1, 16, 8)).shape, strided_lists(16, 4).keys.shape  # 7 of up to 16 keys
        (torch.Size([1, 16, 8]), torch.Size([16, 7]))
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        *,
        pattern: str | KeyLists = "strided",
        stride: int = 128,
        summary: int = 1,
        bias: bool = True,
        dropout: float = 0.0,
        backend: str = "auto",
    ) -> None:
        super().__init__(d_model, n_heads, bias=bias, dropout=dropout)
        if not (isinstance(pattern, KeyLists) or pattern in ("strided", "fixed")):
            raise ValueError(f"pattern={pattern!r} is not 'strided', 'fixed' or KeyLists")
        _check(stride, summary)
        self.pattern, self.stride, self.summary, self.backend = pattern, stride, summary, backend

    def forward(self, x: Tensor) -> Tensor:
        expect("x", x, "batch time d_model", d_model=self.d_model)
        q_BHTd, (k_BHTd, v_BHTd) = split_heads(self.q_proj(x), self.head_dim), self.keys_and_values(x)
        dropout_p = self.dropout if self.training else 0.0
        wanted = (self.pattern, x.shape[1], self.stride, self.summary, x.device)
        if applies(q_BHTd, k_BHTd, v_BHTd, self.backend, limit="it has no dropout" if dropout_p else None):
            blocks, tiles = _table(*wanted) if isinstance(self.pattern, str) else block_table(_lists(*wanted))
            out_BHTd, _ = fused(q_BHTd, k_BHTd, v_BHTd, blocks=blocks, tiles=tiles)
        else:
            out_BHTd = gathered_attention(q_BHTd, k_BHTd, v_BHTd, _lists(*wanted), dropout_p=dropout_p)
        return self.o_proj(merge_heads(out_BHTd))


def gathered_attention(q: Tensor, k: Tensor, v: Tensor, lists: KeyLists, *, dropout_p: float = 0.0) -> Tensor:
    """Attention that computes the listed scores and no others.

    Runs of queries become one more batch axis, and so do copies of the keys that each of them reads. A query whose list
    shows it nothing gets zeros.

    Args:
        q: Queries ``(..., T, d)``.
        k: Keys ``(..., S, d)``.
        v: Values ``(..., S, e)``.
        lists: The keys of each run; N runs of t queries cover T queries, and the last run may be cut off.
        dropout_p: Share of weights set to zero.

    Returns:
        ``(..., T, e)``.

    Raises:
        ValueError: If the lists are for another number of queries, or name a key that is not there.

    Examples:
        >>> q, everyone_reads_key_0 = torch.zeros(3, 4), KeyLists(torch.zeros(3, 1).long(), torch.ones(3, 1, 1).bool())
        >>> gathered_attention(q, q, torch.tensor([[5.0], [6.0], [7.0]]), everyone_reads_key_0).flatten()
        tensor([5., 5., 5.])
    """
    expect("q", q, "... queries width")
    expect("k", k, "... keys width", width=q.shape[-1])
    expect("v", v, "... keys value_width", keys=k.shape[-2])
    (N, t, _), T = lists.seen.shape, q.shape[-2]
    _expect_fit(lists, T)
    runs = F.pad(q, (0, 0, 0, N * t - T)).unflatten(-2, (N, t))
    keys, values = k[..., lists.keys, :], v[..., lists.keys, :]
    out = scaled_dot_product_attention(runs, keys, values, attn_mask=lists.seen, dropout_p=dropout_p)
    return out.flatten(-3, -2)[..., :T, :]


def strided_lists(T: int, stride: int, *, device: torch.device | None = None) -> KeyLists:
    """For each query, the last ``stride`` tokens and every ``stride``-th before them: about 2 √T keys for stride √T.

    Args:
        T: Tokens.
        stride: Distance of the far keys, and number of the near ones.
        device: Where to make them.
    """
    _check(stride)
    near, far = torch.arange(min(stride, T), device=device), torch.arange(stride, max(T, stride), stride, device=device)
    keys = torch.arange(T, device=device)[:, None] - torch.cat((near, far))
    return KeyLists(keys.clamp_min(0), (keys >= 0)[:, None])


def fixed_lists(T: int, stride: int, summary: int = 1, *, device: torch.device | None = None) -> KeyLists:
    """For each block of ``stride`` queries, the block itself and the last ``summary`` tokens of all blocks before.

    Args:
        T: Tokens.
        stride: Length of a block.
        summary: Tokens of a block that later blocks may read.
        device: Where to make them.
    """
    _check(stride, summary)
    place, block = torch.arange(stride, device=device), torch.arange(-(-T // stride), device=device)[:, None]
    own = block * stride + place
    far = (torch.arange(0, T, stride, device=device)[:, None] + place[stride - summary :]).flatten()
    keys = torch.cat((own, far.expand(len(block), -1)), 1)
    seen_near = (place <= place[:, None]).expand(len(block), stride, stride)
    seen_far = (far < block * stride)[:, None].expand(-1, stride, -1)
    return KeyLists(keys.clamp_max(T - 1), torch.cat((seen_near, seen_far), 2) & (keys < T)[:, None])


def block_lists(mask: Tensor, block_size: int = 64) -> KeyLists:
    """Lists of whole blocks for any mask: a block of keys is read if one query of the run sees one key of it.

    Hardware reads blocks. So the length of a list, not the number of true entries of the mask, is what is paid for.

    Args:
        mask: Booleans ``(T, S)``, true where seen.
        block_size: Length of a run of queries and of a block of keys.

    Returns:
        The lists; as long as that of the run that reads the most.
    """
    expect("mask", mask, "queries keys", dtype="bool")
    _check(block_size)
    (T, S), b = mask.shape, block_size
    tiles = F.pad(mask, (0, -S % b, 0, -T % b)).unflatten(0, (-1, b)).unflatten(2, (-1, b)).transpose(1, 2)  # (N, M, b, b)
    needed = tiles.any((2, 3))
    most = int(needed.sum(1).max())
    block = needed.int().argsort(dim=1, descending=True, stable=True)[:, :most]  # the needed ones first, in their order
    kept = torch.take_along_dim(tiles, block[:, :, None, None], 1) & torch.take_along_dim(needed, block, 1)[:, :, None, None]
    keys = (block[:, :, None] * b + torch.arange(b, device=mask.device)).flatten(1)
    return KeyLists(keys.clamp_max(S - 1), kept.transpose(1, 2).flatten(2))


def block_table(lists: KeyLists) -> tuple[Tensor, Tensor]:
    """Cuts lists into blocks of 64 queries by 64 keys, as the kernel of ``vocab.kernels.attention`` reads them.

    Args:
        lists: Any lists of a sequence for itself.

    Returns:
        ``(T / 64, T / 64)`` int32, the number of each block's mask, or -1 for a block that nobody reads; and the masks of the others,
        ``(n, 64, 64)`` uint8.
    """
    N, t, _ = lists.seen.shape
    n = -(-N * t // BLOCK)
    query = torch.arange(N * t, device=lists.keys.device).view(N, t, 1).expand_as(lists.seen)[lists.seen]
    key = lists.keys[:, None].expand_as(lists.seen)[lists.seen]
    read, number = (query // BLOCK * n + key // BLOCK).unique(return_inverse=True)
    blocks = torch.full((n * n,), -1, dtype=torch.int32, device=query.device)
    blocks[read] = torch.arange(len(read), dtype=torch.int32, device=query.device)
    tiles = torch.zeros(len(read), BLOCK, BLOCK, dtype=torch.uint8, device=query.device)
    tiles[number, query % BLOCK, key % BLOCK] = 1
    return blocks.view(n, n), tiles


def strided_mask(T: int, stride: int) -> Tensor:
    """The strided pattern as a whole, ``(T, T)``: for pictures and comparisons, since it is as large as what it saves.

    Args:
        T: Tokens.
        stride: Distance of the far keys, and number of the near ones.
    """
    _check(stride)
    back = torch.arange(T)[:, None] - torch.arange(T)
    return (back >= 0) & ((back < stride) | (back % stride == 0))


def fixed_mask(T: int, stride: int, summary: int = 1) -> Tensor:
    """The fixed pattern as a whole, ``(T, T)``.

    Args:
        T: Tokens.
        stride: Length of a block.
        summary: Tokens of a block that later blocks may read.
    """
    _check(stride, summary)
    query, key = torch.arange(T)[:, None], torch.arange(T)
    return (key <= query) & ((query // stride == key // stride) | (key % stride >= stride - summary))


def _lists(pattern: str | KeyLists, T: int, stride: int, summary: int, device: torch.device) -> KeyLists:
    if pattern == "strided":
        return strided_lists(T, stride, device=device)
    if pattern == "fixed":
        return fixed_lists(T, stride, summary, device=device)
    _expect_fit(pattern, T)
    return pattern


@functools.lru_cache(maxsize=8)
def _shared_table(*pattern) -> tuple[Tensor, Tensor]:
    """The blocks of a named pattern, which all layers of a model share."""
    return block_table(_lists(*pattern))


@torch.compiler.assume_constant_result  # how many masks there are depends on data, which a graph cannot follow
def _table(*pattern) -> tuple[Tensor, Tensor]:
    return _shared_table(*pattern)


def _expect_fit(lists: KeyLists, T: int) -> None:
    N, t, _ = lists.seen.shape
    if not (N - 1) * t < T <= N * t:
        raise ValueError(f"lists are for {(N - 1) * t + 1} to {N * t} queries, not for {T}")


def _check(stride: int, summary: int = 1) -> None:
    if stride < 1:
        raise ValueError(f"stride={stride} is not positive")
    if not 1 <= summary <= stride:
        raise ValueError(f"summary={summary} is not from 1 to stride={stride}")
