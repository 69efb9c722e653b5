"""Heavy-ball momentum in NumPy."""

import numpy as np


def velocity(v, g, t, momentum, dampening=0.0):
    """The new velocity at step t, counted from 1: the old one, fading, and the gradient."""
    return g if t == 1 else momentum * v + (1 - dampening) * g


def momentum_step(w, g, state, t, lr=0.01, momentum=0.9):
    """One step. Returns the new weights."""
    v = state["v"] = velocity(state.get("v"), g, t, momentum)
    return w - lr * v


def slowest_factor(lr_curvature, momentum):
    """What a step leaves of the error on a bowl in the long run: the larger root of z² − (1 + momentum − lr·h) z + momentum."""
    half = (1 + momentum - lr_curvature) / 2
    square = half * half - momentum
    # below 0 a complex pair of size √momentum: the path swings
    return np.where(square < 0, np.sqrt(np.abs(momentum)), np.abs(half) + np.sqrt(np.maximum(square, 0)))


# %% demo
from snippets.live import choice, demo, line, slider
from snippets.optimizers.arena import NAMES, descend, race, surface


def watch(ground, lr, momentum, steps=60):
    """A path (steps + 1, 2), and of each step the velocity over the size of the first gradient."""
    speeds = np.full((steps, 2), np.nan)

    def step(w, g, state, t):
        new = momentum_step(w, g, state, t, lr, momentum)
        first = state.setdefault("first", np.abs(g) + 1e-12)
        speeds[t - 1] = state["v"] / first
        return new

    return descend(step, ground, steps), speeds


@demo(
    momentum=slider(0.0, 0.99, step=0.01, label="momentum μ"),
    lr=slider(0.001, 1.0, step=0.001, label="learning rate", log=True),
    condition=slider(1, 200, label="condition number of the bowl"),
    ground=choice(*NAMES, label="surface of the race"),
)
def show(momentum=0.9, lr=0.01, condition=50, ground="bowl"):
    """Raise μ: the flat direction gathers speed, the steep one swings. At 0.99 the ball runs past the goal and takes long to come back."""
    place = surface(ground, float(condition))
    path, speeds = watch(place, lr, momentum)
    plain, _ = watch(place, lr, 0.0)
    grid = np.linspace(0, 4, 161)
    fastest = np.nanmax(np.abs(speeds[:, 0]))
    limit = 2 * (1 + momentum) / condition
    bowl = f" On this bowl rates below {limit:.3g} are stable, without momentum below {2 / condition:.3g}." if "bowl" in ground else ""
    return (
        *race({"momentum": path, "SGD": plain}, place, caption=f"SGD has the same learning rate, {lr:g}, and no momentum."),
        line({"weight 1": np.clip(speeds[:, 0], -20, 20), "weight 2": np.clip(speeds[:, 1], -20, 20)}, at=range(1, 61), x="step",
             y="velocity / first gradient", levels={"1/(1 − μ)": 1 / (1 - momentum)} if momentum < 0.95 else {},
             caption="What alternates cancels, what stays adds up; the most that can come together is 1/(1 − μ). Drawn between −20 and 20."),
        line({"momentum": np.minimum(slowest_factor(grid, momentum), 1.35), "SGD": np.minimum(np.abs(1 - grid), 1.35)}, at=grid, x="learning rate × curvature",
             y="error after a step / before", dashed=["SGD"], range_y=(0, 1.4),
             marks={"flattest": lr, "steepest": lr * condition} if "bowl" in ground and lr * condition <= 4 else {},
             caption="In the long run, for every curvature. Momentum makes a floor at √μ out of SGD's V, and reaches up to twice as far. Cut at 1.35."),
        f"The flat direction's velocity reached {fastest:.3g} times its first gradient.{bowl}",
    )
