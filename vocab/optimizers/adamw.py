"""AdamW: Adam with weight decay that is not divided by the second moment.

Source: Loshchilov and Hutter 2019, arXiv:1711.05101, algorithm 2; the decay is multiplied by the learning rate, as in torch.optim.AdamW.
"""

from __future__ import annotations

from torch import Tensor
from torch.optim.optimizer import ParamsT

from vocab.optimize import State, Tensors
from vocab.optimizers.adam import Adam

__all__ = ["AdamW"]


class AdamW(Adam):
    """Adam with decoupled weight decay::

        w = w - lr * weight_decay * w
        w = w - lr * m_hat / (sqrt(v_hat) + eps)

    The gradient, and with it both moments, know nothing of the decay. The state is Adam's: two buffers per parameter, three with ``amsgrad``.

    Args:
        params: Parameters, or dictionaries of parameter groups.
        lr: Learning rate; about the most that a weight moves per step. It multiplies the decay too.
        betas: Decay rates of the means of the gradient and of its square, each in [0, 1).
        eps: Added to the root of the second moment.
        weight_decay: Every weight shrinks by the share ``lr * weight_decay`` at each step.
        amsgrad: Whether the largest second moment so far divides.
        foreach: Whether the tensors of a group are updated together; by default where all of them are on a GPU.
        maximize: Whether to climb instead of descend; the weights shrink all the same.

    Raises:
        ValueError: If an option is out of range.
        RuntimeError: If a gradient is sparse.

    Examples:
        >>> import torch
        >>> weight = torch.nn.Parameter(torch.tensor([1.0, 100.0]))
        >>> weight.grad = torch.zeros(2)
        >>> AdamW([weight], lr=0.1, weight_decay=0.5).step()
        >>> weight.data  # both lose 5 %
        tensor([ 0.9500, 95.0000])
    """

    def __init__(
        self, params: ParamsT, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
        weight_decay: float = 1e-2, amsgrad: bool = False, *, foreach: bool | None = None, maximize: bool = False,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, foreach=foreach, maximize=maximize)

    def update(self, w: Tensor | Tensors, g: Tensor | Tensors, state: State, t: int, group: dict) -> None:
        w.mul_(1 - group["lr"] * group["weight_decay"])
        self.move(w, g, state, t, group)
