"""Lookahead: another optimizer runs ahead for some steps, and the weights follow it part of the way.

Source: Zhang et al. 2019, arXiv:1907.08610, algorithm 1.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import torch
from torch.optim import Optimizer

__all__ = ["Lookahead"]


class Lookahead(Optimizer):
    """Slow weights that follow the fast weights of another optimizer.

    The base optimizer takes ``k`` steps with the parameters as they are (the fast weights). Then::

        slow = slow + alpha * (fast - slow)
        fast = slow

    Schedulers, ``zero_grad`` and parameter groups are those of the base optimizer, whose state is not touched at a synchronization. The
    slow weights are one more buffer per parameter.

    Args:
        base_optimizer: The optimizer that runs ahead. Give it to nothing else.
        k: Its steps between two synchronizations.
        alpha: How far the slow weights follow, in (0, 1]; 1 is the base optimizer alone.

    Raises:
        TypeError: If ``base_optimizer`` is no optimizer.
        ValueError: If ``k`` or ``alpha`` is out of range.

    Examples:
        >>> weight = torch.nn.Parameter(torch.tensor([1.0]))
        >>> optimizer = Lookahead(torch.optim.SGD([weight], lr=0.1), k=2, alpha=0.5)
        >>> for _ in range(2):  # the fast weight goes to 0.9 and 0.8
        ...     weight.grad = torch.ones(1)
        ...     optimizer.step()
        >>> weight.data
        tensor([0.9000])
    """

    def __init__(self, base_optimizer: Optimizer, k: int = 5, alpha: float = 0.5) -> None:
        if not isinstance(base_optimizer, Optimizer):
            raise TypeError(f"base_optimizer is a {type(base_optimizer).__name__}; expected a torch.optim.Optimizer")
        if not (isinstance(k, int) and k >= 1):
            raise ValueError(f"k={k} is not a whole number of 1 or more")
        if not 0 < alpha <= 1:
            raise ValueError(f"alpha={alpha} is not in (0, 1]")
        super().__init__(base_optimizer.param_groups, dict(base_optimizer.defaults))
        self.base, self.k, self.alpha, self.taken = base_optimizer, k, alpha, 0
        self.param_groups = base_optimizer.param_groups  # one list, so that a scheduler on either sets the rate of both
        self._slow = {p: p.detach().clone() for p in self._params()}

    def _params(self) -> list[torch.Tensor]:
        return [p for group in self.param_groups for p in group["params"]]

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Takes one step of the base optimizer, and synchronizes after every ``k``.

        Args:
            closure: For the base optimizer.
        """
        loss = self.base.step(closure)
        self.taken += 1
        if self.taken % self.k == 0:
            for p in self._params():
                p.copy_(self._slow[p].lerp_(p, self.alpha))
        return loss

    @contextmanager
    def slow_weights(self):
        """Within this context the parameters are the slow weights, to evaluate or save them; afterwards the fast ones again."""
        with torch.no_grad():
            fast = [p.detach().clone() for p in self._params()]
            for p in self._params():
                p.copy_(self._slow[p])
        try:
            yield
        finally:
            with torch.no_grad():
                for p, kept in zip(self._params(), fast):
                    p.copy_(kept)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clears the gradients."""
        self.base.zero_grad(set_to_none)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group to the base optimizer; its slow weights begin where the parameters are."""
        if not hasattr(self, "base"):  # while torch's constructor takes over the groups of the base
            return super().add_param_group(param_group)
        self.base.add_param_group(param_group)
        self._slow.update({p: p.detach().clone() for p in self.base.param_groups[-1]["params"]})

    def state_dict(self) -> dict[str, Any]:
        """The base optimizer's state, the slow weights, and how many steps have been taken."""
        return {"base": self.base.state_dict(), "slow": [self._slow[p] for p in self._params()], "taken": self.taken}

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on where ``state_dict`` was taken, given the same parameters."""
        if len(state_dict["slow"]) != len(self._params()):
            raise ValueError(f"state_dict has slow weights of {len(state_dict['slow'])} parameters; expected {len(self._params())}")
        self.base.load_state_dict(state_dict["base"])
        self.param_groups, self.taken = self.base.param_groups, state_dict["taken"]
        for p, slow in zip(self._params(), state_dict["slow"]):
            self._slow[p].copy_(slow)
