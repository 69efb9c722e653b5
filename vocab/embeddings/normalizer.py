"""Text normalizer: one spelling for strings that should be the same, with a record of where each character came from.

Source: Unicode Standard Annex 15, Unicode Normalization Forms; small letters without accents as in uncased BERT (Devlin et al. 2018).
"""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Callable, Iterable
from functools import lru_cache

__all__ = ["normalize"]

FORMS = ("NFC", "NFD", "NFKC", "NFKD")


def normalize(
    text: str, forms: Iterable[str] = ("NFC",), *, lowercase: bool = False, strip_accents: bool = False
) -> tuple[str, list[int]]:
    """Applies Unicode normalization forms, then takes accents away, then makes letters small.

    Args:
        text: Any string.
        forms: ``"NFC"``, ``"NFD"``, ``"NFKC"``, ``"NFKD"``, one after the other; with none the characters stay as they are.
        lowercase: Whether to use small letters, character by character and for no language in particular.
        strip_accents: Whether to decompose (NFD) and drop the marks that take no room of their own. The result stays decomposed.

    Returns:
        The new text and, for each of its characters, the index of the character of ``text`` that it comes from: the first, where
        several become one. The indices never fall; where marks change places, all of them have the index of the first.

    Raises:
        TypeError: If ``text`` is no string.
        ValueError: If a form is unknown.

    Examples:
        >>> normalize("ﬁn²", ["NFKC"])
        ('fin2', [0, 0, 1, 2])
        >>> normalize("Äpfel", lowercase=True, strip_accents=True)
        ('apfel', [0, 1, 2, 3, 4])
    """
    if not isinstance(text, str):
        raise TypeError(f"text is a {type(text).__name__}; expected a string")
    forms = [forms] if isinstance(forms, str) else list(forms)
    for form in forms:
        if form not in FORMS:
            raise ValueError(f"forms has {form!r}; expected some of {', '.join(FORMS)}")
    alignment = list(range(len(text)))
    for form in [*forms, "NFD"] if strip_accents else forms:
        text, alignment = _in_form(text, alignment, form)
    if strip_accents:
        text, alignment = _each(text, alignment, lambda c: "" if unicodedata.category(c) == "Mn" else c)
    if lowercase:
        text, alignment = _each(text, alignment, str.lower)
    return text, alignment


def _in_form(text: str, alignment: list[int], form: str) -> tuple[str, list[int]]:
    """Applies a form to the shortest runs that it treats independently of each other.

    ``unicodedata.normalize`` does not say where its characters come from. But no form moves or joins anything across a
    character that begins anew, so each run is normalized by itself, and its characters are traced within it.
    """
    out, sources, start = [], [], 0
    for end in range(1, len(text) + 1):
        if end == len(text) or _begins_anew(text[end]):
            run = text[start:end]
            made = unicodedata.normalize(form, run)
            out.append(made)
            sources += [alignment[start + i] for i in _trace(run, made, "NFKD" if "K" in form else "NFD")]
            start = end
    return "".join(out), sources


def _trace(run: str, made: str, decomposed: str) -> list[int]:
    """Which character of the run each character of its normal form comes from.

    Both decompose into the same parts, in two orders: a character comes from where its first part does.
    """
    parts = [(part, i) for i, c in enumerate(run) for part in unicodedata.normalize(decomposed, c)]
    sources = []
    for c in made:
        found = []
        for part in unicodedata.normalize("NFD", c):
            k = next(k for k, (other, _) in enumerate(parts) if other == part)
            found.append(parts.pop(k)[1])
        sources.append(min(found))
    for j in reversed(range(len(sources) - 1)):  # marks that have changed places
        sources[j] = min(sources[j], sources[j + 1])
    return sources


@lru_cache
def _begins_anew(c: str) -> bool:
    """Whether no form joins this character to one before it, or moves it there."""
    first = unicodedata.normalize("NFKD", c)[0]
    return unicodedata.combining(first) == 0 and first not in _joins_the_one_before()


@lru_cache
def _joins_the_one_before() -> frozenset[str]:
    """Characters that are no marks by their class, but the second part of a character: some vowel signs, and Korean vowels and finals."""
    found = {chr(c) for c in (*range(0x1161, 0x1176), *range(0x11A8, 0x11C3))}  # Korean is composed by arithmetic, not by a table
    for c in range(sys.maxunicode + 1):
        parts = unicodedata.decomposition(chr(c)).split()
        if len(parts) == 2 and not parts[0].startswith("<"):
            found.add(chr(int(parts[1], 16)))
    return frozenset(found)


def _each(text: str, alignment: list[int], change: Callable[[str], str]) -> tuple[str, list[int]]:
    """Replaces each character by a string."""
    made = [(c, source) for old, source in zip(text, alignment) for c in change(old)]
    return "".join(c for c, _ in made), [source for _, source in made]
