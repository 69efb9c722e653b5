"""Positional encoding: why order must be given to attention, and how to see whether a model has it.

Source: Vaswani et al. 2017, arXiv:1706.03762, section 3.5; order from a causal mask alone: Haviv et al. 2022, arXiv:2203.16634.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from vocab.check import expect

__all__ = ["add_positions", "permutation_gap", "position_probe"]

# B batch, N sequences, T tokens, D width


def add_positions(x: Tensor, pe: Tensor) -> Tensor:
    """Adds a vector for each position to the tokens, the same for every sequence of the batch.

    Args:
        x: ``(B, T, D)``.
        pe: ``(N, D)``, one row per position; N is T or more.

    Returns:
        ``(B, T, D)``.

    Raises:
        ValueError: If the width differs or there are fewer rows than tokens.

    Examples:
        >>> add_positions(torch.zeros(1, 2, 3), torch.eye(3))
        tensor([[[1., 0., 0.],
                 [0., 1., 0.]]])
    """
    expect("x", x, "batch time d_model")
    expect("pe", pe, "positions d_model", d_model=x.shape[-1])
    if len(pe) < x.shape[1]:
        raise ValueError(f"x has {x.shape[1]} tokens, pe only {len(pe)} positions")
    return x + pe[: x.shape[1]]


def permutation_gap(model: Callable[[Tensor], Tensor], x: Tensor, perm: Tensor) -> float:
    """Measures how much order matters to a model: reordered input against reordered output.

    Args:
        model: Maps ``(B, T, D)`` to ``(B, T, E)``.
        x: Tokens ``(B, T, D)``.
        perm: ``(T,)``, a permutation of the tokens.

    Returns:
        The largest difference of ``model(x[perm])`` and ``model(x)[perm]``, relative to the largest output: about 1e-7 in float32
        for a model that sees a set, clearly more for one that knows order.

    Raises:
        ValueError: If ``perm`` is no permutation of the tokens.

    Examples:
        >>> x, perm = torch.randn(1, 3, 2), torch.tensor([2, 0, 1])
        >>> permutation_gap(torch.tanh, x, perm), permutation_gap(lambda x: x.cumsum(1), x, perm) > 0
        (0.0, True)
    """
    expect("x", x, "batch time d_model")
    expect("perm", perm, "time", dtype="int", time=x.shape[1])
    if perm.sort().values.tolist() != list(range(len(perm))):
        raise ValueError(f"perm={perm.tolist()} is not a permutation of 0 to {len(perm) - 1}")
    with torch.no_grad():
        plain, reordered = model(x), model(x[:, perm])
    return ((reordered - plain[:, perm]).abs().max() / plain.abs().max()).item()


def position_probe(hidden: Tensor) -> float:
    """Measures how well positions can be read off hidden states by a linear map.

    It is fitted to one half of the sequences and tested on the other.

    Args:
        hidden: ``(N, T, D)``, states of N sequences; 2 or more.

    Returns:
        R², the share of the variance of the position that is explained: 1 for all of it; 0, or a little less, for nothing.

    Raises:
        ValueError: If there are fewer than two sequences or two positions.

    Examples:
        >>> place = torch.arange(5.0)[:, None]
        >>> round(position_probe(place.expand(4, -1, -1)), 3)
        1.0
    """
    expect("hidden", hidden, "sequences time d_model")
    n, time, _ = hidden.shape
    if n < 2 or time < 2:
        raise ValueError(f"hidden has {n} sequences of {time} tokens; two or more of each are needed")
    place = torch.arange(time, dtype=torch.float64, device=hidden.device).expand(n, -1)
    inputs = torch.cat((hidden.double(), torch.ones_like(hidden[..., :1], dtype=torch.float64)), -1)
    half = n // 2
    weights = torch.linalg.lstsq(inputs[:half].flatten(0, 1), place[:half].reshape(-1, 1), driver="gelsd").solution
    wrong = (inputs[half:] @ weights)[..., 0] - place[half:]
    return 1 - (wrong.square().mean() / place[0].var(correction=0)).item()
