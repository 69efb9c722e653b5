"""Lion: momentum of which only the sign is used.

Source: Chen et al. 2023, arXiv:2302.06675, program 1 (the discovered one, simplified).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from vocab.kernels.multi_tensor import applies, fused
from vocab.optimize import Descent, State, Tensors

__all__ = ["Lion"]


class Lion(Descent):
    """Evolved sign momentum: every weight moves by exactly ``lr``.

    Two averages of the gradient from one buffer: a short one decides the step, a long one is kept::

        u = sign(beta1 * m + (1 - beta1) * g)
        w = w - lr * (u + weight_decay * w)
        m = beta2 * m + (1 - beta2) * g

    The state is one buffer per parameter, half of Adam's. All options but ``params`` can be set for each parameter group.

    Args:
        params: Parameters, or dictionaries of parameter groups.
        lr: How far every weight moves at every step.
        betas: Share of the kept average in the step, and decay rate of the kept average, each in [0, 1).
        weight_decay: Share of the weights, times ``lr``, by which they shrink at every step.
        foreach: Whether the tensors of a group are updated together; by default where all of them are on a GPU.
        maximize: Whether to climb instead of descend.
        backend: ``"auto"``, ``"torch"`` or ``"triton"``; the kernel steps all tensors that are updated together in one launch.

    Raises:
        ValueError: If an option is out of range.
        RuntimeError: If a gradient is sparse, or ``backend="triton"`` cannot run here; the message says why.

    Examples:
        >>> weight = torch.nn.Parameter(torch.tensor([1.0, 2.0, 3.0]))
        >>> optimizer = Lion([weight], lr=0.1)
        >>> weight.grad = torch.tensor([1e-6, -1000.0, 0.0])
        >>> optimizer.step()
        >>> weight.data  # by 0.1 whatever the size; not at all where there is no gradient
        tensor([0.9000, 2.1000, 3.0000])
    """

    def __init__(
        self, params: ParamsT, lr: float = 1e-4, betas: tuple[float, float] = (0.9, 0.99), weight_decay: float = 0.0, *,
        foreach: bool | None = None, maximize: bool = False, backend: str = "auto",
    ) -> None:
        super().__init__(params, lr=lr, betas=betas, weight_decay=weight_decay, foreach=foreach, maximize=maximize, backend=backend)

    def update(self, w: Tensor | Tensors, g: Tensor | Tensors, state: State, t: int, group: dict) -> None:
        beta1, beta2 = group["betas"]
        m = state.buffer("m")
        if applies(group["backend"], w, m):
            return fused("lion", w, g, m, lr=group["lr"], decay=group["weight_decay"], betas=group["betas"])
        mixed = (m * beta1).add_(g, alpha=1 - beta1)  # with beta1, before the buffer moves with beta2
        direction = mixed.sign() + (mixed - mixed)  # the difference is 0, or NaN where torch's sign would make a 0 of a NaN
        w.mul_(1 - group["lr"] * group["weight_decay"]).add_(direction, alpha=-group["lr"])
        m.mul_(beta2).add_(g, alpha=1 - beta2)
