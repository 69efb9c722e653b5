"""WordPiece: a word is cut, from its beginning, into the longest pieces of the vocabulary that match.

Source: Wu et al. 2016, arXiv:1609.08144, section 4.1; the matching as in Song et al. 2021, arXiv:2012.15524, section 2.1. The
training score is a reconstruction: the trainer of BERT's vocabulary was not published.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from vocab.embeddings.byte_pair_encoding import _join

__all__ = ["WordPiece"]


class WordPiece:
    """Cuts one word by greedy longest match; a word that cannot be cut to its end is unknown as a whole.

    Control tokens such as ``[CLS]`` are better left out of ``vocab``: what is in it can be spelled by a text. The unknown
    token is in it, since it is a result, but is never matched.

    Args:
        vocab: Id of each piece. Pieces that continue a word begin with ``prefix``.
        unk: The token of a word that cannot be cut; in ``vocab``.
        prefix: The mark of a piece that does not begin a word.
        max_chars: Longer words are unknown without a look.

    Attributes:
        vocab: As given.

    Raises:
        ValueError: If the vocabulary has no ``unk`` or gives two pieces one id, or a setting cannot be.

    Examples:
        >>> model = WordPiece({"[UNK]": 0, "un": 1, "##aff": 2, "##able": 3, "##a": 4})
        >>> model.encode_word("unaffable"), model.encode_word("unaffableX")
        (['un', '##aff', '##able'], ['[UNK]'])
    """

    def __init__(self, vocab: Mapping[str, int], unk: str = "[UNK]", prefix: str = "##", max_chars: int = 100) -> None:
        if unk not in vocab:
            raise ValueError(f"vocab has no {unk!r}, the token of unknown words; its {len(vocab)} entries must include it")
        if len(set(vocab.values())) < len(vocab):
            raise ValueError("vocab gives the same id to two pieces")
        if not prefix:
            raise ValueError("prefix is empty; a piece inside a word must differ from one that begins a word")
        if max_chars < 1:
            raise ValueError(f"max_chars={max_chars} is below 1")
        self.vocab, self.unk, self.prefix, self.max_chars = dict(vocab), unk, prefix, max_chars
        # A trie: dictionaries within dictionaries, one character a step. The key "" holds the piece that ends there.
        self._start: dict = {}
        for piece in self.vocab:
            if piece not in (unk, ""):
                node = self._start
                for char in piece:
                    node = node.setdefault(char, {})
                node[""] = piece
        self._inside = self._start  # where a search within a word begins: after the prefix
        for char in prefix:
            self._inside = self._inside.get(char, {})

    def encode_word(self, word: str) -> list[str]:
        """The pieces of one word, or the unknown token.

        Args:
            word: Without spaces; the pre-tokenizer has cut the text before.
        """
        if len(word) > self.max_chars:
            return [self.unk]
        pieces, start = [], 0
        while start < len(word):
            node, longest = self._inside if pieces else self._start, None
            for end in range(start, len(word)):
                node = node.get(word[end])
                if node is None:
                    break
                if "" in node:
                    longest = node[""], end + 1
            if longest is None:
                return [self.unk]  # no way back: an earlier, shorter piece is not tried
            piece, start = longest
            pieces.append(piece)
        return pieces

    @classmethod
    def train(
        cls,
        word_counts: Mapping[str, int],
        vocab_size: int,
        *,
        unk: str = "[UNK]",
        prefix: str = "##",
        max_chars: int = 100,
        min_frequency: int = 2,
    ) -> WordPiece:
        """Grows a vocabulary from single characters by joining the pair that is most surprising together.

        Pair ``a b`` scores ``count(a b) / (count(a) * count(b))``; of equal pairs the first in lexicographic order wins. It
        ends early when no pair is left.

        Args:
            word_counts: How often each word occurs.
            vocab_size: Entries wanted, the unknown token included; characters always have their place.
            unk: As above; it gets id 0.
            prefix: As above.
            max_chars: As above; longer words are not learned from.
            min_frequency: Pairs seen less often are not joined. With 1, two characters that occur once, side by side,
                have the highest score there is.

        Raises:
            ValueError: If the characters alone are more than ``vocab_size``, a count is below 1, or there are no words.
        """
        if min_frequency < 1:
            raise ValueError(f"min_frequency={min_frequency} is below 1")
        for word, count in word_counts.items():
            if count < 1:
                raise ValueError(f"word_counts[{word!r}]={count} is below 1")
        corpus = [
            ([word[0]] + [prefix + char for char in word[1:]], count)
            for word, count in word_counts.items()
            if 0 < len(word) <= max_chars
        ]
        if not corpus:
            raise ValueError("word_counts has no word to learn from")
        pieces = [unk, *sorted({piece for word, _ in corpus for piece in word} - {unk})]
        if len(pieces) > vocab_size:
            raise ValueError(f"vocab_size={vocab_size} is less than the {len(pieces)} entries of the unknown token and all characters")
        while len(pieces) < vocab_size:
            single, pairs = Counter(), Counter()
            for word, count in corpus:
                for piece in word:
                    single[piece] += count
                for pair in zip(word, word[1:]):
                    pairs[pair] += count
            # Exact integers divided once: equal ratios are equal floats, so ties are ties.
            scores = {(a, b): n / (single[a] * single[b]) for (a, b), n in pairs.items() if n >= min_frequency}
            if not scores:
                break
            best = min(scores, key=lambda pair: (-scores[pair], pair))
            joined = best[0] + best[1][len(prefix) :]
            if joined not in pieces:  # two pairs can spell the same piece
                pieces.append(joined)
            corpus = [(_join(word, best, joined), count) for word, count in corpus]
        return cls({piece: i for i, piece in enumerate(pieces)}, unk, prefix, max_chars)
