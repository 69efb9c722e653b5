"""Nesterov's accelerated gradient in NumPy."""

import numpy as np

from snippets.optimizers.momentum import momentum_step, slowest_factor, velocity


def nesterov_step(w, g, state, t, lr=0.01, momentum=0.9):
    """One step, number t counted from 1. Returns the new weights, which are already the point to look from."""
    v = state["v"] = velocity(state.get("v"), g, t, momentum)
    return w - lr * (g + momentum * v)


def textbook_step(theta, gradient, state, t, lr=0.01, momentum=0.9):
    """The same method as books write it: the gradient is taken where the momentum leads."""
    v = state.get("v", np.zeros_like(theta))
    v = state["v"] = velocity(v, gradient(theta - lr * momentum * v), t, momentum)
    return theta - lr * v


# %% demo
from snippets.live import bars, choice, demo, line, slider
from snippets.optimizers.arena import NAMES, descend, race, surface


def overshoot(path, ground):
    """How far beyond the goal each weight went, in percent of the distance from the start; NaN where there was none."""
    way = np.array(ground.goal) - ground.start
    done = (path - ground.start) / np.where(way == 0, np.nan, way)
    beyond = 100 * (np.where(np.isfinite(done), done, -np.inf).max(0) - 1)
    return np.where(way == 0, np.nan, np.clip(beyond, 0, 200))


@demo(
    method=choice("both", "Nesterov", "heavy ball", label="method"),
    momentum=slider(0.5, 0.99, step=0.01, label="momentum μ"),
    lr=slider(0.001, 1.0, step=0.001, label="learning rate", log=True),
    ground=choice(*NAMES, label="surface of the race"),
)
def show(method="both", momentum=0.9, lr=0.03, ground="bowl"):
    """Both have the same velocity rule. Nesterov's brakes in the steep direction; raise the rate until it is the first to leave."""
    place = surface(ground, 20.0)
    steps = {"Nesterov": nesterov_step, "heavy ball": momentum_step}
    paths = {name: descend(lambda w, g, s, t: step(w, g, s, t, lr, momentum), place) for name, step in steps.items()}
    beyond = {name: overshoot(path, place) for name, path in paths.items()}
    grid = np.linspace(0, 4, 161)
    both = {"Nesterov": slowest_factor(grid, momentum * (1 - grid)), "heavy ball": slowest_factor(grid, momentum)}
    both = {name: np.minimum(factor, 1.35) for name, factor in both.items()}
    limit = 2 * (1 + momentum) / (1 + 2 * momentum)
    return (
        *race({name: path for name, path in paths.items() if method in ("both", name)}, place,
              caption=f"Learning rate {lr:g}, momentum {momentum:g}."),
        bars({name: {f"weight {i + 1}": b for i, b in enumerate(each) if np.isfinite(b)} for name, each in beyond.items()}, range_y=(0, 100),
             y="overshoot (% of the way)", caption="How far each weight ran beyond the goal, in 60 steps; bars end at 100 %."),
        line(both, at=grid, x="learning rate × curvature h", y="error after a step / before", range_y=(0, 1.4),
             marks={"flattest": lr, "steepest": 20 * lr} if "bowl" in ground and 20 * lr <= 4 else {},
             caption="In the long run. Looking ahead, steep directions calm down faster; the price is "
             f"a limit at {limit:.3g} instead of {2 + 2 * momentum:.3g}. Cut at 1.35."),
        f"Nesterov is heavy ball with momentum μ(1 − lr·h): for curvature 20 that is {momentum * (1 - 20 * lr):.3g} instead of {momentum:g}.",
    )

