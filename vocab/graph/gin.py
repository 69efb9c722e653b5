"""Graph isomorphism network: sums over neighbours, so that it tells apart what colour refinement tells apart.

Source: Xu et al. 2019, arXiv:1810.00826, equation 4.1 (layer), section 4.2 (readout), section 7 (architecture).
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vocab.check import expect

__all__ = ["GIN", "GINConv"]

# N nodes of all graphs together, E edges, F features, B graphs, C classes


class GINConv(nn.Module):
    """One layer: ``mlp((1 + eps) * x_v + sum of x_u over the edges u -> v)``.

    Args:
        mlp: Applied to each node's sum; needs a hidden layer to keep different multisets apart.
        eps: How much more than a neighbour the node itself counts.
        train_eps: Whether ``eps`` is learned.

    Shapes:
        x ``(N, F)``, edge_index ``(2, E)`` of sources and targets -> ``(N, F')``. An undirected edge is stored twice,
        the node itself is in the formula and needs no loop.

    Raises:
        ValueError: If a shape does not fit or an edge names a node that is not there.

    Examples:
        >>> conv = GINConv(nn.Identity())
        >>> conv(torch.tensor([[1.0], [10.0], [100.0]]), torch.tensor([[1, 2], [0, 0]]))
        tensor([[111.],
                [ 10.],
                [100.]])
    """

    def __init__(self, mlp: nn.Module, *, eps: float = 0.0, train_eps: bool = False) -> None:
        super().__init__()
        if sum(isinstance(part, nn.Linear) for part in mlp.modules()) == 1:
            warnings.warn("mlp has a single linear layer: it gives some different multisets the same sum", stacklevel=2)
        self.mlp = mlp
        if train_eps:
            self.eps = nn.Parameter(torch.tensor(float(eps)))
        else:
            self.register_buffer("eps", torch.tensor(float(eps)))

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        expect("x", x, "nodes features")
        expect("edge_index", edge_index, "sources_and_targets edges", dtype="int", sources_and_targets=2)
        _check_range("edge_index", edge_index, len(x))
        source, target = edge_index
        neighbours = torch.zeros_like(x).index_add(0, target, x[source])
        return self.mlp((1 + self.eps) * x + neighbours)


class GIN(nn.Module):
    """Classifier of graphs: GIN layers, and a sum over the nodes after each of them, the input included.

    Each of these sums has its linear head, and the heads add up: the same as one head on their concatenation.

    Args:
        in_channels: Features F of a node.
        hidden_channels: Width of every later layer.
        out_channels: Classes C.
        num_layers: States that are read, the input being the first: one more than there are convolutions.
        train_eps: Whether each layer learns its ``eps``; otherwise it stays 0 (GIN-0).
        dropout: Share of each head's scores that is dropped in training.

    Shapes:
        x ``(N, F)``, edge_index ``(2, E)``, batch ``(N,)`` with each node's graph -> ``(B, C)``.
        Without ``batch`` all nodes are one graph. ``num_graphs`` is B; if not given, the largest number in ``batch``
        plus one (which costs a synchronization on a GPU and a graph break under ``torch.compile``).

    Raises:
        ValueError: If there are fewer than two layers, ``dropout`` is no probability, a shape does not fit, or an
            edge or ``batch`` names what is not there.

    Examples:
        >>> triangle = torch.tensor([[0, 1, 1, 2, 2, 0], [1, 0, 2, 1, 0, 2]])
        >>> GIN(in_channels=4, hidden_channels=16, out_channels=2)(torch.ones(3, 4), triangle).shape
        torch.Size([1, 2])
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        out_channels: int,
        num_layers: int = 5,
        *,
        train_eps: bool = False,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        if num_layers < 2:
            raise ValueError(f"num_layers={num_layers}; at least 2, as the input counts as one")
        if not 0 <= dropout <= 1:
            raise ValueError(f"dropout={dropout} is not between 0 and 1")
        widths = [in_channels] + [hidden_channels] * (num_layers - 1)
        self.dropout = dropout
        self.convs = nn.ModuleList(GINConv(_mlp(width, hidden_channels), train_eps=train_eps) for width in widths[:-1])
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) for width in widths[1:])
        self.heads = nn.ModuleList(nn.Linear(width, out_channels) for width in widths)

    def forward(
        self, x: Tensor, edge_index: Tensor, batch: Tensor | None = None, num_graphs: int | None = None
    ) -> Tensor:
        expect("x", x, "nodes in_channels", in_channels=self.heads[0].in_features)
        if batch is None:
            batch, num_graphs = torch.zeros(len(x), dtype=torch.long, device=x.device), 1
        expect("batch", batch, "nodes", dtype="int", nodes=len(x))
        if num_graphs is None:
            num_graphs = int(batch.max()) + 1
        _check_range("batch", batch, num_graphs)

        states = [x]
        for conv, norm in zip(self.convs, self.norms):
            states.append(F.relu(norm(conv(states[-1], edge_index))))
        sums = [x.new_zeros(num_graphs, state.shape[1]).index_add(0, batch, state) for state in states]
        scores = [F.dropout(head(total), self.dropout, self.training) for head, total in zip(self.heads, sums)]
        return torch.stack(scores).sum(0)


def _mlp(in_channels: int, out_channels: int) -> nn.Module:
    # No biases: a normalization follows each of the two, here and after the layer.
    return nn.Sequential(
        nn.Linear(in_channels, out_channels, bias=False),
        nn.BatchNorm1d(out_channels),
        nn.ReLU(),
        nn.Linear(out_channels, out_channels, bias=False),
    )


def _check_range(name: str, index: Tensor, size: int) -> None:
    if torch.compiler.is_compiling():
        return  # values cannot be looked at while a graph is traced
    wrong = ((index < 0) | (index >= size)).nonzero()
    if len(wrong):
        where = wrong[0].tolist()
        raise ValueError(f"{name}{where} is {int(index[tuple(where)])}; expected 0 to {size - 1}")
