"""Stochastic gradient descent: a step down the gradient of a part of the data, with heavy-ball or Nesterov momentum if wanted.

Source: Robbins and Monro 1951, doi:10.1214/aoms/1177729586; Bottou et al. 2018, arXiv:1606.04838, algorithm 4.1; options as in torch.optim.SGD.
"""

from __future__ import annotations

from torch import Tensor
from torch.optim.optimizer import ParamsT

from vocab.optimize import Descent, State, Tensors
from vocab.optimizers.momentum import velocity
from vocab.optimizers.nesterov import look_ahead

__all__ = ["SGD"]


class SGD(Descent):
    """Stochastic gradient descent::

        g = g + weight_decay * w
        v = momentum * v + (1 - dampening) * g        (the first gradient is taken whole)
        w = w - lr * v                                or  lr * (g + momentum * v)  with nesterov

    The state is one buffer per parameter, and none without momentum. All options but ``params`` can be set for each parameter group.

    Sparse gradients are taken. Without momentum and weight decay only the rows that they name move; with either, all rows do.

    Args:
        params: Parameters, or dictionaries of parameter groups.
        lr: Learning rate.
        momentum: Share of the velocity that is kept, in [0, 1); 0 for none.
        dampening: Share of each gradient but the first that does not enter the velocity.
        nesterov: Whether the gradient counts as if taken where the velocity leads.
        weight_decay: Strength of the penalty ``weight_decay * w**2 / 2``; its gradient passes through the velocity.
        foreach: Whether the tensors of a group are updated together; by default where all of them are on a GPU.
        maximize: Whether to climb instead of descend.

    Raises:
        ValueError: If an option is out of range, or ``nesterov`` comes without momentum or with dampening.

    Examples:
        >>> import torch
        >>> weight = torch.nn.Parameter(torch.tensor([1.0, 1.0]))
        >>> optimizer = SGD([weight], lr=0.1)
        >>> (torch.tensor([1.0, 4.0]) * weight**2).sum().backward()
        >>> optimizer.step()
        >>> weight.data  # four times steeper, four times farther
        tensor([0.8000, 0.2000])
    """

    takes_sparse = True

    def __init__(
        self, params: ParamsT, lr: float = 1e-3, *, momentum: float = 0.0, dampening: float = 0.0, nesterov: bool = False,
        weight_decay: float = 0.0, foreach: bool | None = None, maximize: bool = False,
    ) -> None:
        super().__init__(params, lr=lr, momentum=momentum, dampening=dampening, nesterov=nesterov, weight_decay=weight_decay,
                         foreach=foreach, maximize=maximize)

    def check(self, options: dict) -> None:
        super().check(options)
        momentum, dampening = options["momentum"], options["dampening"]
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum={momentum} is not in [0, 1)")
        if not 0 <= dampening <= 1:
            raise ValueError(f"dampening={dampening} is not in [0, 1]")
        if options["nesterov"] and (momentum == 0 or dampening != 0):
            raise ValueError(f"nesterov=True with momentum={momentum} and dampening={dampening}: it needs momentum above 0 and dampening 0")

    def update(self, w: Tensor | Tensors, g: Tensor | Tensors, state: State, t: int, group: dict) -> None:
        if group["weight_decay"]:
            g = w * group["weight_decay"] + g
        if group["momentum"]:
            v = velocity(state.buffer("velocity"), g, t, group["momentum"], group["dampening"])
            g = look_ahead(g, v, group["momentum"]) if group["nesterov"] else v
        w.add_(g, alpha=-group["lr"])
