"""Sentence embeddings: one vector for a whole text, so that near in space means near in meaning.

Source: Reimers and Gurevych 2019, arXiv:1908.10084, section 3 (pooling, siamese training); Arora, Liang and Ma 2017, ICLR, algorithm 1 (SIF);
Kusupati et al. 2022, arXiv:2205.13147, section 3 (prefixes of a vector).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vocab.check import expect
from vocab.layers.embedding import check_range
from vocab.pooling.global_average import masked_mean

__all__ = ["SentenceEncoder", "multiple_negatives_loss", "sif"]

# B texts, T tokens, D width, N candidates, V words


class SentenceEncoder(nn.Module):
    """Pools the vectors that an encoder gives the tokens of a text, shortens the result if asked to, and scales it to length 1.

    Args:
        encoder: Any module that maps ``(input_ids, attention_mask)`` to vectors ``(B, T, D)``.
        pooling: ``"mean"`` over the tokens, ``"max"`` of each number, or the vector of the first (``"cls"``) or ``"last"`` token.
            Padding is left out, on whichever side it is.
        normalize: Whether each vector is divided by its length. The dot product of two is then their cosine.
        dim: How many leading numbers are kept, before the scaling. Useful only if training made prefixes usable.

    Shapes:
        input_ids ``(B, T)`` and attention_mask ``(B, T)``, 1 or True where a token counts -> ``(B, D)`` or ``(B, dim)``.

    Raises:
        ValueError: If a setting cannot be, a text has no token, or the encoder's result does not fit.

    Examples:
        >>> class Table(nn.Embedding):
        ...     def forward(self, ids, mask):
        ...         return super().forward(ids)
        >>> texts = SentenceEncoder(Table(10, 4))(torch.tensor([[5, 2, 0]]), torch.tensor([[1, 1, 0]]))
        >>> texts.norm(dim=1)
        tensor([1.], grad_fn=<LinalgVectorNormBackward0>)
    """

    def __init__(self, encoder: nn.Module, *, pooling: str = "mean", normalize: bool = True, dim: int | None = None) -> None:
        super().__init__()
        if pooling not in ("mean", "cls", "max", "last"):
            raise ValueError(f"pooling={pooling!r} is none of 'mean', 'cls', 'max', 'last'")
        if dim is not None and dim < 1:
            raise ValueError(f"dim={dim} is below 1; None keeps all numbers")
        self.encoder, self.pooling, self.normalize, self.dim = encoder, pooling, normalize, dim

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        expect("input_ids", input_ids, "batch time", dtype="int")
        kind = "bool" if getattr(attention_mask, "dtype", None) == torch.bool else "int"
        expect("attention_mask", attention_mask, "batch time", dtype=kind, batch=input_ids.shape[0], time=input_ids.shape[1])
        kept_BT = attention_mask.bool()
        if not torch.compiler.is_compiling() and not kept_BT.any(1).all():
            raise ValueError(f"attention_mask leaves no token of text {int((~kept_BT.any(1)).nonzero()[0])}; an empty text has no vector")
        x_BTD = self.encoder(input_ids, attention_mask)
        expect("the encoder's result", x_BTD, "batch time width", batch=input_ids.shape[0], time=input_ids.shape[1])
        out_BD = self._pool(x_BTD, kept_BT)
        if self.dim is not None:
            if self.dim > out_BD.shape[1]:
                raise ValueError(f"dim={self.dim} is more than the encoder's width {out_BD.shape[1]}")
            out_BD = out_BD[:, : self.dim]  # before the scaling: a prefix of a unit vector is shorter than 1
        return F.normalize(out_BD, dim=-1) if self.normalize else out_BD

    def _pool(self, x_BTD: Tensor, kept_BT: Tensor) -> Tensor:
        if self.pooling == "mean":
            return masked_mean(x_BTD, kept_BT)
        if self.pooling == "max":
            return x_BTD.masked_fill(~kept_BT[..., None], -torch.inf).amax(1)
        place_T = torch.arange(kept_BT.shape[1], device=kept_BT.device)
        if self.pooling == "cls":
            at_B = torch.where(kept_BT, place_T, len(place_T)).amin(1)
        else:
            at_B = torch.where(kept_BT, place_T, -1).amax(1)
        return x_BTD[torch.arange(len(at_B), device=at_B.device), at_B]

    def extra_repr(self) -> str:
        return f"pooling={self.pooling!r}, normalize={self.normalize}, dim={self.dim}"


def multiple_negatives_loss(a: Tensor, b: Tensor, scale: float = 20.0) -> Tensor:
    """Cross-entropy of picking each text's partner out of all partners in the batch, by cosine.

    Args:
        a: Texts, for example questions.
        b: Their partners: row i of ``b`` belongs to row i of ``a``, and every other row is a negative. Rows beyond those of
            ``a`` are negatives for all.
        scale: What cosines are multiplied by before the softmax: 1 / temperature.

    Shapes:
        a ``(B, D)``, b ``(N, D)`` with N at least B -> a scalar.

    Raises:
        ValueError: If ``b`` has fewer rows than ``a`` or another width, or ``scale`` is not above 0.

    Examples:
        >>> a = torch.eye(3)
        >>> round(multiple_negatives_loss(a, a).item(), 6)
        0.0
        >>> round(multiple_negatives_loss(a, torch.ones(3, 3)).item(), 4)  # log 3: no telling them apart
        1.0986
    """
    expect("a", a, "texts width")
    expect("b", b, "candidates width", width=a.shape[1])
    if len(b) < len(a):
        raise ValueError(f"b has {len(b)} rows for {len(a)} texts; each needs its partner")
    if not scale > 0:
        raise ValueError(f"scale={scale} is not above 0")
    cosine_BN = F.normalize(a, dim=1) @ F.normalize(b, dim=1).mT
    return F.cross_entropy(scale * cosine_BN, torch.arange(len(a), device=a.device))


def sif(word_vectors: Tensor, probs: Tensor, sentences: Sequence[Sequence[int]], a: float = 1e-3, *, remove: int = 1) -> Tensor:
    """Averages word vectors with weights that fall with frequency, then takes the common direction out. No training.

    Args:
        word_vectors: One per word ``(V, D)``.
        probs: Share of running text that each word has ``(V,)``.
        sentences: Word ids of each text.
        a: A word with ``p = a`` gets half weight: ``a / (a + p)``.
        remove: How many leading singular vectors of the averages are projected out.

    Returns:
        ``(B, D)``, one row per text.

    Raises:
        ValueError: If a text is empty, an id is no word, or a number is out of range.

    Examples:
        >>> sif(torch.eye(2), torch.tensor([0.001, 0.0]), [[0, 1]], remove=0)
        tensor([[0.2500, 0.5000]])
    """
    expect("word_vectors", word_vectors, "words width")
    expect("probs", probs, "words", words=len(word_vectors))
    if not a > 0:
        raise ValueError(f"a={a} is not above 0: every word would get weight 0")
    if not 0 <= remove <= min(len(sentences), word_vectors.shape[1]):
        raise ValueError(f"remove={remove} is not from 0 to {min(len(sentences), word_vectors.shape[1])}")
    weight_V = a / (a + probs)
    means = []
    for i, sentence in enumerate(sentences):
        if not len(sentence):
            raise ValueError(f"sentences[{i}] is empty; it has no vector")
        ids = torch.as_tensor(sentence, device=word_vectors.device)
        check_range(f"sentences[{i}]", ids, len(word_vectors))
        means.append((weight_V[ids, None] * word_vectors[ids]).mean(0))
    x_BD = torch.stack(means)
    # Not centred, as in the paper: the direction that all texts share is what is to go.
    common_RD = torch.linalg.svd(x_BD, full_matrices=False)[2][:remove]
    return x_BD - x_BD @ common_RD.mT @ common_RD
