"""Word2vec: vectors of words learned by telling true neighbours in text from words drawn at random.

Source: Mikolov et al. 2013, arXiv:1310.4546, equation 4 (negative sampling), section 2.3 (frequent words); skip-gram and CBOW in
arXiv:1301.3781; PMI from Levy and Goldberg 2014, NIPS, section 3.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vocab.check import expect
from vocab.layers.embedding import Embedding, check_range

__all__ = ["SkipGramNS", "CBOW", "noise_distribution", "keep_probability", "cooccurrence", "pmi", "ppmi_svd", "analogy"]

# B pairs, C words around a centre, K negatives, V words of the vocabulary, D width


class SkipGramNS(nn.Module):
    """Skip-gram with negative sampling: a word's vector predicts each single word near it.

    The loss of a pair is ``-log s(u·v) - sum_k log s(-u·v_k)`` with the sigmoid ``s``, the centre's row ``u`` of the input
    table and rows ``v`` of the output table: that of the neighbour and those of K words drawn from the noise.

    Args:
        vocab_size: Words V.
        dim: Width D of a vector.
        negatives: Words K that ``sample`` draws for each true one.
        power: Exponent of the counts in the noise.
        counts: How often each word occurs ``(V,)``; without them the noise is the same for all words.

    Shapes:
        center ``(B,)``, context ``(B,)``, negative ``(B, K)`` -> the mean loss of a pair, a scalar.

    Raises:
        ValueError: If an id is no row, the numbers of pairs differ, or a setting cannot be.

    Examples:
        >>> model = SkipGramNS(10, 4, negatives=2)
        >>> center, context = torch.tensor([1, 1]), torch.tensor([0, 2])
        >>> round(model(center, context, model.sample(2)).item(), 4)  # 3 log 2: outputs start at zero
        2.0794
    """

    def __init__(self, vocab_size: int, dim: int, *, negatives: int = 5, power: float = 0.75, counts: Tensor | None = None) -> None:
        super().__init__()
        if negatives < 1:
            raise ValueError(f"negatives={negatives} is below 1: without any, all vectors may grow alike")
        counts = torch.ones(vocab_size) if counts is None else counts
        expect("counts", counts, "vocab_size", vocab_size=vocab_size)
        self.negatives = negatives
        self.input, self.output = Embedding(vocab_size, dim), Embedding(vocab_size, dim)
        with torch.no_grad():  # as in the authors' program: small inputs, and no opinion at the output
            self.input.weight.uniform_(-0.5 / dim, 0.5 / dim)
            self.output.weight.zero_()
        self.register_buffer("noise", noise_distribution(counts, power))

    def forward(self, center: Tensor, context: Tensor, negative: Tensor) -> Tensor:
        expect("center", center, "pairs", dtype="int")
        expect("context", context, "pairs", dtype="int", pairs=len(center))
        check_range("context", context, len(self.output.weight))
        return self._loss(self.input(center), context, negative)

    def _loss(self, u_BD: Tensor, target: Tensor, negative: Tensor) -> Tensor:
        """Tells the target from the negatives, given the vector that has to do so."""
        expect("negative", negative, "pairs negatives", dtype="int", pairs=len(u_BD))
        check_range("negative", negative, len(self.output.weight))
        true_B = (u_BD * self.output(target)).sum(-1)
        false_BK = (self.output(negative) @ u_BD.unsqueeze(-1)).squeeze(-1)
        return -(F.logsigmoid(true_B) + F.logsigmoid(-false_BK).sum(-1)).mean()

    def sample(self, pairs: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Draws negatives from the noise; now and then one is the true neighbour, as in the paper.

        Args:
            pairs: How many pairs B they are for.
            generator: Source of the random numbers.

        Returns:
            Ids ``(B, K)``.
        """
        drawn = torch.multinomial(self.noise, pairs * self.negatives, replacement=True, generator=generator)
        return drawn.view(pairs, self.negatives)


