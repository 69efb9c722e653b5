"""Learning-rate scaling with batch size: the linear rule, the square-root rule, and what else Adam needs.

Source: Goyal et al. 2017, arXiv:1706.02677, section 2.1 (linear); Malladi et al. 2022, arXiv:2205.10287, section 5 (square root for Adam).
"""

from __future__ import annotations

import math

__all__ = ["scale_lr", "scale_adam"]


def scale_lr(base_lr: float, base_batch: int, batch: int, rule: str = "linear") -> float:
    """The learning rate for another batch size.

    Args:
        base_lr: The rate that works.
        base_batch: The batch size that it works with.
        batch: The new batch size.
        rule: ``"linear"`` for SGD, ``"sqrt"`` for adaptive optimizers.

    Raises:
        ValueError: If a number is not above 0, or the rule is unknown.

    Examples:
        >>> scale_lr(0.1, 256, 8192)
        3.2
        >>> scale_lr(1e-3, 256, 1024, rule="sqrt")
        0.002
    """
    _positive(base_lr=base_lr, base_batch=base_batch, batch=batch)
    if rule not in ("linear", "sqrt"):
        raise ValueError(f"rule={rule!r} is not 'linear' or 'sqrt'")
    k = batch / base_batch
    return base_lr * (k if rule == "linear" else math.sqrt(k))


def scale_adam(
    lr: float, betas: tuple[float, float], eps: float, k: float,
) -> tuple[float, tuple[float, float], float]:
    """Adam's settings for ``k`` times the batch: the same mean path and the same noise over the same number of examples.

    Args:
        lr: The learning rate that works; becomes ``lr * sqrt(k)``.
        betas: Both memories; ``1 - beta`` becomes ``k * (1 - beta)``, so that they last as many examples as before.
        eps: The number in the denominator; becomes ``eps / sqrt(k)``, as the gradients' noise does.
        k: How many times larger the batch is; below 1 for a smaller one.

    Raises:
        ValueError: If a number is out of range, or a memory would be shorter than one step.

    Examples:
        >>> lr, betas, eps = scale_adam(1e-3, (0.9, 0.999), 1e-8, k=4)
        >>> lr, tuple(round(b, 3) for b in betas), eps
        (0.002, (0.6, 0.996), 5e-09)
    """
    _positive(lr=lr, k=k)
    if not eps >= 0:
        raise ValueError(f"eps={eps} is not 0 or above")
    for beta in betas:
        if not 0 <= beta < 1:
            raise ValueError(f"betas={betas} are not both between 0 and 1, 1 excluded")
        if k * (1 - beta) > 1:
            raise ValueError(f"k={k:g} is too much for beta={beta:g}: a memory of {1 / (1 - beta):.3g} steps "
                             f"would be shorter than one, so k is at most {1 / (1 - beta):.3g}")
    scaled = tuple(1 - k * (1 - beta) for beta in betas)
    return lr * math.sqrt(k), scaled, eps / math.sqrt(k)


def _positive(**values: float) -> None:
    for name, value in values.items():
        if not value > 0:
            raise ValueError(f"{name}={value} is not above 0")
