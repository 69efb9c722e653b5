"""Attention sinks: somewhere for the weight of a query that has nothing to read.

Source: Xiao et al. 2024, arXiv:2309.17453, section 3; a learned sink per head: OpenAI 2025, arXiv:2508.10925, section 2.2.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vocab.attention.masks import causal_mask
from vocab.attention.scaled_dot_product import masked_softmax
from vocab.check import expect

__all__ = ["StreamingCache", "sink_attention"]

# B batch, H heads, T queries, S keys, d head width


def sink_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    sink_logits: Tensor,
    *,
    is_causal: bool = True,
    window: int | None = None,
    scale: float | None = None,
    return_weights: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Attention with one more score per head that takes its share of the softmax and hands over nothing.

    The weights of a row are ``exp(s_j) / (exp(sink) + sum_l exp(s_l))``. They sum to less than 1, so a head can say
    nothing at all. A sink of 0 is the softmax "plus one", of -inf the usual softmax.

    Args:
        q: Queries ``(B, H, T, d)``.
        k: Keys ``(B, H, S, d)``.
        v: Values ``(B, H, S, d)``.
        sink_logits: ``(H,)``, learned; -inf for none.
        is_causal: Whether the queries are the last T of S tokens, and see no later one.
        window: How many tokens a causal query looks back on, itself included; all if not given.
        scale: Factor of the scores, not of the sink; ``1 / sqrt(d)`` if not given.
        return_weights: Whether to return the weights ``(B, H, T, S)`` too.

    Returns:
        ``(B, H, T, d)``, and with ``return_weights`` the weights.

    Raises:
        ValueError: If a shape does not fit, or there is a window without ``is_causal``.

    Examples:
        >>> q, v = torch.zeros(1, 1, 1, 2), torch.ones(1, 1, 3, 2)
        >>> sink_attention(q, torch.zeros(1, 1, 3, 2), v, torch.zeros(1))  # three keys and the sink, all alike
        tensor([[[[0.7500, 0.7500]]]])
    """
    expect("q", q, "batch heads queries width")
    B, H, T, d = q.shape
    expect("k", k, "batch heads keys width", batch=B, heads=H, width=d)
    expect("v", v, "batch heads keys value_width", batch=B, heads=H, keys=k.shape[2])
    expect("sink_logits", sink_logits, "heads", heads=H)
    if window is not None and not is_causal:
        raise ValueError(f"window={window} without is_causal=True: it looks back")
    scores = (d**-0.5 if scale is None else scale) * q @ k.transpose(-2, -1)
    if is_causal:
        scores = scores.masked_fill(~causal_mask(T, k.shape[2], window, device=q.device), -torch.inf)
    # A column that is never hidden: a row whose keys all are does not become 0/0.
    column = sink_logits.to(scores.dtype)[:, None, None].expand(B, H, T, 1)
    weights = masked_softmax(torch.cat((scores, column), -1))[..., :-1]
    out = weights @ v
    return (out, weights) if return_weights else out


class StreamingCache:
    """Keys and values of the first tokens and of the latest ones: a stream without end, in memory of fixed size.

    Positions are places *in the cache*, not in the text. So keys have to come in before they are rotated, and are rotated
    with the returned positions at each step; the queries' positions are the last ones.

    Args:
        n_sink: First tokens that are kept for ever.
        window: Latest tokens that are kept besides.

    Attributes:
        length: Tokens seen so far.

    Examples:
        >>> cache = StreamingCache(n_sink=1, window=2)
        >>> for token in range(5):
        ...     keys, values, positions = cache.append(*torch.full((2, 1, 1, 1, 1), float(token)))
        >>> keys.flatten(), positions
        (tensor([0., 3., 4.]), tensor([0, 1, 2]))
    """

    def __init__(self, n_sink: int = 4, *, window: int) -> None:
        if n_sink < 0:
            raise ValueError(f"n_sink={n_sink} is negative")
        if window < 1:
            raise ValueError(f"window={window} is not positive")
        self.n_sink, self.window = n_sink, window
        self.length = 0
        self.kept: Tensor | None = None  # (2, B, H, S, d): keys, values

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Adds new tokens and forgets those that are neither first nor latest.

        Args:
            k: Keys ``(B, H, t, d)``, not rotated; at most ``window`` new tokens.
            v: Values of the same shape.

        Returns:
            Keys and values ``(B, H, S, d)`` that are left, the new ones last, and their positions ``(S,)``.

        Raises:
            ValueError: If a shape does not fit, or there are more new tokens than ``window``.
        """
        expect("k", k, "batch heads time width")
        B, H, t, d = k.shape
        expect("v", v, "batch heads time width", batch=B, heads=H, time=t, width=d)
        if t > self.window:
            raise ValueError(f"{t} new tokens at once are more than window={self.window}: give them in pieces")
        new = torch.stack((k, v))
        both = new if self.kept is None else torch.cat((self.kept, new), 3)
        if both.shape[3] > self.n_sink + self.window:
            both = torch.cat((both[:, :, :, : self.n_sink], both[:, :, :, -self.window :]), 3)
        self.kept, self.length = both, self.length + t
        return both[0], both[1], torch.arange(both.shape[3], device=k.device)
