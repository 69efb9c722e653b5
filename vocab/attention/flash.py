"""FlashAttention: exact attention, tile by tile, without ever storing the weights.

Source: Dao et al. 2022, arXiv:2205.14135, algorithms 1 and 4; the running softmax: Milakov and Gimelshein 2018, arXiv:1805.02867.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vocab.check import expect
from vocab.kernels.attention import applies, expand_bias, fused

__all__ = ["flash_attention", "online_softmax_attention"]

# B batch, H query heads, G key/value heads, T queries, S keys, d head width; b queries and c keys in a tile


def flash_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    is_causal: bool = False,
    scale: float | None = None,
    window: int | None = None,
    bias: Tensor | None = None,
    block_q: int = 64,
    block_k: int = 64,
    return_lse: bool = False,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """Computes softmax attention in tiles, forwards and backwards, in memory that grows with T and not with T S.

    The backward pass keeps the output and one number per query, and computes each tile of weights again. Tiles that a causal
    mask or a window hides as a whole are left out. In plain PyTorch that saves memory; the kernel also keeps tiles on the chip.

    Args:
        q: Queries ``(B, H, T, d)``.
        k: Keys ``(B, G, S, d)``; G divides H, and head i reads key/value head ``i // (H / G)``.
        v: Values ``(B, G, S, d)``.
        is_causal: Whether the queries are the last T of S tokens, and see no later one.
        scale: Factor of the scores; ``1 / sqrt(d)`` if not given.
        window: How many tokens a causal query looks back on, itself included; all if not given.
        bias: Numbers added to the scores, -inf where a key is hidden; broadcasts to ``(B, H, T, S)``. Its gradient has its shape: with T
            and S in it, that is the one thing whose memory grows with T S.
        block_q: Queries in a tile of the PyTorch version; changes speed, never the result. The kernel has tiles of its own.
        block_k: Keys in a tile.
        return_lse: Whether to return, for each query, the logarithm of the sum that its weights were divided by.
        backend: ``"auto"``, ``"torch"`` or ``"triton"``.

    Returns:
        ``(B, H, T, d)``, and with ``return_lse`` also ``(B, H, T)``, which has no gradient.

    Raises:
        ValueError: If a shape does not fit, a head is wider than 256, or a setting cannot be.
        RuntimeError: If ``backend="triton"`` cannot run here; the message says why.

    Examples:
        >>> q, k, v = torch.randn(3, 1, 2, 100, 8)
        >>> weights = (q @ k.mT / 8**0.5).softmax(-1)
        >>> torch.allclose(flash_attention(q, k, v), weights @ v, atol=1e-5)
        True
    """
    expect("q", q, "batch heads queries width")
    expect("k", k, "batch kv_heads keys width", batch=q.shape[0], width=q.shape[3])
    expect("v", v, "batch kv_heads keys width", batch=q.shape[0], kv_heads=k.shape[1], keys=k.shape[2], width=q.shape[3])
    if k.shape[1] < 1 or q.shape[1] % k.shape[1]:
        raise ValueError(f"{q.shape[1]} query heads are not a multiple of {k.shape[1]} key/value heads")
    if q.shape[3] > 256:
        raise ValueError(f"q has heads of width {q.shape[3]}; kernels hold a tile on the chip up to 256")
    if is_causal and q.shape[2] > k.shape[2]:
        raise ValueError(f"{q.shape[2]} causal queries are the last of {k.shape[2]} keys: there are too many")
    if window is not None and not (is_causal and window > 0):
        raise ValueError(f"window={window} must be positive and needs is_causal=True: it looks back")
    for name, size in (("block_q", block_q), ("block_k", block_k)):
        if size < 1:
            raise ValueError(f"{name}={size} is not positive")
    if bias is not None:
        bias = expand_bias(bias, q, k)
    scale = q.shape[3] ** -0.5 if scale is None else scale
    if applies(q, k, v, backend):
        before, after = None if window is None else window - 1, 0 if is_causal else None
        out, lse = fused(q, k, v, before=before, after=after, scale=scale, bias=bias)
        return (out, lse) if return_lse else out
    # Query heads of a group become one more axis, and share their keys by broadcasting.
    grouped = q.unflatten(1, (k.shape[1], -1))
    if bias is not None:
        bias = bias.unsqueeze(1) if bias.shape[1] == 1 else bias.unflatten(1, (k.shape[1], -1))
    out, lse = _Flash.apply(grouped, k.unsqueeze(2), v.unsqueeze(2), bias, scale, is_causal, window, block_q, block_k)
    out = out.flatten(1, 2)
    return (out, lse.flatten(1, 2)) if return_lse else out


def online_softmax_attention(q: Tensor, k: Tensor, v: Tensor, block_q: int = 64, block_k: int = 64) -> Tensor:
    """The forward pass alone, without mask or heads: running maximum, running sum, running output.

    Args:
        q: Queries ``(..., T, d)``.
        k: Keys ``(..., S, d)``.
        v: Values ``(..., S, d)``.
        block_q: Queries in a tile.
        block_k: Keys in a tile.

    Returns:
        ``(..., T, d)``.

    Examples:
        >>> q = torch.zeros(1, 2)
        >>> online_softmax_attention(q, torch.zeros(4, 2), torch.arange(8.0).view(4, 2), block_k=1)
        tensor([[3., 4.]])
    """
    expect("q", q, "... queries width")
    expect("k", k, "... keys width", width=q.shape[-1])
    expect("v", v, "... keys value_width", keys=k.shape[-2])
    return _forward(q, k, v, None, q.shape[-1] ** -0.5, False, None, block_q, block_k)[0]


class _Flash(torch.autograd.Function):
    """Keeps q, k, v, the output and the log-sums: all that the backward pass needs to make each tile of weights again."""

    @staticmethod
    def forward(ctx, q, k, v, bias, scale, is_causal, window, block_q, block_k):
        out, lse = _forward(q, k, v, bias, scale, is_causal, window, block_q, block_k)
        ctx.save_for_backward(q, k, v, bias, out, lse)
        ctx.settings = (scale, is_causal, window, block_q, block_k)
        ctx.mark_non_differentiable(lse)
        return out, lse

    @staticmethod
    def backward(ctx, d_out, _):
        q, k, v, bias, out, lse = ctx.saved_tensors
        scale, is_causal, window, block_q, block_k = ctx.settings
        dq, dk, dv = torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
        dbias = torch.zeros(bias.shape, dtype=bias.dtype, device=bias.device) if ctx.needs_input_grad[3] else None
        mean = (d_out * out).sum(-1, keepdim=True)  # equals rowsum(dP * P), without P
        for i, j, seen in _tiles(q.shape[-2], k.shape[-2], is_causal, window, block_q, block_k, q.device):
            scores = _scores(q[..., i, :], k[..., j, :], scale, seen, bias, i, j)
            lse_i = lse[..., i, None]
            P = (scores - lse_i.masked_fill(lse_i == -torch.inf, 0.0)).exp()  # all 0 for a query without keys
            dS = P * (d_out[..., i, :] @ v[..., j, :].transpose(-2, -1) - mean[..., i, :])  # by the scores as the softmax sees them
            dq[..., i, :] += scale * dS @ k[..., j, :]
            # The query heads of a group share a key head: its gradient is the sum over them.
            dk[..., j, :] += scale * (dS.transpose(-2, -1) @ q[..., i, :]).sum(2, keepdim=True)
            dv[..., j, :] += (P.transpose(-2, -1) @ d_out[..., i, :]).sum(2, keepdim=True)
            if dbias is not None:  # likewise over all that share it
                dbias[..., i, j] += dS.sum_to_size(*bias.shape[:3], *dS.shape[3:])
        return dq, dk, dv, dbias, None, None, None, None, None


def _forward(q, k, v, bias, scale, is_causal, window, block_q, block_k):
    dtype = torch.promote_types(q.dtype, torch.float32)
    out = torch.zeros(*q.shape[:-1], v.shape[-1], dtype=dtype, device=q.device)
    highest = torch.full(q.shape[:-1], -torch.inf, dtype=dtype, device=q.device)
    total = torch.zeros_like(highest)
    for i, j, seen in _tiles(q.shape[-2], k.shape[-2], is_causal, window, block_q, block_k, q.device):
        scores = _scores(q[..., i, :].to(dtype), k[..., j, :].to(dtype), scale, seen, bias, i, j)
        new = torch.maximum(highest[..., i], scores.amax(-1))
        finite = new.masked_fill(new == -torch.inf, 0.0)  # a row that has seen no key yet would be inf - inf
        weights = (scores - finite.unsqueeze(-1)).exp()
        shrink = (highest[..., i] - finite).exp()  # what was added up relative to the old maximum
        total[..., i] = shrink * total[..., i] + weights.sum(-1)
        out[..., i, :] = shrink.unsqueeze(-1) * out[..., i, :] + weights @ v[..., j, :].to(dtype)
        highest[..., i] = new
    out = out / total.masked_fill(total == 0, 1.0).unsqueeze(-1)
    return out.to(q.dtype), highest + total.log()


def _scores(q, k, scale, seen, bias, i, j):
    scores = scale * q @ k.transpose(-2, -1)
    if bias is not None:
        scores = scores + bias[..., i, j]
    return scores if seen is None else scores.masked_fill(~seen, -torch.inf)


def _tiles(T, S, is_causal, window, block_q, block_k, device):
    """Slices of queries and keys, and their mask; tiles in which nothing is seen are left out."""
    for i in range(0, T, block_q):
        rows = slice(i, min(i + block_q, T))
        first, last = S - T + rows.start, S - T + rows.stop - 1  # where the queries stand among the keys
        for j in range(0, S, block_k):
            columns = slice(j, min(j + block_k, S))
            if not is_causal:
                yield rows, columns, None
            elif j <= last and (window is None or columns.stop - 1 > first - window):
                back = torch.arange(first, last + 1, device=device)[:, None] - torch.arange(j, columns.stop, device=device)
                yield rows, columns, (back >= 0) & (back < (S if window is None else window))
