"""Muon: momentum of which only the directions are used, as the sign is of a number.

Source: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/; weight decay and update size from Liu et al. 2025, arXiv:2502.16982.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from vocab.check import expect
from vocab.kernels.newton_schulz import applies, fused
from vocab.optimize import Descent, State, Tensors, each

__all__ = ["Muon", "newton_schulz"]

QUINTIC = (3.4445, -4.775, 2.0315)


class Muon(Descent):
    """Momentum orthogonalized by Newton-Schulz, for the matrices of hidden layers.

    ::

        m = momentum * m + (1 - momentum) * g
        u = newton_schulz((1 - momentum) * g + momentum * m)          m itself without nesterov
        w = w * (1 - lr * weight_decay) - lr * size * u

    ``size`` is ``sqrt(max(1, rows / columns))``, or ``0.2 * sqrt(max(rows, columns))`` with ``adjust_lr_fn="match_rms_adamw"``, whose
    updates are as large as AdamW's usually are, so that AdamW's ``lr`` fits. Embeddings, the output head, biases and gains belong to
    another optimizer. The state is one buffer per parameter. All options but ``params`` can be set for each parameter group.

    Args:
        params: Matrices, or dictionaries of parameter groups.
        lr: Learning rate.
        weight_decay: Share of the weights, times ``lr``, by which they shrink at every step.
        momentum: Decay rate of the mean gradient, in [0, 1).
        nesterov: Whether the newest gradient counts once more.
        ns_coefficients: Those of ``x``, ``x**3`` and ``x**5`` in the iteration.
        eps: Smallest norm that a matrix is divided by.
        ns_steps: Rounds of the iteration, below 100.
        adjust_lr_fn: ``None`` or ``"original"``, or ``"match_rms_adamw"``: how the step depends on the matrix's shape.
        flatten: Whether tensors of other shapes are taken as matrices too, the first dimension by all others (kernels of a convolution),
            vectors as one row; otherwise they are refused.
        ns_dtype: In what the iteration computes; ``None`` for the gradient's own.
        foreach: Whether the tensors of a group are averaged together; each is orthogonalized by itself.
        maximize: Whether to climb instead of descend.
        backend: ``"auto"``, ``"torch"`` or ``"triton"``, for the iteration.

    Raises:
        ValueError: If an option is out of range, or a parameter is no real matrix and ``flatten`` is off.
        RuntimeError: If a gradient is sparse, or ``backend="triton"`` cannot run here; the message says why.

    Examples:
        >>> weight = torch.nn.Parameter(torch.zeros(2, 2))
        >>> optimizer = Muon([weight], lr=0.1, ns_coefficients=(1.5, -0.5, 0.0), ns_steps=50, ns_dtype=torch.float64)
        >>> weight.grad = torch.tensor([[100.0, 0.0], [0.0, 0.01]])  # the small direction counts as much as the large one
        >>> optimizer.step()
        >>> weight.data.abs().round(decimals=4)
        tensor([[0.1000, 0.0000],
                [0.0000, 0.1000]])
    """

    def __init__(
        self, params: ParamsT, lr: float = 1e-3, weight_decay: float = 0.1, momentum: float = 0.95, nesterov: bool = True,
        ns_coefficients: tuple[float, float, float] = QUINTIC, eps: float = 1e-7, ns_steps: int = 5, adjust_lr_fn: str | None = None,
        flatten: bool = False, ns_dtype: torch.dtype | None = torch.bfloat16, *, foreach: bool | None = None, maximize: bool = False,
        backend: str = "auto",
    ) -> None:
        super().__init__(params, lr=lr, weight_decay=weight_decay, momentum=momentum, nesterov=nesterov, ns_coefficients=ns_coefficients,
                         eps=eps, ns_steps=ns_steps, adjust_lr_fn=adjust_lr_fn, flatten=flatten, ns_dtype=ns_dtype,
                         foreach=foreach, maximize=maximize, backend=backend)

    def check(self, options: dict) -> None:
        super().check(options)
        if not 0 <= options["momentum"] < 1:
            raise ValueError(f"momentum={options['momentum']} is not in [0, 1)")
        if len(options["ns_coefficients"]) != 3:
            raise ValueError(f"ns_coefficients={options['ns_coefficients']} are not 3 numbers")
        if not 0 <= options["ns_steps"] < 100:
            raise ValueError(f"ns_steps={options['ns_steps']} is not from 0 to 99")
        if options["adjust_lr_fn"] not in (None, "original", "match_rms_adamw"):
            raise ValueError(f"adjust_lr_fn={options['adjust_lr_fn']!r} is not None, 'original' or 'match_rms_adamw'")

    def add_param_group(self, param_group: dict) -> None:
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        for p in group["params"]:
            if not group["flatten"] and (p.ndim != 2 or p.is_complex()):
                self.param_groups.pop()
                raise ValueError(f"a parameter of shape {tuple(p.shape)} and dtype {p.dtype} is no real matrix; give it to AdamW, "
                                 "or set flatten=True for kernels")

    def update(self, w: Tensor | Tensors, g: Tensor | Tensors, state: State, t: int, group: dict) -> None:
        m = state.buffer("m").lerp_(g, 1 - group["momentum"])
        each(lambda w, u, ndim: self._move(w, u, ndim, group), w, g.lerp(m, group["momentum"]) if group["nesterov"] else m, state.ndim)

    @staticmethod
    def _move(w: Tensor, u: Tensor, ndim: int, group: dict) -> Tensor:
        matrix = u.reshape(u.shape[0] if ndim > 1 else 1, -1)
        rows, columns = matrix.shape
        size = 0.2 * math.sqrt(max(rows, columns)) if group["adjust_lr_fn"] == "match_rms_adamw" else math.sqrt(max(1, rows / columns))
        flat = newton_schulz(matrix.to(group["ns_dtype"] or matrix.dtype), group["ns_coefficients"], group["ns_steps"], group["eps"],
                             backend=group["backend"])
        return w.mul_(1 - group["lr"] * group["weight_decay"]).add_(flat.view_as(u), alpha=-group["lr"] * size)


def newton_schulz(
    x: Tensor, coefficients: tuple[float, float, float] = QUINTIC, steps: int = 5, eps: float = 1e-7, *, backend: str = "auto"
) -> Tensor:
    """Pushes all singular values of a matrix toward 1 and leaves its singular vectors as they are.

    An odd polynomial ``a x + b x^3 + c x^5`` of a matrix is the same polynomial of each singular value. The default coefficients
    are steep at 0 and do not settle: values end between about 0.7 and 1.2. ``(1.5, -0.5, 0)`` converges to 1, slowly for small ones.

    Args:
        x: Matrix; its norm is made 1 first, so that no singular value exceeds 1.
        coefficients: ``a``, ``b``, ``c``.
        steps: Rounds.
        eps: Smallest norm that the matrix is divided by.
        backend: ``"auto"``, ``"torch"`` or ``"triton"``; the kernel has no gradient.

    Shapes:
        x (rows, columns) -> (rows, columns)

    Examples:
        >>> x = torch.diag(torch.tensor([4.0, 0.5, 0.1]))
        >>> newton_schulz(x, (1.5, -0.5, 0.0), steps=30).diagonal()
        tensor([1., 1., 1.])
    """
    expect("x", x, "rows columns")
    if applies(x, backend):
        return fused(x, coefficients, steps, eps)
    tall = x.shape[0] > x.shape[1]
    x = x.mT if tall else x  # the product below is then the smaller of the two
    x = x / torch.linalg.vector_norm(x).clamp(min=eps)
    a, b, c = coefficients
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x
