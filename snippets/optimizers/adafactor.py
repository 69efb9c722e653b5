"""Adafactor in NumPy: the second moment of a matrix from the means of its rows and columns."""

import numpy as np


def rank_one(rows, columns):
    """The matrix with these means of rows and columns that is a product of two vectors."""
    return rows[:, None] * columns / rows.mean()


def adafactor_step(w, g, state, t, lr=None, eps=(1e-30, 1e-3), clip=1.0, decay_rate=-0.8):
    """One step, number t counted from 1. Returns the new weights. Without lr the step is relative to the weights."""
    beta = 1 - t**decay_rate  # 0 at the first step: nothing to correct
    squared = g * g + eps[0]
    if w.ndim == 2:
        rows = state["rows"] = beta * state.get("rows", 0) + (1 - beta) * squared.mean(1)
        columns = state["columns"] = beta * state.get("columns", 0) + (1 - beta) * squared.mean(0)
        v = rank_one(rows, columns)
    else:
        v = state["v"] = beta * state.get("v", 0) + (1 - beta) * squared
    u = g / np.sqrt(v)
    u = u / max(1.0, np.sqrt(np.mean(u * u)) / clip)  # a gradient far above its history is cut
    if lr is None:
        lr = max(eps[1], np.sqrt(np.mean(w * w))) * min(1e-2, 1 / np.sqrt(t))
    return w - lr * u


# %% demo
from snippets.live import bars, choice, demo, heatmap, slider
from snippets.optimizers.arena import NAMES, best_rate, descend, race, surface


@demo(
    rows=slider(4, 32, label="rows of the weight matrix"),
    columns=slider(4, 32, label="columns"),
    rank=slider(1, 8, label="rank of the squared gradients"),
    ground=choice(*NAMES, label="surface of the race"),
)
def show(rows=16, columns=24, rank=3, ground="turned bowl"):
    """Set the rank to 1: the reconstruction is exact. Then raise it, and see where it is wrong, and by how much."""
    rng = np.random.default_rng(0)
    true = sum(np.outer(rng.gamma(0.5, size=rows), rng.gamma(0.5, size=columns)) for _ in range(rank)) + 1e-4
    true = true / true.max()
    if rank == 1:
        true = rank_one(true.mean(1), true.mean(0))  # without the floor, which has a rank of its own
    found = rank_one(true.mean(1), true.mean(0))
    size, error = np.log10(np.stack([true, found]) + 1e-6), np.round(np.log10(found / true), 12)
    place = surface(ground)
    lr = best_rate(adafactor_step, place)
    factor = 10 ** np.sqrt(np.mean(error**2))
    return (
        heatmap(size[0], x="column", y="row", value="log10 of the mean square", range=(-6, 0), signed=False,
                caption=f"The true running mean of squared gradients: {rows * columns} numbers, as Adam keeps them."),
        heatmap(size[1], x="column", y="row", value="log10 of the mean square", range=(-6, 0), signed=False,
                caption=f"The same from its {rows} row means and {columns} column means."),
        heatmap(error, x="column", y="row", value="log10 (kept / true)", range=(-2, 2), signed=True,
                caption="The error: +1 is ten times too much, so a step about three times too short there, as the root is taken."),
        bars({"Adam": rows * columns, "Adafactor": rows + columns}, y="numbers stored", caption="What the second moment of this matrix needs."),
        *race({"Adafactor": descend(lambda w, g, state, t: adafactor_step(w, g, state, t, lr), place)}, place,
              caption=f"Two weights are a vector: nothing to factor, no momentum, and here a fixed rate, the best, {lr:.2g}."),
        f"{rows + columns} numbers instead of {rows * columns}; a typical entry is off by a factor of {factor:.2f}, its step by {np.sqrt(factor):.2f}.",
    )
