"""Cosine annealing: the learning rate falls along half a cosine, level at both ends.

Source: Loshchilov and Hutter 2017, arXiv:1608.03983, equation 5, without restarts.
"""

from __future__ import annotations

import math

from torch.optim import Optimizer

from vocab.schedule import Schedule, whole

__all__ = ["CosineAnnealingLR", "half_cosine"]


class CosineAnnealingLR(Schedule):
    """Lowers each group's learning rate from its own value to ``eta_min`` within ``T_max`` steps.

    Args:
        optimizer: The optimizer whose groups are scheduled.
        T_max: Calls of ``step()`` from the highest to the lowest rate: the length of the run.
        eta_min: The lowest rate, absolute and the same for all groups.
        last_epoch: Number of the last step of an interrupted run; ``-1`` for a new one.
        clamp: Whether the rate stays at ``eta_min`` after ``T_max``. PyTorch's scheduler has no such choice: it climbs back to the
            start in another ``T_max`` steps, and so does this one by default.

    Raises:
        ValueError: If ``T_max`` or ``eta_min`` is out of range.

    Examples:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        >>> scheduler = CosineAnnealingLR(optimizer, T_max=4)
        >>> rates = []
        >>> for _ in range(6):
        ...     rates.append(round(scheduler.get_last_lr()[0], 3))
        ...     optimizer.step()
        ...     scheduler.step()
        >>> rates
        [1.0, 0.854, 0.5, 0.146, 0.0, 0.146]
    """

    def __init__(
        self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0, last_epoch: int = -1, *, clamp: bool = False,
    ) -> None:
        self.T_max, self.clamp = whole("T_max", T_max, 1), clamp
        if not eta_min >= 0:
            raise ValueError(f"eta_min={eta_min} is not 0 or above")
        self.eta_min = eta_min
        super().__init__(optimizer, last_epoch)

    def rate(self, base: float, step: int) -> float:
        done = step / self.T_max
        return self.eta_min + (base - self.eta_min) * half_cosine(min(done, 1.0) if self.clamp else done)


def half_cosine(done: float) -> float:
    """What is left of the way down: 1 at the start, one half in the middle, 0 at the end.

    Args:
        done: The share of the way that lies behind, from 0 to 1.

    Examples:
        >>> [round(half_cosine(done), 3) for done in (0, 0.25, 0.5, 1)]
        [1.0, 0.854, 0.5, 0.0]
    """
    return (1 + math.cos(math.pi * done)) / 2
