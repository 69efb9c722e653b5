"""Sophia in NumPy: divide by the curvature, but never step further than the rate."""

import numpy as np


def sophia_step(w, g, state, t, lr=6e-4, betas=(0.965, 0.99), rho=0.04, weight_decay=0.1, eps=1e-15, h=None):
    """One step, number t counted from 1. Returns the new weights; h is a new estimate of the curvature, where there is one."""
    if h is not None:
        state["h"] = betas[1] * state.get("h", 0) + (1 - betas[1]) * h
    m = state["m"] = betas[0] * state.get("m", 0) + (1 - betas[0]) * g
    ratio = state["ratio"] = m / np.maximum(rho * state.get("h", 0 * w), eps)  # beyond 1 in size: clipped
    return w * (1 - lr * weight_decay) - lr * np.clip(ratio, -1, 1)


# %% demo
from snippets.live import choice, demo, line, slider
from snippets.optimizers.adam import adam_step
from snippets.optimizers.arena import NAMES, descend, race, surface
from snippets.optimizers.lion import lion_step


def curvature(place, w, small=1e-4):
    """The diagonal of the Hessian, by differences of gradients."""
    moves = small * np.eye(2)
    return np.array([(place.gradient(w + d) - place.gradient(w - d)) @ d / (2 * small**2) for d in moves])


@demo(
    rho=slider(0.001, 1.0, step=0.001, label="rho: factor of the curvature", log=True),
    period=slider(1, 50, label="steps between estimates of the curvature"),
    ground=choice(*NAMES, label="surface"),
)
def show(rho=0.3, period=10, ground="bowl"):
    """On the bowl, rho is a distance: beyond it Sophia takes steps of full length, within it, Newton's. Lower it to get sign descent."""
    place, lr, betas, ratios = surface(ground), 0.085, (0.9, 0.5), []

    def sophia(w, g, state, t):
        w = sophia_step(w, g, state, t, lr, betas, rho, 0.0, h=curvature(place, w) if t % period == 1 or period == 1 else None)
        ratios.append(np.abs(state["ratio"]))
        return w

    paths = {
        "Sophia": descend(sophia, place),
        "Adam": descend(lambda w, g, state, t: adam_step(w, g, state, t, lr), place),
        "SignSGD": descend(lambda w, g, state, t: lion_step(w, g, state, t, lr, (0.9, 0.9)), place),
    }
    ratios = np.array(ratios)
    cut = (ratios >= 1).mean(0)
    return (
        *race(paths, place, caption="All with a rate of 0.085; SignSGD takes the sign of the mean gradient, as Sophia does where it is clipped."),
        line({f"weight {i + 1}": np.clip(ratios[:, i], 1e-3, 1e3) for i in (0, 1)}, at=range(1, len(ratios) + 1), x="step",
             y="|m| / (rho · h), drawn from 0.001 to 1000", log_y=True, range_y=(1e-3, 1e3), levels={"clipped above": 1.0},
             caption="Where the curve is above 1 the weight moves by the learning rate; below, by this share of it."),
        f"Clipped: {100 * cut[0]:.0f} % of the steps of weight 1 and {100 * cut[1]:.0f} % of those of weight 2.",
    )
