"""RMSprop: the gradient of each weight, divided by the root of a running mean of its square.

Source: Tieleman and Hinton 2012, lecture 6.5; the centered form: Graves 2013, arXiv:1308.0850, equations 38 to 45; options as in torch.optim.RMSprop.
"""

from __future__ import annotations

from torch import Tensor
from torch.optim.optimizer import ParamsT

from vocab.optimize import Descent, State, Tensors

__all__ = ["RMSprop"]


class RMSprop(Descent):
    """Root-mean-square propagation::

        g = g + weight_decay * w
        v = alpha * v + (1 - alpha) * g**2
        w = w - lr * g / (sqrt(v) + eps)

    With ``momentum`` the quotient goes into ``b = momentum * b + g / (sqrt(v) + eps)`` and the weights move by ``-lr * b``. With
    ``centered``, ``v`` less the square of a running mean of ``g`` divides: an estimate of the variance. The state is one buffer per
    parameter, and one more for each of the two.

    Args:
        params: Parameters, or dictionaries of parameter groups.
        lr: Learning rate; about how far a weight moves per step, but ``lr / sqrt(1 - alpha)`` in the first one.
        alpha: Decay rate of the mean of squares, in [0, 1).
        eps: Added to the root, outside of it.
        weight_decay: Strength of the penalty ``weight_decay * w**2 / 2``.
        momentum: Share of the velocity that is kept, in [0, 1); 0 for none.
        centered: Whether the squared mean is taken off the mean of squares.
        foreach: Whether the tensors of a group are updated together; by default where all of them are on a GPU.
        maximize: Whether to climb instead of descend.

    Raises:
        ValueError: If an option is out of range.
        RuntimeError: If a gradient is sparse.

    Examples:
        >>> import torch
        >>> weight = torch.nn.Parameter(torch.zeros(2))
        >>> optimizer = RMSprop([weight], lr=0.01, alpha=0.99)
        >>> (torch.tensor([1e-2, 1e2]) * weight).sum().backward()
        >>> optimizer.step()
        >>> weight.data  # the first step is ten times the rate, whatever the gradient
        tensor([-0.1000, -0.1000])
    """

    def __init__(
        self, params: ParamsT, lr: float = 0.01, alpha: float = 0.99, eps: float = 1e-8, weight_decay: float = 0.0,
        momentum: float = 0.0, centered: bool = False, *, foreach: bool | None = None, maximize: bool = False,
    ) -> None:
        super().__init__(params, lr=lr, alpha=alpha, eps=eps, weight_decay=weight_decay, momentum=momentum, centered=centered,
                         foreach=foreach, maximize=maximize)

    def check(self, options: dict) -> None:
        super().check(options)
        for name in ("alpha", "momentum"):
            if not 0 <= options[name] < 1:
                raise ValueError(f"{name}={options[name]} is not in [0, 1)")

    def update(self, w: Tensor | Tensors, g: Tensor | Tensors, state: State, t: int, group: dict) -> None:
        alpha = group["alpha"]
        if group["weight_decay"]:
            g = g + w * group["weight_decay"]
        v = state.buffer("v").mul_(alpha).addcmul_(g, g, value=1 - alpha)
        if group["centered"]:
            mean = state.buffer("mean").mul_(alpha).add_(g, alpha=1 - alpha)
            v = v - mean * mean
        direction = g / (v.sqrt() + group["eps"])
        if group["momentum"]:
            direction = state.buffer("velocity").mul_(group["momentum"]).add_(direction)
        w.add_(direction, alpha=-group["lr"])
