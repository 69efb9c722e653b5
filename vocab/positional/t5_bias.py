"""T5's relative position bias: a trained number per head and range of distances, added to the scores.

Source: Raffel et al. 2020, arXiv:1910.10683, section 2.1 (the idea); the buckets are those of the authors' code.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from vocab.check import expect

__all__ = ["T5RelativeBias", "relative_position_bucket"]

# T queries, S keys, H heads


class T5RelativeBias(nn.Module):
    """Makes the bias of all heads, to be given to attention as ``attn_mask``.

    In T5 all layers share the first one's, and scores are not divided by the root of the head's width (``scale=1``).

    Args:
        n_heads: Heads H.
        num_buckets: Ranges of distances, for both directions together.
        max_distance: From here on all distances share the last bucket.
        bidirectional: Whether later keys have buckets of their own (encoder) or all share bucket 0, to be masked (decoder).

    Shapes:
        -> ``(1, H, T, S)``.

    Raises:
        ValueError: If there are too few buckets, or more queries than keys in a decoder.

    Examples:
        >>> bias = T5RelativeBias(n_heads=8)
        >>> bias(10, 10).shape, bias.weight.numel()
        (torch.Size([1, 8, 10, 10]), 256)
    """

    def __init__(self, n_heads: int, num_buckets: int = 32, max_distance: int = 128, *, bidirectional: bool = True) -> None:
        super().__init__()
        if n_heads < 1:
            raise ValueError(f"n_heads={n_heads} is below 1")
        relative_position_bucket(torch.zeros(1, dtype=torch.long), bidirectional, num_buckets, max_distance)
        self.n_heads, self.bidirectional = n_heads, bidirectional
        self.num_buckets, self.max_distance = num_buckets, max_distance
        self.weight = nn.Parameter(torch.zeros(num_buckets, n_heads))

    def forward(self, n_queries: int, n_keys: int | None = None) -> Tensor:
        """The bias of the last ``n_queries`` of ``n_keys`` tokens.

        Args:
            n_queries: Queries T.
            n_keys: Keys S; as many as queries if not given. With a cache, one query and all keys so far.
        """
        n_keys = n_queries if n_keys is None else n_keys
        if not 0 < n_queries <= n_keys:
            raise ValueError(f"n_queries={n_queries} is not from 1 to n_keys={n_keys}")
        device = self.weight.device
        query = torch.arange(n_keys - n_queries, n_keys, device=device)
        relative_TS = torch.arange(n_keys, device=device) - query[:, None]
        bucket_TS = relative_position_bucket(relative_TS, self.bidirectional, self.num_buckets, self.max_distance)
        return self.weight[bucket_TS].permute(2, 0, 1)[None]


def relative_position_bucket(
    relative_position: Tensor, bidirectional: bool = True, num_buckets: int = 32, max_distance: int = 128
) -> Tensor:
    """Maps a distance to its bucket: near ones have their own, far ones share, in steps that grow geometrically.

    Args:
        relative_position: Key's position minus query's; integers of any shape.
        bidirectional: Whether half of the buckets are for later keys; if not, all of those get bucket 0.
        num_buckets: How many there are.
        max_distance: From here on all distances share the last bucket of their direction.

    Returns:
        Bucket numbers from 0 to ``num_buckets - 1``, the shape of the input.

    Raises:
        ValueError: If there are too few buckets, an odd number for two directions, or ``max_distance`` is within the exact ones.

    Examples:
        >>> relative_position_bucket(torch.tensor([-200, -8, -1, 0, 1, 8, 200]))
        tensor([15,  8,  1,  0, 17, 24, 31])
    """
    expect("relative_position", relative_position, "...", dtype="int")
    if bidirectional and num_buckets % 2:
        raise ValueError(f"num_buckets={num_buckets} is odd; two directions share them")
    per_direction = num_buckets // 2 if bidirectional else num_buckets
    exact = per_direction // 2
    if exact < 1:
        raise ValueError(f"num_buckets={num_buckets} leaves {per_direction} a direction; 2 or more are needed")
    if max_distance <= exact:
        raise ValueError(f"max_distance={max_distance} is not above {exact}, up to which every distance has its own bucket")
    distance = relative_position.abs() if bidirectional else (-relative_position).clamp(min=0)
    # Equal ratios of distance are equal steps. Clamping keeps log(0) away where `where` discards it anyway.
    ratio = torch.log(distance.clamp(min=1).double() / exact) / math.log(max_distance / exact)
    far = exact + (ratio * (per_direction - exact)).long()
    bucket = torch.where(distance < exact, distance, far.clamp(max=per_direction - 1))
    return bucket + per_direction * (relative_position > 0) if bidirectional else bucket