class CBOW(SkipGramNS):
    """Continuous bag of words: the mean of the vectors around a gap predicts the word in it.

    Args:
        vocab_size: Words V.
        dim: Width D of a vector.
        negatives: Words K that ``sample`` draws for each true one.
        power: Exponent of the counts in the noise.
        counts: How often each word occurs ``(V,)``.

    Shapes:
        context ``(B, C)``, center ``(B,)``, negative ``(B, K)``, mask ``(B, C)`` -> the mean loss of a gap, a scalar.

    Raises:
        ValueError: If an id is no row, the numbers of gaps differ, or a gap has no word around it.

    Examples:
        >>> model = CBOW(10, 4)
        >>> loss = model(torch.tensor([[1, 2, 4, 5]]), torch.tensor([3]), model.sample(1))
        >>> round(loss.item() / math.log(2), 4)
        6.0
    """

    def forward(self, context: Tensor, center: Tensor, negative: Tensor, mask: Tensor | None = None) -> Tensor:
        """Predicts the word in the gap.

        Args:
            context: Words around the gap.
            center: The word in it.
            negative: Words drawn from the noise.
            mask: True where ``context`` holds a word, False where it is filled up: at the ends of a sentence.
        """
        expect("center", center, "gaps", dtype="int")
        expect("context", context, "gaps words", dtype="int", gaps=len(center))
        check_range("center", center, len(self.output.weight))
        u_BCD = self.input(context)
        if mask is None:
            return self._loss(u_BCD.mean(1), center, negative)
        expect("mask", mask, "gaps words", dtype="bool", gaps=len(center), words=context.shape[1])
        if not torch.compiler.is_compiling() and not mask.any(1).all():
            raise ValueError(f"mask leaves no word around gap {int((~mask.any(1)).nonzero()[0])}; leave that gap out")
        kept_BC1 = mask.unsqueeze(-1).to(u_BCD)
        return self._loss((u_BCD * kept_BC1).sum(1) / kept_BC1.sum(1), center, negative)


def noise_distribution(counts: Tensor, power: float = 0.75) -> Tensor:
    """Probabilities of words as negatives: counts to a power, normalized.

    Args:
        counts: How often each word occurs ``(V,)``.
        power: 1 draws words as often as they occur, 0 all alike; 3/4 lifts the rare ones.

    Returns:
        ``(V,)``, sums to 1.

    Raises:
        ValueError: If a count is negative or all are zero.

    Examples:
        >>> noise_distribution(torch.tensor([1.0, 16.0]))  # 1 to 8, no longer 1 to 16
        tensor([0.1111, 0.8889])
    """
    expect("counts", counts, "vocab_size")
    if not torch.compiler.is_compiling() and ((counts < 0).any() or not counts.any()):
        raise ValueError(f"counts from {counts.min():g} to {counts.max():g}; expected none below 0 and one above")
    weights = torch.where(counts > 0, counts**power, torch.zeros_like(counts))  # 0 to the power 0 would be 1
    return weights / weights.sum()


def keep_probability(frequency: Tensor, t: float = 1e-3) -> Tensor:
    """Probability with which an occurrence of a word is kept in the text before pairs are formed.

    This is the rule of the authors' program, ``min(1, sqrt(t/f) + t/f)``. The paper has ``min(1, sqrt(t/f))``.

    Args:
        frequency: Share of the text that each word has.
        t: Words with a share below 2.6 t are always kept.

    Returns:
        Same shape.

    Examples:
        >>> keep_probability(torch.tensor([0.1, 0.001]))
        tensor([0.1100, 1.0000])
    """
    expect("frequency", frequency, "...")
    if not t > 0:
        raise ValueError(f"t={t} is not above 0")
    return (torch.sqrt(t / frequency) + t / frequency).clamp(max=1)


def cooccurrence(corpus: Sequence[Sequence[int]], vocab_size: int, window: int, *, dynamic: bool = False) -> Tensor:
    """Counts which word stands near which: the pairs that skip-gram sees.

    Args:
        corpus: Sentences of word ids; no pair crosses a sentence's end.
        vocab_size: Words V.
        window: How many words to each side are near.
        dynamic: Whether a pair at distance d counts ``(window - d + 1) / window``: the share of the drawn windows, from 1
            to ``window`` words wide, that reach so far.

    Returns:
        ``(V, V)`` in float64, centre by neighbour; symmetric.

    Raises:
        ValueError: If ``window`` is below 1 or an id is not from 0 to V - 1.

    Examples:
        >>> cooccurrence([[0, 1, 0, 2]], 3, window=1).tolist()
        [[0.0, 2.0, 1.0], [2.0, 0.0, 0.0], [1.0, 0.0, 0.0]]
    """
    if window < 1:
        raise ValueError(f"window={window} is below 1")
    counts = torch.zeros(vocab_size, vocab_size, dtype=torch.float64)
    for sentence in corpus:
        ids = torch.tensor(sentence, dtype=torch.long)
        check_range("corpus", ids, vocab_size)
        for d in range(1, min(window, len(ids) - 1) + 1):
            weight = torch.full((len(ids) - d,), (window - d + 1) / window if dynamic else 1.0, dtype=torch.float64)
            counts.index_put_((ids[:-d], ids[d:]), weight, accumulate=True)
    return counts + counts.T


