"""Warmup-stable-decay: rise, a plateau of any length, a short fall that can begin when one likes.

Source: Hu et al. 2024, arXiv:2404.06395, section 4; the falling curve 1-sqrt: Hägele et al. 2024, arXiv:2405.18392, section 3.
"""

from __future__ import annotations

import math

from torch.optim import Optimizer

from vocab.schedule import whole
from vocab.schedulers.cosine_annealing import half_cosine
from vocab.schedulers.warmup import LinearWarmup

__all__ = ["WarmupStableDecay"]

_SHAPES = {
    "1-sqrt": lambda done: 1 - math.sqrt(done),
    "linear": lambda done: 1 - done,
    "cosine": half_cosine,
}


class WarmupStableDecay(LinearWarmup):
    """Raises each group's learning rate to its own value, keeps it, and lowers it at the end.

    Args:
        optimizer: The optimizer whose groups are scheduled; their learning rates are those of the plateau.
        warmup_steps: Steps of the rise.
        stable_steps: Steps of the plateau; ``None`` for one that lasts until ``decay_now`` is called.
        decay_steps: Steps of the fall.
        decay: Its curve: ``"1-sqrt"`` (steep first), ``"linear"`` or ``"cosine"`` (level first).
        min_ratio: The last rate as a share of the plateau's.
        start_factor: The first step's share of the plateau's rate.
        last_epoch: Number of the last step of an interrupted run; ``-1`` for a new one.

    Raises:
        ValueError: If a number is out of range, or the name of the curve is unknown.

    Examples:
        >>> import torch
        >>> optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        >>> scheduler = WarmupStableDecay(optimizer, warmup_steps=2, stable_steps=3, decay_steps=4)
        >>> [round(scheduler.rate(1.0, step), 3) for step in range(11)]
        [0.0, 0.5, 1.0, 1.0, 1.0, 1.0, 0.5, 0.293, 0.134, 0.0, 0.0]
    """

    def __init__(
        self, optimizer: Optimizer, warmup_steps: int, stable_steps: int | None, decay_steps: int, decay: str = "1-sqrt",
        min_ratio: float = 0.0, *, start_factor: float = 0.0, last_epoch: int = -1,
    ) -> None:
        self.stable_steps = None if stable_steps is None else whole("stable_steps", stable_steps, 0)
        self.decay_steps = whole("decay_steps", decay_steps, 1)
        if decay not in _SHAPES:
            raise ValueError(f"decay={decay!r} is not one of {list(_SHAPES)}")
        if not 0 <= min_ratio <= 1:
            raise ValueError(f"min_ratio={min_ratio} is not between 0 and 1")
        self.decay, self.min_ratio = decay, min_ratio
        super().__init__(optimizer, warmup_steps, start_factor, last_epoch)

    def after(self, step: int) -> float:
        if self.stable_steps is None or step < self.stable_steps:
            return 1.0
        done = min((step - self.stable_steps) / self.decay_steps, 1.0)
        return self.min_ratio + (1 - self.min_ratio) * _SHAPES[self.decay](done)

    def decay_now(self, decay_steps: int | None = None) -> None:
        """Ends the plateau: the next step is the last with its rate. For a branch, load the trunk's checkpoint first.

        Args:
            decay_steps: Steps of the fall; those given to the constructor if ``None``.

        Raises:
            ValueError: If the run is still rising or already falls.
        """
        on_plateau = self.last_epoch - self.warmup_steps
        if on_plateau < 0 or (self.stable_steps is not None and on_plateau > self.stable_steps):
            raise ValueError(f"step {self.last_epoch} is not on the plateau: it begins at step {self.warmup_steps} "
                             f"and has stable_steps={self.stable_steps}")
        if decay_steps is not None:
            self.decay_steps = whole("decay_steps", decay_steps, 1)
        self.stable_steps = on_plateau
