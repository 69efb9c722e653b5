"""L1 regularization in NumPy: the lasso, by two kinds of descent."""

import numpy as np


def soft_threshold(w, threshold):
    """Towards zero by the threshold, and to exactly zero if it is nearer."""
    return w - np.clip(w, -threshold, threshold)


def gradient(X, y, w):
    """Of half the sum of squared errors; w (D,) or one row for each strength (L, D)."""
    return (w @ X.T - y) @ X


def proximal(X, y, lam, step, steps, w=None):
    """A gradient step on the errors, then the threshold."""
    w = np.zeros(np.shape(lam)[:1] + (X.shape[1],)) if w is None else w
    for _ in range(steps):
        w = soft_threshold(w - step * gradient(X, y, w), step * lam)
    return w


def subgradient(X, y, lam, step, steps, w=None):
    """The penalty is part of the loss; its slope is the sign."""
    w = np.zeros(np.shape(lam)[:1] + (X.shape[1],)) if w is None else w
    for _ in range(steps):
        w = w - step * (gradient(X, y, w) + lam * np.sign(w))
    return w


# %% demo
from snippets.live import bars, demo, heatmap, line, slider, toggle

TRUTH = np.array([3.0, -2.0, 1.5, 1.0, 0, 0, 0, 0, 0, 0])


@demo(
    log_lam=slider(-1.0, 2.0, step=0.125, label="log₁₀ of lam"),
    noise=slider(0.0, 1.0, step=0.1, label="noise of the 40 targets"),
    correlation=slider(0.0, 0.99, step=0.01, label="correlation of the features"),
    prox=toggle(label="proximal step (off: |w| in the loss)"),
)
def show(log_lam=1.0, noise=0.5, correlation=0.3, prox=True):
    """Only the first four features matter. Switch the proximal step off: the zeros are gone, though the picture looks nearly the same."""
    rng = np.random.default_rng(0)
    X = np.sqrt(1 - correlation) * rng.normal(size=(40, 10)) + np.sqrt(correlation) * rng.normal(size=(40, 1))
    y = X @ TRUTH + noise * rng.normal(size=40)
    logs = np.arange(-1, 2.01, 0.125)
    step = 1 / np.linalg.norm(X, 2) ** 2
    solve = proximal if prox else subgradient
    path = solve(X, y, 10 ** logs[:, None], step, 200)
    at = int(np.argmin(np.abs(logs - log_lam)))
    w, names = path[at], [f"w{i}" for i in range(1, 11)]
    lam = np.array([10 ** logs[at]])
    w_now, walk = path[at : at + 1], []
    for _ in range(21):  # the same steps, watched one by one
        walk.append(w_now[0, 4:7])
        w_now = solve(X, y, lam[:, None], step, 1, w_now)
    walk = np.array(walk)
    zeros = int((w == 0).sum())
    return (
        heatmap(np.log10(np.clip(np.where(path.T == 0, np.nan, np.abs(path.T)), 1e-3, None)), x="log₁₀ of lam", y="weight", value="log₁₀ of |coefficient|",
                signed=False, range=(-3, 0.5), rows=names, columns=[f"{v:g}" for v in logs],
                caption="Size of each coefficient; an exact zero is an empty cell. With the proximal step weights leave one after the other, without it none does."),
        bars({"truth": dict(zip(names, TRUTH)), "found": dict(zip(names, w))}, y="coefficient", range_y=(-3.5, 3.5),
             caption="At the chosen strength: those that are kept are too small by about the same amount."),
        line({name: walk[:, i] for i, name in enumerate(names[4:7])}, at=np.arange(200, 221), x="step", y="coefficient", range_y=(-0.3, 0.3), levels={"0": 0.0},
             caption="Three weights whose truth is 0, over 20 steps." + ("" if prox else " The slope of |w| has the same size however near zero is: they step over it and back.")),
        f"{zeros} of 10 weights are exactly zero at lam = {lam[0]:.3g}; above lam = {np.abs(X.T @ y).max():.0f} all would be.",
    )
