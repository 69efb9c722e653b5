"""CosFace, and what all classifiers of directions share: logits that are cosines, with a handicap for the truth.

Source: Wang et al. 2018, arXiv:1801.09414, equation 4 and section 3.3; Wang et al. 2018 (AM-Softmax), arXiv:1801.05599.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from vocab.check import expect
from vocab.losses.cross_entropy import check_classes, widen

__all__ = ["CosFaceHead", "CosineHead", "least_scale", "unit"]

# N examples, D width of a feature, C classes


class CosineHead(nn.Module):
    """A last layer without bias whose logits are ``s`` times the cosines between a feature and the directions of the classes.

    This is the normalized softmax: lengths of features and weights do not count. Subclasses make the truth harder in
    :meth:`handicap`. The logits go into :class:`~vocab.losses.cross_entropy.CrossEntropy`. Features of 16 bits are widened to 32.

    Args:
        in_features: Width of a feature.
        n_classes: Number of classes.
        s: What the cosines are multiplied by.
        ignore_index: The label of an example without a class: its logits have no handicap.

    Shapes:
        x ``(N, D)``, label ``(N,)`` of whole numbers -> ``(N, C)``. Without labels (in use, not in training) nothing is made harder.

    Raises:
        ValueError: If a number is out of range, a shape does not fit, or a class is not there (not looked for while compiling).

    Examples:
        >>> head = CosineHead(2, 2, s=10.0)
        >>> _ = head.weight.data.copy_(torch.tensor([[2.0, 0.0], [0.0, 5.0]]))
        >>> head(torch.tensor([[3.0, 4.0]]))
        tensor([[6., 8.]], grad_fn=<MulBackward0>)
    """

    def __init__(self, in_features: int, n_classes: int, s: float = 64.0, *, ignore_index: int = -100) -> None:
        super().__init__()
        for name, value in (("in_features", in_features), ("n_classes", n_classes)):
            if value < 1:
                raise ValueError(f"{name}={value} is not 1 or more")
        if not 0 < s < math.inf:
            raise ValueError(f"s={s} is not a finite number above 0")
        self.in_features, self.n_classes, self.s, self.ignore_index = in_features, n_classes, s, ignore_index
        # Rows of about length 1: what a step turns a direction by is the learning rate over the square of the length.
        self.weight = nn.Parameter(torch.randn(n_classes, in_features) / math.sqrt(in_features))

    def forward(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        expect("x", x, "examples in_features", in_features=self.in_features)
        x_ND, w_CD = unit(x), unit(self.weight)
        cosine_NC = x_ND @ w_CD.mT
        if label is None:
            return self.s * cosine_NC
        check_classes(label, self.n_classes, (len(x),), self.ignore_index, "label")
        known_N = label != self.ignore_index
        truth_N = torch.where(known_N, label, 0).long()
        own_N = cosine_NC.gather(1, truth_N[:, None])[:, 0]
        harder_N = torch.where(known_N, self.handicap(own_N, x_ND, w_CD[truth_N]), own_N)
        return self.s * cosine_NC.scatter(1, truth_N[:, None], harder_N[:, None])

    def handicap(self, cosine: Tensor, x: Tensor, w: Tensor) -> Tensor:
        """Makes smaller what stands for the cosine of the truth; here nothing is done.

        Args:
            cosine: The cosines, ``(N,)``.
            x: The features at unit length, ``(N, D)``.
            w: The directions of their classes, ``(N, D)``.
        """
        return cosine


class CosFaceHead(CosineHead):
    """Cosines times ``s``, where the truth is handicapped by a margin: ``s * (cosine - m)``.

    For training: ``loss = CrossEntropy()(head(x, label), label)``. In use features are compared by their cosine, or ``head(x)`` ranks
    the known classes.

    Args:
        in_features: Width of a feature.
        n_classes: Number of classes.
        s: What the cosines are multiplied by.
        m: By how much the cosine of the truth has to exceed all others. May be changed during training.
        ignore_index: The label of an example without a class.

    Shapes:
        x ``(N, D)``, label ``(N,)`` of whole numbers -> ``(N, C)``

    Raises:
        ValueError: If ``m`` is not between 0 and 2, the largest difference of cosines, or as :class:`CosineHead`.

    Examples:
        >>> head = CosFaceHead(2, 2, s=10.0, m=0.35)
        >>> _ = head.weight.data.copy_(torch.eye(2))
        >>> head(torch.tensor([[3.0, 4.0]]), torch.tensor([1])).detach()
        tensor([[6.0000, 4.5000]])
    """

    def __init__(self, in_features: int, n_classes: int, s: float = 64.0, m: float = 0.35, *, ignore_index: int = -100) -> None:
        super().__init__(in_features, n_classes, s, ignore_index=ignore_index)
        if not 0 <= m <= 2:
            raise ValueError(f"m={m} is not between 0 and 2, the largest difference of two cosines")
        self.m = m

    def handicap(self, cosine: Tensor, x: Tensor, w: Tensor) -> Tensor:
        return cosine - self.m


def unit(v: Tensor) -> Tensor:
    """Scales vectors to length 1, in 32 bits or more. A vector of zeros stays, with gradient 0: it has no direction.

    Args:
        v: The vectors.

    Shapes:
        v ``(..., D)`` -> ``(..., D)``

    Examples:
        >>> unit(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
        tensor([[0.6000, 0.8000],
                [0.0000, 0.0000]])
    """
    v = widen(v)
    length = torch.linalg.vector_norm(v, dim=-1, keepdim=True)
    none = length == 0
    return (v / torch.where(none, 1.0, length)).masked_fill(none, 0.0)


def least_scale(n_classes: int, probability: float = 0.99, m: float = 0.0) -> float:
    """The smallest ``s`` with which the mean probability of the truth can reach a value, be the features ever so good.

    The directions of C classes can be apart no farther than the corners of a simplex, whose cosines are -1/(C - 1).

    Args:
        n_classes: Number of classes, 2 or more.
        probability: What is to be reached, in training: after the handicap.
        m: CosFace's margin.

    Raises:
        ValueError: If a number is out of range, or no ``s`` suffices for the margin.

    Examples:
        >>> round(least_scale(10_000), 1), round(least_scale(10_000, m=0.35), 1)
        (13.8, 21.2)
    """
    if n_classes < 2:
        raise ValueError(f"n_classes={n_classes} is not 2 or more")
    if not 0 < probability < 1:
        raise ValueError(f"probability={probability} is not between 0 and 1")
    widest = n_classes / (n_classes - 1)  # from the own corner, cosine 1, down to the others
    if not 0 <= m < widest:
        raise ValueError(f"m={m} is not from 0 to below {widest:.4g}, the largest margin that {n_classes} classes can have")
    return math.log((n_classes - 1) * probability / (1 - probability)) / (widest - m)
