"""Shampoo: full-matrix Adagrad, with a Kronecker product of small matrices in place of the large one.

Source: Gupta, Koren and Singer 2018, arXiv:1802.09568, algorithm 2; grafting and rare roots from Anil et al. 2020, arXiv:2002.09018.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from vocab.check import expect
from vocab.optimize import Descent, State, Tensors, each
from vocab.optimizers.momentum import velocity

__all__ = ["Shampoo", "inverse_root"]


class Shampoo(Descent):
    """Preconditions every dimension of a tensor by a matrix of its own.

    For a matrix of weights with gradient ``G``::

        L = beta2 * L + G G^T        R = beta2 * R + G^T G        (both start at eps * identity; new terms times 1 - beta2 if beta2 < 1)
        u = L**(-1/4) G R**(-1/4)
        u = u * norm(G) / norm(u)                                   grafting="sgd": the direction is Shampoo's, the length SGD's
        v = momentum * v + u
        w = w - lr * v

    A tensor of k dimensions has k such matrices and the power -1/(2k); a vector has one, and the method is full-matrix Adagrad. The
    state is the sum of the squared dimensions, twice (statistics and roots), and a velocity with momentum. All options but ``params``
    can be set for each parameter group.

    Args:
        params: Parameters, or dictionaries of parameter groups.
        lr: Learning rate.
        momentum: Share of the velocity that is kept, in [0, 1).
        eps: On the diagonal of the statistics at the start.
        beta2: Decay rate of the statistics, above 0; 1 sums them up.
        update_freq: Steps from one computation of the roots to the next.
        grafting: Whose length a step has: ``"sgd"``, ``"adam"`` (its second moment with decay 0.999), or ``None`` for Shampoo's own.
        max_size: Largest dimension that gets a matrix; a larger one keeps the diagonal only.
        foreach: Accepted as in every optimizer here; each tensor is preconditioned by itself all the same.
        maximize: Whether to climb instead of descend.

    Raises:
        ValueError: If an option is out of range.
        RuntimeError: If a gradient is sparse.

    Examples:
        >>> weight = torch.nn.Parameter(torch.zeros(2, 2))
        >>> optimizer = Shampoo([weight], lr=0.1, eps=0.0, grafting=None)
        >>> weight.grad = torch.tensor([[100.0, 0.0], [0.0, 0.01]])
        >>> optimizer.step()
        >>> weight.data  # both directions count the same
        tensor([[-0.1000,  0.0000],
                [ 0.0000, -0.1000]])
    """

    def __init__(
        self, params: ParamsT, lr: float = 0.03, momentum: float = 0.0, eps: float = 1e-4, beta2: float = 1.0, update_freq: int = 10,
        grafting: str | None = "sgd", max_size: int = 8192, *, foreach: bool | None = None, maximize: bool = False,
    ) -> None:
        super().__init__(params, lr=lr, momentum=momentum, eps=eps, beta2=beta2, update_freq=update_freq, grafting=grafting,
                         max_size=max_size, foreach=foreach, maximize=maximize)

    def check(self, options: dict) -> None:
        super().check(options)
        if not 0 <= options["momentum"] < 1:
            raise ValueError(f"momentum={options['momentum']} is not in [0, 1)")
        if not 0 < options["beta2"] <= 1:
            raise ValueError(f"beta2={options['beta2']} is not in (0, 1]")
        for name in ("update_freq", "max_size"):
            if not (isinstance(options[name], int) and options[name] >= 1):
                raise ValueError(f"{name}={options[name]} is not a whole number of 1 or more")
        if options["grafting"] not in (None, "sgd", "adam"):
            raise ValueError(f"grafting={options['grafting']!r} is not None, 'sgd' or 'adam'")

    def update(self, w: Tensor | Tensors, g: Tensor | Tensors, state: State, t: int, group: dict) -> None:
        stores = state.stores if state.many else state.stores[0]
        direction = each(lambda g, store: self._direction(g, store, t, group), g, stores)
        if group["momentum"]:
            direction = velocity(state.buffer("v"), direction, t, group["momentum"])
        w.add_(direction, alpha=-group["lr"])

    @staticmethod
    def _direction(g: Tensor, store: dict, t: int, group: dict) -> Tensor:
        shape, dtype = g.shape, g.dtype
        u = g = g.reshape(shape or (1,)).to(torch.promote_types(dtype, torch.float32))  # roots of what half precision rounds are useless
        new = 1.0 if group["beta2"] == 1 else 1 - group["beta2"]
        for i, size in enumerate(g.shape):
            rows = g.movedim(i, 0).reshape(size, -1)
            full = size <= group["max_size"]
            statistic = rows @ rows.mT if full else rows.square().sum(1)
            if f"statistic_{i}" not in store:
                store[f"statistic_{i}"] = group["eps"] * (torch.eye(size, dtype=g.dtype, device=g.device) if full else torch.ones_like(statistic))
            store[f"statistic_{i}"] = group["beta2"] * store[f"statistic_{i}"] + new * statistic
            if f"root_{i}" not in store or (t - 1) % group["update_freq"] == 0:
                store[f"root_{i}"] = inverse_root(store[f"statistic_{i}"], 2 * g.ndim)
            root, u = store[f"root_{i}"], u.movedim(i, 0)
            u = (torch.tensordot(root, u, 1) if full else root.view(-1, *[1] * (u.ndim - 1)) * u).movedim(0, i)
        if group["grafting"]:
            length = g
            if group["grafting"] == "adam":
                v = store["second"] = 0.999 * store.get("second", 0.0) + 0.001 * g * g
                length = g / ((v / (1 - 0.999**t)).sqrt() + 1e-8)
            norm = torch.linalg.vector_norm(u)
            u = u * torch.where(norm > 0, torch.linalg.vector_norm(length) / norm, torch.ones_like(norm))
        return u.reshape(shape).to(dtype)


def inverse_root(matrix: Tensor, power: int) -> Tensor:
    """``matrix ** (-1 / power)`` of a symmetric matrix without negative eigenvalues, or of a diagonal that is given as a vector.

    Computed in float64. Directions whose eigenvalue is zero, up to rounding, stay zero, as in a pseudo-inverse.

    Args:
        matrix: The matrix or the diagonal.
        power: Which root.

    Shapes:
        matrix (n, n) or (n,) -> the same

    Examples:
        >>> inverse_root(torch.diag(torch.tensor([16.0, 1.0, 0.0])), 4).diagonal()
        tensor([0.5000, 1.0000, 0.0000])
    """
    expect("matrix", matrix, "n" if matrix.ndim == 1 else "n n")
    values, vectors = (matrix.double(), None) if matrix.ndim == 1 else torch.linalg.eigh(matrix.double())
    floor = values.max() * len(values) * torch.finfo(torch.float64).eps
    roots = torch.where(values > floor, values.clamp(min=torch.finfo(torch.float64).tiny) ** (-1 / power), torch.zeros_like(values))
    return (roots if vectors is None else (vectors * roots) @ vectors.mT).to(matrix.dtype)
