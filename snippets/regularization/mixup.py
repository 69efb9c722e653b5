"""mixup in NumPy, on a classifier of two moons."""

import numpy as np


def mixup(x, y, lam, order):
    """Each example with its partner: inputs and targets with the same weight."""
    return lam * x + (1 - lam) * x[order], lam * y + (1 - lam) * y[order]


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def train(x, y, features, alpha, steps, rng, lr=4.0):
    """Logistic regression on features of mixed examples, by gradient descent."""
    w = np.zeros(features(x).shape[1])
    for _ in range(steps):
        lam = rng.beta(alpha, alpha) if alpha else 1.0
        x_mix, y_mix = mixup(x, y, lam, rng.permutation(len(x)))
        f = features(x_mix)
        w = w - lr * f.T @ (sigmoid(f @ w) - y_mix) / len(x)
    return w


# %% demo
from snippets.live import demo, heatmap, line, scatter, slider


def moons(rng, n=20, noise=0.15):
    t = np.pi * rng.random(n)
    upper, lower = np.c_[np.cos(t), np.sin(t)], np.c_[1 - np.cos(t), 0.5 - np.sin(t)]
    return np.r_[upper, lower] + noise * rng.normal(size=(2 * n, 2)), np.repeat([0.0, 1.0], n)


def bumps(x):
    """70 features: Gaussian bumps on a grid, each the product of one along x₁ and one along x₂."""
    across = np.exp(-((x[:, :1] - np.linspace(-1.6, 2.6, 10)) ** 2) / 0.32)
    along = np.exp(-((x[:, 1:] - np.linspace(-1.2, 1.7, 7)) ** 2) / 0.32)
    return (across[:, :, None] * along[:, None, :]).reshape(len(x), 70)


@demo(
    alpha=slider(0.0, 2.0, step=0.1, label="alpha (0 mixes nothing)"),
    steps=slider(0, 300, step=10, label="steps of training"),
)
def show(alpha=1.0, steps=150):
    """Set alpha to 0 and back to 1. Without mixing the output jumps from 0 to 1; with it, it goes over gently between the classes."""
    x, y = moons(np.random.default_rng(0))
    w = train(x, y, bumps, alpha, steps, np.random.default_rng(1))
    plain = train(x, y, bumps, 0.0, steps, np.random.default_rng(1))
    rng = np.random.default_rng(2)
    lam = rng.beta(alpha, alpha, size=(40, 1)) if alpha else np.ones((40, 1))
    order = rng.permutation(40)
    shown, _ = mixup(x, y[:, None], lam, order)
    a, b = np.array([-0.95, 0.2]), np.array([0.15, 0.0])  # from one moon to the other, across the gap
    way = np.linspace(0, 1, 41)
    points = (1 - way[:, None]) * a + way[:, None] * b
    gx, gy = np.linspace(-1.5, 2.5, 26), np.linspace(1.6, -1.1, 18)
    field = sigmoid(bumps(np.stack(np.meshgrid(gx, gy), -1).reshape(-1, 2)) @ w).reshape(18, 26)
    mixed, unmixed = sigmoid(bumps(points) @ w), sigmoid(bumps(points) @ plain)
    steepest = [np.abs(np.diff(v)).max() * 40 for v in (unmixed, mixed)]
    return (
        scatter({"class 0": x[y == 0], "class 1": x[y == 1], "mixed": shown}, lines={"the way": [np.array([a, b])]}, x="x₁", y="x₂",
                range_x=(-1.6, 2.6), range_y=(-1.3, 1.8), caption="The data and one mixed batch, here with a weight for each pair. Mixed points lie on lines between examples, also of two classes."),
        heatmap(field, x="x₁", y="x₂", value="probability of class 1", range=(0, 1), rows=[f"{v:.1f}" for v in gy], columns=[f"{v:.1f}" for v in gx],
                caption="The output over the plane: with mixing it is less sure, above all between the moons."),
        line({"with mixup": mixed, "without": unmixed}, at=way, x="share of the way from class 0 to class 1", y="probability of class 1",
             dashed=["without"], range_y=(0, 1), caption="The output along the drawn way. Mixed labels ask for a straight line."),
        f"Along the way the steepest slope is {steepest[0]:.1f} without mixup and {steepest[1]:.1f} with alpha = {alpha:g}.",
    )
