"""Unigram language model: every split of a text has a probability, and the most probable one is taken, or one is drawn.

Source: Kudo 2018, arXiv:1804.10959, sections 3.1 (model and training) and 3.2 (sampling).
"""

from __future__ import annotations

import heapq
import math
import random
from collections import Counter
from collections.abc import Mapping

__all__ = ["Unigram"]


class Unigram:
    """Splits a text so that the product of its pieces' probabilities is largest.

    A character that is no piece counts as the unknown token, with a score 10 below the lowest one. The unknown token is not a
    piece: no text can spell it. Several in a row become one.

    Args:
        pieces: Natural logarithm of each piece's probability.
        unk: The token of characters that are no piece.

    Attributes:
        pieces: As given.
        vocab: Ids: 0 is the unknown token, then the pieces in the order given.

    Raises:
        ValueError: If there are no pieces, one is empty or is the unknown token, or a value is no logarithm of a probability.

    Examples:
        >>> model = Unigram({"h": -3.0, "u": -3.0, "g": -3.0, "s": -2.5, "hu": -2.8, "ug": -2.0, "hug": -3.2})
        >>> model.encode_word("hugs"), model.encode_word("hugo")
        (['hug', 's'], ['hug', '<unk>'])
        >>> [tokens for tokens, logp in model.nbest("hug", 3)]
        [['hug'], ['h', 'ug'], ['hu', 'g']]
    """

    def __init__(self, pieces: Mapping[str, float], *, unk: str = "<unk>") -> None:
        if not pieces:
            raise ValueError("pieces is empty; expected a logarithm of a probability for each piece")
        for piece, logp in pieces.items():
            if not piece or piece == unk:
                raise ValueError(f"pieces has {piece!r}; expected strings of one character or more, and not the unknown token")
            if not -math.inf < logp <= 0:
                raise ValueError(f"pieces[{piece!r}]={logp} is not the logarithm of a probability above 0 and up to 1")
        self.pieces, self.unk = dict(pieces), unk
        self.vocab = {token: i for i, token in enumerate([unk, *self.pieces])}
        self._longest = max(map(len, self.pieces))
        self._unk_score = min(self.pieces.values()) - 10

    def encode_word(self, text: str) -> list[str]:
        """The most probable split, found by Viterbi's algorithm.

        Args:
            text: A word or any other string; spaces are characters like others.
        """
        into = self._lattice(text)
        best = self._best(into)
        tokens, end = [], len(text)
        while end > 0:
            start, token, _ = max(into[end], key=lambda edge: best[edge[0]] + edge[2])
            tokens.append(token)
            end = start
        return self._fused(tokens[::-1])

    def nbest(self, text: str, n: int) -> list[tuple[list[str], float]]:
        """The n most probable splits with the logarithms of their probabilities, the best first; all if there are fewer.

        The search goes backward from the end of the text. What a beginning can add at most is known exactly, since Viterbi's
        algorithm has computed it, so no split is looked at that is not among the best (an A* search).

        Args:
            text: A word or any other string.
            n: How many.
        """
        if n < 1:
            raise ValueError(f"n={n} is below 1")
        into = self._lattice(text)
        best = self._best(into)
        found, order = [], 0  # `order` keeps the heap from comparing lists
        heap: list[tuple[float, int, int, float, list[str]]] = [(-best[-1], order, len(text), 0.0, [])]
        while heap and len(found) < n:
            _, _, end, logp, tokens = heapq.heappop(heap)
            if end == 0:
                found.append((self._fused(tokens), logp))
            for start, token, score in into[end]:
                order += 1
                heapq.heappush(heap, (-(best[start] + score + logp), order, start, logp + score, [token, *tokens]))
        return found

    def sample(self, text: str, alpha: float = 0.1, generator: random.Random | None = None) -> list[str]:
        """Draws a split with a probability proportional to that of the model to the power of ``alpha``.

        Args:
            text: A word or any other string.
            alpha: 0 makes all splits equally probable, 1 follows the model, a large one returns the best.
            generator: Source of the random numbers; Python's own if not given.
        """
        if not 0 <= alpha < math.inf:
            raise ValueError(f"alpha={alpha} is not a finite number of at least 0")
        into = self._lattice(text)
        forward = self._forward(into, alpha)
        tokens, end = [], len(text)
        while end > 0:
            weights = [math.exp(forward[start] + alpha * score - forward[end]) for start, _, score in into[end]]
            ((start, token, _),) = (generator or random).choices(into[end], weights)
            tokens.append(token)
            end = start
        return self._fused(tokens[::-1])

    def expected_counts(self, text: str) -> tuple[dict[str, float], float]:
        """How often each token occurs on average over all splits, and the logarithm of the probability of the text.

        Args:
            text: A word or any other string.
        """
        into = self._lattice(text)
        forward = self._forward(into, 1.0)
        # Backward over the same lattice: what follows position i, in all ways.
        backward = [-math.inf] * len(text) + [0.0]
        for end in range(len(text), 0, -1):
            for start, _, score in into[end]:
                backward[start] = _log_add(backward[start], backward[end] + score)
        counts: Counter[str] = Counter()
        for end, edges in enumerate(into):
            for start, token, score in edges:
                counts[token] += math.exp(forward[start] + score + backward[end] - forward[-1])
        return dict(counts), forward[-1]

    def em_step(self, word_counts: Mapping[str, int]) -> tuple[Unigram, float]:
        """One step of expectation maximization: a model with the same pieces and a likelihood that is not lower.

        Args:
            word_counts: How often each word occurs; all characters are pieces.

        Returns:
            The new model, and the log-likelihood of the words under the present one.
        """
        counts, likelihood = Counter(dict.fromkeys(self.pieces, 0.0)), 0.0
        for word, times in word_counts.items():
            expected, logp = self.expected_counts(word)
            likelihood += times * logp
            for token, count in expected.items():
                if token == self.unk:
                    raise ValueError(f"word_counts has {word!r} with a character that is no piece")
                counts[token] += times * count
        return Unigram(_log_shares(counts), unk=self.unk), likelihood

    @classmethod
    def train(
        cls,
        word_counts: Mapping[str, int],
        vocab_size: int,
        *,
        shrink: float = 0.75,
        em_iters: int = 2,
        max_length: int = 8,
        unk: str = "<unk>",
    ) -> Unigram:
        """Starts with all substrings seen twice, and in turn fits their probabilities and drops those that are missed least.

        Args:
            word_counts: How often each word occurs.
            vocab_size: Entries wanted, the unknown token included; fewer if the words have fewer substrings.
            shrink: Share of the pieces that a pruning keeps.
            em_iters: Steps of expectation maximization before each pruning.
            max_length: Characters of the longest piece.
            unk: As above.

        Raises:
            ValueError: If the characters alone are more than ``vocab_size``, there are no words, or a setting cannot be.
        """
        if not 0 < shrink < 1:
            raise ValueError(f"shrink={shrink} is not between 0 and 1")
        for name, value in (("em_iters", em_iters), ("max_length", max_length)):
            if value < 1:
                raise ValueError(f"{name}={value} is below 1")
        seen: Counter[str] = Counter()
        for word, times in word_counts.items():
            if times < 1:
                raise ValueError(f"word_counts[{word!r}]={times} is below 1")
            for start in range(len(word)):
                for end in range(start + 1, min(start + max_length, len(word)) + 1):
                    seen[word[start:end]] += times
        characters = sum(len(piece) == 1 for piece in seen)
        if not characters:
            raise ValueError("word_counts has no word to learn from")
        if vocab_size < characters + 1:
            raise ValueError(f"vocab_size={vocab_size} is less than the {characters + 1} entries of the unknown token and all characters")
        model = cls(_log_shares({piece: n for piece, n in seen.items() if len(piece) == 1 or (n > 1 and piece != unk)}), unk=unk)
        while True:
            for _ in range(em_iters):
                model, _ = model.em_step(word_counts)
            if len(model.pieces) < vocab_size:
                break
            model = model._pruned(word_counts, max(vocab_size - 1, int(shrink * len(model.pieces))))
        return cls(dict(sorted(model.pieces.items(), key=lambda item: (-item[1], item[0]))), unk=unk)

    def _pruned(self, word_counts: Mapping[str, int], keep: int) -> Unigram:
        """Keeps all single characters, and of the others those whose loss would cost the most likelihood."""
        counts: Counter[str] = Counter()
        for word, times in word_counts.items():
            for token, count in self.expected_counts(word)[0].items():
                counts[token] += times * count
        loss = {}
        for piece, logp in self.pieces.items():
            if len(piece) > 1:
                into = self._lattice(piece)
                into[-1] = [edge for edge in into[-1] if edge[0] > 0]  # without the piece itself
                # Rounded, so that pieces with equal numbers are ordered by name and not by the last bit.
                loss[piece] = round(counts[piece] * (logp - self._best(into)[-1]), 6)
        dropped = set(sorted(loss, key=lambda piece: (loss[piece], piece))[: len(self.pieces) - keep])
        return Unigram({piece: logp for piece, logp in self.pieces.items() if piece not in dropped}, unk=self.unk)

    def _lattice(self, text: str) -> list[list[tuple[int, str, float]]]:
        """For each position the tokens that end there: where they start, their name, their score."""
        into: list[list[tuple[int, str, float]]] = [[] for _ in range(len(text) + 1)]
        for start in range(len(text)):
            for end in range(start + 1, min(start + self._longest, len(text)) + 1):
                piece = text[start:end]
                if piece in self.pieces:
                    into[end].append((start, piece, self.pieces[piece]))
                elif end == start + 1:
                    into[end].append((start, self.unk, self._unk_score))
        return into

    def _best(self, into: list[list[tuple[int, str, float]]]) -> list[float]:
        """The score of the best split of each beginning."""
        best = [0.0]
        for edges in into[1:]:
            best.append(max(best[start] + score for start, _, score in edges))
        return best

    def _forward(self, into: list[list[tuple[int, str, float]]], alpha: float) -> list[float]:
        """The logarithm of the sum over all splits of each beginning, scores times ``alpha``."""
        forward = [0.0]
        for edges in into[1:]:
            total = -math.inf
            for start, _, score in edges:
                total = _log_add(total, forward[start] + alpha * score)
            forward.append(total)
        return forward

    def _fused(self, tokens: list[str]) -> list[str]:
        return [t for i, t in enumerate(tokens) if not (t == self.unk and i and tokens[i - 1] == self.unk)]


def _log_shares(counts: Mapping[str, float]) -> dict[str, float]:
    """Logarithms of the shares; a count that underflowed to 0 keeps a share that is small but has a logarithm."""
    log_total = math.log(math.fsum(counts.values()))
    return {piece: min(math.log(max(count, 1e-300)) - log_total, 0.0) for piece, count in counts.items()}


def _log_add(a: float, b: float) -> float:
    """log(exp a + exp b)."""
    high, low = max(a, b), min(a, b)
    return high if low == -math.inf else high + math.log1p(math.exp(low - high))
