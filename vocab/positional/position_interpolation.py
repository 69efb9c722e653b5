"""Position interpolation: a rotary model reads longer texts as if its positions were denser.

Source: Chen et al. 2023, arXiv:2306.15595, equation 4 and theorem 2.1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vocab.check import expect

__all__ = ["LinearScaling", "interpolate_positions"]


def interpolate_positions(position_ids: Tensor, trained_len: int, target_len: int) -> Tensor:
    """Squeezes positions 0 ... target_len - 1 into the range of those that were trained.

    Args:
        position_ids: Integers of any shape.
        trained_len: Tokens of the longest text in training.
        target_len: Tokens of the longest text from now on.

    Returns:
        ``position_ids * trained_len / target_len`` in float32; unchanged where the target is not longer.

    Raises:
        ValueError: If a length is below 1.

    Examples:
        >>> interpolate_positions(torch.arange(5), trained_len=2048, target_len=8192)
        tensor([0.0000, 0.2500, 0.5000, 0.7500, 1.0000])
    """
    expect("position_ids", position_ids, "...", dtype="int")
    for name, length in (("trained_len", trained_len), ("target_len", target_len)):
        if length < 1:
            raise ValueError(f"{name}={length} is below 1")
    return position_ids.to(torch.float32) / max(1.0, target_len / trained_len)


class LinearScaling:
    """Divides all rates by ``factor``, for ``RotaryEmbedding(..., scaling=LinearScaling(4.0))``.

    A rate times a divided position is a divided rate times the position, so this is position interpolation too.

    Args:
        factor: How many times longer texts become; 1 or more.

    Raises:
        ValueError: If ``factor`` is below 1.

    Examples:
        >>> from vocab.positional.rope import RotaryEmbedding
        >>> plain, denser = RotaryEmbedding(4), RotaryEmbedding(4, scaling=LinearScaling(2.0))
        >>> q = torch.ones(1, 1, 1, 4)
        >>> torch.equal(plain.rotate(q, torch.tensor([3])), denser.rotate(q, torch.tensor([6])))
        True
    """

    def __init__(self, factor: float) -> None:
        if not factor >= 1:
            raise ValueError(f"factor={factor} is below 1: it would spread positions beyond those trained")
        self.factor = factor

    def __call__(self, rate: Tensor) -> Tensor:
        return rate / self.factor
