"""Lion in NumPy: the sign of an average of gradients."""

import numpy as np


def lion_step(w, g, state, t, lr=1e-4, betas=(0.9, 0.99), weight_decay=0.0):
    """One step, number t counted from 1. Returns the new weights."""
    m = state.get("m", 0)
    u = np.sign(betas[0] * m + (1 - betas[0]) * g)  # a short memory decides ...
    state["m"] = betas[1] * m + (1 - betas[1]) * g  # ... a long one is kept
    return w - lr * (u + weight_decay * w)


# %% demo
from snippets.live import choice, demo, line, slider
from snippets.optimizers.adam import adam_step
from snippets.optimizers.arena import NAMES, descend, race, surface


@demo(
    lr=slider(1e-4, 1e-1, step=1e-4, label="learning rate of both", log=True),
    beta1=slider(0.0, 0.99, step=0.01, label="beta 1: share of the kept average"),
    noise=slider(0.0, 1.0, step=0.05, label="gradient noise (on the noisy bowl)"),
    ground=choice(*NAMES, label="surface"),
)
def show(lr=0.05, beta1=0.9, noise=0.5, ground="noisy bowl"):
    """Raise the rate, then the noise: Lion cannot take a short step, so it walks at full speed and never comes to rest."""
    place, steps = surface(ground, noise=noise), 100
    paths = {
        "Lion": descend(lambda w, g, state, t: lion_step(w, g, state, t, lr, (beta1, 0.99)), place, steps),
        "Adam": descend(lambda w, g, state, t: adam_step(w, g, state, t, lr, (beta1, 0.999)), place, steps),
    }
    speed = {name: np.abs(np.diff(path, axis=0)).mean(1) / lr for name, path in paths.items()}
    end = {name: np.linalg.norm(path[-30:] - np.array(place.goal), axis=1).mean() / lr for name, path in paths.items()}
    return (
        *race(paths, place, caption="With two weights Lion can only walk along the diagonals, or along an axis where one sign is 0."),
        line(speed, at=range(1, steps + 1), x="step", y="mean distance per weight (learning rates)", range_y=(0, 2.5),
             caption="How far a weight moves in one step, in units of the learning rate: Lion always 1, also around the minimum."),
        f"Mean distance from the lowest point in the last 30 steps, in units of the learning rate: Lion {end['Lion']:.1f}, Adam {end['Adam']:.1f}.",
    )
