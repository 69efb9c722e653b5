"""Adam in NumPy."""

import numpy as np


def adam_step(w, g, state, t, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, correct=True):
    """One step, number t counted from 1. Returns the new weights."""
    g = g + weight_decay * w  # as a penalty: it goes through the denominator
    m = state["m"] = betas[0] * state.get("m", 0) + (1 - betas[0]) * g
    v = state["v"] = betas[1] * state.get("v", 0) + (1 - betas[1]) * g * g
    if correct:  # both start at 0, so both are too small at first
        m, v = m / (1 - betas[0] ** t), v / (1 - betas[1] ** t)
    return w - lr * m / (np.sqrt(v) + eps)


# %% demo
from snippets.live import choice, demo, line, slider, toggle
from snippets.optimizers.arena import NAMES, best_rate, descend, race, surface
from snippets.optimizers.sgd import sgd_step


def watch(ground, lr, betas, correct, steps=60):
    """Adam's path (steps + 1, 2), and of each step m and √v as they enter it."""
    m, scale = np.full((2, steps, 2), np.nan)

    def step(w, g, state, t):
        new = adam_step(w, g, state, t, lr, betas, correct=correct)
        divide = (1 - np.array(betas) ** t) if correct else (1.0, 1.0)
        m[t - 1], scale[t - 1] = state["m"] / divide[0], np.sqrt(state["v"] / divide[1])
        return new

    return descend(step, ground, steps), m, scale


def momentum_step(w, g, state, t, lr):
    return sgd_step(w, g, state, t, lr, momentum=0.9)


@demo(
    lr=slider(0.001, 1.0, step=0.001, label="learning rate", log=True),
    beta1=slider(0.0, 0.99, step=0.01, label="β₁"),
    beta2=slider(0.9, 0.9999, step=0.0001, label="β₂"),
    noise=slider(0.0, 1.0, step=0.05, label="gradient noise σ (noisy bowl)"),
    correct=toggle(label="bias correction"),
    ground=choice(*NAMES, label="surface of the race"),
)
def show(lr=0.1, beta1=0.9, beta2=0.999, noise=0.5, correct=True, ground="noisy bowl"):
    """Both weights move at the same pace, though one gradient is 20 times the other. Switch the correction off: the first steps triple."""
    place = surface(ground, 20.0, noise)
    path, m, scale = watch(place, lr, (beta1, beta2), correct)
    moved = np.diff(path, axis=0) / lr
    tuned = best_rate(momentum_step, place)
    first, most = np.abs(moved[0]).max(), np.nanmax(np.abs(moved))
    return (
        line({"m, weight 1": np.abs(m[:, 0]), "√v, weight 1": scale[:, 0], "m, weight 2": np.abs(m[:, 1]), "√v, weight 2": scale[:, 1]},
             at=range(1, 61), x="step", y="|m| and √v, as divided", log_y=True, dashed=["√v, weight 1", "√v, weight 2"],
             caption="Size of the mean of the gradient, and the root of the mean of its square. Where they meet, the gradient keeps its sign; "
             "where m falls far below, signs cancel."),
        line({"weight 1": moved[:, 0], "weight 2": moved[:, 1]}, at=range(1, 61), x="step", y="movement / learning rate",
             caption="Their quotient: what each weight moves, in learning rates. Steep or flat makes no difference at first."),
        *race({"Adam": path, "momentum": descend(lambda w, g, s, t: momentum_step(w, g, s, t, tuned), place)}, place,
              caption=f"Momentum is SGD with 0.9, at its best rate, {tuned:.2g}."),
        f"The first step moves a weight by {first:.3g} learning rates, the longest by {most:.3g}.",
    )
