"""Heavy-ball momentum: a velocity that sums past gradients, each one counting less than the next.

Source: Polyak 1964, doi:10.1016/0041-5553(64)90137-5; Sutskever et al. 2013, equations 1 and 2 (learning rate outside the velocity, as in PyTorch).
"""

from __future__ import annotations

import cmath
import math

from torch import Tensor

from vocab.optimize import Tensors

__all__ = ["best_heavy_ball", "critical_momentum", "roots", "stability_limit", "velocity"]


def velocity(v: Tensor | Tensors, g: Tensor | Tensors, t: int, momentum: float, dampening: float = 0.0) -> Tensor | Tensors:
    """Takes a gradient into the velocity, in place: ``v = momentum * v + (1 - dampening) * g``.

    The weights then move by ``-lr * v``; :class:`vocab.optimizers.sgd.SGD` does that. Everything else in this file says what comes of it
    on a quadratic ``curvature * x**2 / 2``.

    Args:
        v: Velocity; all zeros before the first step.
        g: Gradient.
        t: Number of the step, counted from 1. The first gradient is not dampened.
        momentum: Share of the velocity that is kept, in [0, 1).
        dampening: Share of each later gradient that is left out; ``momentum`` makes the velocity a mean instead of a sum.

    Returns:
        ``v``.

    Examples:
        >>> import torch
        >>> v, g = torch.zeros(1), torch.ones(1)
        >>> for t in range(1, 200):
        ...     v = velocity(v, g, t, momentum=0.9)
        >>> v  # a gradient that stays counts 1 / (1 - 0.9) times
        tensor([10.0000])
    """
    return v.add_(g) if t == 1 else v.mul_(momentum).add_(g, alpha=1 - dampening)


def roots(lr: float, curvature: float, momentum: float) -> tuple[complex, complex]:
    """The two factors by which heavy ball multiplies the error at each step on ``curvature * x**2 / 2``, the larger one first.

    They solve ``z**2 - (1 + momentum - lr * curvature) * z + momentum = 0``. A pair of complex ones means that the path swings.

    Args:
        lr: Learning rate.
        curvature: Second derivative of the loss.
        momentum: Share of the velocity that is kept.

    Examples:
        >>> [round(abs(z), 3) for z in roots(lr=1.0, curvature=0.5, momentum=0.81)]
        [0.9, 0.9]
    """
    half = (1 + momentum - lr * curvature) / 2
    spread = cmath.sqrt(half * half - momentum)
    return tuple(sorted((half + spread, half - spread), key=abs, reverse=True))


def stability_limit(curvature: float, momentum: float) -> float:
    """The learning rate from which on heavy ball diverges: ``2 * (1 + momentum) / curvature``.

    Args:
        curvature: Largest second derivative of the loss.
        momentum: Share of the velocity that is kept, in [0, 1).

    Examples:
        >>> stability_limit(curvature=10.0, momentum=0.9)
        0.38
    """
    return 2 * (1 + momentum) / curvature


def critical_momentum(lr: float, curvature: float) -> float:
    """The momentum that brings one curvature to rest soonest, without swinging: ``(1 - sqrt(lr * curvature))**2``.

    Args:
        lr: Learning rate, at most ``4 / curvature``.
        curvature: Second derivative of the loss.

    Raises:
        ValueError: If ``lr * curvature`` is not in (0, 4), where no momentum below 1 is stable.

    Examples:
        >>> critical_momentum(lr=0.1, curvature=1.0)
        0.46754446796632404
    """
    if not 0 < lr * curvature < 4:
        raise ValueError(f"lr * curvature = {lr * curvature} is not in (0, 4)")
    return (1 - math.sqrt(lr * curvature)) ** 2


def best_heavy_ball(low: float, high: float) -> tuple[float, float]:
    """Learning rate and momentum that are best for all curvatures from ``low`` to ``high`` together.

    The error then shrinks like ``t * r**t`` at worst, with ``r = (sqrt(k) - 1) / (sqrt(k) + 1)`` and ``k = high / low``.

    Args:
        low: Smallest curvature, above 0.
        high: Largest curvature.

    Raises:
        ValueError: If ``low`` is not above 0 or ``high`` is below it.

    Examples:
        >>> lr, momentum = best_heavy_ball(1.0, 100.0)
        >>> round(lr, 4), round(momentum, 4)
        (0.0331, 0.6694)
    """
    if not 0 < low <= high:
        raise ValueError(f"low={low} and high={high}: expected 0 < low <= high")
    a, b = math.sqrt(low), math.sqrt(high)
    return 4 / (a + b) ** 2, ((b - a) / (b + a)) ** 2
