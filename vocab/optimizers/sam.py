"""SAM: the gradient is taken where the loss is worst nearby, and applied where the weights are.

Source: Foret et al. 2021, arXiv:2010.01412, algorithm 1; adaptive form from Kwon et al. 2021, arXiv:2102.11600, algorithm 1.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

__all__ = ["SAM", "frozen_statistics"]


class SAM(Optimizer):
    """Sharpness-aware minimization around another optimizer.

    One step evaluates the closure twice::

        g = gradient at w
        e = rho * g / norm(g)            over all parameters together; adaptive: rho * w**2 * g / norm(abs(w) * g)
        w = base step from w, with the gradient at w + e

    ``first_step`` and ``second_step`` are the two halves, for loops of your own. The state is the base optimizer's; between the halves there is
    one copy of the weights more.

    Args:
        params: Parameters, or dictionaries of parameter groups.
        base_optimizer: Class of the optimizer that takes the step.
        rho: Radius of the neighborhood.
        adaptive: Whether the radius is relative to each weight, so that rescaling weights does not change it.
        kw: Options of the base optimizer; ``lr`` and what else it takes.

    Raises:
        ValueError: If ``rho`` is negative, or what the base optimizer raises.
        RuntimeError: If ``step`` is called without a closure, a half out of turn, or a gradient is sparse.

    Examples:
        >>> weight = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
        >>> optimizer = SAM([weight], torch.optim.SGD, rho=1.0, lr=0.1)
        >>> def closure():
        ...     optimizer.zero_grad()
        ...     loss = weight.square().sum() / 2
        ...     loss.backward()
        ...     return loss
        >>> optimizer.step(closure)
        tensor(12.5000, grad_fn=<DivBackward0>)
        >>> weight.data  # with the gradient at (3.6, 4.8)
        tensor([2.6400, 3.5200])
    """

    def __init__(
        self, params: ParamsT, base_optimizer: Callable[..., Optimizer] = torch.optim.SGD, rho: float = 0.05, adaptive: bool = False, **kw: Any,
    ) -> None:
        if not rho >= 0:
            raise ValueError(f"rho={rho} is not 0 or more")
        super().__init__(params, {"rho": rho, "adaptive": adaptive, **kw})
        self.base = base_optimizer(self.param_groups, **kw)
        self._share()
        self._kept: dict[Tensor, Tensor] = {}

    def _share(self) -> None:
        """Groups and state are one object for both, so that schedulers and checkpoints need not know of two."""
        self.param_groups, self.state = self.base.param_groups, self.base.state

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group to both optimizers."""
        if not param_group.get("rho", 0.0) >= 0:
            raise ValueError(f"rho={param_group['rho']} is not 0 or more")
        if not hasattr(self, "base"):  # while torch's constructor collects the groups
            return super().add_param_group(param_group)
        self.base.add_param_group({"rho": self.defaults["rho"], "adaptive": self.defaults["adaptive"], **param_group})

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on where ``state_dict`` was taken."""
        self.base.load_state_dict(state_dict)
        self._share()

    @torch.no_grad()
    def first_step(self) -> None:
        """Moves the weights to where the loss is worst, given the gradient at them."""
        if self._kept:
            raise RuntimeError("first_step after first_step; call second_step before the next")
        moving = [(p, group) for group in self.param_groups for p in group["params"] if p.grad is not None]
        if any(p.grad.is_sparse for p, _ in moving):
            raise RuntimeError("SAM takes no sparse gradients; build the embedding with sparse=False")
        slopes = [p.grad * p.abs() if group["adaptive"] else p.grad for p, group in moving]
        norms = [torch.linalg.vector_norm(slope) for slope in slopes]
        norm = torch.linalg.vector_norm(torch.stack([n.to(norms[0]) for n in norms])) if norms else 0.0
        for (p, group), slope in zip(moving, slopes):
            self._kept[p] = p.detach().clone()
            unit = slope / (norm.to(slope.device) + 1e-12)
            p.add_(unit * p.abs() if group["adaptive"] else unit, alpha=group["rho"])

    @torch.no_grad()
    def second_step(self) -> None:
        """Puts the weights back and takes the base optimizer's step with the gradient found meanwhile."""
        if not self._kept:
            raise RuntimeError("second_step without first_step")
        for p, kept in self._kept.items():
            p.copy_(kept)
        self._kept = {}
        self.base.step()

    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor:
        """Takes one step.

        Args:
            closure: Clears the gradients, computes the loss with gradients, and returns it; called twice.

        Returns:
            The loss at the weights, before the step.
        """
        if closure is None:
            raise RuntimeError("SAM.step needs a closure, which it calls twice; or use first_step and second_step")
        with torch.enable_grad():
            loss = closure()
            self.first_step()
            closure()
        self.second_step()
        return loss


@contextmanager
def frozen_statistics(model: nn.Module):
    """Within this context the batch normalizations of ``model`` normalize by the batch but leave their running statistics alone.

    Args:
        model: What holds them.

    Examples:
        >>> norm = nn.BatchNorm1d(2)
        >>> with frozen_statistics(norm):
        ...     _ = norm(torch.randn(8, 2) + 5)
        >>> norm.running_mean
        tensor([0., 0.])
    """
    held = [(m, m.running_mean, m.running_var, m.num_batches_tracked) for m in model.modules() if isinstance(m, _BatchNorm) and m.training]
    for m, *_ in held:  # in training a layer without these buffers normalizes by its batch all the same, and has nothing to write to
        m.running_mean = m.running_var = m.num_batches_tracked = None
    try:
        yield
    finally:
        for m, mean, var, count in held:
            m.running_mean, m.running_var, m.num_batches_tracked = mean, var, count
