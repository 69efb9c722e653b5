"""Number tokenization: in which groups the digits of a number reach the model, and what that does to columns and carries.

Source: Singh and Strouse 2024, arXiv:2402.14903, section 2 (left to right and right to left); place values as in Nogueira, Jiang and Lin
2021, arXiv:2102.13019, section 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from vocab.embeddings.pre_tokenizer import PreTokenizer

__all__ = ["Border", "group_digits", "digit_alignment", "place_value_features"]

_RUNS = PreTokenizer("digits", digits=1_000_000)  # whole numbers, and what stands between them


def group_digits(text: str, size: int = 3, direction: str = "left") -> list[str]:
    """Cuts every number in a text into groups of digits; all else stays in one piece.

    Args:
        text: A number, or text with numbers in it.
        size: Most digits in a group.
        direction: ``"left"`` counts from the first digit, so that the last group may be short: what a pattern such as GPT-4's does.
            ``"right"`` counts from the last digit, as people do with commas.

    Returns:
        The pieces; joined they are the text.

    Raises:
        ValueError: If ``size`` is below 1 or ``direction`` is another word.

    Examples:
        >>> group_digits("1234567"), group_digits("1234567", direction="right")
        (['123', '456', '7'], ['1', '234', '567'])
        >>> group_digits("in 2024", size=1)
        ['in ', '2', '0', '2', '4']
    """
    pieces = []
    for run, _ in _RUNS.split(text):
        if run[0].isnumeric():
            cuts = [0, *sorted(_borders(len(run), size, direction, from_left=True)), len(run)]
            pieces += [run[start:end] for start, end in zip(cuts, cuts[1:])]
        else:
            _borders(1, size, direction)
            pieces.append(run)
    return pieces


def _borders(n_digits: int, size: int, direction: str, from_left: bool = False) -> set[int]:
    """Where a number of so many digits is cut: digits to the right of each cut, or to the left of it."""
    if size < 1:
        raise ValueError(f"size={size} is below 1")
    if direction not in ("left", "right"):
        raise ValueError(f"direction={direction!r} is neither 'left' nor 'right'")
    steps = range(size, n_digits, size)
    return {k if from_left == (direction == "left") else n_digits - k for k in steps}


class Border(NamedTuple):
    """A place in an addition where a number is cut, and whether a carry crosses it.

    Attributes:
        place: Digits to the right of it: a carry there is worth ``10**place``.
        carry: 1 if the sum of what is to the right overflows into what is to the left, 0 otherwise.
        cut: Which of ``"a"``, ``"b"``, ``"sum"`` are cut there.
        shared: Whether all of them are that reach so far to the left.

    Examples:
        >>> Border(3, 1, ("a",), False).carry
        1
    """

    place: int
    carry: int
    cut: tuple[str, ...]
    shared: bool


def digit_alignment(a: int, b: int, size: int = 3, direction: str = "left") -> list[Border]:
    """Writes an addition in columns and finds every border between groups, with the carry that crosses it.

    Where all borders are shared, groups can be added one column after the other. A border that is not shared lies within a group of
    another number: its digits belong to two columns.

    Args:
        a: First number, not negative.
        b: Second number, not negative.
        size: Most digits in a group.
        direction: As in ``group_digits``.

    Returns:
        Borders, the rightmost first.

    Raises:
        ValueError: If a number is negative, or a setting cannot be.

    Examples:
        >>> digit_alignment(1234, 98766, direction="right")
        [Border(place=3, carry=1, cut=('a', 'b', 'sum'), shared=True)]
        >>> [(border.place, border.cut) for border in digit_alignment(1234, 98766)]
        [(1, ('a',)), (2, ('b',)), (3, ('sum',))]
    """
    if a < 0 or b < 0:
        raise ValueError(f"a={a}, b={b}: a sign has a token of its own; give numbers from 0 up")
    lengths = {"a": len(str(a)), "b": len(str(b)), "sum": len(str(a + b))}
    cuts = {name: _borders(n, size, direction) for name, n in lengths.items()}
    borders = []
    for place in sorted(set().union(*cuts.values())):
        unit = 10**place
        cut = tuple(name for name in cuts if place in cuts[name])
        reaching = tuple(name for name, n in lengths.items() if n > place)
        borders.append(Border(place, (a % unit + b % unit) // unit, cut, cut == reaching))
    return borders


def place_value_features(tokens: Sequence[str]) -> Tensor:
    """Says of each group of one number what a model must know to compute with it.

    Args:
        tokens: Groups of digits, the leftmost first.

    Returns:
        ``(tokens, 3)`` in float64: the group's value, how many digits it has, and its place, the digits to the right of it. The number
        is the sum of ``value * 10**place``.

    Raises:
        ValueError: If there is no token, or one holds anything but digits.

    Examples:
        >>> place_value_features(["12", "345"]).tolist()
        [[12.0, 2.0, 3.0], [345.0, 3.0, 0.0]]
    """
    if not tokens or not all(token.isdecimal() for token in tokens):
        raise ValueError(f"tokens={list(tokens)}; expected groups of digits, at least one")
    digits = torch.tensor([len(token) for token in tokens], dtype=torch.float64)
    values = torch.tensor([int(token) for token in tokens], dtype=torch.float64)
    return torch.stack([values, digits, digits.sum() - digits.cumsum(0)], 1)
