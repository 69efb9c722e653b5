"""One-cycle policy: the learning rate rises once and falls far, the momentum does the opposite.

Source: Smith and Topin 2017, arXiv:1708.07120 ("1cycle"); Smith 2018, arXiv:1803.09820, section 4 (cyclical momentum);
the two-phase form with half cosines is fastai's and the default of torch.optim.lr_scheduler.OneCycleLR.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from vocab.schedulers.cosine_annealing import half_cosine

__all__ = ["OneCycleLR"]


class OneCycleLR(LRScheduler):
    """Sets learning rate and momentum for one run of ``total_steps`` optimizer steps.

    The learning rate goes from ``max_lr / div_factor`` up to ``max_lr`` and down to
    ``max_lr / div_factor / final_div_factor``; the momentum (SGD's ``momentum``, Adam's first beta) from
    ``max_momentum`` down to ``base_momentum`` and back. Call ``step()`` after every batch.

    It replaces the learning rate and the momentum that the optimizer was built with.

    Args:
        optimizer: The optimizer whose groups are scheduled.
        max_lr: The highest learning rate, one for all parameter groups or one for each.
        total_steps: Optimizer steps of the whole run.
        pct_start: Share of the steps spent rising, between 0 and 1 (not per cent, in spite of its name).
        anneal_strategy: ``"cos"`` for half cosines, ``"linear"`` for straight lines, as in the papers.
        cycle_momentum: Whether the momentum moves; needs an optimizer that has one.
        base_momentum: The lowest momentum, reached together with ``max_lr``.
        max_momentum: The highest momentum, at both ends.
        div_factor: How much lower than ``max_lr`` the run starts.
        final_div_factor: How much lower than its start the run ends.
        three_phase: The papers' form: fall back to the start as long as it rose, then fall to the end at full momentum.
        last_epoch: Number of the last step of an interrupted run; ``-1`` for a new one. Prefer ``load_state_dict``.

    Raises:
        ValueError: If a value is out of range, a phase would have no step, the optimizer has no momentum to cycle, or
            ``step()`` is called more than ``total_steps`` times.

    Examples:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0, momentum=0.9)
        >>> scheduler = OneCycleLR(optimizer, max_lr=0.5, total_steps=10)
        >>> rates = []
        >>> for _ in range(10):
        ...     rates.append(round(scheduler.get_last_lr()[0], 3))
        ...     optimizer.step()
        ...     scheduler.step()
        >>> rates
        [0.02, 0.26, 0.5, 0.475, 0.406, 0.306, 0.194, 0.094, 0.025, 0.0]
    """

    def __init__(
        self, optimizer: Optimizer, max_lr: float | Sequence[float], total_steps: int, pct_start: float = 0.3,
        anneal_strategy: str = "cos", cycle_momentum: bool = True, base_momentum: float = 0.85,
        max_momentum: float = 0.95, div_factor: float = 25.0, final_div_factor: float = 1e4, three_phase: bool = False,
        last_epoch: int = -1,
    ) -> None:
        if not isinstance(total_steps, int) or total_steps < 1:
            raise ValueError(f"total_steps={total_steps} is not a whole number above 0")
        if anneal_strategy not in ("cos", "linear"):
            raise ValueError(f"anneal_strategy={anneal_strategy!r} is not 'cos' or 'linear'")
        if not 0 <= base_momentum <= max_momentum < 1:
            raise ValueError(f"base_momentum={base_momentum}, max_momentum={max_momentum}: "
                             "expected 0 <= base <= max < 1")
        if not (div_factor > 0 and final_div_factor > 0):
            raise ValueError(f"div_factor={div_factor} and final_div_factor={final_div_factor} must be above 0")
        groups = optimizer.param_groups
        peaks = list(max_lr) if isinstance(max_lr, Sequence) else [max_lr] * len(groups)
        if len(peaks) != len(groups) or not all(peak > 0 for peak in peaks):
            raise ValueError(f"max_lr={max_lr} is not a number above 0, "
                             f"or one for each of {len(groups)} parameter groups")
        self.momentum_name = "betas" if "betas" in optimizer.defaults else "momentum"
        if cycle_momentum and self.momentum_name not in optimizer.defaults:
            raise ValueError(f"{type(optimizer).__name__} has neither momentum nor betas; pass cycle_momentum=False")

        # The corners of the schedule: at which step, and there the rate as a share of max_lr, and the momentum.
        top, start, end = pct_start * total_steps - 1, 1 / div_factor, 1 / div_factor / final_div_factor
        if three_phase:
            self.corners = [0, top, 2 * top, total_steps - 1]
            self.rates = [start, 1.0, start, end]
            self.momenta = [max_momentum, base_momentum, max_momentum, max_momentum]
        else:
            self.corners = [0, top, total_steps - 1]
            self.rates = [start, 1.0, end]
            self.momenta = [max_momentum, base_momentum, max_momentum]
        if any(after <= before for before, after in zip(self.corners, self.corners[1:])):
            raise ValueError(f"pct_start={pct_start} of total_steps={total_steps} leaves a phase without a step: "
                             f"its corners would be at steps {self.corners}")
        self.total_steps, self.peaks = total_steps, peaks
        self.anneal_strategy, self.cycle_momentum = anneal_strategy, cycle_momentum
        if last_epoch == -1:
            for group, peak in zip(groups, peaks):
                group["initial_lr"] = peak * start
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        if self.last_epoch > self.total_steps:
            raise ValueError(f"step() was called {self.last_epoch} times, "
                             f"the schedule has total_steps={self.total_steps}")
        if len(self.optimizer.param_groups) != len(self.peaks):
            raise ValueError(f"the optimizer has {len(self.optimizer.param_groups)} parameter groups, "
                             f"the schedule was built for {len(self.peaks)}")
        # The call after the last batch sets what no batch will use; it must not run past the last corner, as a straight
        # line would then be below zero.
        step = min(self.last_epoch, self.total_steps - 1)
        phase = next(i for i, corner in enumerate(self.corners[1:]) if step <= corner)
        done = (step - self.corners[phase]) / (self.corners[phase + 1] - self.corners[phase])
        if self.anneal_strategy == "cos":
            done = 1 - half_cosine(done)
        if self.cycle_momentum:
            # Set here because every way of stepping a scheduler, SequentialLR's too, comes by here.
            momentum = self._between(self.momenta, phase, done)
            for group in self.optimizer.param_groups:
                adam = self.momentum_name == "betas"
                group[self.momentum_name] = (momentum, *group["betas"][1:]) if adam else momentum
        return [peak * self._between(self.rates, phase, done) for peak in self.peaks]

    @staticmethod
    def _between(values: list[float], phase: int, done: float) -> float:
        a, b = values[phase : phase + 2]
        return b + (1 - done) * (a - b)  # exactly b at the end, where b may be a millionth of a
