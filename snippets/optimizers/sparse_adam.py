"""SparseAdam in NumPy: only the rows that were used."""

import numpy as np


def sparse_adam_step(w, rows, g, state, t, lr=1e-3, betas=(0.9, 0.999), eps=1e-8):
    """One step for a table w, from gradients g of these rows. Returns the new table."""
    m, v = (state.setdefault(name, np.zeros_like(w)) for name in "mv")
    rows, where = np.unique(rows, return_inverse=True)
    total = np.zeros((len(rows), w.shape[1]))
    np.add.at(total, where, g)  # a row that came twice
    m[rows] = betas[0] * m[rows] + (1 - betas[0]) * total
    v[rows] = betas[1] * v[rows] + (1 - betas[1]) * total**2
    w = w.copy()
    w[rows] -= lr * np.sqrt(1 - betas[1] ** t) / (1 - betas[0] ** t) * m[rows] / (np.sqrt(v[rows]) + eps)
    return w


# %% demo
from snippets.live import bars, choice, demo, heatmap, slider, toggle
from snippets.optimizers.adam import adam_step
from snippets.optimizers.arena import NAMES, best_rate, descend, race, surface

ROWS, BATCH, STEPS, RATE = 12, 4, 60, 0.01


def train(exponent, lazy):
    """How far each row has moved after each step (steps + 1, rows), and which rows were used (steps, rows)."""
    rng = np.random.default_rng(0)
    often = np.arange(1, ROWS + 1.0) ** -exponent
    start = w = np.zeros((ROWS, 4))
    goal, state = rng.standard_normal(w.shape), {}
    moved, used = [np.zeros(ROWS)], np.zeros((STEPS, ROWS))
    for t in range(1, STEPS + 1):
        rows = np.searchsorted(np.cumsum(often / often.sum()), rng.random(BATCH)).clip(max=ROWS - 1)
        np.add.at(used[t - 1], rows, 1)
        g = w[rows] - goal[rows]
        if lazy:
            w = sparse_adam_step(w, rows, g, state, t, RATE)
        else:
            dense = np.zeros_like(w)
            np.add.at(dense, rows, g)
            w = adam_step(w, dense, state, t, RATE)
        moved.append(np.linalg.norm(w - start, axis=1))
    return np.array(moved), used


def one_row(w, g, state, t, lr):
    """The two weights of the arena as a table of one row."""
    return sparse_adam_step(w[None], np.array([0]), g[None], state, t, lr)[0]


@demo(
    exponent=slider(0.0, 2.0, step=0.1, label="Zipf exponent of the ids"),
    lazy=toggle(label="lazy (SparseAdam); off: dense Adam"),
    ground=choice(*NAMES, label="surface of the race"),
)
def show(exponent=1.2, lazy=True, ground="bowl"):
    """Switch to dense Adam and look at the rare rows: one use, and they keep moving for dozens of steps without another."""
    both = [train(exponent, False), train(exponent, True)]
    moved, used = both[lazy]
    dense, own = ((np.diff(found, axis=0) != 0).sum(0) for found, _ in both)
    uses = (used > 0).sum(0)
    name = "lazy" if lazy else "dense"
    place = surface(ground)
    tuned = best_rate(adam_step, place)
    return (
        heatmap(moved[::2].T, x="step / 2", y="row", value="distance from the start", range=(0, 0.7),
                caption="How far each row has moved, row 0 the most frequent. " + ("Colors change only where a row is used." if lazy else
                "After a use the color goes on changing: the mean of gradients fades slowly.")),
        bars({"used": dict(enumerate(uses.tolist())), "moved, lazy": dict(enumerate(own.tolist())), "moved, dense": dict(enumerate(dense.tolist()))},
             x="row", y=f"steps, of {STEPS}", range_y=(0, STEPS),
             caption="In how many steps a row was in the batch, and in how many it moved with either method."),
        *race({"SparseAdam": descend(lambda w, g, s, t: one_row(w, g, s, t, tuned), place)}, place,
              caption=f"A table of one row that every batch uses: then it is Adam, here at its best rate, {tuned:.2g}."),
        f"Drawn: {name} Adam. Rows were used {uses.sum()} times; lazy Adam moved rows {own.sum()} times, dense Adam {dense.sum()} times.",
    )
