"""Step decay: the learning rate drops by a factor every so many steps, or at chosen steps.

Source: Goyal et al. 2017, arXiv:1706.02677, section 5.1 (one tenth at epochs 30, 60 and 80 of 90); closed form of
torch.optim.lr_scheduler.StepLR and MultiStepLR.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable

from torch.optim import Optimizer

from vocab.schedule import Schedule, whole

__all__ = ["StepLR", "MultiStepLR"]


class StepLR(Schedule):
    """Multiplies each group's learning rate by ``gamma`` after every ``step_size`` calls of ``step()``.

    Args:
        optimizer: The optimizer whose groups are scheduled.
        step_size: Calls of ``step()`` between two drops: epochs if it is called once an epoch, batches if once a batch.
        gamma: What the rate is multiplied by at a drop.
        last_epoch: Number of the last step of an interrupted run; ``-1`` for a new one. Prefer ``load_state_dict``.

    Raises:
        ValueError: If ``step_size`` or ``gamma`` is out of range.

    Examples:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.8)
        >>> scheduler = StepLR(optimizer, step_size=2, gamma=0.5)
        >>> rates = []
        >>> for _ in range(6):
        ...     rates.append(scheduler.get_last_lr()[0])
        ...     optimizer.step()
        ...     scheduler.step()
        >>> rates
        [0.8, 0.8, 0.4, 0.4, 0.2, 0.2]
    """

    def __init__(self, optimizer: Optimizer, step_size: int, gamma: float = 0.1, last_epoch: int = -1) -> None:
        self.step_size, self.gamma = whole("step_size", step_size, 1), _factor(gamma)
        super().__init__(optimizer, last_epoch)

    def rate(self, base: float, step: int) -> float:
        return base * self.gamma ** (step // self.step_size)


class MultiStepLR(Schedule):
    """Multiplies each group's learning rate by ``gamma`` at each of the ``milestones``.

    Args:
        optimizer: The optimizer whose groups are scheduled.
        milestones: Calls of ``step()`` after which the rate drops, in any order. One that is named twice counts twice.
        gamma: What the rate is multiplied by at a drop.
        last_epoch: Number of the last step of an interrupted run; ``-1`` for a new one.

    Raises:
        ValueError: If a milestone or ``gamma`` is out of range.

    Examples:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        >>> scheduler = MultiStepLR(optimizer, milestones=[30, 60, 80])
        >>> [round(scheduler.rate(1.0, epoch), 6) for epoch in (0, 29, 30, 60, 80, 89)]
        [1.0, 1.0, 0.1, 0.01, 0.001, 0.001]
    """

    def __init__(self, optimizer: Optimizer, milestones: Iterable[int], gamma: float = 0.1, last_epoch: int = -1) -> None:
        self.milestones = sorted(whole("milestone", m, 1) for m in milestones)
        self.gamma = _factor(gamma)
        super().__init__(optimizer, last_epoch)

    def rate(self, base: float, step: int) -> float:
        return base * self.gamma ** bisect_right(self.milestones, step)


def _factor(gamma: float) -> float:
    if not 0 < gamma <= 1:
        raise ValueError(f"gamma={gamma} is not above 0 and at most 1")
    return gamma
