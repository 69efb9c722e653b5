"""Adan in NumPy: Adam that also averages how the gradient changes."""

import numpy as np


def adan_step(w, g, state, t, lr=1e-3, betas=(0.98, 0.92, 0.99), eps=1e-8, weight_decay=0.02):
    """One step, number t counted from 1. Returns the new weights."""
    change = g - state["last"] if t > 1 else 0 * g  # what came before the first gradient is not known
    state["last"] = g
    m = state["m"] = betas[0] * state.get("m", 0) + (1 - betas[0]) * g
    c = state["c"] = betas[1] * state.get("c", 0) + (1 - betas[1]) * change
    n = state["n"] = betas[2] * state.get("n", 0) + (1 - betas[2]) * (g + betas[1] * change) ** 2
    m, c, n = (a / (1 - beta**t) for a, beta in zip((m, c, n), betas))
    return (w - lr * (m + betas[1] * c) / (np.sqrt(n) + eps)) / (1 + lr * weight_decay)


# %% demo
from snippets.live import choice, demo, line, slider
from snippets.optimizers.adam import adam_step
from snippets.optimizers.arena import NAMES, descend, race, surface


@demo(
    lr=slider(0.001, 1.0, step=0.001, label="learning rate of both", log=True),
    beta2=slider(0.0, 0.99, step=0.01, label="beta 2: memory of changes"),
    seen=choice("Adan", "Adam", label="whose averages are shown"),
    ground=choice(*NAMES, label="surface"),
)
def show(lr=0.7, beta2=0.92, seen="Adan", ground="Rosenbrock"):
    """The change of the gradient points against a swing before the mean gradient has turned. Watch it brake."""
    place, betas, rows = surface(ground), (0.98, beta2, 0.99), []

    def adan(w, g, state, t):
        w = adan_step(w, g, state, t, lr, betas, weight_decay=0.0)
        m, c, n = (state[k][1] / (1 - b**t) for k, b in zip("mcn", betas))
        if seen == "Adan":
            rows.append(np.array([m, beta2 * c, np.sqrt(n)]) / (np.sqrt(n) + 1e-8))
        return w

    def adam(w, g, state, t):
        w = adam_step(w, g, state, t, lr, (betas[0], betas[2]))
        if seen == "Adam":
            size = np.sqrt(state["v"][1] / (1 - betas[2] ** t))
            rows.append(np.array([state["m"][1] / (1 - betas[0] ** t), size]) / (size + 1e-8))
        return w

    paths = {"Adan": descend(adan, place), "Adam": descend(adam, place)}
    names = ("mean gradient", "mean change × beta 2", "root mean square") if seen == "Adan" else ("mean gradient", "root mean square")
    ends = {name: float(place.value(path[np.isfinite(path[:, 0])][-1])) for name, path in paths.items()}
    return (
        *race(paths, place, caption="Adan and Adam with the same rate and the same memory of gradients, 0.98 and 0.99."),
        line(dict(zip(names, np.array(rows).T)), at=range(1, len(rows) + 1), x="step", y="along weight 2, in root mean squares", range_y=(-1.1, 1.1),
             caption=f"What {seen} averages, divided by the root mean square. The sum of the other curves, times minus the rate, is the step of weight 2."),
        f"Loss after 60 steps: Adan {ends['Adan']:.3g}, Adam {ends['Adam']:.3g}.",
    )
