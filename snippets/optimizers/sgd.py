"""Stochastic gradient descent in NumPy."""

import numpy as np

from snippets.optimizers.momentum import velocity


def sgd_step(w, g, state, t, lr=0.1, momentum=0.0, dampening=0.0, nesterov=False, weight_decay=0.0):
    """One step, number t counted from 1, down the gradient g. Returns the new weights."""
    g = g + weight_decay * w
    if momentum == 0:
        return w - lr * g
    v = state["v"] = velocity(state.get("v"), g, t, momentum, dampening)
    return w - lr * (g + momentum * v if nesterov else v)


# %% demo
from snippets.live import choice, demo, line, slider
from snippets.optimizers.arena import NAMES, descend, loss, race, surface


def sharpness(ground, h=1e-5):
    """Largest curvature of a surface at its start."""
    start = np.array(ground.start)
    hessian = np.stack([(ground.gradient(start + h * e) - ground.gradient(start - h * e)) / (2 * h) for e in np.eye(2)])
    return float(np.linalg.eigvalsh((hessian + hessian.T) / 2)[-1])


def expected_excess(lr, curvatures, noise):
    """Mean loss at which SGD stays on a bowl; at the balance of shrinking and noise."""
    if lr * max(curvatures) >= 2:
        return np.inf
    return sum(lr * noise**2 / (2 * (2 - lr * h)) for h in curvatures)


@demo(
    share=slider(0.02, 2.2, step=0.02, label="learning rate × largest curvature"),
    condition=slider(1, 100, label="condition number of the bowl"),
    noise=slider(0.0, 1.0, step=0.05, label="gradient noise σ (noisy bowl)"),
    ground=choice(*NAMES, label="surface of the race"),
)
def show(share=1.8, condition=20, noise=0.3, ground="noisy bowl"):
    """Push the rate to 2: the steep direction alternates, and beyond 2 it explodes. Then raise the condition number and watch the flat one crawl."""
    place = surface(ground, float(condition), noise)
    top = sharpness(place)
    lr = share / top
    path = descend(lambda w, g, s, t: sgd_step(w, g, s, t, lr), place)
    grid = np.linspace(0, 2.2, 111)
    bowl = "bowl" in ground
    factors = {"steepest": np.abs(1 - grid)} | ({"flattest": np.abs(1 - grid / condition)} if bowl and condition > 1 else {})
    end = loss(path, place)[-1]
    went = f"The loss ends at {end:.2g}." if np.isfinite(end) else "It has left all bounds."
    stays = ""
    if ground == "noisy bowl" and noise > 0 and share < 2:
        stays = f" With this noise it can stay no lower than {expected_excess(lr, [1.0, condition], noise):.2g} on average."
    return (
        line(factors, at=grid, x="learning rate × largest curvature", y="error after a step / before", range_y=(0, 1.4),
             marks={"now": share, "limit": 2.0},
             caption="What one step leaves of the error in a direction, |1 − lr·h|. Above 1 it grows. The steepest direction sets the limit, the "
             "flattest one the time."),
        *race({"SGD": path}, place, caption="Zigzag: a rate that is too high for the steep direction and too low for the flat one."),
        f"Largest curvature at the start: {top:.4g}, so the limit is {2 / top:.3g} and the rate {lr:.3g}. {went}{stays}",
    )
