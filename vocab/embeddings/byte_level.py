"""Byte-level tokens and byte fallback: the 256 bytes of UTF-8 as an alphabet in which everything can be written.

Source: Radford et al. 2019 (GPT-2), section 2.2; Wang, Cho and Gu 2020, arXiv:1909.03341; fallback: SentencePiece's option of that name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

from vocab.embeddings.byte_pair_encoding import BPE
from vocab.embeddings.pre_tokenizer import PreTokenizer

__all__ = ["ByteFallback", "ByteLevelBPE", "bytes_to_unicode", "to_bytes", "to_symbols"]


class ByteLevelBPE:
    """Byte-pair encoding whose characters are bytes: no text is unknown, and every sequence of bytes can be written.

    Args:
        merges: As in ``BPE``, over the symbols of ``bytes_to_unicode``.
        vocab: Ids of all tokens; without it, the 256 symbols in GPT-2's order, and then what each merge makes.
        pre_tokenizer: Cuts text into pieces; GPT-2's rule if not given.

    Raises:
        ValueError: If ``vocab`` lacks one of the 256 symbols, or as in ``BPE``.

    Examples:
        >>> tokenizer = ByteLevelBPE([("Ġ", "l"), ("o", "w"), ("Ġl", "ow")])
        >>> tokenizer.encode("so low é")
        ['s', 'o', 'Ġlow', 'Ġ', 'Ã', '©']
        >>> tokenizer.decode(tokenizer.encode("so low é"))
        'so low é'
    """

    def __init__(
        self, merges: Iterable[Sequence[str]], vocab: Mapping[str, int] | None = None, *, pre_tokenizer: PreTokenizer | None = None
    ) -> None:
        merges = [tuple(pair) for pair in merges]
        alphabet = bytes_to_unicode()
        if vocab is None:
            vocab = {token: i for i, token in enumerate(dict.fromkeys([*alphabet.values(), *(a + b for a, b in merges)]))}
        for byte, symbol in alphabet.items():
            if symbol not in vocab:
                raise ValueError(f"vocab has no {symbol!r}, the symbol of byte {byte}; expected all 256")
        self.bpe = BPE(merges, vocab)
        self.merges, self.vocab = self.bpe.merges, self.bpe.vocab
        self.pre_tokenizer = pre_tokenizer or PreTokenizer("gpt2")
        self._tokens = {i: token for token, i in self.vocab.items()}

    @classmethod
    def train(
        cls, texts: Iterable[str] | Mapping[str, int], vocab_size: int, *, min_frequency: int = 2, pre_tokenizer: PreTokenizer | None = None
    ) -> ByteLevelBPE:
        """Learns merges from texts.

        Args:
            texts: Strings; each is cut into pieces by itself. Or how often each piece occurs, where that has been done.
            vocab_size: Tokens to stop at, the 256 bytes included.
            min_frequency: As in ``BPE.train``.
            pre_tokenizer: As in the class.

        Raises:
            ValueError: If ``vocab_size`` is below 256.
        """
        pre_tokenizer = pre_tokenizer or PreTokenizer("gpt2")
        if not isinstance(texts, Mapping):
            texts = Counter(piece for text in texts for piece, _ in pre_tokenizer.split(text))
        counts = {to_symbols(piece.encode()): count for piece, count in texts.items()}
        bpe = BPE.train(counts, vocab_size, min_frequency=min_frequency, alphabet=bytes_to_unicode().values())
        return cls(bpe.merges, pre_tokenizer=pre_tokenizer)

    def encode(self, text: str) -> list[str]:
        """Cuts text into pieces and these into tokens.

        Args:
            text: Any string that UTF-8 can write, so no lone surrogates.
        """
        return [token for piece, _ in self.pre_tokenizer.split(text) for token in self.encode_word(piece)]

    def encode_word(self, word: str) -> list[str]:
        """Tokens of one piece.

        Args:
            word: The piece, as text.
        """
        return self.encode_bytes(word.encode())

    def encode_bytes(self, data: bytes) -> list[str]:
        """Tokens of a sequence of bytes, valid UTF-8 or not, as one piece.

        Args:
            data: The bytes.
        """
        return self.bpe.encode_word(to_symbols(data))

    def decode_bytes(self, tokens: Iterable[str | int]) -> bytes:
        """The bytes that tokens stand for.

        Args:
            tokens: Tokens or their ids.

        Raises:
            ValueError: If one is not in the vocabulary.
        """
        return to_bytes("".join(_token(t, self.vocab, self._tokens) for t in tokens))

    def decode(self, tokens: Iterable[str | int], errors: str = "replace") -> str:
        """The text of a whole sequence; that of its tokens one by one may be broken characters.

        Args:
            tokens: Tokens or their ids.
            errors: What to do with bytes that are no UTF-8: ``"replace"`` them by U+FFFD, ``"strict"`` (raise) or ``"ignore"``.
        """
        return self.decode_bytes(tokens).decode(errors=errors)


class ByteFallback(BPE):
    """Byte-pair encoding of characters in which only an unknown character becomes bytes, written ``<0xC3>``.

    Args:
        vocab: Tokens with their ids, or tokens only. Of the 256 byte tokens, those that it has not get the next ids.
        merges: As in ``BPE``; none if not given, and then characters are tokens.

    Examples:
        >>> ByteFallback(["a", "b", "ab"], [("a", "b")]).encode("abé\\n")
        ['ab', '<0xC3>', '<0xA9>', '<0x0A>']
    """

    def __init__(self, vocab: Mapping[str, int] | Iterable[str], merges: Iterable[Sequence[str]] = ()) -> None:
        ids = dict(vocab) if isinstance(vocab, Mapping) else {token: i for i, token in enumerate(vocab)}
        following = max(ids.values(), default=-1) + 1
        missing = [token for token in map(_byte_token, range(256)) if token not in ids]
        super().__init__(merges, ids | {token: following + i for i, token in enumerate(missing)})
        self._tokens = {i: token for token, i in self.vocab.items()}

    def _symbols(self, character: str) -> list[str]:
        return [character] if character in self.vocab else [_byte_token(byte) for byte in character.encode()]

    def encode(self, text: str) -> list[str]:
        """Tokens of a text, which is one piece.

        Args:
            text: Any string that UTF-8 can write.
        """
        return self.encode_word(text)

    def decode(self, tokens: Iterable[str | int], errors: str = "replace") -> str:
        """The text of tokens.

        Args:
            tokens: Tokens or their ids.
            errors: As in ``ByteLevelBPE.decode``.

        Raises:
            ValueError: If one is not in the vocabulary.
        """
        known = (_token(t, self.vocab, self._tokens) for t in tokens)
        return b"".join(_BYTE_OF[t] if t in _BYTE_OF else t.encode() for t in known).decode(errors=errors)


@lru_cache
def bytes_to_unicode() -> dict[int, str]:
    """GPT-2's table: one visible character for each byte, so that merges can be kept in a text file.

    A byte that is a visible character of Latin-1 stands for itself. The other 68, such as the space, get the characters from U+0100
    on, in their order: the space becomes U+0120.

    Examples:
        >>> table = bytes_to_unicode()
        >>> table[ord("a")], table[ord(" ")], table[ord("\\n")], len(set(table.values()))
        ('a', 'Ġ', 'Ċ', 256)
    """
    visible = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]  # 0xAD is the soft hyphen
    others = [byte for byte in range(256) if byte not in visible]
    return {byte: chr(byte) for byte in visible} | {byte: chr(256 + i) for i, byte in enumerate(others)}


def to_symbols(data: bytes) -> str:
    """Writes bytes with the characters of ``bytes_to_unicode``.

    Args:
        data: The bytes.

    Examples:
        >>> to_symbols("é x".encode())
        'Ã©Ġx'
    """
    table = bytes_to_unicode()
    return "".join(table[byte] for byte in data)


def to_bytes(symbols: str) -> bytes:
    """Reads what ``to_symbols`` has written.

    Args:
        symbols: Characters of ``bytes_to_unicode``.

    Raises:
        ValueError: If there is another character.
    """
    for symbol in symbols:
        if symbol not in _byte_of_symbol():
            raise ValueError(f"symbols has {symbol!r}, which stands for no byte")
    return bytes(_byte_of_symbol()[symbol] for symbol in symbols)


@lru_cache
def _byte_of_symbol() -> dict[str, int]:
    return {symbol: byte for byte, symbol in bytes_to_unicode().items()}


def _byte_token(byte: int) -> str:
    return f"<0x{byte:02X}>"


_BYTE_OF = {_byte_token(byte): bytes([byte]) for byte in range(256)}


def _token(token: str | int, vocab: Mapping[str, int], tokens: Mapping[int, str]) -> str:
    """A token itself or that of an id; an error where there is none."""
    if token in tokens:
        return tokens[token]
    if token in vocab:
        return token
    raise ValueError(f"tokens has {token!r}, which is none of the {len(vocab)} tokens or their ids")
