"""Cosine annealing with warm restarts: fall along half a cosine, jump back to the top, again, in cycles that may grow.

Source: Loshchilov and Hutter 2017, arXiv:1608.03983, equation 5 (SGDR).
"""

from __future__ import annotations

from torch.optim import Optimizer

from vocab.schedule import Schedule, whole
from vocab.schedulers.cosine_annealing import half_cosine

__all__ = ["CosineAnnealingWarmRestarts"]


class CosineAnnealingWarmRestarts(Schedule):
    """Lowers each group's learning rate to almost ``eta_min`` within a cycle, and begins again at the group's own value.

    Args:
        optimizer: The optimizer whose groups are scheduled.
        T_0: Calls of ``step()`` in the first cycle.
        T_mult: How many times longer each cycle is than the one before, a whole number.
        eta_min: What the cosine falls towards, absolute. The last step of a cycle is one short of it.
        last_epoch: Number of the last step of an interrupted run; ``-1`` for a new one.

    Raises:
        ValueError: If ``T_0``, ``T_mult`` or ``eta_min`` is out of range.

    Examples:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        >>> scheduler = CosineAnnealingWarmRestarts(optimizer, T_0=2, T_mult=2)
        >>> [round(scheduler.rate(1.0, step), 3) for step in range(8)]
        [1.0, 0.5, 1.0, 0.854, 0.5, 0.146, 1.0, 0.962]
        >>> [scheduler.ends_cycle(step) for step in range(6)]
        [False, True, False, False, False, True]
    """

    def __init__(
        self, optimizer: Optimizer, T_0: int, T_mult: int = 1, eta_min: float = 0.0, last_epoch: int = -1,
    ) -> None:
        self.T_0, self.T_mult = whole("T_0", T_0, 1), whole("T_mult", T_mult, 1)
        if not eta_min >= 0:
            raise ValueError(f"eta_min={eta_min} is not 0 or above")
        self.eta_min = eta_min
        super().__init__(optimizer, last_epoch)

    def rate(self, base: float, step: int) -> float:
        within, length = self._place(step)
        return self.eta_min + (base - self.eta_min) * half_cosine(within / length)

    def ends_cycle(self, step: int) -> bool:
        """Whether a step, counted from 0, is the last of its cycle: after it is the time to evaluate, and to keep a snapshot."""
        within, length = self._place(step)
        return within == length - 1

    def _place(self, step: int) -> tuple[int, int]:
        """A step's number within its cycle, and the length of that cycle."""
        if self.T_mult == 1:
            return step % self.T_0, self.T_0
        length = self.T_0
        while step >= length:
            step, length = step - length, length * self.T_mult
        return step, length
