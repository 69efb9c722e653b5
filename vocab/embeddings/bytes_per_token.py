"""Tokenizer compression: how many bytes a token holds, how many tokens a word takes, and losses that can be compared.

Source: Gao et al. 2020, arXiv:2101.00027, section 3.1 (bits per byte); Petrov et al. 2023, arXiv:2305.15425, section 3 (between languages).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from torch import Tensor

from vocab.check import expect

__all__ = ["bytes_per_token", "fertility", "bits_per_byte"]


def bytes_per_token(tokenizer: Any, texts: str | Iterable[str]) -> float:
    """Bytes of UTF-8 per token, over all texts together.

    Args:
        tokenizer: Anything with ``encode(text)``, or a function of a text, that gives tokens or ids. Turn special tokens off:
            they count as tokens, and hold no byte.
        texts: One text or several. A long text counts more than a short one, as it does in a training run.

    Returns:
        1 for plain bytes; about 4 for English under large vocabularies.

    Raises:
        ValueError: If there is no token at all.

    Examples:
        >>> bytes_per_token(str.split, "the lamp")
        4.0
        >>> bytes_per_token(str.encode, ["the lamp", "ขอบคุณ"])  # a byte is a token
        1.0
    """
    texts = [texts] if isinstance(texts, str) else list(texts)
    tokens = sum(_count(tokenizer, text) for text in texts)
    if not tokens:
        raise ValueError(f"texts: {len(texts)} texts hold no token; expected one at least")
    return sum(len(text.encode()) for text in texts) / tokens


def fertility(tokenizer: Any, words: str | Iterable[str]) -> float:
    """Tokens per word, the mean over words.

    Args:
        tokenizer: As in ``bytes_per_token``.
        words: The words, or a text that is cut at white space. That says nothing in a script that writes no spaces. Put the space before
            each word into the list if the tokenizer learned words with it.

    Raises:
        ValueError: If there is no word.

    Examples:
        >>> fertility(list, ["lamp", "in"])
        3.0
    """
    words = words.split() if isinstance(words, str) else list(words)
    if not words:
        raise ValueError("words is empty; expected one word at least")
    return sum(_count(tokenizer, word) for word in words) / len(words)


def _count(tokenizer: Any, text: str) -> int:
    encoded = tokenizer.encode(text) if hasattr(tokenizer, "encode") else tokenizer(text)
    return len(getattr(encoded, "ids", encoded))  # tokenizers of some libraries wrap their ids


def bits_per_byte(loss: float | Tensor, bytes_per_token: float) -> float | Tensor:
    """Turns a loss per token into one per byte, which does not depend on how the text was cut.

    Args:
        loss: Mean negative log-likelihood of a token in nats, as ``cross_entropy`` gives it.
        bytes_per_token: Of the same text with the same tokenizer.

    Returns:
        ``loss / (ln 2 * bytes_per_token)``; 8 is a fair guess of every byte.

    Raises:
        ValueError: If ``bytes_per_token`` is not above 0.

    Examples:
        >>> round(bits_per_byte(3.0, 4.0), 3)
        1.082
        >>> bits_per_byte(math.log(256), 1.0)
        8.0
    """
    if not isinstance(loss, (int, float)):
        expect("loss", loss, "...")
    if not bytes_per_token > 0:
        raise ValueError(f"bytes_per_token={bytes_per_token} is not above 0")
    return loss / (math.log(2) * bytes_per_token)
