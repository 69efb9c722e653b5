"""Token decoder: from tokens back to text, all at once or as they arrive.

Source: Kudo and Richardson 2018, arXiv:1808.06226, section 3.2 (lossless tokenization: the space is a character of its own);
for ``##`` the conventions of BERT, for byte symbols those of GPT-2.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Mapping, Sequence

from vocab.embeddings.byte_level import to_bytes

__all__ = ["StreamDecoder", "decode", "decode_tokens"]

_BYTE = re.compile("<0x[0-9A-Fa-f]{2}>")
KINDS = ("byte-level", "wordpiece", "metaspace", "byte-fallback")


def decode_tokens(
    tokens: Iterable[str],
    kind: str = "byte-level",
    *,
    prefix: str = "##",
    marker: str | None = None,
    clean_up: bool = False,
    errors: str = "replace",
) -> str:
    """Joins tokens to text by the convention in which they were written.

    - ``"byte-level"``: each character stands for a byte (``bytes_to_unicode``); the bytes are UTF-8.
    - ``"wordpiece"``: a token with ``prefix`` continues a word, any other begins one after a space.
    - ``"metaspace"``: ``marker`` is a space, and the text's first one, which encoding has put there, goes.
    - ``"byte-fallback"``: ``<0xC3>`` is a byte, all other tokens are text. With a ``marker`` also as above.

    Args:
        tokens: In order.
        kind: Which of the four.
        prefix: Of WordPiece.
        marker: What stands for a space; ``▁`` (U+2581) in ``"metaspace"`` if not given, nothing in ``"byte-fallback"``.
        clean_up: Whether to drop spaces before punctuation and contractions, as a text in English wants and code does not.
        errors: What to do with bytes that are no UTF-8: ``"replace"`` by U+FFFD, ``"strict"`` or ``"ignore"``.

    Raises:
        ValueError: If the kind is unknown, or a character stands for no byte.

    Examples:
        >>> decode_tokens(["Ġlow", "Ã", "©"]), decode_tokens(["un", "##able", "to"], "wordpiece")
        (' lowé', 'unable to')
        >>> decode_tokens(["▁un", "able", "▁to"], "metaspace"), decode_tokens(["o", "<0xC3>", "<0xA9>"], "byte-fallback")
        ('unable to', 'oé')
    """
    chunks = _Chunks(kind, prefix, marker, None, None, True)
    text = b"".join(map(chunks.of, tokens)).decode(errors=errors)
    return _clean(text) if clean_up else text


def decode(
    ids: Iterable[int],
    vocab: Mapping[str, int],
    kind: str = "byte-level",
    *,
    specials: Mapping[str, int] | None = None,
    skip_special: bool = True,
    clean_up: bool = False,
    prefix: str = "##",
    marker: str | None = None,
    errors: str = "replace",
) -> str:
    """The text of ids.

    Args:
        ids: In order, control tokens among them.
        vocab: Id of each token.
        kind: As in ``decode_tokens``.
        specials: Id of each control token.
        skip_special: Whether control tokens are left out; otherwise their names are written.
        clean_up: As in ``decode_tokens``.
        prefix: As in ``decode_tokens``.
        marker: As in ``decode_tokens``.
        errors: As in ``decode_tokens``.

    Raises:
        ValueError: If an id is neither that of a token nor of a control token.

    Examples:
        >>> decode([2, 0, 1, 3], {"hel": 0, "##lo": 1}, "wordpiece", specials={"[CLS]": 2, "[SEP]": 3})
        'hello'
    """
    chunks = _Chunks(kind, prefix, marker, vocab, specials, skip_special)
    text = b"".join(map(chunks.of_id, ids)).decode(errors=errors)
    return _clean(text) if clean_up else text


class StreamDecoder:
    """Decodes ids one at a time and gives out a character as soon as its last byte is there, never half of one.

    What ``push`` and ``flush`` return, joined, is what ``decode`` returns of all ids. With ``stop`` the text ends before the
    first stop string, and what may become one is held back until that is settled.

    Args:
        vocab: Id of each token.
        kind: As in ``decode_tokens``.
        specials: Id of each control token.
        skip_special: Whether control tokens are left out.
        stop: Strings that end the text.
        prefix: As in ``decode_tokens``.
        marker: As in ``decode_tokens``.
        errors: As in ``decode_tokens``.

    Attributes:
        stopped: Whether a stop string has come; ``push`` then returns nothing any more.

    Raises:
        ValueError: If a stop string is empty; in ``push`` as in ``decode``.

    Examples:
        >>> stream = StreamDecoder({"Ġ": 0, "Ã": 1, "©": 2, "t": 3})
        >>> [stream.push(i) for i in (3, 1, 2, 0)], stream.flush()
        (['t', '', 'é', ' '], '')
    """

    def __init__(
        self,
        vocab: Mapping[str, int],
        kind: str = "byte-level",
        *,
        specials: Mapping[str, int] | None = None,
        skip_special: bool = True,
        stop: Sequence[str] = (),
        prefix: str = "##",
        marker: str | None = None,
        errors: str = "replace",
    ) -> None:
        if isinstance(stop, str) or "" in stop:
            raise ValueError(f"stop={stop!r}; expected a list of strings that are not empty")
        self._chunks = _Chunks(kind, prefix, marker, vocab, specials, skip_special)
        self._characters = codecs.getincrementaldecoder("utf-8")(errors)  # keeps the bytes of an unfinished character
        self.stop, self.stopped, self._held = tuple(stop), False, ""

    def push(self, id_: int) -> str:
        """What can be shown now that this id has come; often nothing, and sometimes more than the token itself.

        Args:
            id_: The next id.
        """
        return self._settled(self._characters.decode(self._chunks.of_id(id_)))

    def flush(self) -> str:
        """What is left at the end: a tail that did not become a stop string, and U+FFFD for an unfinished character."""
        text = self._settled(self._characters.decode(b"", final=True)) + self._held
        self._held = ""
        return text

    def _settled(self, new: str) -> str:
        if self.stopped:
            return ""
        text = self._held + new
        found = [at for stop in self.stop if (at := text.find(stop)) >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)]
        # The longest end of the text with which a stop string begins may become one.
        longest = max((n for stop in self.stop for n in range(1, len(stop)) if text.endswith(stop[:n])), default=0)
        self._held = text[len(text) - longest :]
        return text[: len(text) - longest]


class _Chunks:
    """The bytes of one token after the other; only the first word and the first space are treated apart."""

    def __init__(
        self,
        kind: str,
        prefix: str,
        marker: str | None,
        vocab: Mapping[str, int] | None,
        specials: Mapping[str, int] | None,
        skip_special: bool,
    ) -> None:
        if kind not in KINDS:
            raise ValueError(f"kind={kind!r} is not one of {', '.join(map(repr, KINDS))}")
        self.kind, self.prefix, self.first, self.skip_special = kind, prefix, True, skip_special
        self.marker = "▁" if kind == "metaspace" and marker is None else marker
        self.tokens = {id_: token for token, id_ in (vocab or {}).items()}
        self.specials = {id_: name for name, id_ in (specials or {}).items()}

    def of_id(self, id_: int) -> bytes:
        if id_ in self.specials:
            if self.skip_special:
                return b""
            return (" " * (self.kind == "wordpiece" and not self._begins()) + self.specials[id_]).encode()
        if id_ not in self.tokens:
            raise ValueError(f"ids holds {id_}, which is neither one of the {len(self.tokens)} tokens nor a control token")
        return self.of(self.tokens[id_])

    def of(self, token: str) -> bytes:
        first = self._begins()
        if self.kind == "byte-level":
            return to_bytes(token)
        if self.kind == "wordpiece":
            # A first token with the mark is the end of a word whose beginning is not there: it keeps the mark.
            return (token if first else token[len(self.prefix) :] if token.startswith(self.prefix) else " " + token).encode()
        if self.kind == "byte-fallback" and _BYTE.fullmatch(token):
            return bytes.fromhex(token[3:5])
        if self.marker is None:
            return token.encode()
        text = token.replace(self.marker, " ")
        return (text[1:] if first and text.startswith(" ") else text).encode()

    def _begins(self) -> bool:
        first, self.first = self.first, False
        return first


def _clean(text: str) -> str:
    for end in (".", "?", "!", ",", "n't", "'m", "'s", "'ve", "'re"):
        if end == "n't":
            text = text.replace(" ' ", "'")
        text = text.replace(" " + end, end)
    return text
