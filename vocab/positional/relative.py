"""Relative position representations: a trained vector for each distance is added to the key, and to the value, that a query sees.

Source: Shaw, Uszkoreit and Vaswani 2018, arXiv:1803.02155, equations 3 to 5; skewing: Huang et al. 2018, arXiv:1809.04281,
section 3.4.1.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vocab.attention.multi_head import MultiHeadAttention, merge_heads, split_heads
from vocab.attention.scaled_dot_product import masked_softmax
from vocab.check import expect

__all__ = ["RelativeMultiHeadAttention", "rel_shift"]

# B batch, T time, D model width, H heads, d head width, R = 2 T - 1 distances, from the farthest back to the farthest ahead


class RelativeMultiHeadAttention(MultiHeadAttention):
    """Multi-head attention whose keys and values depend on the distance to the query.

    Args:
        d_model: Width D of the input and output.
        n_heads: Heads H; they share the tables.
        max_distance: Largest distance with a vector of its own, in each direction; farther ones use its.
        value_relations: Whether values depend on the distance too.
        bias: Whether the projections have a bias.
        dropout: Share of attention weights set to zero in training.

    Shapes:
        x ``(B, T, D)`` -> ``(B, T, D)``.

    Raises:
        ValueError: If ``max_distance`` is below 1 or a shape does not fit.

    Examples:
        >>> attention = RelativeMultiHeadAttention(d_model=64, n_heads=8)
        >>> attention.key_table.shape, attention(torch.zeros(1, 50, 64)).shape
        (torch.Size([33, 8]), torch.Size([1, 50, 64]))
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        max_distance: int = 16,
        *,
        value_relations: bool = True,
        bias: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(d_model, n_heads, bias=bias, dropout=dropout)
        if max_distance < 1:
            raise ValueError(f"max_distance={max_distance} is below 1")
        self.max_distance = max_distance
        shape = 2 * max_distance + 1, self.head_dim
        self.key_table = nn.Parameter(0.02 * torch.randn(shape))
        self.value_table = nn.Parameter(0.02 * torch.randn(shape)) if value_relations else None

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attends within ``x``.

        Args:
            x: Tokens.
            mask: Booleans, true where a key may be seen; broadcasts to ``(B, H, T, T)``.
        """
        expect("x", x, "batch time d_model", d_model=self.d_model)
        q_BHTd, (k_BHTd, v_BHTd) = split_heads(self.q_proj(x), self.head_dim), self.keys_and_values(x)
        time = x.shape[1]
        # One product for all 2 T - 1 distances, then a shift: T x T vectors are never made.
        by_distance_BHTR = q_BHTd @ self.vectors(self.key_table, time).T
        scores_BHTT = (q_BHTd @ k_BHTd.transpose(-2, -1) + rel_shift(by_distance_BHTR)) * self.head_dim**-0.5
        weights_BHTT = masked_softmax(scores_BHTT, mask)
        if self.training and self.dropout:
            weights_BHTT = F.dropout(weights_BHTT, self.dropout)
        out_BHTd = weights_BHTT @ v_BHTd
        if self.value_table is not None:
            out_BHTd = out_BHTd + _unshift(weights_BHTT) @ self.vectors(self.value_table, time)
        return self.o_proj(merge_heads(out_BHTd))

    def vectors(self, table: Tensor, time: int) -> Tensor:
        """Looks up the vector of each distance, key's position minus query's.

        Args:
            table: ``(2 max_distance + 1, d)``.
            time: Tokens T.

        Returns:
            ``(2 T - 1, d)``, for the distances ``-(T - 1)`` to ``T - 1``.
        """
        distance = torch.arange(-(time - 1), time, device=table.device)
        return table[distance.clamp(-self.max_distance, self.max_distance) + self.max_distance]


def rel_shift(logits: Tensor) -> Tensor:
    """Turns scores by distance into scores by key: row i of the result is row i of the input from column T - 1 - i on.

    It pads and reads the same memory with rows that are one shorter, so that each row moves by one against the next.

    Args:
        logits: ``(..., T, 2 T - 1)``; column c is for distance ``c - (T - 1)``, key minus query.

    Returns:
        ``(..., T, T)``.

    Raises:
        ValueError: If there are not ``2 T - 1`` columns: with fewer queries than keys the trick does not hold.

    Examples:
        >>> rel_shift(torch.tensor([[-1.0, 0.0, 1.0], [-1.0, 0.0, 1.0]]))
        tensor([[ 0.,  1.],
                [-1.,  0.]])
    """
    expect("logits", logits, "... time distances")
    time, distances = logits.shape[-2:]
    if distances != 2 * time - 1:
        raise ValueError(f"logits has {distances} columns for {time} rows; expected {2 * time - 1}")
    flat = F.pad(logits, (0, 1)).flatten(-2)  # rows of 2 T numbers
    shifted = F.pad(flat, (0, time - 1)).unflatten(-1, (time + 1, distances))  # read as rows of 2 T - 1
    return shifted[..., :time, time - 1 :]


def _unshift(weights: Tensor) -> Tensor:
    """The inverse: weights by key ``(..., T, T)`` to weights by distance ``(..., T, 2 T - 1)``, zero where no key is."""
    time = weights.shape[-1]
    wide = F.pad(weights, (time - 1, 0)).flatten(-2)  # rows of 2 T - 1, the keys at their end
    return F.pad(wide, (0, time)).unflatten(-1, (-1, 2 * time))[..., :time, : 2 * time - 1]
