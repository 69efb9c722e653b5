"""Dilated attention: each token reads w tokens that stand r apart, so it reaches r times as far at the same cost.

Source: Beltagy et al. 2020, arXiv:2004.05150, section 3.1 ("Dilated Sliding Window"); the mixture of segments and rates: Ding et al.
2023, arXiv:2307.02486, sections 2.2 and 2.3.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vocab.attention.masks import causal_mask
from vocab.attention.multi_head import MultiHeadAttention, merge_heads, split_heads
from vocab.attention.sparse import KeyLists, gathered_attention
from vocab.check import expect

__all__ = ["DilatedAttention", "dilated_lists", "dilated_mask", "longnet_attention", "merge_attention"]

# B batch, T tokens, D model width, H heads, d head width, w window, r dilation


class DilatedAttention(MultiHeadAttention):
    """Multi-head self-attention over a window with gaps.

    Args:
        d_model: Width D of the tokens.
        n_heads: Heads H.
        window: Tokens w that are read, the own one included; if not causal, ``window // 2`` on each side and the own one.
        dilation: Distance r between them.
        causal: Whether only earlier tokens and the own one are read.
        bias: Whether the projections have a bias.
        dropout: Share of attention weights set to zero in training.

    Shapes:
        x ``(B, T, D)`` -> ``(B, T, D)``.

    Examples:
        >>> attention, x = DilatedAttention(8, 2, window=3, dilation=2), torch.randn(1, 8, 8, requires_grad=True)
        >>> attention(x)[0, 7].sum().backward()
        >>> (x.grad[0].abs().sum(-1) > 0).int()  # token 7 read tokens 3, 5 and 7
        tensor([0, 0, 0, 1, 0, 1, 0, 1], dtype=torch.int32)
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        *,
        window: int,
        dilation: int,
        causal: bool = True,
        bias: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(d_model, n_heads, bias=bias, dropout=dropout)
        _check(window, dilation)
        self.window, self.dilation, self.causal = window, dilation, causal

    def forward(self, x: Tensor) -> Tensor:
        expect("x", x, "batch time d_model", d_model=self.d_model)
        q_BHTd, (k_BHTd, v_BHTd) = split_heads(self.q_proj(x), self.head_dim), self.keys_and_values(x)
        lists = dilated_lists(x.shape[1], self.window, self.dilation, self.causal, device=x.device)
        out_BHTd = gathered_attention(q_BHTd, k_BHTd, v_BHTd, lists, dropout_p=self.dropout if self.training else 0.0)
        return self.o_proj(merge_heads(out_BHTd))


def dilated_lists(
    T: int, window: int, dilation: int, causal: bool = True, *, device: torch.device | None = None
) -> KeyLists:
    """For query i the keys i, i - r, i - 2 r ...: backwards, since a causal model has no i + r yet.

    Args:
        T: Tokens.
        window: As in ``DilatedAttention``.
        dilation: As in ``DilatedAttention``.
        causal: As in ``DilatedAttention``.
        device: Where to make them.
    """
    _check(window, dilation)
    behind = 0 if causal else window // 2
    steps = torch.arange(-behind, window if causal else behind + 1, device=device)
    keys = torch.arange(T, device=device)[:, None] - dilation * steps
    return KeyLists(keys.clamp(0, T - 1), ((keys >= 0) & (keys < T))[:, None])


def dilated_mask(T: int, window: int, dilation: int, causal: bool = True) -> Tensor:
    """The pattern as a whole, ``(T, T)``, true where seen: for pictures and comparisons.

    Args:
        T: Tokens.
        window: As in ``DilatedAttention``.
        dilation: As in ``DilatedAttention``.
        causal: As in ``DilatedAttention``.
    """
    _check(window, dilation)
    back = torch.arange(T)[:, None] - torch.arange(T)
    near = (back >= 0) & (back < window * dilation) if causal else back.abs() <= window // 2 * dilation
    return near & (back % dilation == 0)


