"""Sliding-window attention: each token reads its neighbours only.

Source: Beltagy et al. 2020, arXiv:2004.05150, section 3.1 (symmetric); Jiang et al. 2023, arXiv:2310.06825, section 2 (causal,
with a rolling cache).
"""

from __future__ import annotations

import torch
from torch import Tensor

from vocab.attention.masks import causal_mask
from vocab.attention.multi_head import MultiHeadAttention, merge_heads, split_heads
from vocab.attention.sparse import KeyLists, gathered_attention
from vocab.check import expect
from vocab.inference.kv_cache import KVCache
from vocab.kernels.attention import applies, fused

__all__ = ["SlidingWindowAttention", "band_lists", "band_mask"]

# B batch, T tokens, D model width, H heads, d head width, w window


class SlidingWindowAttention(MultiHeadAttention):
    """Multi-head self-attention within a window: T w scores instead of T², and a cache of w tokens.

    Args:
        d_model: Width D of the tokens.
        n_heads: Heads H.
        window: If causal, how many tokens are read, the own one included. If not, the total width as in Longformer:
            ``window // 2`` tokens on each side, and the own one.
        causal: Whether only earlier tokens and the own one are read.
        bias: Whether the projections have a bias.
        dropout: Share of attention weights set to zero in training.
        backend: ``"auto"``, ``"torch"`` or ``"triton"``. The kernel takes neither a cache nor dropout.

    Raises:
        RuntimeError: If ``backend="triton"`` cannot run here; the message says why.

    Examples:
        >>> attention, x = SlidingWindowAttention(8, 2, window=3), torch.randn(1, 6, 8)
        >>> cache = KVCache(1, 1, 2, 4, max_len=3, policy="rolling")  # never more than three tokens
        >>> steps = [attention(x[:, t : t + 1], cache) for t in range(6)]
        >>> torch.allclose(torch.cat(steps, 1), attention(x), atol=1e-6)
        True
    """

    def __init__(
        self, d_model: int, n_heads: int, window: int, *, causal: bool = True, bias: bool = True, dropout: float = 0.0,
        backend: str = "auto",
    ) -> None:
        super().__init__(d_model, n_heads, bias=bias, dropout=dropout)
        _check(window)
        self.window, self.causal, self.backend = window, causal, backend

    def forward(self, x: Tensor, cache: KVCache | None = None, *, layer: int = 0) -> Tensor:
        """Mixes each token with its neighbours.

        Args:
            x: ``(B, T, D)``; with a cache, the new tokens only.
            cache: Where earlier keys and values are, and where those of ``x`` are added; a rolling one of ``window`` tokens
                is enough.
            layer: Which layer of the cache is this module's.

        Returns:
            ``(B, T, D)``.

        Raises:
            ValueError: If the shape does not fit, or there is a cache and the window is not causal, or wider than a rolling cache.
        """
        expect("x", x, "batch time d_model", d_model=self.d_model)
        q_BHTd, (k_BHTd, v_BHTd) = split_heads(self.q_proj(x), self.head_dim), self.keys_and_values(x)
        dropout_p = self.dropout if self.training else 0.0
        limit = "it has no cache" if cache is not None else "it has no dropout" if dropout_p else None
        if applies(q_BHTd, k_BHTd, v_BHTd, self.backend, limit=limit):
            before, after = _reach(self.window, self.causal)
            out_BHTd, _ = fused(q_BHTd, k_BHTd, v_BHTd, before=before, after=after)
            return self.o_proj(merge_heads(out_BHTd))
        if cache is not None:
            if cache.window is not None and cache.window < self.window:
                raise ValueError(f"the cache keeps {cache.window} tokens, fewer than window={self.window}")
            settings = dict(is_causal=self.causal, window=self.window, cache=cache, layer=layer)
            return self.attend(q_BHTd, k_BHTd, v_BHTd, **settings)
        lists = band_lists(x.shape[1], self.window, self.causal, device=x.device)
        out_BHTd = gathered_attention(q_BHTd, k_BHTd, v_BHTd, lists, dropout_p=dropout_p)
        return self.o_proj(merge_heads(out_BHTd))


def band_lists(T: int, window: int, causal: bool = True, *, device: torch.device | None = None) -> KeyLists:
    """The band in runs of neighbouring queries: a run as long as the reach reads itself and as much before (and behind).

    So each query is given about twice the keys it may see, whatever the length: the price of computing in blocks.

    Args:
        T: Tokens.
        window: As in ``SlidingWindowAttention``.
        causal: As in ``SlidingWindowAttention``.
        device: Where to make them.

    Returns:
        Lists of ``2 window - 1`` keys, or of three times ``window // 2`` if not causal.
    """
    _check(window)
    before, behind = _reach(window, causal)
    run = min(max(before, 1), T)
    first = torch.arange(-(-T // run), device=device)[:, None] * run
    query = first + torch.arange(run, device=device)
    keys = first + torch.arange(-before, run + behind, device=device)
    back = query[:, :, None] - keys[:, None]
    seen = (back <= before) & (back >= -behind) & ((keys >= 0) & (keys < T))[:, None]
    return KeyLists(keys.clamp(0, T - 1), seen)


def band_mask(T: int, window: int, causal: bool = True) -> Tensor:
    """The band as a whole, ``(T, T)``, true where seen: for pictures and comparisons.

    Args:
        T: Tokens.
        window: As in ``SlidingWindowAttention``.
        causal: As in ``SlidingWindowAttention``.

    Examples:
        >>> band_mask(4, 2, causal=False).int()
        tensor([[1, 1, 0, 0],
                [1, 1, 1, 0],
                [0, 1, 1, 1],
                [0, 0, 1, 1]], dtype=torch.int32)
    """
    _check(window)
    if causal:
        return causal_mask(T, window=window)
    place = torch.arange(T)
    return (place[:, None] - place).abs() <= window // 2


def _reach(window: int, causal: bool) -> tuple[int, int]:
    """How many tokens before a token are seen, and how many behind it."""
    return (window - 1, 0) if causal else (window // 2, window // 2)


def _check(window: int) -> None:
    if window < 1:
        raise ValueError(f"window={window} is not positive")
