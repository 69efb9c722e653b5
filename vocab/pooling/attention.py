"""Attention pooling: a weighted mean of a set whose weights are computed from its elements.

Source: Ilse, Tomczak and Welling 2018, arXiv:1802.04712, equations 7 to 9; with learned queries: Lee et al. 2019, arXiv:1810.00825, section 3.2.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vocab.attention.multi_head import MultiHeadAttention
from vocab.attention.scaled_dot_product import masked_softmax
from vocab.check import expect

__all__ = ["AttentionPool", "QueryPool"]

# B batch, T elements, D width, Q queries, H heads


class AttentionPool(nn.Module):
    """Scores every element by a small network, and takes the mean with the softmax of the scores as weights.

    Args:
        d_model: Width D of an element.
        d_hidden: Width of the hidden layer of the scorer.
        gated: Whether the hidden layer, a tanh, is multiplied by a sigmoid of another projection.
        n_queries: Scorers Q, each with weights and a mean of its own on the same hidden layer.

    Shapes:
        x ``(B, T, D)``, mask ``(B, T)``, true where an element counts -> means ``(B, Q, D)`` and weights ``(B, Q, T)``. A set of which
        nothing counts gives zeros.

    Raises:
        TypeError: If ``x`` is no floating-point or ``mask`` no boolean tensor.
        ValueError: If a size is below 1 or a shape does not fit.

    Examples:
        >>> pool, x = AttentionPool(4), torch.randn(1, 6, 4)
        >>> means, weights = pool(x, torch.tensor([[True, True, True, True, False, False]]))
        >>> round(weights.sum().item(), 4), weights[0, 0, 4:].tolist()
        (1.0, [0.0, 0.0])
    """

    def __init__(self, d_model: int, *, d_hidden: int = 128, gated: bool = False, n_queries: int = 1) -> None:
        super().__init__()
        for name, size in (("d_model", d_model), ("d_hidden", d_hidden), ("n_queries", n_queries)):
            if size < 1:
                raise ValueError(f"{name}={size} is below 1")
        self.d_model = d_model
        self.hidden = nn.Linear(d_model, d_hidden)
        self.gate = nn.Linear(d_model, d_hidden) if gated else None
        self.score = nn.Linear(d_hidden, n_queries, bias=False)  # a constant added to all scores does nothing

    def forward(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        _check(x, mask, self.d_model)
        hidden = self.hidden(x).tanh()
        if self.gate is not None:
            hidden = hidden * self.gate(x).sigmoid()
        weights_BQT = masked_softmax(self.score(hidden).mT, None if mask is None else mask[:, None])
        return weights_BQT @ x, weights_BQT


class QueryPool(nn.Module):
    """Pooling by multi-head attention: learned queries read the set, each a mean of what the heads found.

    Args:
        d_model: Width D of an element and of the result.
        n_heads: Heads H; divides ``d_model``.
        n_queries: Queries Q, and vectors in the result.

    Shapes:
        x ``(B, T, D)``, mask ``(B, T)``, true where an element counts -> ``(B, Q, D)`` and the weights, averaged over heads, ``(B, Q, T)``.

    Raises:
        TypeError: If ``x`` is no floating-point or ``mask`` no boolean tensor.
        ValueError: If a size does not fit.

    Examples:
        >>> pool, x = QueryPool(8, n_heads=2, n_queries=3), torch.randn(1, 6, 8)
        >>> result, weights = pool(x)
        >>> torch.allclose(pool(x.flip(1))[0], result, atol=1e-6)
        True
    """

    def __init__(self, d_model: int, n_heads: int = 1, n_queries: int = 1) -> None:
        super().__init__()
        if n_queries < 1:
            raise ValueError(f"n_queries={n_queries} is below 1")
        self.d_model = d_model
        self.queries = nn.Parameter(torch.randn(n_queries, d_model) * d_model**-0.5)
        self.attention = MultiHeadAttention(d_model, n_heads)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        _check(x, mask, self.d_model)
        queries = self.queries.expand(x.shape[0], -1, -1)
        mask = None if mask is None else mask[:, None, None]
        result, weights_BHQT = self.attention(queries, x, attn_mask=mask, return_weights=True)
        return result, weights_BHQT.mean(1)


def _check(x: Tensor, mask: Tensor | None, d_model: int) -> None:
    expect("x", x, "batch elements d_model", d_model=d_model)
    if mask is not None:
        expect("mask", mask, "batch elements", dtype="bool", batch=x.shape[0], elements=x.shape[1])
