"""Adagrad: the gradient of each weight, divided by the root of the sum of all its squares so far.

Source: Duchi et al. 2011, JMLR 12, figure 1 (diagonal form, no regularizer); options as in torch.optim.Adagrad.
"""

from __future__ import annotations

from torch import Tensor
from torch.optim.optimizer import ParamsT

from vocab.optimize import Descent, State, Tensors
from vocab.optimizers.sparse_adam import named

__all__ = ["Adagrad"]


class Adagrad(Descent):
    """Adaptive gradients::

        g = g + weight_decay * w
        s = s + g**2
        w = w - lr / (1 + (t - 1) * lr_decay) * g / (sqrt(s) + eps)

    The state is one buffer per parameter. Of a sparse gradient only the rows that it names are touched.

    Args:
        params: Parameters, or dictionaries of parameter groups.
        lr: Learning rate; the length of the first step of every weight.
        lr_decay: How fast the learning rate itself falls, on top.
        weight_decay: Strength of the penalty ``weight_decay * w**2 / 2``.
        initial_accumulator_value: Where the sum of squares begins; more makes the first steps shorter.
        eps: Added to the root.
        foreach: Whether the tensors of a group are updated together; by default where all of them are on a GPU.
        maximize: Whether to climb instead of descend.

    Raises:
        ValueError: If an option is out of range.
        RuntimeError: If a gradient is sparse and there is weight decay, which would need every row.

    Examples:
        >>> import torch
        >>> weight = torch.nn.Parameter(torch.zeros(1))
        >>> optimizer = Adagrad([weight], lr=1.0)
        >>> for _ in range(4):
        ...     weight.grad = torch.full((1,), 50.0)
        ...     optimizer.step()
        >>> weight.data  # 1 + 1/sqrt(2) + 1/sqrt(3) + 1/sqrt(4)
        tensor([-2.7845])
    """

    takes_sparse = True

    def __init__(
        self, params: ParamsT, lr: float = 0.01, lr_decay: float = 0.0, weight_decay: float = 0.0, initial_accumulator_value: float = 0.0,
        eps: float = 1e-10, *, foreach: bool | None = None, maximize: bool = False,
    ) -> None:
        super().__init__(params, lr=lr, lr_decay=lr_decay, weight_decay=weight_decay, initial_accumulator_value=initial_accumulator_value,
                         eps=eps, foreach=foreach, maximize=maximize)

    def check(self, options: dict) -> None:
        super().check(options)
        for name in ("lr_decay", "initial_accumulator_value"):
            if not options[name] >= 0:
                raise ValueError(f"{name}={options[name]} is not 0 or more")

    def update(self, w: Tensor | Tensors, g: Tensor | Tensors, state: State, t: int, group: dict) -> None:
        lr, eps, decay = group["lr"] / (1 + (t - 1) * group["lr_decay"]), group["eps"], group["weight_decay"]
        s = state.buffer("s", start=group["initial_accumulator_value"])
        if isinstance(g, Tensor) and g.is_sparse:
            if decay:
                raise RuntimeError(f"weight_decay={decay} would move every row of a sparse gradient; put the embedding into a group without")
            where, g = named(g)
            s[where] += g * g
            w[where] -= lr * g / (s[where].sqrt() + eps)
            return
        if decay:
            g = g + w * decay
        s.addcmul_(g, g)
        w.addcdiv_(g, s.sqrt() + eps, value=-lr)
