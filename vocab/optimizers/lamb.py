"""LAMB: Adam whose step in every layer is as long as the learning rate says, relative to the layer's weights.

Source: You et al. 2020, arXiv:1904.00962, algorithm 2, with the scaling function phi(z) = z.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from vocab.kernels.multi_tensor import applies, fused
from vocab.optimize import Descent, State, Tensors, each

__all__ = ["LAMB", "trust_ratio"]


class LAMB(Descent):
    """Layer-wise adaptive moments for large batches.

    Each parameter tensor is a layer. Adam's direction plus weight decay is rescaled to the length of the weights, so
    that one step changes a layer by the share ``lr`` of its norm, whatever the size of its gradient::

        r = m_hat / (sqrt(v_hat) + eps) + weight_decay * w
        w = w - lr * (norm(w) / norm(r)) * r

    The state is Adam's: two buffers per parameter. All options but ``params`` can be set for each parameter group.

    Args:
        params: Parameters, or dictionaries of parameter groups.
        lr: Length of a step relative to the weights; 0.001 moves each layer by a thousandth of its norm.
        betas: Decay rates of the two moments, each in [0, 1).
        eps: Added to the root of the second moment.
        weight_decay: Share of the weights added to Adam's direction, before the rescaling.
        bias_correction: Whether the moments are divided by ``1 - beta**t``, as in the paper's algorithm.
        max_trust_ratio: Upper limit of ``norm(w) / norm(r)``; ``None`` for no limit.
        exclude_1d: Whether biases and gains (tensors with one dimension or none) get plain Adam: no decay, no ratio.
        foreach: Whether the tensors of a group are updated together; by default where all of them are on a GPU.
        maximize: Whether to climb instead of descend.
        backend: ``"auto"``, ``"torch"`` or ``"triton"``; the kernel steps all tensors that are updated together in one launch.

    Raises:
        ValueError: If an option is out of range.
        RuntimeError: If a gradient is sparse, or ``backend="triton"`` cannot run here; the message says why.

    Examples:
        >>> weight = torch.nn.Parameter(torch.tensor([[3.0, 4.0]]))
        >>> optimizer = LAMB([weight], lr=0.1, weight_decay=0.0)
        >>> (weight * 1000).sum().backward()
        >>> optimizer.step()
        >>> (weight.data - torch.tensor([[3.0, 4.0]])).norm()  # a tenth of the norm 5, however large the gradient
        tensor(0.5000)
    """

    def __init__(
        self, params: ParamsT, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-6,
        weight_decay: float = 0.01, bias_correction: bool = True, max_trust_ratio: float | None = None,
        exclude_1d: bool = True, *, foreach: bool | None = None, maximize: bool = False, backend: str = "auto",
    ) -> None:
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, bias_correction=bias_correction,
                         max_trust_ratio=max_trust_ratio, exclude_1d=exclude_1d, foreach=foreach, maximize=maximize, backend=backend)

    def check(self, options: dict) -> None:
        super().check(options)
        if options["max_trust_ratio"] is not None and not options["max_trust_ratio"] > 0:
            raise ValueError(f"max_trust_ratio={options['max_trust_ratio']} is not above 0; None means no limit")

    def update(self, w: Tensor | Tensors, g: Tensor | Tensors, state: State, t: int, group: dict) -> None:
        beta1, beta2 = group["betas"]
        m, v = state.buffer("m"), state.buffer("v")
        fixes = (1 - beta1**t, 1 - beta2**t) if group["bias_correction"] else (1.0, 1.0)
        if applies(group["backend"], w, m, v):
            limit = math.inf if group["max_trust_ratio"] is None else group["max_trust_ratio"]
            alone = [group["exclude_1d"] and ndim <= 1 for ndim in (state.ndim if state.many else [state.ndim])]
            return fused("lamb", w, g, m, v, lr=group["lr"], decay=group["weight_decay"], betas=group["betas"], eps=group["eps"],
                         fixes=fixes, limit=limit, alone=alone)
        m.mul_(beta1).add_(g, alpha=1 - beta1)
        v.mul_(beta2).addcmul_(g, g, value=1 - beta2)
        if group["bias_correction"]:
            m, v = m / fixes[0], v / fixes[1]
        direction = m / (v.sqrt() + group["eps"])
        each(lambda w, r, ndim: self._move(w, r, ndim, group), w, direction, state.ndim)

    @staticmethod
    def _move(w: Tensor, direction: Tensor, ndim: int, group: dict) -> Tensor:
        """One layer's step, as its length depends on the norms of that layer alone."""
        if group["exclude_1d"] and ndim <= 1:
            return w.add_(direction, alpha=-group["lr"])
        direction = direction + group["weight_decay"] * w
        ratio = trust_ratio(torch.linalg.vector_norm(w), torch.linalg.vector_norm(direction))
        if group["max_trust_ratio"] is not None:
            ratio = ratio.clamp(max=group["max_trust_ratio"])
        return w.sub_(group["lr"] * ratio * direction)


def trust_ratio(weight: Tensor, update: Tensor) -> Tensor:
    """What an update is multiplied by to become as long as the weights.

    Args:
        weight: Norm of the weights.
        update: Norm of the update.

    Returns:
        ``weight / update``; 1 where either is zero, as weights that start at zero could never leave it.

    Examples:
        >>> trust_ratio(torch.tensor([6.0, 0.0]), torch.tensor([3.0, 5.0]))
        tensor([2., 1.])
    """
    return torch.where((weight > 0) & (update > 0), weight / update, torch.ones_like(weight))
