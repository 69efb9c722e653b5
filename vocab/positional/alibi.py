"""ALiBi: every score is lowered in proportion to the distance, in each head at another rate.

Source: Press, Smith and Lewis 2022, arXiv:2108.12409, section 3; slopes for other than powers of two as in the authors' code.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vocab.attention.masks import both, causal_mask
from vocab.attention.multi_head import MultiHeadAttention, merge_heads, split_heads
from vocab.check import expect
from vocab.kernels.attention import applies, fused

__all__ = ["ALiBiAttention", "alibi_bias", "alibi_slopes"]

# B batch, T queries, S keys, D model width, H heads


def alibi_slopes(n_heads: int) -> Tensor:
    """Lists how fast each head's scores fall with the distance: ``2 ** (-8 h / H)`` for h = 1 ... H.

    That holds for powers of two. For other H the list of the next smaller power n comes first, and then every second slope
    of the list for 2 n, from its first on.

    Args:
        n_heads: Heads H.

    Returns:
        ``(H,)`` in float32, all positive.

    Raises:
        ValueError: If ``n_heads`` is below 1.

    Examples:
        >>> alibi_slopes(4)
        tensor([0.2500, 0.0625, 0.0156, 0.0039])
    """
    if n_heads < 1:
        raise ValueError(f"n_heads={n_heads} is below 1")
    n = 2 ** math.floor(math.log2(n_heads))
    own = [2 ** (-8 * h / n) for h in range(1, n + 1)]
    between = [2 ** (-8 * h / (2 * n)) for h in range(1, 2 * n, 2)]
    return torch.tensor((own + between)[:n_heads])


def alibi_bias(n_heads: int, n_queries: int, n_keys: int | None = None, *, causal: bool = True) -> Tensor:
    """Computes what is added to the scores: minus the slope times the distance of query and key.

    The queries are the last of the keys, so that a cache works.

    Args:
        n_heads: Heads H.
        n_queries: Queries T.
        n_keys: Keys S; as many as queries if not given.
        causal: Whether later keys get -inf; if not, they are as far as earlier ones, a form that is not in the paper.

    Returns:
        ``(H, T, S)`` in float32. In bfloat16 distances beyond 256 would fall together.

    Raises:
        ValueError: If there are more queries than keys.

    Examples:
        >>> alibi_bias(1, 2, 4) * 256  # the single slope is 1/256
        tensor([[[-2., -1., -0., -inf],
                 [-3., -2., -1., -0.]]])
    """
    n_keys = n_queries if n_keys is None else n_keys
    seen_TS = causal_mask(n_queries, n_keys)  # also says why more queries than keys cannot be
    query = torch.arange(n_keys - n_queries, n_keys)
    distance_TS = (query[:, None] - torch.arange(n_keys)).abs()
    bias_HTS = -alibi_slopes(n_heads)[:, None, None] * distance_TS
    return bias_HTS.masked_fill(~seen_TS, -torch.inf) if causal else bias_HTS


class ALiBiAttention(MultiHeadAttention):
    """Multi-head attention whose only knowledge of order is the bias.

    Args:
        d_model: Width D of the input and output.
        n_heads: Heads H.
        causal: Whether a token sees itself and earlier tokens only.
        bias: Whether the projections have a bias.
        dropout: Share of attention weights set to zero in training.
        backend: ``"auto"``, ``"torch"`` or ``"triton"``. The kernel has no dropout.

    Shapes:
        x ``(B, T, D)`` -> ``(B, T, D)``.

    Raises:
        ValueError: If a shape does not fit.
        RuntimeError: If ``backend="triton"`` cannot run here; the message says why.

    Examples:
        >>> attention = ALiBiAttention(64, 8)
        >>> attention(torch.randn(1, 500, 64)).shape  # no length is the last one
        torch.Size([1, 500, 64])
    """

    def __init__(
        self, d_model: int, n_heads: int, *, causal: bool = True, bias: bool = False, dropout: float = 0.0, backend: str = "auto"
    ) -> None:
        super().__init__(d_model, n_heads, bias=bias, dropout=dropout)
        self.causal, self.backend = causal, backend

    def forward(self, x: Tensor, key_padding_mask: Tensor | None = None) -> Tensor:
        """Attends within ``x``.

        Args:
            x: Tokens. Padding may stand on either side: distances between real tokens do not change.
            key_padding_mask: Booleans ``(B, T)``, true where a token may be seen.
        """
        expect("x", x, "batch time d_model", d_model=self.d_model)
        if key_padding_mask is not None:
            expect("key_padding_mask", key_padding_mask, "batch time", dtype="bool", batch=x.shape[0], time=x.shape[1])
        q_BHTd, (k_BHTd, v_BHTd) = split_heads(self.q_proj(x), self.head_dim), self.keys_and_values(x)
        dropout_p = self.dropout if self.training else 0.0
        if applies(q_BHTd, k_BHTd, v_BHTd, self.backend, limit="it has no dropout" if dropout_p else None):
            slopes, padding = alibi_slopes(self.n_heads).to(x.device), None
            if key_padding_mask is not None:
                padding = torch.zeros_like(key_padding_mask, dtype=x.dtype).masked_fill(~key_padding_mask, -torch.inf)[:, None, None]
            out_BHTd, _ = fused(q_BHTd, k_BHTd, v_BHTd, slopes=slopes, bias=padding, after=0 if self.causal else None)
            return self.o_proj(merge_heads(out_BHTd))
        bias_HTT = alibi_bias(self.n_heads, x.shape[1], causal=self.causal).to(x.device, torch.promote_types(x.dtype, torch.float32))
        if key_padding_mask is not None:
            bias_HTT = both(bias_HTT.expand(x.shape[0], -1, -1, -1), key_padding_mask[:, None, None])
        return self.attend(q_BHTd, k_BHTd, v_BHTd, attn_mask=bias_HTT)
