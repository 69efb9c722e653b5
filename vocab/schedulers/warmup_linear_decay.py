"""Warm-up with linear decay: a straight line up to the peak, a straight line down.

Source: Devlin et al. 2019, arXiv:1810.04805, appendix A.2; why a line to zero: Defazio et al. 2023, arXiv:2310.07831.
"""

from __future__ import annotations

from torch.optim import Optimizer

from vocab.schedule import whole
from vocab.schedulers.warmup import LinearWarmup

__all__ = ["WarmupLinearDecay"]


class WarmupLinearDecay(LinearWarmup):
    """Raises each group's learning rate to its own value, lowers it in a straight line, and holds the end.

    Args:
        optimizer: The optimizer whose groups are scheduled; their learning rates are the peaks.
        warmup_steps: Steps of the rise; the first has rate 0.
        total_steps: Optimizer steps of the whole run, the rise included.
        final_factor: The last rate as a share of the peak. With 0 nothing moves from ``total_steps`` on.
        last_epoch: Number of the last step of an interrupted run; ``-1`` for a new one.

    Raises:
        ValueError: If a number is out of range, or no step is left for the decay.

    Examples:
        >>> import torch
        >>> optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        >>> scheduler = WarmupLinearDecay(optimizer, warmup_steps=2, total_steps=6)
        >>> [scheduler.rate(1.0, step) for step in range(8)]
        [0.0, 0.5, 1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
    """

    def __init__(
        self, optimizer: Optimizer, warmup_steps: int, total_steps: int, final_factor: float = 0.0, last_epoch: int = -1,
    ) -> None:
        self.total_steps = whole("total_steps", total_steps, whole("warmup_steps", warmup_steps, 0) + 1)
        if not 0 <= final_factor <= 1:
            raise ValueError(f"final_factor={final_factor} is not between 0 and 1")
        self.final_factor = final_factor
        super().__init__(optimizer, warmup_steps, last_epoch=last_epoch)

    def after(self, step: int) -> float:
        done = min(step / (self.total_steps - self.warmup_steps), 1.0)
        return 1 - (1 - self.final_factor) * done
