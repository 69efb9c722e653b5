"""SparseAdam: Adam that touches only the rows of a table that the batch has used.

Source: Kingma and Ba 2015, arXiv:1412.6980, algorithm 1, in the order of computation at the end of section 2, as in torch.optim.SparseAdam.
"""

from __future__ import annotations

import math

from torch import Tensor
from torch.optim.optimizer import ParamsT

from vocab.optimize import Descent, State, Tensors

__all__ = ["SparseAdam", "named"]


class SparseAdam(Descent):
    """Lazy Adam, for ``torch.nn.Embedding(sparse=True)``: of the rows that the gradient names, and of no others::

        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        w = w - lr * sqrt(1 - beta2**t) / (1 - beta1**t) * m / (sqrt(v) + eps)

    All other rows keep weights and moments bit for bit. ``t`` counts the steps of the whole table. The state is two buffers per parameter.

    Args:
        params: Parameters, or dictionaries of parameter groups.
        lr: Learning rate.
        betas: Decay rates of the means of the gradient and of its square, each in [0, 1).
        eps: Added to the root of the second moment, before its bias is corrected.
        dense: Whether gradients that are not sparse are taken too, as if they named every row. By default they are an error, as then every
            row would move and the reason to be here is gone.
        foreach: Whether dense gradients of a group are worked on together; by default where all parameters are on a GPU.
        maximize: Whether to climb instead of descend.

    Raises:
        ValueError: If an option is out of range.
        RuntimeError: If a gradient is dense, unless ``dense``.

    Examples:
        >>> import torch
        >>> table = torch.nn.Embedding.from_pretrained(torch.zeros(4, 1), freeze=False, sparse=True)
        >>> optimizer = SparseAdam(table.parameters(), lr=0.1)
        >>> table(torch.tensor([2, 2, 0])).sum().backward()
        >>> optimizer.step()
        >>> table.weight.data.T
        tensor([[-0.1000,  0.0000, -0.1000,  0.0000]])
    """

    takes_sparse = True

    def __init__(
        self, params: ParamsT, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8, *,
        dense: bool = False, foreach: bool | None = None, maximize: bool = False,
    ) -> None:
        super().__init__(params, lr=lr, betas=betas, eps=eps, dense=dense, foreach=foreach, maximize=maximize)

    def update(self, w: Tensor | Tensors, g: Tensor | Tensors, state: State, t: int, group: dict) -> None:
        (beta1, beta2), tables = group["betas"], (w, state.buffer("m"), state.buffer("v"))
        where = None
        if isinstance(g, Tensor) and g.is_sparse:
            where, g = named(g)
            w, m, v = (table[where] for table in tables)  # copies of the rows
        elif group["dense"]:
            w, m, v = tables
        else:
            raise RuntimeError("SparseAdam got a dense gradient; build the embedding with sparse=True, use Adam, or pass dense=True")
        m.mul_(beta1).add_(g, alpha=1 - beta1)
        v.mul_(beta2).addcmul_(g, g, value=1 - beta2)
        w.addcdiv_(m, v.sqrt() + group["eps"], value=-group["lr"] * math.sqrt(1 - beta2**t) / (1 - beta1**t))
        if where is not None:
            for table, rows in zip(tables, (w, m, v)):
                table[where] = rows


def named(g: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
    """The places that a sparse gradient names, each once, as an index; and its values there, those of repeated places added up.

    Args:
        g: Sparse gradient in coordinates.

    Examples:
        >>> import torch
        >>> g = torch.sparse_coo_tensor([[2, 0, 2]], torch.tensor([[1.0], [5.0], [3.0]]), (4, 1), check_invariants=True)
        >>> where, values = named(g)
        >>> where[0], values.T
        (tensor([0, 2]), tensor([[5., 4.]]))
    """
    g = g.coalesce()
    return tuple(g.indices()), g.values()
