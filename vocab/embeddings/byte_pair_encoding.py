"""Byte-pair encoding: a vocabulary of word pieces, made by joining the most frequent pair of neighbours again and again.

Source: Sennrich, Haddow and Birch 2016, arXiv:1508.07909, section 3.2; dropout: Provilkov et al. 2020, arXiv:1910.13267, algorithm 1.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

__all__ = ["BPE"]

Pair = tuple[str, str]


class BPE:
    """Splits a word into tokens by joining neighbours, the pair that was learned first before all others.

    Args:
        merges: Pairs ``(a, b)`` that become ``a + b``, in the order in which they were learned: their number is their rank.
        vocab: Ids of all tokens; without it, the single symbols in alphabetical order and then what each merge makes.
        end_of_word: A symbol put after the last character of every word, such as ``"</w>"``; none by default.
        unk: The token for a character that is not in the vocabulary; without it, such a character is an error.

    Raises:
        ValueError: If a merge comes twice, joins what is no token, or ``unk`` is no token.

    Examples:
        >>> bpe = BPE.train({"low": 5, "lower": 2, "newest": 6, "widest": 3}, 16, end_of_word="</w>")
        >>> bpe.merges
        [('e', 's'), ('es', 't'), ('est', '</w>'), ('l', 'o'), ('lo', 'w')]
        >>> bpe.encode_word("lowest")
        ['low', 'est</w>']
    """

    def __init__(
        self,
        merges: Iterable[Sequence[str]],
        vocab: Mapping[str, int] | None = None,
        *,
        end_of_word: str | None = None,
        unk: str | None = None,
    ) -> None:
        self.merges: list[Pair] = [(a, b) for a, b in merges]
        self.ranks = {pair: rank for rank, pair in enumerate(self.merges)}
        if len(self.ranks) < len(self.merges):
            twice = next(pair for pair, count in Counter(self.merges).items() if count > 1)
            raise ValueError(f"merges has {twice} twice; expected each pair once, for its place is its rank")
        self.vocab = dict(vocab) if vocab is not None else self._numbered(end_of_word)
        for rank, (a, b) in enumerate(self.merges):
            for token in (a, b, a + b):
                if token not in self.vocab:
                    raise ValueError(f"merges[{rank}] joins {a!r} and {b!r}, but {token!r} is not in vocab")
        for name, token in (("unk", unk), ("end_of_word", end_of_word)):
            if token is not None and token not in self.vocab:
                raise ValueError(f"{name}={token!r} is not in vocab")
        self.end_of_word, self.unk = end_of_word, unk

    def _numbered(self, end_of_word: str | None) -> dict[str, int]:
        """Ids for the symbols that no merge makes, then for what the merges make."""
        known = {end_of_word} if end_of_word else set()
        made: set[str] = set()
        for rank, (a, b) in enumerate(self.merges):
            for part in (a, b):
                if len(part) > 1 and part not in made and part != end_of_word:
                    raise ValueError(f"merges[{rank}] joins {part!r}, which is no character and made by no earlier merge")
                if len(part) == 1:
                    known.add(part)
            made.add(a + b)
        return _ids(sorted(known), self.merges)

    @classmethod
    def train(
        cls,
        word_counts: Mapping[str, int],
        vocab_size: int,
        *,
        end_of_word: str | None = None,
        min_frequency: int = 2,
        alphabet: Iterable[str] = (),
    ) -> BPE:
        """Learns merges: the most frequent pair of neighbours becomes a token, until the vocabulary is full.

        Of pairs with equal counts the first in lexicographic order is taken, so that the same counts always give the same
        vocabulary. A merge changes the counts of those words only in which it happens; all others are left alone.

        Args:
            word_counts: How often each word occurs. No merge will ever cross the border of a word.
            vocab_size: Tokens to stop at, characters included.
            end_of_word: As in the class.
            min_frequency: A pair that occurs more rarely is not merged, and training stops.
            alphabet: Characters that get an id even if no word has them.

        Returns:
            The tokenizer; it has fewer than ``vocab_size`` tokens if the pairs ran out.

        Raises:
            ValueError: If a count is not above 0, a word holds the end marker, or the characters alone are more than
                ``vocab_size``.
        """
        for word, count in word_counts.items():
            if count < 1:
                raise ValueError(f"word_counts[{word!r}]={count}; expected 1 or more")
            if end_of_word and end_of_word in word:
                raise ValueError(f"word_counts has {word!r}, which holds end_of_word={end_of_word!r}; expected a symbol that no word has")
        marker = [end_of_word] if end_of_word else []
        symbols = sorted({c for word in word_counts for c in word} | set(alphabet) | set(marker))
        if vocab_size < len(symbols):
            raise ValueError(f"vocab_size={vocab_size} is below the {len(symbols)} single characters of the words and the alphabet")

        counts = list(word_counts.values())
        words = [[*word, *marker] for word in word_counts]
        frequency: Counter[Pair] = Counter()
        homes: defaultdict[Pair, set[int]] = defaultdict(set)  # in which words a pair has been seen
        for w, word in enumerate(words):
            for pair in zip(word, word[1:]):
                frequency[pair] += counts[w]
                homes[pair].add(w)
        heap = [(-count, pair) for pair, count in frequency.items()]
        heapq.heapify(heap)

        merges: list[Pair] = []
        vocab = set(symbols)
        while heap and len(vocab) < vocab_size:
            negative, best = heapq.heappop(heap)
            if -negative != frequency[best]:  # an older count of this pair: its present one is in the heap too
                continue
            if -negative < min_frequency:
                break
            merges.append(best)
            vocab.add(best[0] + best[1])
            changed = set()
            for w in homes.pop(best):
                before = words[w]
                words[w] = after = _join(before, best)
                for word, sign in ((before, -1), (after, 1)):
                    for pair in zip(word, word[1:]):
                        frequency[pair] += sign * counts[w]
                        changed.add(pair)
                        if sign > 0:
                            homes[pair].add(w)
            for pair in changed:
                if frequency[pair] > 0:
                    heapq.heappush(heap, (-frequency[pair], pair))
        return cls(merges, _ids(symbols, merges), end_of_word=end_of_word)

    def encode_word(self, word: str, dropout: float = 0.0, generator: random.Random | None = None) -> list[str]:
        """Joins the pair of lowest rank, of equals the leftmost, until no neighbours are a merge.

        A heap holds the pairs that stand in the word now, so that n characters take O(n log n) steps.

        Args:
            word: One piece of text; merges cross whatever is in it.
            dropout: Probability with which a possible merge is passed over at each step. At 1 characters are left.
            generator: Source of the dropout's random numbers; Python's own if not given.

        Returns:
            The tokens; without ``unk`` they join to the word and the end marker.

        Raises:
            ValueError: If ``dropout`` is no probability, or a character is not in the vocabulary and there is no ``unk``.
        """
        if not 0 <= dropout <= 1:
            raise ValueError(f"dropout={dropout} is not between 0 and 1")
        if not word:
            return []
        draw = (generator or random).random
        symbols = [s for c in word for s in self._symbols(c)] + ([self.end_of_word] if self.end_of_word else [])
        n = len(symbols)
        before, after = list(range(-1, n - 1)), list(range(1, n + 1))  # a symbol's neighbours, as joined ones go
        heap: list[tuple[int, int, Pair]] = []

        def consider(i: int) -> None:
            if i >= 0 and after[i] < n:
                pair = (symbols[i], symbols[after[i]])
                if pair in self.ranks:
                    heapq.heappush(heap, (self.ranks[pair], i, pair))

        for i in range(n):
            consider(i)
        passed_over = []
        while heap:
            entry = heapq.heappop(heap)
            _, i, pair = entry
            j = after[i]
            if j >= n or (symbols[i], symbols[j]) != pair:  # one of the two has been joined to something else
                continue
            if dropout and draw() < dropout:
                passed_over.append(entry)
                continue
            symbols[i], symbols[j] = pair[0] + pair[1], ""
            after[i] = after[j]
            if after[j] < n:
                before[after[j]] = i
            consider(before[i])
            consider(i)
            for entry in passed_over:  # the next step draws anew for each of them
                heapq.heappush(heap, entry)
            passed_over.clear()
        return [s for s in symbols if s]

    def _symbols(self, character: str) -> list[str]:
        """What a character starts as: itself, if it is known."""
        if character in self.vocab:
            return [character]
        if self.unk is None:
            raise ValueError(f"word has {character!r}, which is not in vocab, and there is no unk")
        return [self.unk]


def _join(word: list[str], pair: Pair, joined: str | None = None) -> list[str]:
    """The word with every occurrence of the pair joined, from the left; into ``joined``, if that is not ``a + b``."""
    made = pair[0] + pair[1] if joined is None else joined
    out, i = [], 0
    while i < len(word):
        here = tuple(word[i : i + 2]) == pair
        out.append(made if here else word[i])
        i += 2 if here else 1
    return out


def _ids(symbols: Iterable[str], merges: Iterable[Pair]) -> dict[str, int]:
    """Symbols first, then what the merges make, in their order; two merges may make the same token."""
    tokens = dict.fromkeys([*symbols, *(a + b for a, b in merges)])
    return {token: i for i, token in enumerate(tokens)}
