"""Warm-up with cosine decay: a straight line up to the peak, half a cosine down to a share of it.

Source: Brown et al. 2020, arXiv:2005.14165, appendix B (the form used for GPT-3); the cosine of Loshchilov and Hutter 2017, arXiv:1608.03983.
"""

from __future__ import annotations

from torch.optim import Optimizer

from vocab.schedule import whole
from vocab.schedulers.cosine_annealing import half_cosine
from vocab.schedulers.warmup import LinearWarmup

__all__ = ["WarmupCosine"]


class WarmupCosine(LinearWarmup):
    """Raises each group's learning rate to its own value, lowers it along a cosine, and holds the end.

    Args:
        optimizer: The optimizer whose groups are scheduled; their learning rates are the peaks.
        warmup_steps: Steps of the rise; the first has rate 0.
        total_steps: Steps of the whole run, the rise included. The cosine lasts ``total_steps - warmup_steps``.
        min_ratio: The last rate as a share of the peak.
        last_epoch: Number of the last step of an interrupted run; ``-1`` for a new one.

    Raises:
        ValueError: If a number is out of range, or no step is left for the cosine.

    Examples:
        >>> import torch
        >>> optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        >>> scheduler = WarmupCosine(optimizer, warmup_steps=2, total_steps=6)
        >>> [round(scheduler.rate(1.0, step), 3) for step in range(8)]
        [0.0, 0.5, 1.0, 0.868, 0.55, 0.232, 0.1, 0.1]
    """

    def __init__(
        self, optimizer: Optimizer, warmup_steps: int, total_steps: int, min_ratio: float = 0.1, last_epoch: int = -1,
    ) -> None:
        self.total_steps = whole("total_steps", total_steps, whole("warmup_steps", warmup_steps, 0) + 1)
        if not 0 <= min_ratio <= 1:
            raise ValueError(f"min_ratio={min_ratio} is not between 0 and 1")
        self.min_ratio = min_ratio
        super().__init__(optimizer, warmup_steps, last_epoch=last_epoch)

    def after(self, step: int) -> float:
        done = min(step / (self.total_steps - self.warmup_steps), 1.0)
        return self.min_ratio + (1 - self.min_ratio) * half_cosine(done)
