"""Pre-tokenizer: cuts text into pieces that no token will ever cross.

Source: Radford et al. 2019 (GPT-2), section 2.2, and the patterns published with GPT-2 and GPT-4 (cl100k); the marker for a space from
Kudo and Richardson 2018, arXiv:1808.06226.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from functools import lru_cache
from itertools import groupby

__all__ = ["PreTokenizer", "character_class"]

MARKER = "▁"  # U+2581, no underscore: stands for a space in pieces of kind "metaspace"
KINDS = ("whitespace", "bert", "gpt2", "gpt4", "metaspace", "digits")


class PreTokenizer:
    """Splits text into pieces, each with its place in the text.

    Args:
        kind: ``"whitespace"``: what stands between spaces. ``"bert"``: also each punctuation mark for itself. ``"gpt2"``: words with the
            space before them, numbers, runs of signs, runs of spaces, and English endings such as ``'s``. ``"gpt4"``: the same with
            groups of digits and newlines apart. ``"metaspace"``: words with the space before them written as ``"▁"``. ``"digits"``:
            groups of digits, and what stands between them. The first two drop spaces, all others keep every character.
        digits: Largest number of digits in a piece, counted from the left, for ``"gpt4"`` (3 if not given) and ``"digits"`` (1).
        prefix: Whether text that starts with no space is cut as if it did; by default in ``"metaspace"`` only. The space is in
            the first piece, not in its place.

    Raises:
        ValueError: If the kind is unknown, ``digits`` is below 1, or given to a kind that does not group digits.

    Examples:
        >>> PreTokenizer("gpt2").split("It's 12345  ok")
        [('It', (0, 2)), ("'s", (2, 4)), (' 12345', (4, 10)), (' ', (10, 11)), (' ok', (11, 14))]
        >>> [piece for piece, _ in PreTokenizer("gpt4").split("It's 12345")]
        ['It', "'s", ' ', '123', '45']
    """

    def __init__(self, kind: str, *, digits: int | None = None, prefix: bool | None = None) -> None:
        if kind not in KINDS:
            raise ValueError(f"kind={kind!r} is none of {', '.join(KINDS)}")
        if digits is not None and kind not in ("gpt4", "digits"):
            raise ValueError(f"digits={digits} is given, but kind={kind!r} does not group digits; 'gpt4' and 'digits' do")
        if digits is not None and digits < 1:
            raise ValueError(f"digits={digits} is not above 0")
        self.kind = kind
        self.digits = digits if digits is not None else {"gpt4": 3, "digits": 1}.get(kind)
        self.prefix = prefix if prefix is not None else kind == "metaspace"
        self._pattern = _pattern(kind, self.digits)

    def split(self, text: str) -> list[tuple[str, tuple[int, int]]]:
        """Finds the pieces from left to right.

        Args:
            text: What to cut; offsets are those of its characters, not of bytes.

        Returns:
            ``(piece, (start, end))`` for each; ``text[start:end]`` is the piece, except for a space put before and markers.
        """
        if self.kind == "metaspace":
            text = text.replace(" ", MARKER)
        space = MARKER if self.kind == "metaspace" else " "
        added = len(space) if self.prefix and text and not text.startswith(space) else 0
        return [(match[0], (max(match.start() - added, 0), match.end() - added)) for match in self._pattern.finditer(space[:added] + text)]


@lru_cache
def character_class(*categories: str) -> str:
    """The inside of a ``[...]`` of Python's ``re`` with all characters of these Unicode categories, such as ``\\p{L}`` elsewhere.

    Python's ``re`` has no ``\\p``. Its ``\\w`` and ``\\d`` are no substitutes: the one holds digits and the underscore, the other leaves
    out numbers such as ½.

    Args:
        categories: First letters of categories, or whole ones: ``"L"`` for all letters, ``"Nd"`` for decimal digits.

    Examples:
        >>> re.findall(f"[{character_class('L')}]+", "naïve_x2 日本")
        ['naïve', 'x', '日本']
    """
    return "".join(f"\\U{first:08x}-\\U{last:08x}" for first, last, category in _category_runs() if category.startswith(categories))


@lru_cache
def _category_runs() -> list[tuple[int, int, str]]:
    """All code points as runs of one category: first, last, category."""
    runs = []
    for category, run in groupby(range(sys.maxunicode + 1), lambda c: unicodedata.category(chr(c))):
        codes = list(run)
        runs.append((codes[0], codes[-1], category))
    return runs


# Unicode's White_Space; Python's \s also holds four control characters.
SPACE = "\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"


@lru_cache
def _pattern(kind: str, digits: int | None) -> re.Pattern:
    if kind == "whitespace":
        return re.compile(f"[^{SPACE}]+")
    if kind == "metaspace":  # a marker starts a piece, and is one alone where another follows
        return re.compile(f"{MARKER}[^{MARKER}]*|[^{MARKER}]+")
    if kind == "bert":
        mark = "!-/:-@\\[-`{-~" + character_class("P")  # all signs of ASCII count, also $ and +, which Unicode has elsewhere
        return re.compile(f"[{mark}]|[^{SPACE}{mark}]+")
    L, N = character_class("L"), character_class("N")
    if kind == "digits":
        return re.compile(f"[{N}]{{1,{digits}}}|[^{N}]+")
    last_space_apart = f"[{SPACE}]+(?![^{SPACE}])|[{SPACE}]+"  # the space before a word belongs to the word
    if kind == "gpt2":
        return re.compile(f"'(?:s|t|re|ve|m|ll|d)| ?[{L}]+| ?[{N}]+| ?[^{SPACE}{L}{N}]+|{last_space_apart}")
    return re.compile(
        f"(?i:'(?:s|t|re|ve|m|ll|d))|[^\r\n{L}{N}]?[{L}]+|[{N}]{{1,{digits}}}| ?[^{SPACE}{L}{N}]+[\r\n]*"
        f"|[{SPACE}]*[\r\n]+|{last_space_apart}"
    )
