"""Self-organizing map: a grid of units that spreads over the data so that neighbours on the grid stay neighbours.

Source: Kohonen 1982, doi:10.1007/BF00337288; the batch rule and the choice of radius after Kohonen 2013,
doi:10.1016/j.neunet.2012.09.018.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from vocab.check import expect
from vocab.kernels.nearest_row import nearest_row

__all__ = ["SelfOrganizingMap"]

# N data points, D their dimension, K = rows * columns units


class SelfOrganizingMap(nn.Module):
    """A map of ``grid[0] * grid[1]`` units, each with a weight vector in the space of the data.

    For every data point the closest unit, its best-matching unit (BMU), and less so the units around it on the grid are moved
    towards the point. The radius shrinks from ``sigma0`` to ``sigma1``, the rate from ``lr0`` to ``lr1``, geometrically.

    Args:
        dim: Dimension D of the data.
        grid: Rows and columns of units.
        topology: ``"rect"`` (8 neighbours) or ``"hex"`` (6; every second row is shifted by half a unit).
        sigma0: Radius at the start, in units of the grid; half the longer side if not given. With 0 only the BMU moves.
        sigma1: Radius at the end.
        lr0: Share of the way that the BMU moves at the start; online training only.
        lr1: The same at the end.
        backend: ``"auto"``, ``"torch"`` or ``"triton"`` for the search of BMUs.

    Shapes:
        x ``(N, D)`` -> squared distance to every unit ``(N, rows, columns)``.

    Raises:
        TypeError: If ``x`` is no floating-point tensor.
        ValueError: If a setting is out of range or the data does not have ``dim`` columns.

    Examples:
        >>> x = torch.rand(200, 1, generator=torch.Generator().manual_seed(0))
        >>> som = SelfOrganizingMap(1, grid=(1, 10)).start(x, generator=torch.Generator().manual_seed(0))
        >>> ends = som.fit(x, epochs=20, mode="batch").weight[:, 0].diff().sign()
        >>> ends.unique().numel()  # the units lie in order
        1
    """

    weight: Tensor

    def __init__(
        self,
        dim: int,
        grid: tuple[int, int] = (10, 10),
        *,
        topology: str = "rect",
        sigma0: float | None = None,
        sigma1: float = 1.0,
        lr0: float = 0.5,
        lr1: float = 0.01,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        if dim < 1:
            raise ValueError(f"dim={dim} is not positive")
        if len(grid) != 2 or min(grid) < 1:
            raise ValueError(f"grid={grid} is not (rows, columns) with at least one of each")
        if topology not in ("rect", "hex"):
            raise ValueError(f"topology={topology!r}; expected 'rect' or 'hex'")
        sigma0 = max(grid) / 2 if sigma0 is None else sigma0
        if not 0 <= sigma0 < math.inf:
            raise ValueError(f"sigma0={sigma0} is not a radius of zero or more")
        if not 0 <= sigma1 < math.inf:
            raise ValueError(f"sigma1={sigma1} is not a radius of zero or more")
        if not 0 < lr1 <= lr0 <= 1:
            raise ValueError(f"lr0={lr0}, lr1={lr1}: expected 0 < lr1 <= lr0 <= 1")
        self.dim, self.grid, self.topology, self.backend = dim, tuple(grid), topology, backend
        # A map that starts with a small radius keeps it: it must never widen.
        self.sigma0, self.sigma1, self.lr0, self.lr1 = float(sigma0), float(min(sigma1, sigma0)), lr0, lr1
        self.register_buffer("weight", torch.rand(grid[0] * grid[1], dim))
        row, column = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in grid), indexing="ij")
        if topology == "hex":
            row, column = row * math.sqrt(3) / 2, column + 0.5 * (row % 2)
        place = torch.stack([row, column], -1).flatten(0, 1)
        squared = (place[:, None] - place).square().sum(-1)
        reach = 1.0 if topology == "hex" else 2.0  # the squared distance of a diagonal neighbour
        self.register_buffer("place", place, persistent=False)
        self.register_buffer("grid_distance", squared, persistent=False)
        self.register_buffer("adjacent", (squared > 0) & (squared < reach + 1e-6), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        self._expect(x)
        return (x[:, None] - self.weight).square().sum(-1).unflatten(1, self.grid)

    def neighbourhood(self, sigma: float) -> Tensor:
        """How much unit j moves when unit i is the BMU: ``(K, K)``, 1 on the diagonal."""
        if sigma == 0:
            return torch.eye(len(self.weight)).to(self.weight)
        return torch.exp(-self.grid_distance / (2 * sigma**2)).to(self.weight.dtype)

    @torch.no_grad()
    def start(self, x: Tensor, *, how: str = "sample", generator: torch.Generator | None = None) -> SelfOrganizingMap:
        """Sets the weights from data.

        Args:
            x: Data ``(N, D)``.
            how: ``"sample"`` copies random points; ``"plane"`` lays the grid flat along the two directions of largest
                variance, which is already in order.
            generator: For ``"sample"``.
        """
        self._expect(x)
        if len(x) == 0:
            raise ValueError("x has no rows to start from")
        if how == "sample":
            picked = torch.randint(len(x), (len(self.weight),), generator=generator)
            self.weight.copy_(x[picked.to(x.device)])
        elif how == "plane":
            centre = x.mean(0)
            _, length, direction = torch.linalg.svd(x - centre, full_matrices=False)
            # The longer side of the grid goes along the direction of larger variance.
            sides = sorted(range(2), key=lambda side: -self.grid[side])[: len(length)]
            self.weight.copy_(centre.expand_as(self.weight))
            for axis, side in enumerate(sides):
                along = self.place[:, side].to(x) - self.place[:, side].to(x).mean()
                spread = along.square().mean().sqrt().clamp(min=1e-12)
                self.weight += (along / spread)[:, None] * direction[axis] * length[axis] / len(x) ** 0.5
        else:
            raise ValueError(f"how={how!r}; expected 'sample' or 'plane'")
        return self

    @torch.no_grad()
    def fit(
        self, x: Tensor, epochs: int, *, mode: str = "online", generator: torch.Generator | None = None
    ) -> SelfOrganizingMap:
        """Trains on ``x`` from the present weights.

        Args:
            x: Data ``(N, D)``, features on comparable scales.
            epochs: Passes over the data.
            mode: ``"online"`` moves after every point, in random order; ``"batch"`` sets every unit to the weighted mean of
                the data once an epoch and has no learning rate.
            generator: For the order of ``"online"``.
        """
        self._expect(x)
        if epochs < 1 or len(x) == 0:
            raise ValueError(f"epochs={epochs} over {len(x)} rows: there is nothing to train on")
        if mode == "batch":
            for epoch in range(epochs):
                self.batch_step(x, self._at(epoch / max(1, epochs - 1))[0])
        elif mode == "online":
            for epoch in range(epochs):
                for i, n in enumerate(torch.randperm(len(x), generator=generator).tolist()):
                    self.step(x[n], *self._at((epoch * len(x) + i) / max(1, epochs * len(x) - 1)))
        else:
            raise ValueError(f"mode={mode!r}; expected 'online' or 'batch'")
        return self

    def _at(self, progress: float) -> tuple[float, float]:
        """Radius and rate after this share of the training."""
        sigma = self.sigma0 * (self.sigma1 / self.sigma0) ** progress if self.sigma0 else 0.0
        return sigma, self.lr0 * (self.lr1 / self.lr0) ** progress

    @torch.no_grad()
    def step(self, point: Tensor, sigma: float, lr: float) -> None:
        """Moves the units towards one ``point`` ``(D,)``: the online rule.

        Args:
            point: One data point.
            sigma: Radius of the neighbourhood.
            lr: Share of the way that the BMU moves.
        """
        bmu, _ = self._nearest(point[None])
        pull = lr * self.neighbourhood(sigma)[bmu[0]]
        self.weight += pull[:, None] * (point - self.weight)

    @torch.no_grad()
    def batch_step(self, x: Tensor, sigma: float) -> None:
        """Sets each unit to the mean of ``x``, weighted by how near the points' BMUs are on the grid: the batch rule.

        Args:
            x: Data ``(N, D)``.
            sigma: Radius of the neighbourhood.
        """
        bmu, _ = self._nearest(x)
        # Points of one BMU share their weights, so they are added up first: K² D work instead of N K D.
        total = torch.zeros_like(self.weight).index_add_(0, bmu, x)
        count = torch.zeros(len(self.weight), dtype=x.dtype, device=x.device).index_add_(0, bmu, torch.ones_like(x[:, 0]))
        pull = self.neighbourhood(sigma)
        mass = (pull @ count)[:, None]
        self.weight.copy_(torch.where(mass > 0, pull @ total / mass, self.weight))  # a unit without data stays

    def bmu(self, x: Tensor) -> Tensor:
        """Row and column ``(N, 2)`` of the closest unit, the first in reading order where several are as close."""
        self._expect(x)
        index, _ = self._nearest(x)
        return torch.stack([index // self.grid[1], index % self.grid[1]], -1)

    def quantization_error(self, x: Tensor) -> Tensor:
        """Mean distance of the data to its BMUs: how well the map covers it."""
        self._expect(x)
        return self._nearest(x)[1].sqrt().mean()

    def topographic_error(self, x: Tensor) -> Tensor:
        """Share of the data whose closest and second closest unit are not neighbours on the grid: folds and twists."""
        if len(self.weight) < 2:
            raise ValueError(f"grid={self.grid} has no second closest unit")
        distance = self(x).flatten(1)
        first, second = distance.topk(2, largest=False).indices.unbind(1)
        error = (~self.adjacent[first, second]).to(distance.dtype)
        return torch.where(distance.isnan().any(1), torch.nan, error).mean()

    def u_matrix(self) -> Tensor:
        """Mean distance in data space from each unit to its neighbours, ``grid``: ridges separate clusters."""
        apart = (self.weight[:, None] - self.weight).square().sum(-1).sqrt()
        mean = torch.where(self.adjacent, apart, 0.0).sum(1) / self.adjacent.sum(1)
        return mean.view(self.grid)

    def _nearest(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return nearest_row(x, self.weight, backend=self.backend)

    def _expect(self, x: Tensor) -> None:
        expect("x", x, "points dim", dim=self.dim)
        if x.dtype != self.weight.dtype:
            raise ValueError(f"x has dtype {x.dtype}; expected {self.weight.dtype} as the weights")