def pmi(counts: Tensor, noise: Tensor | None = None) -> Tensor:
    """Pointwise mutual information: the logarithm of how much more often two words meet than chance would have it.

    Args:
        counts: ``(V, V)``, how often word i (row) has word j (column) near it.
        noise: What chance means: probabilities of the columns ``(V,)``. Their shares in ``counts`` if not given.

    Returns:
        ``log(p(i, j) / (p(i) noise(j)))``, minus infinity where two words never meet.

    Examples:
        >>> pmi(torch.tensor([[1.0, 1.0], [1.0, 1.0]]))
        tensor([[0., 0.],
                [0., 0.]])
    """
    expect("counts", counts, "words contexts")
    shares = counts.sum(0) / counts.sum() if noise is None else noise
    expect("noise", shares, "contexts", contexts=counts.shape[1])
    return torch.log(counts / counts.sum(1, keepdim=True) / shares)


def ppmi_svd(corpus: Sequence[Sequence[int]], window: int, dim: int, *, vocab_size: int | None = None) -> Tensor:
    """Makes word vectors without training: the leading singular vectors of the positive part of the PMI.

    Args:
        corpus: Sentences of word ids.
        window: How many words to each side are near.
        dim: Width D of a vector.
        vocab_size: Words V; the largest id plus one if not given.

    Returns:
        ``(V, D)`` in float64; singular vectors times the roots of the singular values. A word that never occurs is zero.

    Raises:
        ValueError: If ``dim`` is not from 1 to V.

    Examples:
        >>> ppmi_svd([[0, 1], [2, 3]], window=1, dim=2).shape
        torch.Size([4, 2])
    """
    vocab_size = 1 + max(max(sentence, default=0) for sentence in corpus) if vocab_size is None else vocab_size
    if not 1 <= dim <= vocab_size:
        raise ValueError(f"dim={dim} is not from 1 to vocab_size={vocab_size}")
    positive = pmi(cooccurrence(corpus, vocab_size, window)).nan_to_num(nan=0.0).clamp(min=0)
    left, sizes, _ = torch.linalg.svd(positive)
    return left[:, :dim] * sizes[:dim].sqrt()


def analogy(emb: Tensor, a: int, b: int, c: int, topk: int = 1, *, exclude: bool = True) -> list[tuple[int, float]]:
    """Answers "a is to b as c is to ?": the rows with the largest cosine to ``b - a + c`` of unit vectors.

    Args:
        emb: Word vectors ``(V, D)``.
        a: Id of the first word.
        b: What belongs to it.
        c: The word for which the like is sought.
        topk: How many answers.
        exclude: Whether the three words themselves are no answers. The usual test leaves them out; without that,
            ``b`` or ``c`` often wins.

    Returns:
        Pairs of id and cosine, best first.

    Raises:
        ValueError: If an id is no row or ``topk`` is more than the words that are left.

    Examples:
        >>> emb = torch.tensor([[1.0, 0.0, 0.2], [0.0, 1.0, 0.2], [1.0, 0.0, 1.0], [0.0, 1.0, 1.0]])
        >>> [word for word, _ in analogy(emb, 0, 1, 2)]
        [3]
    """
    expect("emb", emb, "vocab_size dim")
    check_range("a, b, c", torch.tensor([a, b, c]), len(emb))
    allowed = len(emb) - (len({a, b, c}) if exclude else 0)
    if not 1 <= topk <= allowed:
        raise ValueError(f"topk={topk} is not from 1 to {allowed}, the words that can be answers")
    unit = F.normalize(emb, dim=1)
    cosine = unit @ F.normalize(unit[b] - unit[a] + unit[c], dim=0)
    if exclude:
        cosine[[a, b, c]] = -math.inf
    values, ids = cosine.topk(topk)
    return list(zip(ids.tolist(), values.tolist()))
