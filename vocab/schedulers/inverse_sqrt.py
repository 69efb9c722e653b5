"""Inverse square-root schedule: after a warm-up the learning rate falls as one over the root of the step number.

Source: Vaswani et al. 2017, arXiv:1706.03762, equation 3 ("Noam"); Raffel et al. 2020, arXiv:1910.10683, section 3.1.2 (T5);
Shazeer and Stern 2018, arXiv:1804.04235, section 8 (Adafactor's relative step).
"""

from __future__ import annotations

import math

from torch.optim import Optimizer

from vocab.schedule import whole
from vocab.schedulers.warmup import LinearWarmup

__all__ = ["InverseSqrt", "noam_scale"]


class InverseSqrt(LinearWarmup):
    """Raises each group's learning rate to ``scale`` times its own value, then lowers it as ``sqrt(warmup_steps / step)``.

    Three published forms are settings of it. As a multiple of a peak: the defaults. The Transformer's absolute rate: the optimizer's rate
    1, ``scale=noam_scale(d_model, warmup_steps)``, ``first_step=1``. The relative step of T5 and Adafactor: the optimizer's rate 1,
    ``warmup_steps=10_000``, ``scale=0.01``, ``start_factor=1``, ``first_step=1``.

    Args:
        optimizer: The optimizer whose groups are scheduled.
        warmup_steps: Steps of the rise, and the time scale of the fall: four times as many steps halve the rate.
        scale: The peak as a multiple of the group's own rate.
        start_factor: The first step's share of the peak; 1 for a plateau instead of a rise.
        first_step: Number of the first step. The papers count from 1, which spares the step with rate 0.
        last_epoch: Number of the last step of an interrupted run; ``-1`` for a new one.

    Raises:
        ValueError: If a number is out of range.

    Examples:
        >>> import torch
        >>> optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        >>> scheduler = InverseSqrt(optimizer, 4000, scale=noam_scale(512, 4000), first_step=1)
        >>> [f"{scheduler.rate(1.0, step - 1):.2e}" for step in (1, 4000, 16_000)]
        ['1.75e-07', '6.99e-04', '3.49e-04']
    """

    def __init__(
        self, optimizer: Optimizer, warmup_steps: int, scale: float = 1.0, *, start_factor: float = 0.0, first_step: int = 0,
        last_epoch: int = -1,
    ) -> None:
        whole("warmup_steps", warmup_steps, 1)
        if not scale > 0:
            raise ValueError(f"scale={scale} is not above 0")
        self.scale, self.first_step = scale, whole("first_step", first_step, 0)
        super().__init__(optimizer, warmup_steps, start_factor, last_epoch)

    def factor(self, step: int) -> float:
        return self.scale * super().factor(step + self.first_step)

    def after(self, step: int) -> float:
        return math.sqrt(self.warmup_steps / (step + self.warmup_steps))


def noam_scale(d_model: int, warmup_steps: int) -> float:
    """The peak of the Transformer's schedule, an absolute learning rate: ``(d_model * warmup_steps) ** -0.5``.

    Args:
        d_model: Width of the model.
        warmup_steps: Steps of the rise.

    Examples:
        >>> f"{noam_scale(512, 4000):.3e}"
        '6.988e-04'
    """
    return (whole("d_model", d_model, 1) * whole("warmup_steps", warmup_steps, 1)) ** -0.5
