"""Early stopping: training ends when the validation metric has not improved for a while, and the best weights come back.

Source: Prechelt 1998, doi:10.1007/3-540-49430-8_3 (criteria); Yao, Rosasco and Caponnetto 2007, doi:10.1007/s00365-006-0663-2 (as a regularizer).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from vocab.check import expect

__all__ = ["EarlyStopping", "stopped_shrinkage"]


class EarlyStopping:
    """Says when to stop, after ``patience`` evaluations without an improvement.

    Args:
        patience: How many evaluations in a row may pass without an improvement, 1 or more.
        min_delta: By how much a metric must be better than the best one to count, 0 or more.
        mode: ``"min"`` for losses, ``"max"`` for accuracies.
        restore_best: Whether the weights of the best evaluation are kept, and put back when it stops.

    Raises:
        ValueError: If an option is out of range.

    Examples:
        >>> model, stopping = nn.Linear(1, 1), EarlyStopping(patience=2)
        >>> [stopping.step(loss, model) for loss in (3.0, 2.0, 2.5, 2.1)]
        [False, False, False, True]
        >>> stopping.best, stopping.best_step
        (2.0, 1)
    """

    def __init__(self, patience: int = 10, min_delta: float = 0.0, mode: str = "min", restore_best: bool = True) -> None:
        if patience < 1:
            raise ValueError(f"patience={patience} is not 1 or more")
        if not min_delta >= 0:
            raise ValueError(f"min_delta={min_delta} is not 0 or more")
        if mode not in ("min", "max"):
            raise ValueError(f"mode={mode!r} is not 'min' or 'max'")
        self.patience, self.min_delta, self.mode, self.restore_best = patience, min_delta, mode, restore_best
        self.best, self.best_step, self.steps = math.inf if mode == "min" else -math.inf, -1, 0
        self.weights: dict | None = None

    def step(self, metric: float, model: nn.Module) -> bool:
        """Takes one evaluation.

        Args:
            metric: The validation metric; NaN is never an improvement.
            model: Whose weights are kept, and restored when the result is true.

        Returns:
            Whether to stop.
        """
        metric = float(metric)
        gain = self.best - metric if self.mode == "min" else metric - self.best
        if gain > self.min_delta:
            self.best, self.best_step = metric, self.steps
            if self.restore_best:
                # Copies: the state dict itself holds the tensors that training goes on changing.
                self.weights = {name: value.detach().clone() for name, value in model.state_dict().items()}
        self.steps += 1
        stop = self.steps - 1 - self.best_step >= self.patience
        if stop:
            self.restore(model)
        return stop

    def restore(self, model: nn.Module) -> None:
        """Puts the best weights back; for runs that end before it stops them. Does nothing if none are kept.

        Args:
            model: The model that was watched.
        """
        if self.weights is not None:
            model.load_state_dict(self.weights)

    def state_dict(self) -> dict:
        """What a run needs to resume: the best metric and its weights, and the counts."""
        return {"best": self.best, "best_step": self.best_step, "steps": self.steps, "weights": self.weights}

    def load_state_dict(self, state: dict) -> None:
        """Resumes.

        Args:
            state: What ``state_dict`` gave.
        """
        self.best, self.best_step, self.steps, self.weights = (state[key] for key in ("best", "best_step", "steps", "weights"))


def stopped_shrinkage(singular_values: Tensor, lr: float, steps: int) -> Tensor:
    """What gradient descent from zero has of the least-squares fit along each singular direction: ``1 - (1 - lr * s**2)**steps``.

    Args:
        singular_values: Those of the matrix of features; the loss is half the sum of squared errors.
        lr: Learning rate.
        steps: Number of steps taken.

    Raises:
        ValueError: If ``lr`` or ``steps`` is out of range.

    Examples:
        >>> stopped_shrinkage(torch.tensor([1.0, 0.1]), lr=0.5, steps=4)  # near ridge with lam = 1 / (lr * steps)
        tensor([0.9375, 0.0199])
    """
    expect("singular_values", singular_values, "...")
    if not (lr > 0 and steps >= 0):
        raise ValueError(f"lr={lr}, steps={steps}: expected a rate above 0 and a number of steps from 0")
    return 1 - (1 - lr * singular_values.square()) ** steps
