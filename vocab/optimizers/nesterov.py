"""Nesterov's accelerated gradient: momentum whose gradient is taken where the momentum is about to lead.

Source: Nesterov 1983; Sutskever et al. 2013, equations 3 and 4; written with the gradient at the current weights, as in torch.optim.SGD.
"""

from __future__ import annotations

from torch import Tensor

from vocab.optimize import Tensors

__all__ = ["effective_momentum", "look_ahead", "look_ahead_point", "stability_limit"]


def look_ahead(g: Tensor | Tensors, v: Tensor | Tensors, momentum: float) -> Tensor | Tensors:
    """The direction of a Nesterov step, ``g + momentum * v``, from the gradient and the velocity that already has it.

    :class:`vocab.optimizers.sgd.SGD` moves the weights by ``-lr`` times this. No second gradient is needed, as the weights that it keeps are
    those from which the textbook's form looks: see :func:`look_ahead_point`.

    Args:
        g: Gradient.
        v: Velocity after this step's gradient was added.
        momentum: Share of the velocity that is kept, in [0, 1).

    Examples:
        >>> import torch
        >>> look_ahead(torch.tensor([1.0]), torch.tensor([10.0]), momentum=0.9)
        tensor([10.])
    """
    return v * momentum + g  # this way round, as torch adds sparse to dense only


def look_ahead_point(theta: Tensor, v: Tensor, lr: float, momentum: float) -> Tensor:
    """Where the textbook's form takes its gradient: ``theta - lr * momentum * v``. These are the weights that ``SGD(nesterov=True)`` holds.

    Args:
        theta: Weights of the textbook's form.
        v: Its velocity.
        lr: Learning rate.
        momentum: Share of the velocity that is kept.

    Examples:
        >>> import torch
        >>> look_ahead_point(torch.tensor([1.0]), torch.tensor([2.0]), lr=0.1, momentum=0.5)
        tensor([0.9000])
    """
    return theta - lr * momentum * v


def effective_momentum(lr: float, curvature: float, momentum: float) -> float:
    """The momentum with which heavy ball would behave like this: ``momentum * (1 - lr * curvature)``.

    On ``curvature * x**2 / 2`` Nesterov's momentum is heavy ball that brakes steep directions more than flat ones; the factors of the error are
    :func:`vocab.optimizers.momentum.roots` of this number.

    Args:
        lr: Learning rate.
        curvature: Second derivative of the loss.
        momentum: Share of the velocity that is kept.

    Examples:
        >>> effective_momentum(lr=0.5, curvature=1.0, momentum=0.9)
        0.45
    """
    return momentum * (1 - lr * curvature)


def stability_limit(curvature: float, momentum: float) -> float:
    """The learning rate from which on Nesterov's momentum diverges: ``2 * (1 + momentum) / ((1 + 2 * momentum) * curvature)``.

    Lower than heavy ball's, and lower than that of SGD without momentum.

    Args:
        curvature: Largest second derivative of the loss.
        momentum: Share of the velocity that is kept, in [0, 1).

    Examples:
        >>> round(stability_limit(curvature=1.0, momentum=0.9), 3)
        1.357
    """
    return 2 * (1 + momentum) / ((1 + 2 * momentum) * curvature)
