"""Adadelta in NumPy."""

import numpy as np


def adadelta_step(w, g, state, t, lr=1.0, rho=0.9, eps=1e-6):
    """One step. Returns the new weights."""
    v = state["v"] = rho * state.get("v", 0) + (1 - rho) * g * g
    u = state.get("u", 0)
    d = np.sqrt(u + eps) / np.sqrt(v + eps) * g  # the updates before this one, over the gradients
    state["u"] = rho * u + (1 - rho) * d * d
    return w - lr * d


# %% demo
from snippets.live import choice, demo, line, slider, toggle
from snippets.optimizers.arena import NAMES, descend, race, surface


def watch(ground, rho, eps, factor, steps=200):
    """A path (steps + 1, 2), and at each step the rate RMS of updates / RMS of gradients, in weights per unit of the true gradient."""
    rates = np.full((steps, 2), np.nan)

    def step(w, g, state, t):
        before = state.get("u", np.zeros(2))
        new = adadelta_step(w, factor * g, state, t, rho=rho, eps=eps)
        rates[t - 1] = factor * np.sqrt(before + eps) / np.sqrt(state["v"] + eps)
        return new

    return descend(step, ground, steps), rates


@demo(
    rho=slider(0.5, 0.99, step=0.01, label="memory ρ"),
    eps=slider(1e-8, 1e-2, step=1e-8, label="ε", log=True),
    scaled=toggle(label="loss × 100"),
    ground=choice(*NAMES, label="surface of the race"),
)
def show(rho=0.9, eps=1e-6, scaled=False, ground="bowl"):
    """No learning rate to set, but ε: raise it and see the start move. Multiply the loss by 100 and see nothing happen."""
    place = surface(ground)
    path, rates = watch(place, rho, eps, 100.0 if scaled else 1.0)
    moved = np.abs(np.diff(path, axis=0))
    return (
        *race({"Adadelta": path}, place, caption="Adadelta sets out slowly and speeds up as its own updates grow."),
        line({"weight 1": rates[:, 0], "weight 2": rates[:, 1]}, at=range(1, 201), x="step", y="RMS of updates / RMS of gradients", log_y=True,
             caption="The rate that Adadelta finds for each weight, in units of the loss before scaling. It starts near √ε over the gradient and climbs."),
        line({"weight 1": np.maximum(moved[:, 0], 1e-9), "weight 2": np.maximum(moved[:, 1], 1e-9)}, at=range(1, 201), x="step", y="length of the update",
             log_y=True, levels={"√(ε/(1 − ρ))": float(np.sqrt(eps / (1 - rho)))},
             caption="The first step is √(ε/(1 − ρ)) for steep and flat alike, whatever the loss is multiplied by."),
        f"The first step was {moved[0, 0]:.3g}; the longest of weight 1 was {np.nanmax(moved[:, 0]):.3g}.",
    )
