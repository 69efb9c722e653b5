"""Schedule-free AdamW: a running average of the weights in place of a decaying learning rate.

Source: Defazio et al. 2024, arXiv:2405.15682, algorithm 1 and equations 6 to 8.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from vocab.optimize import Descent, State, Tensors, each

__all__ = ["ScheduleFreeAdamW"]


class ScheduleFreeAdamW(Descent):
    """AdamW at a constant rate, with an average of its path that is as good as a decayed rate.

    Three points: the base ``z`` takes the steps, ``x`` is its average, and gradients are taken between the two, at ``y``::

        y = (1 - betas[0]) * z + betas[0] * x
        z = z - lr * (g / (sqrt(v_hat) + eps) + weight_decay * y)        g and v of the gradient at y
        x = (1 - c) * x + c * z                                          c = 1 / t, or lr**2 / sum of lr**2 during warm-up

    The parameters hold ``y`` while training and ``x`` after ``eval()``; call ``train()`` before going on. The state is ``z`` and ``v``,
    two buffers per parameter as for Adam, since ``x`` follows from ``y`` and ``z``.

    Args:
        params: Parameters, or dictionaries of parameter groups.
        lr: Learning rate, constant after the warm-up.
        betas: Share of the average in ``y``, in (0, 1], and decay rate of the second moment, in [0, 1).
        weight_decay: Share of ``y``, times ``lr``, by which the base shrinks at every step.
        warmup_steps: Steps over which the rate grows to ``lr``.
        eps: Added to the root of the second moment.
        foreach: Whether the tensors of a group are updated together; by default where all of them are on a GPU.
        maximize: Whether to climb instead of descend.

    Raises:
        ValueError: If an option is out of range.
        RuntimeError: If a gradient is sparse, or ``step`` is called after ``eval()``.

    Examples:
        >>> weight = torch.nn.Parameter(torch.tensor([3.0]))
        >>> optimizer = ScheduleFreeAdamW([weight], lr=0.5)
        >>> for _ in range(3):  # the base goes to 2.5, 2 and 1.5
        ...     weight.grad = torch.ones(1)
        ...     optimizer.step()
        >>> optimizer.eval()
        >>> weight.data  # their mean
        tensor([2.0000])
    """

    def __init__(
        self, params: ParamsT, lr: float = 2.5e-3, betas: tuple[float, float] = (0.9, 0.999), weight_decay: float = 0.0,
        warmup_steps: int = 0, eps: float = 1e-8, *, foreach: bool | None = None, maximize: bool = False,
    ) -> None:
        super().__init__(params, lr=lr, betas=betas, weight_decay=weight_decay, warmup_steps=warmup_steps, eps=eps, training=True,
                         foreach=foreach, maximize=maximize)

    def check(self, options: dict) -> None:
        beta1, beta2 = options["betas"]
        if not 0 < beta1 <= 1:
            raise ValueError(f"betas[0]={beta1} is not in (0, 1]; at 0 the average could not be found from y and z")
        super().check({**options, "betas": (0.0, beta2)})
        if not options["warmup_steps"] >= 0:
            raise ValueError(f"warmup_steps={options['warmup_steps']} is not 0 or more")

    def update(self, w: Tensor | Tensors, g: Tensor | Tensors, state: State, t: int, group: dict) -> None:
        if not group["training"]:
            raise RuntimeError("step after eval(): the parameters hold the average; call train() on the optimizer first")
        beta2 = group["betas"][1]
        z = state.buffer("z")
        if t == 1:
            z.copy_(w)
        v = state.buffer("v").mul_(beta2).addcmul_(g, g, value=1 - beta2)
        direction = g / ((v / (1 - beta2**t)).sqrt() + group["eps"]) + w * group["weight_decay"]
        stores = state.stores if state.many else state.stores[0]
        each(lambda w, z, direction, store: self._move(w, z, direction, store, t, group), w, z, direction, stores)

    @staticmethod
    def _move(y: Tensor, z: Tensor, direction: Tensor, store: dict, t: int, group: dict) -> Tensor:
        lr = group["lr"] * min(1.0, t / max(1, group["warmup_steps"]))
        store["highest"] = max(lr, store.get("highest", 0.0))
        store["total"] = store.get("total", 0.0) + store["highest"] ** 2
        c = store["highest"] ** 2 / store["total"] if store["total"] else 0.0
        beta1 = group["betas"][0]
        # y = (1 - beta1) z + beta1 x, and x moves to (1 - c) x + c z with the new z; x itself is never stored.
        y.lerp_(z, c).sub_(direction, alpha=lr * (1 - beta1 * (1 - c)))
        z.sub_(direction, alpha=lr)
        return y

    @torch.no_grad()
    def eval(self) -> None:
        """Puts the average into the parameters, to evaluate or save them."""
        self._swap(False, lambda beta1: 1 - 1 / beta1)

    @torch.no_grad()
    def train(self) -> None:
        """Puts the point of the gradients back into the parameters."""
        self._swap(True, lambda beta1: 1 - beta1)

    def _swap(self, training: bool, share) -> None:
        for group in self.param_groups:
            if group["training"] is not training:
                group["training"] = training
                for p in group["params"]:
                    if "z" in self.state.get(p, {}):
                        value = torch.view_as_real(p) if p.is_complex() else p
                        value.lerp_(self.state[p]["z"], share(group["betas"][0]))
