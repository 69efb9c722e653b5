"""Rescaling rotary rates pair by pair: NTK-aware scaling, YaRN, and the rule of Llama 3.1.

Source: Peng et al. 2023, arXiv:2309.00071, definitions 1 to 3 and equations 17 to 22; Llama 3.1: its published code.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["llama3_frequencies", "ntk_base", "rotary_frequencies", "yarn_frequencies"]

# d head width, d/2 pairs of coordinates, s factor


def rotary_frequencies(head_dim: int, base: float = 10000.0) -> Tensor:
    """Computes the rates of a plain rotary embedding, ``base ** (-2 i / d)``.

    Args:
        head_dim: Width d of one head.
        base: Of the rotary embedding.

    Returns:
        ``(d / 2,)`` in float64, radians per token, the fastest first.

    Raises:
        ValueError: If ``head_dim`` is odd or ``base`` not above 1.

    Examples:
        >>> rotary_frequencies(4)
        tensor([1.0000, 0.0100], dtype=torch.float64)
    """
    if head_dim < 4 or head_dim % 2:
        raise ValueError(f"head_dim={head_dim} is not an even number from 4 on")
    if not base > 1:
        raise ValueError(f"base={base} is not above 1")
    return base ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)


def ntk_base(base: float, factor: float, head_dim: int) -> float:
    """Finds the base at which the slowest pair is ``factor`` times slower and the fastest unchanged.

    Args:
        base: Of the trained model.
        factor: How many times longer texts become.
        head_dim: Width d of one head.

    Returns:
        ``base * factor ** (d / (d - 2))``.

    Raises:
        ValueError: If ``factor`` is below 1, or ``head_dim`` or ``base`` cannot be.

    Examples:
        >>> round(ntk_base(10000.0, 4.0, 128))
        40890
    """
    rotary_frequencies(head_dim, base)
    _check_factor(factor)
    return base * factor ** (head_dim / (head_dim - 2))


def yarn_frequencies(
    head_dim: int,
    base: float,
    factor: float,
    original_max_len: int,
    beta_fast: float = 32.0,
    beta_slow: float = 1.0,
) -> tuple[Tensor, float]:
    """Keeps the rates of pairs that turn often within the trained length, divides those that hardly turn, ramps between.

    Args:
        head_dim: Width d of one head.
        base: Of the trained model.
        factor: How many times longer texts become, s.
        original_max_len: Tokens of the longest text in training.
        beta_fast: Turns within that length from which on a pair stays as it is.
        beta_slow: Turns up to which a pair's rate is divided by ``factor``.

    Returns:
        Rates ``(d / 2,)`` in float64, and the factor ``0.1 ln s + 1`` by which cosines and sines are multiplied, so that
        scores grow by its square.

    Raises:
        ValueError: If ``factor`` is below 1, ``original_max_len`` below 1, or not ``beta_fast > beta_slow > 0``.

    Examples:
        >>> rates, attention = yarn_frequencies(128, 10000.0, factor=16.0, original_max_len=4096)
        >>> plain = rotary_frequencies(128)
        >>> (plain / rates)[[0, 30, 63]], round(attention, 3)
        (tensor([ 1.0000,  1.5639, 16.0000], dtype=torch.float64), 1.277)
    """
    rate = rotary_frequencies(head_dim, base)
    _check_factor(factor)
    _check_length(original_max_len)
    if not beta_fast > beta_slow > 0:
        raise ValueError(f"beta_fast={beta_fast} and beta_slow={beta_slow}: expected beta_fast > beta_slow > 0")

    def pair_that_turns(times: float) -> float:  # within the trained length; pairs turn less and less often
        return head_dim * math.log(original_max_len / (times * 2 * math.pi)) / (2 * math.log(base))

    # Whole pairs, as in the authors' code; the paper's ramp runs over the number of turns.
    first = max(math.floor(pair_that_turns(beta_fast)), 0)
    last = min(math.ceil(pair_that_turns(beta_slow)), head_dim - 1)
    pair = torch.arange(head_dim // 2, dtype=torch.float64)
    divided = ((pair - first) / max(last - first, 1e-3)).clamp(0, 1)
    return rate * (1 - divided) + rate / factor * divided, 0.1 * math.log(factor) + 1


def llama3_frequencies(
    head_dim: int,
    base: float = 500000.0,
    factor: float = 8.0,
    original_max_len: int = 8192,
    low_freq_factor: float = 1.0,
    high_freq_factor: float = 4.0,
) -> Tensor:
    """The same idea with a ramp over turns and no factor on the scores, as in Llama 3.1.

    Args:
        head_dim: Width d of one head.
        base: Of the trained model.
        factor: By which the rates of slow pairs are divided.
        original_max_len: Tokens of the longest text in training.
        low_freq_factor: Turns within that length below which a pair is slow.
        high_freq_factor: Turns above which a pair stays as it is.

    Returns:
        Rates ``(d / 2,)`` in float64.

    Raises:
        ValueError: If ``factor`` is below 1, ``original_max_len`` below 1, or the two turns are not in order.

    Examples:
        >>> (rotary_frequencies(128, 500000.0) / llama3_frequencies(128))[[0, 32, 63]]
        tensor([1.0000, 2.6945, 8.0000], dtype=torch.float64)
    """
    rate = rotary_frequencies(head_dim, base)
    _check_factor(factor)
    _check_length(original_max_len)
    if not high_freq_factor > low_freq_factor > 0:
        raise ValueError(
            f"high_freq_factor={high_freq_factor} and low_freq_factor={low_freq_factor}: expected high > low > 0"
        )
    turns = original_max_len * rate / (2 * math.pi)
    kept = ((turns - low_freq_factor) / (high_freq_factor - low_freq_factor)).clamp(0, 1)
    return rate * kept + rate / factor * (1 - kept)


def _check_factor(factor: float) -> None:
    if not factor >= 1:
        raise ValueError(f"factor={factor} is below 1")


def _check_length(original_max_len: int) -> None:
    if original_max_len < 1:
        raise ValueError(f"original_max_len={original_max_len} is below 1")
