"""Schedule-free AdamW in NumPy: the average of the path instead of a falling rate."""

import numpy as np


def schedule_free_step(w, g, state, t, lr=2.5e-3, betas=(0.9, 0.999), weight_decay=0.0, warmup=0, eps=1e-8):
    """One step, number t counted from 1, with the gradient at w. Returns where the next gradient is taken; the average is state["x"]."""
    z, x = state.get("z", w), state.get("x", w)
    v = state["v"] = betas[1] * state.get("v", 0) + (1 - betas[1]) * g * g
    rate = lr * min(1, t / max(1, warmup))
    z = state["z"] = z - rate * (g / (np.sqrt(v / (1 - betas[1] ** t)) + eps) + weight_decay * w)
    total = state["total"] = state.get("total", 0) + rate**2
    x = state["x"] = x + rate**2 / total * (z - x)  # at a constant rate: the plain mean of all z
    return (1 - betas[0]) * z + betas[0] * x


# %% demo
from snippets.live import choice, demo, slider
from snippets.optimizers.arena import NAMES, descend, loss, race, surface
from snippets.optimizers.sgd import sgd_step
from snippets.schedulers.cosine_annealing import cosine_annealing


@demo(
    beta=slider(0.0, 1.0, step=0.05, label="beta: share of the average in the gradient's point"),
    lr=slider(0.001, 1.0, step=0.001, label="learning rate of the base", log=True),
    noise=slider(0.0, 4.0, step=0.1, label="gradient noise (on the noisy bowl)"),
    ground=choice(*NAMES, label="surface"),
)
def show(beta=0.9, lr=0.1, noise=2.0, ground="noisy bowl"):
    """The base jumps about for ever, its average comes to rest. Set beta to 0, then to 1: first shaky, then slow."""
    place, steps, average, base = surface(ground, noise=noise), 100, [], []

    def free(w, g, state, t):
        w = schedule_free_step(w, g, state, t, lr, (beta, 0.99))
        average.append(state["x"])
        base.append(state["z"])
        return w

    path = descend(free, place, steps)
    start = np.array([place.start])
    points = {"average x": np.concatenate([start, average]), "base z": np.concatenate([start, base]), "point y": path}
    points = {name: np.concatenate([p, np.full((steps + 1 - len(p), 2), np.nan)]) for name, p in points.items()}
    ends = {}
    for rate in np.geomspace(3e-3, 0.09, 5):  # below 2 / 20, where the steep direction of a bowl is stable
        rates = cosine_annealing(np.arange(steps + 1), steps, rate)
        p = descend(lambda w, g, state, t: sgd_step(w, g, state, t, rates[t - 1]), place, steps)
        ends[rate] = (np.nan_to_num(loss(p, place)[-1], nan=np.inf), p)
    rate = min(ends, key=lambda r: ends[r][0])
    late = {name[-1]: loss(p, place)[-20:].mean() for name, p in points.items()}
    return (
        *race({**points, "SGD": ends[rate][1]}, place,
              caption=f"z takes AdamW's steps, x is the mean of its path, gradients are taken at y between them. SGD here has a cosine decay from its "
              f"best rate, {rate:.2g}."),
        f"Mean loss over the last 20 steps: base {late['z']:.3g}, gradients' point {late['y']:.3g}, "
        f"average {late['x']:.3g}; SGD with its decay ends at {ends[rate][0]:.3g}.",
    )
