"""Adan: Adam with Nesterov's look ahead, made from the difference of two gradients.

Source: Xie et al. 2022, arXiv:2208.06677, algorithm 1, with betas that say what is kept (one minus the paper's).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from vocab.kernels.multi_tensor import applies, fused
from vocab.optimize import Descent, State, Tensors

__all__ = ["Adan"]


class Adan(Descent):
    """Adaptive Nesterov momentum.

    Three averages, of the gradient, of its change since the last step, and of the square of what the two predict::

        d = g - previous g        (0 at the first step)
        m = betas[0] * m + (1 - betas[0]) * g
        c = betas[1] * c + (1 - betas[1]) * d
        n = betas[2] * n + (1 - betas[2]) * (g + betas[1] * d)**2
        w = (w - lr * (m_hat + betas[1] * c_hat) / (sqrt(n_hat) + eps)) / (1 + lr * weight_decay)

    A hat is a division by ``1 - beta**t``. The state is four buffers per parameter, twice Adam's: the three averages and the last
    gradient. All options but ``params`` can be set for each parameter group.

    Args:
        params: Parameters, or dictionaries of parameter groups.
        lr: Learning rate.
        betas: Decay rates of the three averages, each in [0, 1).
        eps: Added to the root of the second moment.
        weight_decay: Share of the weights, times ``lr``, by which they shrink; as a division, which no value can turn negative.
        foreach: Whether the tensors of a group are updated together; by default where all of them are on a GPU.
        maximize: Whether to climb instead of descend.
        backend: ``"auto"``, ``"torch"`` or ``"triton"``; the kernel steps all tensors that are updated together in one launch.

    Raises:
        ValueError: If an option is out of range.
        RuntimeError: If a gradient is sparse, or ``backend="triton"`` cannot run here; the message says why.

    Examples:
        >>> weight = torch.nn.Parameter(torch.zeros(2))
        >>> optimizer = Adan([weight], lr=0.1, weight_decay=0.0)
        >>> for _ in range(3):  # a constant gradient: no change to look ahead to, and steps of the learning rate
        ...     weight.grad = torch.tensor([1e-3, -1e3])
        ...     optimizer.step()
        >>> weight.data
        tensor([-0.3000,  0.3000])
    """

    def __init__(
        self, params: ParamsT, lr: float = 1e-3, betas: tuple[float, float, float] = (0.98, 0.92, 0.99), eps: float = 1e-8,
        weight_decay: float = 0.02, *, foreach: bool | None = None, maximize: bool = False, backend: str = "auto",
    ) -> None:
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, foreach=foreach, maximize=maximize,
                         backend=backend)

    def check(self, options: dict) -> None:
        if len(options["betas"]) != 3:
            raise ValueError(f"betas={options['betas']} are {len(options['betas'])} numbers; expected 3")
        super().check(options)

    def update(self, w: Tensor | Tensors, g: Tensor | Tensors, state: State, t: int, group: dict) -> None:
        beta1, beta2, beta3 = group["betas"]
        last = state.buffer("last")
        if t == 1:
            last.copy_(g)  # there is no gradient before the first, so the first change is 0 and not g
        m, c, n = (state.buffer(name) for name in "mcn")
        if applies(group["backend"], w, m, c, n, last):
            fixes = [1 - beta**t for beta in group["betas"]]
            return fused("adan", w, g, m, c, n, last, lr=group["lr"], decay=group["weight_decay"], betas=group["betas"], eps=group["eps"],
                         fixes=fixes)
        change = g - last
        last.copy_(g)
        ahead = g + change * beta2
        m.mul_(beta1).add_(g, alpha=1 - beta1)
        c.mul_(beta2).add_(change, alpha=1 - beta2)
        n.mul_(beta3).addcmul_(ahead, ahead, value=1 - beta3)
        direction = m / (1 - beta1**t) + c * (beta2 / (1 - beta2**t))
        size = (n / (1 - beta3**t)).sqrt() + group["eps"]
        w.addcdiv_(direction, size, value=-group["lr"]).div_(1 + group["lr"] * group["weight_decay"])
