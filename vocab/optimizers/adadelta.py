"""Adadelta: the gradient, times the size of recent updates over the size of recent gradients.

Source: Zeiler 2012, arXiv:1212.5701, algorithm 1; with a learning rate as a factor, as in torch.optim.Adadelta.
"""

from __future__ import annotations

from torch import Tensor
from torch.optim.optimizer import ParamsT

from vocab.optimize import Descent, State, Tensors

__all__ = ["Adadelta"]


class Adadelta(Descent):
    """Adaptive rates with the units of the weights::

        g = g + weight_decay * w
        v = rho * v + (1 - rho) * g**2
        d = sqrt(u + eps) / sqrt(v + eps) * g
        u = rho * u + (1 - rho) * d**2
        w = w - lr * d

    The state is two buffers per parameter.

    Args:
        params: Parameters, or dictionaries of parameter groups.
        lr: Factor of every update; 1 is the original method. It is outside of the mean of squared updates.
        rho: Decay rate of both means, in [0, 1).
        eps: Added under both roots; ``sqrt(eps / (1 - rho))`` is the length of the first step, so it decides how fast things start.
        weight_decay: Strength of the penalty ``weight_decay * w**2 / 2``.
        foreach: Whether the tensors of a group are updated together; by default where all of them are on a GPU.
        maximize: Whether to climb instead of descend.

    Raises:
        ValueError: If an option is out of range.
        RuntimeError: If a gradient is sparse.

    Examples:
        >>> import torch
        >>> weight = torch.nn.Parameter(torch.zeros(2))
        >>> optimizer = Adadelta([weight])
        >>> weight.grad = torch.tensor([1.0, -1000.0])
        >>> optimizer.step()
        >>> weight.data  # sqrt(1e-6 / 0.1), for any gradient that is not tiny
        tensor([-0.0032,  0.0032])
    """

    def __init__(
        self, params: ParamsT, lr: float = 1.0, rho: float = 0.9, eps: float = 1e-6, weight_decay: float = 0.0, *,
        foreach: bool | None = None, maximize: bool = False,
    ) -> None:
        super().__init__(params, lr=lr, rho=rho, eps=eps, weight_decay=weight_decay, foreach=foreach, maximize=maximize)

    def check(self, options: dict) -> None:
        super().check(options)
        if not 0 <= options["rho"] < 1:
            raise ValueError(f"rho={options['rho']} is not in [0, 1)")

    def update(self, w: Tensor | Tensors, g: Tensor | Tensors, state: State, t: int, group: dict) -> None:
        rho, eps = group["rho"], group["eps"]
        if group["weight_decay"]:
            g = g + w * group["weight_decay"]
        v, u = state.buffer("v"), state.buffer("u")
        v.mul_(rho).addcmul_(g, g, value=1 - rho)
        d = (u + eps).sqrt() / (v + eps).sqrt() * g  # with the updates before this one: its own is not known yet
        u.mul_(rho).addcmul_(d, d, value=1 - rho)
        w.add_(d, alpha=-group["lr"])
