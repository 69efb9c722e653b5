"""Scaled dot-product attention: a mean of values, weighted by how well their keys match a query.

Source: Vaswani et al. 2017, arXiv:1706.03762, equation 1 and footnote 4 (why the scores are scaled).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from vocab.attention.masks import causal_mask, expect_mask
from vocab.check import expect

__all__ = ["masked_softmax", "scaled_dot_product_attention"]

# T queries, S keys and values, d width of queries and keys, e width of values


def scaled_dot_product_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    attn_mask: Tensor | None = None,
    is_causal: bool = False,
    scale: float | None = None,
    dropout_p: float = 0.0,
    return_weights: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Computes ``softmax(scale * q @ k.T) @ v`` over the last two axes.

    It does what ``torch.nn.functional.scaled_dot_product_attention`` does, with two differences. With fewer queries
    than keys the causal mask ends in the lower right corner, as decoding with a cache needs it. And it can return
    its weights, for which it writes all T x S of them to memory.

    Args:
        q: Queries ``(..., T, d)``; usually the leading axes are batch and heads.
        k: Keys ``(..., S, d)``; a leading axis of length 1 is shared.
        v: Values ``(..., S, e)``; a leading axis of length 1 is shared.
        attn_mask: Booleans, true where a key may be seen, or numbers that are added to the scaled scores; it
            broadcasts to ``(..., T, S)``. A query that may see no key gets zeros.
        is_causal: Whether the queries are the last T of S tokens, and see no later one.
        scale: Factor of the scores; ``1 / sqrt(d)`` if not given.
        dropout_p: Share of weights set to zero, the rest being scaled up; always applied, so pass 0 outside training.
        return_weights: Whether to return the weights too, as they are before dropout.

    Returns:
        ``(..., T, e)``, and with ``return_weights`` the weights ``(..., T, S)``.

    Raises:
        ValueError: If a shape does not fit, a setting is out of range, there are more queries than keys with
            ``is_causal``, or both ``attn_mask`` and ``is_causal`` are given.

    Examples:
        >>> q, k = torch.zeros(1, 1, 1, 4), torch.randn(1, 1, 3, 4)
        >>> v = torch.tensor([3.0, 6.0, 9.0]).view(1, 1, 3, 1)
        >>> scaled_dot_product_attention(q, k, v).item()  # a query of zeros prefers nothing
        6.0
    """
    expect("q", q, "... queries width")
    expect("k", k, "... keys width", width=q.shape[-1])
    expect("v", v, "... keys value_width", keys=k.shape[-2])
    for name, x in (("k", k), ("v", v)):
        _expect_broadcast(name, x.shape[:-2], q.shape[:-2], "the leading axes of q")
    if not 0 <= dropout_p <= 1:
        raise ValueError(f"dropout_p={dropout_p} is not from 0 to 1")
    if is_causal and attn_mask is not None:
        raise ValueError("attn_mask with is_causal=True: give attn_mask & causal_mask(n_queries, n_keys) instead")
    if is_causal:
        attn_mask = causal_mask(q.shape[-2], k.shape[-2], device=q.device)
    scale = q.shape[-1] ** -0.5 if scale is None else scale

    # Half precision is computed in float32 and rounded once at the end: a product of long vectors would overflow.
    dtype = torch.promote_types(q.dtype, torch.float32)
    scores = scale * q.to(dtype) @ k.to(dtype).transpose(-2, -1)
    weights = masked_softmax(scores, attn_mask)
    kept = F.dropout(weights, dropout_p) if dropout_p else weights
    out = (kept @ v.to(dtype)).to(q.dtype)
    return (out, weights.to(q.dtype)) if return_weights else out


def masked_softmax(scores: Tensor, attn_mask: Tensor | None = None) -> Tensor:
    """Turns each row of scores into weights that sum to 1, and are 0 where the mask hides a key.

    Half precision is computed in float32. A row without any visible key is all zeros, and so is its gradient: the
    bare formula would divide 0 by 0.

    Args:
        scores: ``(..., T, S)``.
        attn_mask: Booleans, true where a key may be seen, or numbers to add; it broadcasts to ``(..., T, S)``.

    Returns:
        Weights of the same shape and dtype.

    Raises:
        TypeError: If the mask is neither boolean nor floating point.
        ValueError: If it does not broadcast.

    Examples:
        >>> masked_softmax(torch.zeros(2, 3), torch.tensor([[True, True, False], [False, False, False]]))
        tensor([[0.5000, 0.5000, 0.0000],
                [0.0000, 0.0000, 0.0000]])
    """
    expect("scores", scores, "... queries keys")
    wide = scores.to(torch.promote_types(scores.dtype, torch.float32))
    if attn_mask is None:
        return wide.softmax(-1).to(scores.dtype)
    expect_mask(attn_mask)
    _expect_broadcast("attn_mask", attn_mask.shape, scores.shape, "(..., queries, keys)")
    if attn_mask.dtype == torch.bool:
        hidden = ~attn_mask
    else:
        wide, hidden = wide + attn_mask, attn_mask == -torch.inf
    # The second filling is for rows that are hidden as a whole: their softmax is NaN, forwards and backwards.
    return wide.masked_fill(hidden, -torch.inf).softmax(-1).masked_fill(hidden, 0.0).to(scores.dtype)


def _expect_broadcast(name: str, shape: torch.Size, to: torch.Size, what: str) -> None:
    if len(shape) > len(to) or any(n not in (1, m) for n, m in zip(shape[::-1], to[::-1])):
        raise ValueError(f"{name} has {tuple(shape)}, which does not broadcast to {what} = {tuple(to)}")
