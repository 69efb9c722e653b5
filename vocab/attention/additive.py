"""Additive attention: a small network compares a query with each key.

Source: Bahdanau et al. 2015, arXiv:1409.0473, section 3.1 and appendix A.1.2; its rivals: Luong et al. 2015, arXiv:1508.04025,
section 3.1.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vocab.attention.scaled_dot_product import masked_softmax
from vocab.check import expect

__all__ = ["AdditiveAttention", "LuongAttention"]

# B batch, S keys, q width of the query, k width of a key, a hidden units, e width of a value


class AdditiveAttention(nn.Module):
    """Scores ``v . tanh(W query + U key)``, a network with one hidden layer, and the mean of values with their softmax.

    Args:
        d_query: Width of the query, the state of a decoder.
        d_key: Width of the keys, the states of an encoder.
        d_attn: Hidden units.

    Examples:
        >>> attention = AdditiveAttention(d_query=3, d_key=4, d_attn=5)
        >>> context, weights = attention(torch.randn(2, 3), torch.randn(2, 7, 4))
        >>> context.shape, weights.sum(1).detach().round(decimals=4)
        (torch.Size([2, 4]), tensor([1., 1.]))
    """

    def __init__(self, d_query: int, d_key: int, d_attn: int) -> None:
        super().__init__()
        if d_attn < 1:
            raise ValueError(f"d_attn={d_attn} is not positive")
        self.d_query, self.d_key = d_query, d_key
        self.query_proj = nn.Linear(d_query, d_attn)
        self.key_proj = nn.Linear(d_key, d_attn, bias=False)  # the one above serves both
        self.score = nn.Linear(d_attn, 1, bias=False)  # a bias would cancel in the softmax

    def forward(
        self,
        query: Tensor,
        keys: Tensor,
        values: Tensor | None = None,
        mask: Tensor | None = None,
        *,
        projected_keys: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Compares, and takes the mean.

        Args:
            query: ``(B, d_query)``.
            keys: ``(B, S, d_key)``.
            values: ``(B, S, e)``; the keys if not given.
            mask: Booleans ``(B, S)``, true where there is a key and false where there is padding.
            projected_keys: ``key_proj(keys)``, computed once for all steps of a sentence.

        Returns:
            The context ``(B, e)`` and the weights ``(B, S)``.

        Raises:
            ValueError: If a shape does not fit.
        """
        _check(query, keys, self.d_query, self.d_key)
        projected = self.key_proj(keys) if projected_keys is None else projected_keys
        expect("projected_keys", projected, "batch keys d_attn", batch=len(keys), keys=keys.shape[1], d_attn=self.score.in_features)
        hidden_BSa = torch.tanh(self.query_proj(query)[:, None] + projected)
        return _mean(self.score(hidden_BSa).squeeze(-1), keys, values, mask)


class LuongAttention(nn.Module):
    """The three scores that were compared next: ``"dot"`` q . k, ``"general"`` q . W k, ``"concat"`` v . tanh(W [q; k]).

    Args:
        d_query: Width of the query.
        d_key: Width of the keys; for ``"dot"`` that of the query.
        method: Which score.

    Examples:
        >>> attention = LuongAttention(2, 2, "dot")
        >>> attention(torch.tensor([[200.0, 0.0]]), torch.eye(2)[None])[1]  # unscaled, so it saturates easily
        tensor([[1., 0.]])
    """

    def __init__(self, d_query: int, d_key: int, method: str = "general") -> None:
        super().__init__()
        if method not in ("dot", "general", "concat"):
            raise ValueError(f"method={method!r} is not 'dot', 'general' or 'concat'")
        if method == "dot" and d_query != d_key:
            raise ValueError(f"method='dot' needs equal widths, not d_query={d_query} and d_key={d_key}")
        self.d_query, self.d_key, self.method = d_query, d_key, method
        if method == "general":
            self.key_proj = nn.Linear(d_key, d_query, bias=False)
        elif method == "concat":  # a matrix on [q; k] is a matrix on q and one on k
            self.additive = AdditiveAttention(d_query, d_key, d_query)

    def forward(
        self, query: Tensor, keys: Tensor, values: Tensor | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Compares, and takes the mean.

        Args:
            query: ``(B, d_query)``.
            keys: ``(B, S, d_key)``.
            values: ``(B, S, e)``; the keys if not given.
            mask: Booleans ``(B, S)``, true where there is a key and false where there is padding.

        Returns:
            The context ``(B, e)`` and the weights ``(B, S)``.
        """
        if self.method == "concat":
            return self.additive(query, keys, values, mask)
        _check(query, keys, self.d_query, self.d_key)
        compared = self.key_proj(keys) if self.method == "general" else keys
        return _mean((compared @ query.unsqueeze(-1)).squeeze(-1), keys, values, mask)


def _check(query: Tensor, keys: Tensor, d_query: int, d_key: int) -> None:
    expect("query", query, "batch d_query", d_query=d_query)
    expect("keys", keys, "batch keys d_key", batch=len(query), d_key=d_key)


def _mean(scores: Tensor, keys: Tensor, values: Tensor | None, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    values = keys if values is None else values
    expect("values", values, "batch keys d_value", batch=len(keys), keys=keys.shape[1])
    if mask is not None:
        expect("mask", mask, "batch keys", dtype="bool", batch=len(keys), keys=keys.shape[1])
    weights = masked_softmax(scores, mask)
    return (weights.unsqueeze(1) @ values).squeeze(1), weights
