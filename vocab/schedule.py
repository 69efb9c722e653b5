"""What the schedulers of the encyclopedia share: the rate of a step as a formula of its number, for each parameter group."""

from __future__ import annotations

from torch.optim.lr_scheduler import LRScheduler

__all__ = ["Schedule", "whole"]


class Schedule(LRScheduler):
    """A ``torch.optim.lr_scheduler.LRScheduler`` whose subclasses have one method, ``rate``.

    PyTorch's own schedulers multiply the rate that the group has now. A formula of the step number does not drift, and a step can be
    asked for at once; but it also overwrites a rate that was set by hand, so two of these are put after one another with
    ``SequentialLR`` and not upon one another with ``ChainedScheduler``.
    """

    def rate(self, base: float, step: int) -> float:
        """The learning rate of a step, counted from 0, of a group that was given the rate ``base``."""
        raise NotImplementedError

    def get_lr(self) -> list[float]:
        if len(self.optimizer.param_groups) != len(self.base_lrs):
            raise ValueError(f"the optimizer has {len(self.optimizer.param_groups)} parameter groups, "
                             f"the schedule was built for {len(self.base_lrs)}")
        return [self.rate(base, self.last_epoch) for base in self.base_lrs]


def whole(name: str, value: int, least: int) -> int:
    """``value``, or ``ValueError`` where it is not a whole number of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name}={value!r} is not a whole number of at least {least}")
    return value
