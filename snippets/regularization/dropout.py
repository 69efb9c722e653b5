"""Dropout in NumPy."""

import numpy as np


def dropout_mask(shape, p, rng):
    """Zeros with probability p; the others are scaled up, so that the mean is 1."""
    if p == 1:
        return np.zeros(shape)
    return (rng.random(shape) >= p) / (1 - p)


def dropout(x, p, rng):
    """In training. At test time x is passed on as it is."""
    return x * dropout_mask(x.shape, p, rng)


def train(features, targets, rates, steps, rng):
    """Linear regression under dropout of its features, by gradient descent; one column of weights for each rate p."""
    w = mean = np.zeros((len(rates), features.shape[1]))
    step = (1 - rates[:, None]) ** 2 * 1.5 / np.linalg.norm(features, 2) ** 2
    for t in range(steps):
        draws = rng.random(features.shape)  # the same for all rates: only p differs
        x = features * (draws >= rates[:, None, None]) / (1 - rates[:, None, None])
        error = (x @ w[:, :, None])[..., 0] - targets
        w = w - step * (error[:, None] @ x)[:, 0]
        mean = mean + (w - mean) / (1 + t // 2)  # mostly of the later steps: less of the noise of single masks
    return mean


# %% demo
from snippets.live import demo, line, slider

RATES = np.round(np.arange(0, 0.91, 0.1), 2)


def bumps(x):
    """40 features: Gaussian bumps along the line."""
    return np.exp(-0.5 * ((x[:, None] - np.linspace(-0.1, 1.1, 40)) / 0.04) ** 2)


@demo(
    p=slider(0.0, 0.9, step=0.1, label="p, probability of a zero"),
    steps=slider(0, 300, step=10, label="steps of training"),
    noise=slider(0.0, 0.6, step=0.1, label="noise of the 20 targets"),
)
def show(p=0.7, steps=300, noise=0.4):
    """With p = 0 the curve runs through every noisy point. Raise p: single masks disagree, their mean calms down. Too far, and it is flat."""
    rng = np.random.default_rng(3)
    x, grid = np.sort(rng.random(20)), np.linspace(0, 1, 81)
    truth = lambda x: np.sin(2 * np.pi * x)
    y = truth(x) + noise * rng.normal(size=20)
    w = train(bumps(x), y, RATES, steps, np.random.default_rng(0))
    test = ((bumps(grid) @ w.T - truth(grid)[:, None]) ** 2).mean(0)
    trained = ((bumps(x) @ w.T - y[:, None]) ** 2).mean(0)
    at = int(np.argmin(np.abs(RATES - p)))
    masks = np.random.default_rng(1)
    curves = {f"mask {i}": (grid, bumps(grid) @ (w[at] * dropout_mask(40, p, masks))) for i in (1, 2)}
    best = RATES[test.argmin()]
    return (
        line({**curves, "mean: evaluation": (grid, bumps(grid) @ w[at]), "truth": (grid, truth(grid)), "data": (x, y)}, x="x", y="y",
             dashed=["truth", *curves], markers=["data"], range_y=(-2.2, 2.2),
             caption="One weight vector: two random subnetworks of it (dashed), and the whole, which is the mean over all masks."),
        line({"training data": trained, "truth": test}, at=RATES, x="p", y="mean squared error", marks={"p": p}, range_y=(0, 0.6),
             caption="Error of the evaluated curve for each p, after as many steps. What a larger p loses on the training data it may win on the truth."),
        f"Squared error against the truth {test[at]:.3f} with p = {p:g}, {test[0]:.3f} without dropout; lowest at p = {best:g}.",
    )
