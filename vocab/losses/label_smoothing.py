"""Label smoothing: cross-entropy with a target that is never quite certain.

Source: Szegedy et al. 2016, arXiv:1512.00567, section 7.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vocab.losses.cross_entropy import CrossEntropy, check_classes

__all__ = ["LabelSmoothingCrossEntropy", "epsilon_over_all", "least_loss", "logit_gap", "smoothed"]


class LabelSmoothingCrossEntropy(CrossEntropy):
    """Cross-entropy with the target that has 1 - epsilon on the truth and epsilon spread evenly over all classes, the true one too.

    Args:
        epsilon: Share that is spread, 0 to 1.
        weight: One factor per class, ``(C,)``; 1 for all by default.
        ignore_index: A class number that stands for "no target here".
        reduction: ``"mean"``, ``"sum"``, or ``"none"``.

    Shapes:
        logits ``(N, C, ...)``, target ``(N, ...)`` -> a scalar, or ``(N, ...)`` without reduction.

    Raises:
        ValueError: If ``epsilon`` is not in [0, 1], a shape does not fit, or a class is not there.

    Examples:
        >>> loss = LabelSmoothingCrossEntropy(0.1)
        >>> loss(torch.tensor([[100.0, 0.0]]), torch.tensor([0]))  # certain, and right: 0.05 of the target is in the other class
        tensor(5.)
    """

    def __init__(self, epsilon: float = 0.1, weight: Tensor | None = None, ignore_index: int = -100, reduction: str = "mean") -> None:
        _check("epsilon", epsilon, 1)
        super().__init__(weight, ignore_index, epsilon, reduction)


def smoothed(target: Tensor, n_classes: int, epsilon: float = 0.1) -> Tensor:
    """Writes the targets out as probabilities.

    Args:
        target: Class numbers.
        n_classes: How many classes there are.
        epsilon: Share that is spread over all of them.

    Shapes:
        target ``(...)`` -> ``(..., n_classes)``

    Raises:
        ValueError: If ``epsilon`` is not in [0, 1] or a class is not there.

    Examples:
        >>> smoothed(torch.tensor([1]), 4, 0.2)
        tensor([[0.0500, 0.8500, 0.0500, 0.0500]])
    """
    _check("epsilon", epsilon, 1)
    check_classes(target, n_classes, target.shape if isinstance(target, Tensor) else (), 0)
    truth = torch.nn.functional.one_hot(target.long(), n_classes)
    return (1 - epsilon) * truth + epsilon / n_classes


def logit_gap(n_classes: int, epsilon: float = 0.1) -> float:
    """How far the true logit is above the others where the loss is least.

    Args:
        n_classes: How many classes there are.
        epsilon: Share that is spread over all of them, above 0.

    Raises:
        ValueError: If ``epsilon`` is not in (0, 1]: without smoothing the gap has no end.

    Examples:
        >>> round(logit_gap(10, 0.1), 2)
        4.51
    """
    if not 0 < epsilon <= 1:
        raise ValueError(f"epsilon={epsilon} is not above 0 and at most 1")
    return math.log((n_classes * (1 - epsilon) + epsilon) / epsilon)


def least_loss(n_classes: int, epsilon: float = 0.1) -> float:
    """The loss of the best possible answer: the entropy of the smoothed target.

    Args:
        n_classes: How many classes there are.
        epsilon: Share that is spread over all of them.

    Raises:
        ValueError: If ``epsilon`` is not in [0, 1].

    Examples:
        >>> round(least_loss(10, 0.1), 2)
        0.5
    """
    _check("epsilon", epsilon, 1)
    other, true = epsilon / n_classes, 1 - epsilon + epsilon / n_classes
    return -true * math.log(true) - ((n_classes - 1) * other * math.log(other) if other else 0.0)


def epsilon_over_all(epsilon: float, n_classes: int) -> float:
    """Converts the convention that spreads epsilon over the wrong classes only into the one used here.

    Args:
        epsilon: What all wrong classes together get.
        n_classes: How many classes there are, 2 or more.

    Raises:
        ValueError: If ``epsilon`` is so large that the truth would get less than a wrong class.

    Examples:
        >>> round(epsilon_over_all(0.1, 10), 4)
        0.1111
    """
    _check("epsilon", epsilon, (n_classes - 1) / n_classes)
    return epsilon * n_classes / (n_classes - 1)


def _check(name: str, value: float, most: float) -> None:
    if not 0 <= value <= most:
        raise ValueError(f"{name}={value} is not between 0 and {most:g}")
