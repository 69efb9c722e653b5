"""Self-organizing map in NumPy."""

import numpy as np

from snippets.ops import nearest_row


def train(x, weight, place, order, sigma=(5.0, 1.0), lr=(0.5, 0.01)):
    """Shows the points `x[order]` to a map one by one; weight (K, D) in data space, place (K, 2) on the grid."""
    weight = weight.copy()
    apart = ((place[:, None] - place) ** 2).sum(-1)
    for t, n in enumerate(order):
        progress = t / max(1, len(order) - 1)
        radius = sigma[0] * (sigma[1] / sigma[0]) ** progress
        rate = lr[0] * (lr[1] / lr[0]) ** progress
        bmu = ((weight - x[n]) ** 2).sum(1).argmin()
        pull = rate * np.exp(-apart[bmu] / (2 * radius**2))
        weight += pull[:, None] * (x[n] - weight)
    return weight


def errors(x, weight, place):
    """Mean distance to the best-matching unit, and the share of points whose two closest units are no neighbours."""
    index, squared = nearest_row(x, weight)
    others = ((x[:, None] - weight) ** 2).sum(-1)
    others[np.arange(len(x)), index] = np.inf
    step = place[index] - place[others.argmin(1)]
    return np.sqrt(squared).mean(), ((step**2).sum(1) > 2.001).mean()


def u_matrix(weight, place):
    """Mean distance of each unit to its neighbours in data space."""
    near = ((place[:, None] - place) ** 2).sum(-1)
    near = (near > 0) & (near < 2.001)
    apart = np.sqrt(((weight[:, None] - weight) ** 2).sum(-1))
    return (apart * near).sum(1) / near.sum(1)


# %% demo
from snippets.live import choice, demo, heatmap, line, scatter, slider


def squares(side):
    return np.stack(np.meshgrid(np.arange(side), np.arange(side), indexing="ij"), -1).reshape(-1, 2).astype(float)


def sample(rng, data, n=200):
    if data == "square":
        return rng.uniform(-1, 1, (n, 2))
    angle, radius = rng.uniform(0, 2 * np.pi, n), rng.uniform(0.7, 1.0, n)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)


@demo(
    data=choice("ring", "square", label="data"),
    side=slider(4, 14, label="grid side", unit="units"),
    sigma0=slider(0.3, 7.0, step=0.1, label="radius at the start", unit="units"),
    lr0=slider(0.05, 1.0, step=0.05, label="learning rate at the start"),
    steps=slider(0, 3000, step=100, label="steps"),
)
def show(data="ring", side=8, sigma0=4.0, lr0=0.5, steps=1500):
    """Move the steps from 0: a crumpled heap unfolds. Start with a radius below 1: the map covers the data but stays twisted,
    which the topographic error says and the quantization error does not."""
    rng = np.random.default_rng(0)
    x, place = sample(rng, data), squares(side)
    start = rng.uniform(-0.3, 0.3, (side * side, 2))
    order = rng.integers(len(x), size=3000)
    # Radius and rate follow the whole training of 3000 steps, so that the slider moves along one run.
    weight, history, done = start, [(0, *errors(x, start, place))], 0
    sigma1, lr1 = min(1.0, sigma0), min(0.02, lr0)
    for end in np.linspace(0, steps, 7).astype(int)[1:]:
        if end > done:
            part = np.array([done, end - 1]) / 2999
            radius = sigma0 * (sigma1 / sigma0) ** part
            rate = lr0 * (lr1 / lr0) ** part
            weight, done = train(x, weight, place, order[done:end], radius, rate), end
            history.append((end, *errors(x, weight, place)))
    at, quantization, topographic = zip(*history)
    lattice = weight.reshape(side, side, 2)
    return (
        scatter({"data": x[:300], "units": weight}, x="x₁", y="x₂", equal=True, range_x=(-1.1, 1.1), range_y=(-1.1, 1.1),
                lines={"neighbours on the grid": [*lattice, *lattice.transpose(1, 0, 2)]},
                caption="Lines join neighbours on the grid. An ordered map is a net without crossings."),
        heatmap(u_matrix(weight, place).reshape(side, side), x="column", y="row", value="mean distance to neighbours",
                caption="U-matrix: dark regions are dense, bright ridges are gaps that the net spans."),
        line({"quantization error": (at, quantization), "topographic error": (at, topographic)}, x="steps", y="error", range_y=(0, 1),
             caption="The first falls when units reach the data; the second only when the map is also in order."),
        f"After {steps} steps the mean distance to the best-matching unit is {quantization[-1]:.3f}, and {topographic[-1]:.0%} of the "
        "points lie across a fold.",
    )
