"""NovoGrad: the gradient of each layer, scaled to about unit length before it enters the momentum.

Source: Ginsburg et al. 2019, arXiv:1905.11286, algorithm 1.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from vocab.optimize import Descent, State, Tensors, each

__all__ = ["NovoGrad"]


class NovoGrad(Descent):
    """Layer-wise second moments. Each parameter tensor is a layer and has one number ``v``::

        v = beta2 * v + (1 - beta2) * norm(g)**2      (norm(g)**2 in the first step)
        m = beta1 * m + (g / (sqrt(v) + eps) + weight_decay * w)
        w = w - lr * m

    The state is one buffer per parameter, and one number per layer. All options but ``params`` can be set for each parameter group.

    Args:
        params: Parameters, or dictionaries of parameter groups.
        lr: Learning rate; a layer whose gradient keeps its direction moves by ``lr / (1 - beta1)`` per step, as a whole.
        betas: Decay rates of the momentum and of the mean of squared norms, each in [0, 1).
        eps: Added to the root of the mean.
        weight_decay: Strength of the decay; it joins the scaled gradient and passes through the momentum.
        grad_averaging: Whether what enters the momentum is multiplied by ``1 - beta1``, which makes it a mean instead of a sum.
        foreach: Whether the tensors of a group are updated together; by default where all of them are on a GPU.
        maximize: Whether to climb instead of descend.

    Raises:
        ValueError: If an option is out of range.
        RuntimeError: If a gradient is sparse.

    Examples:
        >>> layer = torch.nn.Parameter(torch.zeros(2))
        >>> optimizer = NovoGrad([layer], lr=0.1)
        >>> layer.grad = torch.tensor([300.0, 400.0])
        >>> optimizer.step()
        >>> layer.data  # length 0.1, in the direction of the gradient
        tensor([-0.0600, -0.0800])
    """

    def __init__(
        self, params: ParamsT, lr: float = 1e-3, betas: tuple[float, float] = (0.95, 0.98), eps: float = 1e-8,
        weight_decay: float = 0.0, grad_averaging: bool = False, *, foreach: bool | None = None, maximize: bool = False,
    ) -> None:
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, grad_averaging=grad_averaging,
                         foreach=foreach, maximize=maximize)

    def update(self, w: Tensor | Tensors, g: Tensor | Tensors, state: State, t: int, group: dict) -> None:
        beta1, beta2 = group["betas"]
        size = each(lambda g, store: self._size(g, store, beta2) + group["eps"], g, Tensors(state.stores) if state.many else state.stores[0])
        g = each(torch.div, g, size)
        if group["weight_decay"]:
            g = g + w * group["weight_decay"]
        m = state.buffer("m").mul_(beta1).add_(g, alpha=1 - beta1 if group["grad_averaging"] else 1.0)
        w.add_(m, alpha=-group["lr"])

    @staticmethod
    def _size(g: Tensor, store: dict, beta2: float) -> Tensor:
        """The root of the running mean of a layer's squared norm, one number."""
        square = (g * g).sum()
        if "v" not in store:
            store["v"] = square  # begins at the first square, so there is no bias to correct
        else:
            store["v"].mul_(beta2).add_(square, alpha=1 - beta2)
        return store["v"].sqrt()
