"""Triplet loss, and the choice of triplets within a batch.

Source: Schroff et al. 2015, arXiv:1503.03832, sections 3.1 and 3.2 (semi-hard); Hermans et al. 2017, arXiv:1703.07737, equation 5 (batch-hard).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from vocab.check import expect
from vocab.losses.cross_entropy import check_reduction, reduced, same_shape, widen

__all__ = ["MinedTripletLoss", "TripletMarginLoss", "distance"]

# N examples, D width of an embedding


class TripletMarginLoss(nn.Module):
    """By how much the negative is not farther from the anchor than the positive is, plus a margin.

    Args:
        margin: How much farther the negative has to be.
        p: Norm of the distance, 1 or more.
        reduction: ``"mean"``, ``"sum"``, or ``"none"``. The mean over no triplet is 0.

    Shapes:
        anchor ``(N, D)``, positive ``(N, D)``, negative ``(N, D)`` -> a scalar, or ``(N,)`` without reduction.

    Raises:
        ValueError: If ``margin`` is negative, ``p`` is below 1, ``reduction`` is another word, or the shapes differ.

    Examples:
        >>> loss = TripletMarginLoss(margin=1.0)
        >>> a, p, n = (torch.tensor([[x]]) for x in (0.0, 2.0, 2.5))
        >>> loss(a, p, n)
        tensor(0.5000)
    """

    def __init__(self, margin: float = 1.0, p: float = 2.0, reduction: str = "mean") -> None:
        super().__init__()
        _check_options(margin, p, reduction)
        self.margin, self.p, self.reduction = margin, p, reduction

    def forward(self, anchor: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        for name, x in (("anchor", anchor), ("positive", positive), ("negative", negative)):
            expect(name, x, "examples dim")
            same_shape(name, x, "anchor", anchor)
        wrong_by = distance(anchor, positive, self.p) - distance(anchor, negative, self.p) + self.margin
        return reduced(wrong_by.relu(), self.reduction)


class MinedTripletLoss(nn.Module):
    """Triplet loss over a batch with labels, from which the triplets are chosen.

    ``"batch-hard"``: every example is once the anchor, with its farthest positive and its nearest negative.
    ``"semi-hard"``: every pair of equal labels, with the nearest negative that is farther away than the positive, or the farthest
    of all if none is.

    Args:
        margin: How much farther the negative has to be.
        p: Norm of the distance, 1 or more.
        mining: ``"batch-hard"`` or ``"semi-hard"``.
        reduction: ``"mean"`` over the anchors, or pairs, that have a positive and a negative in the batch (0 if there is none), ``"sum"``,
            or ``"none"`` with 0 for those that have not.

    Shapes:
        embeddings ``(N, D)``, labels ``(N,)`` of whole numbers -> a scalar; without reduction ``(N,)`` for batch-hard, ``(N, N)`` for semi-hard.

    Raises:
        ValueError: If an option is out of range or a shape does not fit.

    Examples:
        >>> x = torch.tensor([[0.0], [1.0], [1.5]])
        >>> MinedTripletLoss(1.0, reduction="none")(x, torch.tensor([0, 0, 1]))
        tensor([0.5000, 1.5000, 0.0000])
    """

    def __init__(self, margin: float = 1.0, p: float = 2.0, mining: str = "batch-hard", reduction: str = "mean") -> None:
        super().__init__()
        _check_options(margin, p, reduction)
        if mining not in ("batch-hard", "semi-hard"):
            raise ValueError(f"mining={mining!r} is not 'batch-hard' or 'semi-hard'")
        self.margin, self.p, self.mining, self.reduction = margin, p, mining, reduction

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        expect("embeddings", embeddings, "examples dim")
        expect("labels", labels, "examples", dtype="int", examples=len(embeddings))
        apart_NN = distance(embeddings[:, None], embeddings, self.p)
        same_NN = labels[:, None] == labels
        positive_NN = same_NN & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
        far, near = math.inf, -math.inf
        if self.mining == "batch-hard":
            to_positive = apart_NN.masked_fill(~positive_NN, near).amax(1)
            to_negative = apart_NN.masked_fill(same_NN, far).amin(1)
            counts = positive_NN.any(1) & ~same_NN.all()  # an anchor lacks a negative only where all do
        else:
            to_positive = apart_NN
            beyond_NNN = ~same_NN[:, None] & (apart_NN[:, None] > apart_NN[:, :, None])  # anchor, positive, negative
            nearest = apart_NN[:, None].expand_as(beyond_NNN).masked_fill(~beyond_NNN, far).amin(2)
            farthest = apart_NN.masked_fill(same_NN, near).amax(1, keepdim=True)
            to_negative = torch.where(beyond_NNN.any(2), nearest, farthest)
            counts = positive_NN & ~same_NN.all()
        loss = torch.where(counts, to_positive - to_negative + self.margin, 0.0).relu()
        return reduced(loss, self.reduction, counts.to(loss.dtype))


def distance(x: Tensor, y: Tensor, p: float = 2.0) -> Tensor:
    """Computes the p-norm of the difference of vectors, in 32 bits or more.

    As in PyTorch a millionth is added to every difference: at distance 0 a root has no slope, and a pair that coincides could never part.

    Args:
        x: Vectors.
        y: Vectors; broadcast against ``x``.
        p: The norm.

    Shapes:
        x ``(..., D)``, y ``(..., D)`` -> ``(...)``
    """
    return torch.linalg.vector_norm(widen(x) - widen(y) + 1e-6, p, -1)


def _check_options(margin: float, p: float, reduction: str) -> None:
    if not margin >= 0:
        raise ValueError(f"margin={margin} is not 0 or more")
    if not p >= 1:
        raise ValueError(f"p={p} is not 1 or more")
    check_reduction(reduction)