def longnet_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    segment_lengths: Sequence[int],
    dilation_rates: Sequence[int],
    *,
    is_causal: bool = False,
) -> Tensor:
    """LongNet's mixture: short segments read densely, long ones with gaps, each result weighted by its softmax sum.

    For each pair (s, r) the sequence is cut into segments of s tokens. In a segment every r-th token takes part, and head h
    starts with token h mod r, so that heads together skip none. A token with no part in any of them gets zeros.

    Args:
        q: Queries ``(B, H, T, d)``.
        k: Keys ``(B, H, T, d)``.
        v: Values ``(B, H, T, d)``.
        segment_lengths: Lengths s; each divides T.
        dilation_rates: One rate r for each; it divides its s.
        is_causal: Whether a token sees only itself and earlier ones.

    Returns:
        ``(B, H, T, d)``.

    Raises:
        ValueError: If a shape does not fit, or lengths and rates do not divide.

    Examples:
        >>> q, k, v = torch.randn(3, 1, 2, 8, 4)
        >>> longnet_attention(q, k, v, [4, 8], [1, 2]).shape  # 8 · 4 + 4 · 4 scores a head instead of 8 · 8
        torch.Size([1, 2, 8, 4])
    """
    expect("q", q, "batch heads time width")
    B, H, T, d = q.shape
    for name, x in (("k", k), ("v", v)):
        expect(name, x, "batch heads time width", batch=B, heads=H, time=T, width=d)
    if len(segment_lengths) != len(dilation_rates) or not segment_lengths:
        raise ValueError(f"segment_lengths={segment_lengths} and dilation_rates={dilation_rates} are not pairs")
    outs, sums = [], []
    for s, r in zip(segment_lengths, dilation_rates):
        if s < 1 or r < 1 or T % s or s % r:
            raise ValueError(f"segment length {s} with rate {r}: the rate must divide it, and it the {T} tokens")
        first = torch.arange(H, device=q.device)[:, None] % r
        token_HN = first + torch.arange(0, T, r, device=q.device)  # the tokens of head h, segment after segment
        index = token_HN[None, :, :, None].expand(B, H, -1, d)
        part = [x.gather(2, index).unflatten(2, (T // s, s // r)) for x in (q, k, v)]
        out, log_sum = _with_log_sum(*part, causal_mask(s // r, device=q.device) if is_causal else None)
        outs.append(torch.zeros_like(q).scatter(2, index, out.flatten(2, 3)))
        nothing = torch.full((B, H, T), -torch.inf, dtype=q.dtype, device=q.device)
        sums.append(nothing.scatter(2, index[..., 0], log_sum.flatten(2)))
    return merge_attention(torch.stack(outs), torch.stack(sums))[0]


def merge_attention(outs: Tensor, log_sums: Tensor) -> tuple[Tensor, Tensor]:
    """Joins attention over several sets of keys into attention over all of them.

    A softmax over a union is the mean of the softmaxes over its parts, weighted by the sums of exponentials that each was
    divided by. A key that is in two parts counts twice.

    Args:
        outs: ``(parts, ..., T, d)``, the output of each part.
        log_sums: ``(parts, ..., T)``, logarithms of those sums; -inf for a part without keys.

    Returns:
        The joint output ``(..., T, d)`` and its log-sum ``(..., T)``.

    Examples:
        >>> merge_attention(torch.tensor([[[0.0]], [[9.0]]]), torch.tensor([[2.0]]).log() * torch.tensor([[1.0], [0.0]]))[0].round(decimals=4)
        tensor([[3.]])
    """
    expect("outs", outs, "...")
    expect("log_sums", log_sums, "...")
    if outs.shape[:-1] != log_sums.shape:
        raise ValueError(f"log_sums has shape {tuple(log_sums.shape)}; expected {tuple(outs.shape[:-1])}")
    joint = log_sums.logsumexp(0)
    share = (log_sums - joint.masked_fill(joint == -torch.inf, 0.0)).exp()  # 0 everywhere if no part has a key
    return (share.unsqueeze(-1) * outs).sum(0), joint


def _with_log_sum(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    return scores.softmax(-1) @ v, scores.logsumexp(-1)


def _check(window: int, dilation: int) -> None:
    for name, size in (("window", window), ("dilation", dilation)):
        if size < 1:
            raise ValueError(f"{name}={size} is not positive")
