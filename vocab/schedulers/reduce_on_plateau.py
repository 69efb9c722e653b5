"""Reduce on plateau: the learning rate drops when a measured value has stopped improving.

Source: the rule of torch.optim.lr_scheduler.ReduceLROnPlateau; as a practice by hand, He et al. 2016, arXiv:1512.03385, section 3.4.
"""

from __future__ import annotations

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

__all__ = ["ReduceLROnPlateau"]


class ReduceLROnPlateau(LRScheduler):
    """Multiplies the learning rates by ``factor`` when ``patience + 1`` measurements in a row were no improvement.

    Unlike other schedulers it needs a value: ``scheduler.step(validation_loss)``, as a rule once an epoch.

    Args:
        optimizer: The optimizer whose groups are scheduled.
        mode: ``"min"`` if lower is better, ``"max"`` if higher.
        factor: What the rates are multiplied by, above 0 and below 1.
        patience: How many measurements without improvement are let pass.
        threshold: By how much a value must beat the best one to count.
        threshold_mode: ``"rel"``: as a share of the best value; ``"abs"``: in its units.
        cooldown: Measurements after a drop during which none is counted as bad.
        min_lr: The lowest rate, for all groups.
        eps: A drop by less than this is left out.

    Raises:
        ValueError: If an option is out of range.

    Examples:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        >>> scheduler = ReduceLROnPlateau(optimizer, factor=0.5, patience=1)
        >>> rates = []
        >>> for loss in [3.0, 2.0, 2.0, 2.0, 2.0, 2.0]:
        ...     scheduler.step(loss)
        ...     rates.append(scheduler.get_last_lr()[0])
        >>> rates
        [1.0, 1.0, 1.0, 0.5, 0.5, 0.25]
    """

    def __init__(
        self, optimizer: Optimizer, mode: str = "min", factor: float = 0.1, patience: int = 10, threshold: float = 1e-4,
        threshold_mode: str = "rel", cooldown: int = 0, min_lr: float = 0.0, eps: float = 1e-8,
    ) -> None:
        if mode not in ("min", "max"):
            raise ValueError(f"mode={mode!r} is not 'min' or 'max'")
        if threshold_mode not in ("rel", "abs"):
            raise ValueError(f"threshold_mode={threshold_mode!r} is not 'rel' or 'abs'")
        if not 0 < factor < 1:
            raise ValueError(f"factor={factor} is not between 0 and 1, both excluded")
        for name, value in dict(patience=patience, threshold=threshold, cooldown=cooldown, min_lr=min_lr, eps=eps).items():
            if not value >= 0:
                raise ValueError(f"{name}={value} is not 0 or above")
        self.optimizer = optimizer
        self.mode, self.factor, self.patience = mode, factor, patience
        self.threshold, self.threshold_mode = threshold, threshold_mode
        self.cooldown, self.min_lr, self.eps = cooldown, min_lr, eps
        self.best = math.inf if mode == "min" else -math.inf
        self.num_bad_epochs = self.cooldown_counter = 0
        self.last_epoch = 0
        self._last_lr = [group["lr"] for group in optimizer.param_groups]

    def step(self, metrics: float) -> None:
        """Takes the next measurement, and lowers the rates if it was one too many without improvement."""
        value = float(metrics)
        self.last_epoch += 1
        if self.is_better(value, self.best):  # never of a NaN: a run that has broken down counts as bad
            self.best, self.num_bad_epochs = value, 0
        else:
            self.num_bad_epochs += 1
        if self.cooldown_counter > 0:
            self.cooldown_counter, self.num_bad_epochs = self.cooldown_counter - 1, 0
        if self.num_bad_epochs > self.patience:
            for group in self.optimizer.param_groups:
                lower = max(group["lr"] * self.factor, self.min_lr)
                if group["lr"] - lower > self.eps:
                    group["lr"] = lower
            self.cooldown_counter, self.num_bad_epochs = self.cooldown, 0
        self._last_lr = [group["lr"] for group in self.optimizer.param_groups]

    def get_lr(self) -> list[float]:
        """Not for this scheduler; one that drives others by their step number, as SequentialLR does, asks for it."""
        raise TypeError("ReduceLROnPlateau needs a value, step(metrics), which SequentialLR cannot give")

    def is_better(self, value: float, best: float) -> bool:
        """Whether ``value`` beats ``best`` by more than the threshold."""
        sign = -1 if self.mode == "min" else 1
        if self.threshold_mode == "rel":
            return sign * value > sign * best * (1 + sign * self.threshold)
        return sign * value > sign * best + self.threshold
