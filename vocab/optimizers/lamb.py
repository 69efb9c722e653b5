"""LAMB: Adam whose step in every layer is as long as the learning rate says, relative to the layer's weights.

Source: You et al. 2020, arXiv:1904.00962, algorithm 2, with the scaling function phi(z) = z.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

__all__ = ["LAMB"]


class LAMB(Optimizer):
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
        maximize: Whether to climb instead of descend.

    Raises:
        ValueError: If an option is out of range.
        RuntimeError: If a gradient is sparse.

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
        exclude_1d: bool = True, *, maximize: bool = False,
    ) -> None:
        defaults = dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, bias_correction=bias_correction,
                        max_trust_ratio=max_trust_ratio, exclude_1d=exclude_1d, maximize=maximize)
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict) -> None:
        # Groups bring their own options, so this, and not the constructor, is the place that sees them all.
        options = {**self.defaults, **param_group}
        for name in ("lr", "eps", "weight_decay"):
            if not options[name] >= 0:
                raise ValueError(f"{name}={options[name]} is not 0 or more")
        for beta in options["betas"]:
            if not 0 <= beta < 1:
                raise ValueError(f"betas={options['betas']} are not both in [0, 1)")
        if options["max_trust_ratio"] is not None and not options["max_trust_ratio"] > 0:
            raise ValueError(f"max_trust_ratio={options['max_trust_ratio']} is not above 0; None means no limit")
        super().add_param_group(param_group)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Takes one step.

        Args:
            closure: Computes the loss again, with gradients, and returns it.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        todo = [(p, group) for group in self.param_groups for p in group["params"] if p.grad is not None]
        if any(p.grad.is_sparse for p, _ in todo):  # before anything has moved
            raise RuntimeError("LAMB takes no sparse gradients, as a layer's norm needs all of it; "
                               "build the embedding with sparse=False")
        for p, group in todo:
            self._update(p, -p.grad if group["maximize"] else p.grad, group)
        return loss

    def _update(self, p: Tensor, grad: Tensor, group: dict) -> None:
        state = self.state[p]
        if not state:
            state["step"], state["m"], state["v"] = 0, torch.zeros_like(p), torch.zeros_like(p)
        beta1, beta2 = group["betas"]
        state["step"] += 1
        m = state["m"].mul_(beta1).add_(grad, alpha=1 - beta1)
        v = state["v"].mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        if group["bias_correction"]:
            m, v = m / (1 - beta1 ** state["step"]), v / (1 - beta2 ** state["step"])
        direction = m / (v.sqrt() + group["eps"])

        if group["exclude_1d"] and p.ndim <= 1:
            p.add_(direction, alpha=-group["lr"])
            return
        direction = direction + group["weight_decay"] * p
        p.sub_(group["lr"] * self._trust_ratio(p, direction, group["max_trust_ratio"]) * direction)

    @staticmethod
    def _trust_ratio(p: Tensor, direction: Tensor, limit: float | None) -> Tensor:
        """``norm(p) / norm(direction)``; 1 where either is zero, as weights that start at zero could never leave it."""
        weight, update = torch.linalg.vector_norm(p), torch.linalg.vector_norm(direction)
        ratio = torch.where((weight > 0) & (update > 0), weight / update, torch.ones_like(weight))
        return ratio if limit is None else ratio.clamp(max=limit)
