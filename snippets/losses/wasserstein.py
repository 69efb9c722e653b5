"""Wasserstein distance in NumPy: on a line by sorting, elsewhere by Sinkhorn's iteration."""

import numpy as np


def wasserstein_1d(x, y, p=1, a=None, b=None):
    """How far x must travel to become y, on a line: the order is kept. a and b are the masses, equal if not given."""
    (x, a), (y, b) = in_order(x, a), in_order(y, b)
    cuts = np.sort(np.r_[a, b])  # where the mass of one value of x or of y is used up
    width = np.diff(cuts, prepend=0)
    middle = cuts - width / 2
    i, j = (np.minimum(np.searchsorted(used, middle), len(used) - 1) for used in (a, b))
    return (width @ np.abs(x[i] - y[j]) ** p) ** (1 / p)


def in_order(x, mass):
    """Sorted values, and the mass up to each of them."""
    order = np.argsort(x)
    mass = np.full(len(x), 1 / len(x)) if mass is None else mass[order]
    return x[order], np.cumsum(mass) / mass.sum()


def sinkhorn(a, b, cost, eps, iters):
    """Cost and plan that moves the masses a to b, blurred by eps: scale rows, then columns, to the right sums, again and again."""
    with np.errstate(divide="ignore"):
        log_a, log_b = np.log(a), np.log(b)
    scores = -cost / eps
    g = np.zeros(len(b))
    for _ in range(iters):
        f = log_a - np.logaddexp.reduce(scores + g, axis=1)
        g = log_b - np.logaddexp.reduce(scores + f[:, None], axis=0)
    plan = np.exp(scores + f[:, None] + g)
    return (plan * cost).sum(), plan


def sinkhorn_plain(a, b, cost, eps, iters):
    """The same with the numbers themselves. exp(-cost / eps) becomes 0, and 0 / 0 is NaN."""
    kernel, v = np.exp(-cost / eps), np.ones(len(b))
    with np.errstate(all="ignore"):
        for _ in range(iters):
            u = a / (kernel @ v)
            v = b / (kernel.T @ u)
        plan = u[:, None] * kernel * v
    return (plan * cost).sum(), plan


# %% demo
from snippets.live import choice, demo, heatmap, line, slider
from snippets.losses.kl_divergence import kl

PLACES = 0.3 * np.arange(32)


def hill(center, half):
    mass = np.maximum(0, 1 - ((PLACES - center) / half) ** 2)
    return mass / mass.sum()


def pair(shift):
    return hill(1.8, 1.25), hill(1.8 + shift, 1.85)  # no place lies on an edge, where rounding would decide


@demo(
    shift=slider(0.0, 5.0, step=0.1, label="shift"),
    eps=slider(0.001, 1.0, label="ε, blur of the plan", log=True),
    iters=slider(1, 200, label="iterations"),
    p=choice(1, 2, label="p: moving by d costs d to the power"),
    way=choice("logarithms", "plain products", label="computed with"),
)
def show(shift=2.0, eps=0.1, iters=100, p=2, way="logarithms"):
    """Shift the two apart: which distance still says how far? Then lower ε, and give it the iterations it needs. Last, plain products."""
    a, b = pair(shift)
    cost = np.abs(PLACES[:, None] - PLACES) ** p
    total, plan = (sinkhorn if way == "logarithms" else sinkhorn_plain)(a, b, cost, float(eps), iters)
    rows = plan.sum(1)
    moved = total ** (1 / p)
    exact = wasserstein_1d(PLACES, PLACES, p, a, b)
    shifts = np.linspace(0, 5, 51)
    curves = []
    with np.errstate(invalid="ignore"):
        now = kl(a, b)
        for one, other in map(pair, shifts):
            middle = (one + other) / 2
            curves.append((wasserstein_1d(PLACES, PLACES, p, one, other), kl(one, other), (kl(one, middle) + kl(other, middle)) / 2))
    w, k, js = np.transpose(curves)
    others = f"KL(from ‖ to) is {'infinite' if np.isinf(now) else f'{now:.2f}'}."
    if np.isnan(moved):
        result = f"Underflow: exp(−cost/ε) is 0 for whole rows, the iteration divides by 0, and the plan is NaN. With logarithms it is not. {others}"
    else:
        off = np.abs(rows - a).sum() / 2
        result = (f"Sinkhorn's distance is {moved:.3f}, the exact one {exact:.3f}. {others} "
                  + ("The plan takes just what is there." if off < 5e-4 else f"Not converged: {100 * off:.1f} % of the mass is taken where it is not, or left."))
    return (
        line({"from": a, "to": b, "taken by the plan": np.minimum(rows, 0.5)}, at=PLACES, x="place", y="mass", markers=["taken by the plan"], range_y=(0, 0.5),
             caption="Two distributions. Dots: row sums of the plan, what it takes from each place (drawn up to 0.5); they lie on the first curve once it has converged."),
        heatmap(plan[a > 0][:, b > 0], x="to place", y="from place", value="mass moved", signed=False, range=(0, 0.12),
                rows=[f"{v:.1f}" for v in PLACES[a > 0]], columns=[f"{v:.1f}" for v in PLACES[b > 0]],
                caption="The plan, where there is mass. For p = 2 and small ε mass keeps its order, on a thin line; a large ε spreads it. For p = 1 and "
                        "distributions apart, all plans cost the same, and it stays spread."),
        line({f"W{'₁₂'[p - 1]}": (shifts, w), "KL": (shifts, np.where(np.isfinite(k), k, np.nan)), "Jensen-Shannon": (shifts, js), "Sinkhorn": ([shift], [moved])},
             x="shift", y="distance", markers=["Sinkhorn"], levels={"log 2": np.log(2)}, range_y=(0, 5.5),
             caption="Three answers to the same question. KL ends where it becomes infinite, Jensen-Shannon stays at log 2, Wasserstein grows with the shift."),
        result,
    )
