"""Early stopping in NumPy, on gradient descent with more weights than data."""

import numpy as np

from snippets.regularization.l2 import ridge, shrinkage


def stop_at(metrics, patience):
    """When it stops, and which step was the best; the last step if it does not stop."""
    best = 0
    for t, metric in enumerate(metrics):
        if metric < metrics[best]:
            best = t
        if t - best >= patience:
            return t, best
    return len(metrics) - 1, best


def stopped_shrinkage(s, lr, steps):
    """What descent from zero has after so many steps, along a direction with the singular value s."""
    return 1 - (1 - lr * s**2) ** steps


def descend(X, y, lr, steps):
    """All weights on the way, from zero; the loss is half the sum of squared errors."""
    w = np.zeros(X.shape[1])
    path = [w]
    for _ in range(steps):
        w = w - lr * X.T @ (X @ w - y)
        path.append(w)
    return np.array(path)


# %% demo
from snippets.live import demo, line, slider


def bumps(x):
    """40 Gaussian bumps along the line."""
    return np.exp(-0.5 * ((x[:, None] - np.linspace(-0.1, 1.1, 40)) / 0.05) ** 2)


@demo(
    noise=slider(0.0, 1.0, step=0.05, label="noise of the targets"),
    patience=slider(1, 50, label="patience"),
    lr=slider(0.001, 1.0, label="learning rate (share of the largest)", log=True),
)
def show(noise=0.5, patience=20, lr=0.3):
    """20 points, 40 weights. Without noise there is no reason to stop. With a small rate the same curve takes longer; the patience must grow with it."""
    rng, steps = np.random.default_rng(1), 400
    truth = lambda x: np.sin(2 * np.pi * x)
    x, held, grid = rng.random(20), rng.random(20), np.linspace(0, 1, 81)
    y, y_held = truth(x) + noise * rng.normal(size=20), truth(held) + noise * rng.normal(size=20)
    X, H, G = bumps(x), bumps(held), bumps(grid)
    rate = lr * 2 / np.linalg.norm(X, 2) ** 2
    path = descend(X, y, rate, steps)
    trained, tested = (((F @ path.T - t[:, None]) ** 2).mean(0) for F, t in ((X, y), (H, y_held)))
    stop, best = stop_at(tested, patience)
    lam = 1 / (rate * max(best, 1))
    s = np.geomspace(0.05, 4, 50)
    at = np.arange(1, steps + 1)
    ended = "stops" if stop < steps or stop - best >= patience else "never stops within 400 steps, counted to"
    return (
        line({"training": trained[1:], "validation": tested[1:]}, at=at, x="step", y="mean squared error", log_x=True, range_y=(0, 1.2),
             marks={"best": max(best, 1), "stop": max(stop, 1)}, caption="The training error only falls. The validation error has a lowest point; patience is how long we look for a lower one."),
        line({"stopped": G @ path[best], "ridge": G @ ridge(X, y, lam), "400 steps": G @ path[-1], "truth": truth(grid)}, at=grid, x="x", y="y",
             dashed=["truth", "ridge"], range_y=(-2.5, 2.5), caption=f"The weights of the best step, and ridge regression with lam = 1/(rate × step) = {lam:.2g}: nearly the same curve."),
        line({"stopped": stopped_shrinkage(s, rate, max(best, 1)), "ridge": shrinkage(s, lam)}, at=s, x="singular value", y="share of least squares",
             dashed=["ridge"], log_x=True, range_y=(0, 1.05), caption="What both leave of each direction: strong ones are learned first, weak ones, where the noise is, hardly."),
        f"Training {ended} at step {stop}; the best was step {best}, with a validation error of {tested[best]:.3f} instead of {tested[-1]:.3f} after 400.",
    )
