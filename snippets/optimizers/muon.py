"""Muon in NumPy: the momentum, with all its singular values pushed toward 1."""

import numpy as np

QUINTIC, CUBIC = (3.4445, -4.775, 2.0315), (1.5, -0.5, 0.0)


def newton_schulz(x, coefficients=QUINTIC, steps=5, eps=1e-7):
    """An odd polynomial of a matrix, again and again: the same polynomial of each singular value."""
    if x.shape[0] > x.shape[1]:
        return newton_schulz(x.T, coefficients, steps, eps).T
    a, b, c = coefficients
    x = x / max(np.linalg.norm(x), eps)  # no singular value is above 1 now
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x


def muon_step(w, g, state, t, lr=1e-3, weight_decay=0.1, momentum=0.95, nesterov=True, coefficients=QUINTIC, steps=5):
    """One step of a matrix, number t counted from 1; a vector counts as one row. Returns the new weights."""
    m = state["m"] = momentum * state.get("m", 0) + (1 - momentum) * g
    u = np.atleast_2d(momentum * m + (1 - momentum) * g if nesterov else m)
    size = np.sqrt(max(1, u.shape[0] / u.shape[1]))
    return w * (1 - lr * weight_decay) - lr * size * newton_schulz(u, coefficients, steps).reshape(w.shape)


# %% demo
from functools import lru_cache

from snippets.live import choice, demo, heatmap, line, slider
from snippets.optimizers.arena import NAMES, best_rate, descend, race, surface

SIZE = 5


@lru_cache
def raced(ground):
    """The best rate on a surface, and the path at it."""
    lr = best_rate(lambda *a, lr: muon_step(*a, lr=lr, weight_decay=0.0), surface(ground))
    return lr, descend(lambda *a: muon_step(*a, lr=lr, weight_decay=0.0), surface(ground))


@demo(
    steps=slider(0, 8, label="rounds of the iteration"),
    condition=slider(1, 10000, label="largest / smallest singular value", log=True),
    kind=choice("quintic", "cubic", label="coefficients"),
    ground=choice(*NAMES, label="surface of the race"),
)
def show(steps=5, condition=100, kind="quintic", ground="turned bowl"):
    """Raise the ratio: weak directions need more rounds. Then compare the coefficients: one is fast and rough, the other slow and exact."""
    rng = np.random.default_rng(0)
    u, v = (np.linalg.qr(rng.standard_normal((SIZE, SIZE)))[0] for _ in range(2))
    x = u @ np.diag(np.geomspace(1, 1 / condition, SIZE)) @ v.T
    coefficients = QUINTIC if kind == "quintic" else CUBIC
    values = np.array([np.abs(np.diag(u.T @ newton_schulz(x, coefficients, n) @ v)) for n in range(steps + 1)])
    shown, (lr, path) = range(SIZE), raced(ground)
    return (
        line({f"value {i + 1}": values[:, i] for i in shown} if steps else {f"value {i + 1}": ([0], values[:, i]) for i in shown},
             x="round", y="singular value", range_y=(0, 1.3), levels={"orthogonal": 1.0},
             caption="Each singular value of the momentum matrix, after its norm has been made 1."),
        heatmap(x / np.abs(x).max(), x="column", y="row", value="share of the largest entry", range=(-1, 1), signed=True,
                caption=f"The momentum before: one direction is {condition} times as strong as the weakest and covers all others."),
        heatmap(newton_schulz(x, coefficients, steps), x="column", y="row", value="entry", range=(-1, 1), signed=True,
                caption=f"After {steps} rounds: the directions are the old ones, and none dominates any more."),
        *race({"Muon": path}, surface(ground),
              caption=f"Two weights are one row, and its only singular value its length: all steps are about as long as the rate, {lr:.2g}."),
        f"After {steps} rounds the singular values lie between {values[-1].min():.3f} and {values[-1].max():.3f}.",
    )
