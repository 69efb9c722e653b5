"""Wasserstein distance: exactly on a line, and by Sinkhorn's iteration between any two weighted sets of points.

Source: Peyré and Cuturi 2019, arXiv:1803.00567, sections 2.6 (on a line), 4.2 and 4.4 (in logarithms); Cuturi 2013, arXiv:1306.0895.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vocab.check import expect
from vocab.losses.cross_entropy import widen

__all__ = ["sinkhorn", "wasserstein_1d"]

# N, M points or bins of the two distributions


def wasserstein_1d(x: Tensor, y: Tensor, p: float = 1.0) -> Tensor:
    """Computes how far the values of one sample must travel to become the other, on a line, where the best plan keeps the order.

    Every value weighs the same within its sample; the samples may be of different size. 16 bits are widened to 32. Where the samples are equal
    the gradient is 0, although the root has none there.

    Args:
        x: Values of the first sample.
        y: Values of the second sample.
        p: A unit of mass that travels d costs d^p, p being 1 or more; the result is the p-th root of the cost.

    Shapes:
        x ``(..., N)``, y ``(..., M)`` -> ``(...)``.

    Raises:
        ValueError: If a sample is empty, ``p`` is below 1 or infinite, or the leading dimensions differ.

    Examples:
        >>> wasserstein_1d(torch.tensor([0.0, 1.0]), torch.tensor([6.0, 5.0]))
        tensor(5.)
        >>> wasserstein_1d(torch.tensor([0.0]), torch.tensor([1.0, 3.0]), p=2)  # the root of (1 + 9) / 2
        tensor(2.2361)
    """
    expect("x", x, "... n")
    expect("y", y, "... m")
    if x.shape[:-1] != y.shape[:-1]:
        raise ValueError(f"y has shape {tuple(y.shape)}; expected (..., m) with the leading dimensions of x, {tuple(x.shape[:-1])}")
    for name, values in (("x", x), ("y", y)):
        if not values.shape[-1]:
            raise ValueError(f"{name} has no value; expected one or more")
    if not 1 <= p < math.inf:
        raise ValueError(f"p={p} is not a finite number of 1 or more")
    N, M = x.shape[-1], y.shape[-1]
    # Mass is cut where a value of either sample is used up, counted in whole numbers: x[i] has M units, y[j] has N.
    cuts = torch.cat([M * torch.arange(1, N + 1), N * torch.arange(1, M + 1)]).sort().values[:-1].to(x.device)
    starts = torch.cat([cuts.new_zeros(1), cuts[:-1]])
    x, y = (widen(values).sort(-1).values for values in (x, y))
    apart = (x[..., starts // M] - y[..., starts // N]).abs()
    cost = (apart**p * (cuts - starts)).sum(-1) / (N * M)
    if p == 1:
        return cost
    return torch.where(cost == 0, 0.0, torch.where(cost == 0, 1.0, cost) ** (1 / p))


def sinkhorn(a: Tensor, b: Tensor, cost: Tensor, eps: float, iters: int = 100) -> tuple[Tensor, Tensor]:
    """Computes the cost of moving one distribution onto another, and the plan, by Sinkhorn's iteration on logarithms.

    The plan minimizes ``sum(plan * cost) - eps * entropy(plan)``. Its column sums are ``b`` exactly; its row sums come to ``a`` as it converges.

    Args:
        a: Mass at each of the N places it comes from, 0 or more.
        b: Mass at each of the M places it goes to, of the same sum.
        cost: Cost of moving one unit from each place to each.
        eps: How much the plan is blurred, in units of the cost. The smaller, the closer to the cheapest plan, and the slower.
        iters: How often rows and columns are scaled.

    Shapes:
        a ``(..., N)``, b ``(..., M)``, cost ``(..., N, M)`` -> distance ``(...)``, plan ``(..., N, M)``.

    Raises:
        ValueError: If ``eps`` is not above 0, ``iters`` is below 1, a shape does not fit, or (not looked for while compiling) a mass is negative or
            the two sums differ.

    Examples:
        >>> half = torch.tensor([0.5, 0.5])
        >>> sinkhorn(half, half, torch.tensor([[0.0, 1.0], [1.0, 0.0]]), eps=0.5)  # the cheapest plan leaves all where it is
        (tensor(0.1192), tensor([[0.4404, 0.0596],
                [0.0596, 0.4404]]))
    """
    expect("a", a, "... n")
    expect("b", b, "... m")
    expect("cost", cost, "... n m")
    if b.shape[:-1] != a.shape[:-1]:
        raise ValueError(f"b has shape {tuple(b.shape)}; expected (..., m) with the leading dimensions of a, {tuple(a.shape[:-1])}")
    if cost.shape != (*a.shape, b.shape[-1]):
        raise ValueError(f"cost has shape {tuple(cost.shape)}; expected {(*a.shape, b.shape[-1])}, from each place of a to each of b")
    if not eps > 0:
        raise ValueError(f"eps={eps} is not above 0; without blur, solve the linear program")
    if iters < 1:
        raise ValueError(f"iters={iters} is not 1 or more")
    a, b, cost = widen(a), widen(b), widen(cost)
    if not torch.compiler.is_compiling():
        for name, mass in (("a", a), ("b", b)):
            if not (mass >= 0).all():
                raise ValueError(f"{name} holds {mass[~(mass >= 0)][0].item():.4g}; expected masses of 0 or more")
        sums = torch.stack([a.sum(-1), b.sum(-1)]).reshape(2, -1)
        unequal = (sums[0] - sums[1]).abs() > 1e-3 * sums[1]
        if unequal.any():
            raise ValueError("a sums to {:.4g}, b to {:.4g}; expected equal masses".format(*sums[:, unequal][:, 0].tolist()))

    log_a, log_b, scores = _log(a), _log(b), -cost / eps
    g = torch.zeros_like(log_b)
    for _ in range(iters):
        # What each row, then each column, must be multiplied by for the right sum; as logarithms, since exp(-cost / eps) underflows.
        f = log_a - (scores + g[..., None, :]).logsumexp(-1)
        g = log_b - (scores + f[..., :, None]).logsumexp(-2)
    plan = (scores + f[..., :, None] + g[..., None, :]).exp()
    return (plan * cost).sum((-2, -1)), plan


def _log(mass: Tensor) -> Tensor:
    """Logarithm with gradient 0 instead of infinity where there is no mass."""
    return torch.where(mass == 0, -math.inf, torch.where(mass == 0, 1.0, mass).log())
