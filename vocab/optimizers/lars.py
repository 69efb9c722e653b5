"""LARS: momentum SGD whose steps in every layer are a share of the layer's own size.

Source: You, Gitman and Ginsburg 2017, arXiv:1708.03888, equation 6 and algorithm 1 (learning rate outside the velocity, as in PyTorch).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from vocab.optimize import Descent, State, Tensors, each
from vocab.optimizers.lamb import trust_ratio
from vocab.optimizers.momentum import velocity

__all__ = ["LARS"]


class LARS(Descent):
    """Layer-wise adaptive rate scaling, for large batches.

    Each parameter tensor is a layer with a rate of its own, which multiplies the common ``lr``::

        ratio = trust_coefficient * norm(w) / (norm(g) + weight_decay * norm(w) + eps)
        v = momentum * v + ratio * (g + weight_decay * w)
        w = w - lr * v

    The state is one buffer per parameter, none without momentum. All options but ``params`` can be set for each parameter group.

    Args:
        params: Parameters, or dictionaries of parameter groups.
        lr: Learning rate of all layers; ``lr * trust_coefficient`` is the share of its norm that a layer moves.
        momentum: Share of the velocity that is kept, in [0, 1).
        weight_decay: Share of the weights added to the gradient, before the ratio and the momentum.
        trust_coefficient: How much of its norm a layer may move at ``lr=1``.
        eps: Added to the norms in the denominator.
        exclude_1d: Whether biases and gains (tensors with one dimension or none) get plain momentum SGD: no decay, no ratio.
        foreach: Whether the tensors of a group are updated together; by default where all of them are on a GPU.
        maximize: Whether to climb instead of descend.

    Raises:
        ValueError: If an option is out of range.
        RuntimeError: If a gradient is sparse.

    Examples:
        >>> weight = torch.nn.Parameter(torch.tensor([[3.0, 4.0]]))
        >>> optimizer = LARS([weight], lr=10.0, momentum=0.0, weight_decay=0.0, trust_coefficient=0.01)
        >>> (weight * 1000).sum().backward()
        >>> optimizer.step()
        >>> (weight.data - torch.tensor([[3.0, 4.0]])).norm()  # 10 * 0.01 of the norm 5, however large the gradient
        tensor(0.5000)
    """

    def __init__(
        self, params: ParamsT, lr: float, momentum: float = 0.9, weight_decay: float = 1e-4, trust_coefficient: float = 0.001,
        eps: float = 1e-8, exclude_1d: bool = True, *, foreach: bool | None = None, maximize: bool = False,
    ) -> None:
        super().__init__(params, lr=lr, momentum=momentum, weight_decay=weight_decay, trust_coefficient=trust_coefficient, eps=eps,
                         exclude_1d=exclude_1d, foreach=foreach, maximize=maximize)

    def check(self, options: dict) -> None:
        super().check(options)
        if not 0 <= options["momentum"] < 1:
            raise ValueError(f"momentum={options['momentum']} is not in [0, 1)")
        if not options["trust_coefficient"] > 0:
            raise ValueError(f"trust_coefficient={options['trust_coefficient']} is not above 0")

    def update(self, w: Tensor | Tensors, g: Tensor | Tensors, state: State, t: int, group: dict) -> None:
        v = each(lambda w, g, ndim: self._scaled(w, g, ndim, group), w, g, state.ndim)
        if group["momentum"]:
            v = velocity(state.buffer("v"), v, t, group["momentum"])
        w.add_(v, alpha=-group["lr"])

    @staticmethod
    def _scaled(w: Tensor, g: Tensor, ndim: int, group: dict) -> Tensor:
        """One layer's gradient with decay, times the layer's ratio."""
        if group["exclude_1d"] and ndim <= 1:
            return g
        weight, gradient = torch.linalg.vector_norm(w), torch.linalg.vector_norm(g)
        length = gradient + group["weight_decay"] * weight + group["eps"]
        return trust_ratio(group["trust_coefficient"] * weight, length) * (g + group["weight_decay"] * w)
