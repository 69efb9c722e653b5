"""Learning-rate warm-up: the first steps rise in a straight line to the full rate.

Source: Goyal et al. 2017, arXiv:1706.02677, section 2.2 ("gradual warmup"); Vaswani et al. 2017, arXiv:1706.03762, equation 3.
"""

from __future__ import annotations

from torch.optim import Optimizer

from vocab.schedule import Schedule, whole

__all__ = ["LinearWarmup"]


class LinearWarmup(Schedule):
    """Raises each group's learning rate to its own value within ``warmup_steps`` steps, and keeps it there.

    The schedules that fall afterwards are subclasses with another ``after``.

    Args:
        optimizer: The optimizer whose groups are scheduled; their learning rates are the peaks.
        warmup_steps: The step, counted from 0, that first has the full rate; 0 for no warm-up.
        start_factor: The first step's share of the full rate. With 0 the first step moves nothing.
        last_epoch: Number of the last step of an interrupted run; ``-1`` for a new one. Prefer ``load_state_dict``.

    Raises:
        ValueError: If ``warmup_steps`` is not a whole number of at least 0, or ``start_factor`` is not between 0 and 1.

    Examples:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        >>> scheduler = LinearWarmup(optimizer, warmup_steps=4)
        >>> rates = []
        >>> for _ in range(6):
        ...     rates.append(scheduler.get_last_lr()[0])
        ...     optimizer.step()
        ...     scheduler.step()
        >>> rates
        [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]
    """

    def __init__(self, optimizer: Optimizer, warmup_steps: int, start_factor: float = 0.0, last_epoch: int = -1) -> None:
        self.warmup_steps = whole("warmup_steps", warmup_steps, 0)
        if not 0 <= start_factor <= 1:
            raise ValueError(f"start_factor={start_factor} is not between 0 and 1")
        self.start_factor = start_factor
        super().__init__(optimizer, last_epoch)

    def rate(self, base: float, step: int) -> float:
        return base * self.factor(step)

    def factor(self, step: int) -> float:
        """The share of the full rate at a step, counted from 0."""
        if step < self.warmup_steps:
            return self.start_factor + (1 - self.start_factor) * step / self.warmup_steps
        return self.after(step - self.warmup_steps)

    def after(self, step: int) -> float:
        """The share of the full rate so many steps after the warm-up."""
        return 1.0
