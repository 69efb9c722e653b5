"""Adam: momentum, divided for each weight by the root of a running mean of its squared gradient.

Source: Kingma and Ba 2015, arXiv:1412.6980, algorithm 1; AMSGrad: Reddi et al. 2018, arXiv:1904.09237, algorithm 2 (with bias correction, as in torch.optim).
"""

from __future__ import annotations

from torch import Tensor
from torch.optim.optimizer import ParamsT

from vocab.optimize import Descent, State, Tensors

__all__ = ["Adam"]


class Adam(Descent):
    """Adaptive moment estimation::

        g = g + weight_decay * w
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        w = w - lr * m_hat / (sqrt(v_hat) + eps)      m_hat = m / (1 - beta1**t),  v_hat = v / (1 - beta2**t)

    The state is two buffers per parameter, three with ``amsgrad``. All options but ``params`` can be set for each parameter group.

    Args:
        params: Parameters, or dictionaries of parameter groups.
        lr: Learning rate; about the most that a weight moves per step.
        betas: Decay rates of the means of the gradient and of its square, each in [0, 1).
        eps: Added to the root of the second moment.
        weight_decay: Strength of a penalty ``weight_decay * w**2 / 2``. Its gradient is divided like any other, which is why it decays
            weights with large gradients less; see :class:`vocab.optimizers.adamw.AdamW`.
        amsgrad: Whether the largest second moment so far divides, so that a rate can only fall.
        foreach: Whether the tensors of a group are updated together; by default where all of them are on a GPU.
        maximize: Whether to climb instead of descend.

    Raises:
        ValueError: If an option is out of range.
        RuntimeError: If a gradient is sparse.

    Examples:
        >>> import torch
        >>> weight = torch.nn.Parameter(torch.zeros(3))
        >>> optimizer = Adam([weight], lr=0.1)
        >>> (torch.tensor([1e-3, -1.0, 1e3]) * weight).sum().backward()
        >>> optimizer.step()
        >>> weight.data  # only the sign of the first gradient counts
        tensor([-0.1000,  0.1000, -0.1000])
    """

    def __init__(
        self, params: ParamsT, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
        weight_decay: float = 0.0, amsgrad: bool = False, *, foreach: bool | None = None, maximize: bool = False,
    ) -> None:
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, amsgrad=amsgrad,
                         foreach=foreach, maximize=maximize)

    def update(self, w: Tensor | Tensors, g: Tensor | Tensors, state: State, t: int, group: dict) -> None:
        if group["weight_decay"]:
            g = g + w * group["weight_decay"]
        self.move(w, g, state, t, group)

    def move(self, w: Tensor | Tensors, g: Tensor | Tensors, state: State, t: int, group: dict) -> None:
        """The step without weight decay: what Adam and AdamW share."""
        beta1, beta2 = group["betas"]
        m = state.buffer("m").mul_(beta1).add_(g, alpha=1 - beta1)
        v = state.buffer("v").mul_(beta2).addcmul_(g, g, value=1 - beta2)
        if group["amsgrad"]:
            v = state.buffer("v_max").clamp_min_(v)
        m_hat, v_hat = m / (1 - beta1**t), v / (1 - beta2**t)
        w.addcdiv_(m_hat, v_hat.sqrt() + group["eps"], value=-group["lr"])
