"""PReLU in NumPy: the slope is trained like a weight."""

import numpy as np


def prelu(x, a):
    return np.where(x > 0, x, a * x)


def fit(x, target, a, rate, steps=150):
    """One unit prelu(w x + b, a) trained by gradient descent on half the mean squared error; (w, b, a) after each step."""
    w, b, path = 1.0, 0.0, [(1.0, 0.0, a)]
    for _ in range(steps):
        z = w * x + b
        error = (prelu(z, a) - target) / len(x)
        back = error * np.where(z > 0, 1.0, a)
        d_a = (error * z)[z <= 0].sum()  # the slope hears of the negative inputs only
        w, b, a = w - rate * (back * x).sum(), b - rate * back.sum(), a - rate * d_a
        path.append((w, b, a))
    return path


# %% demo
from snippets.live import choice, demo, line, slider

TARGETS = {
    "|x|": (lambda x: np.abs(x), -1.0),
    "x": (lambda x: x, 1.0),
    "relu(x)": (lambda x: np.maximum(x, 0), 0.0),
    "kink": (lambda x: np.where(x > 0.3, x - 0.3, 0.4 * (x - 0.3)), 0.4),
}


def data(target, noise):
    x = np.linspace(-2, 2, 81)
    return x, TARGETS[target][0](x) + noise * np.random.default_rng(0).normal(size=81)


@demo(
    target=choice(*TARGETS, label="function to fit"),
    start=slider(-1.0, 1.0, step=0.05, label="initial slope"),
    rate=slider(0.01, 1.0, step=0.01, label="learning rate"),
    noise=slider(0.0, 0.5, step=0.05, label="noise"),
)
def show(target="kink", start=0.25, rate=0.1, noise=0.1):
    """One unit, three numbers to learn: weight, bias and slope. Let it fit x and then |x|: it becomes linear, then folds over."""
    x, y = data(target, noise)
    path = np.array(fit(x, y, start, rate))
    (w, b, a), wanted = path[-1], TARGETS[target][1]
    loss = ((prelu(w * x + b, a) - y) ** 2).mean()
    return (
        line({"data": (x, y), "before": (x, prelu(x, start)), "after 150 steps": (x, prelu(w * x + b, a))}, x="x", y="y",
             markers=["data"], dashed=["before"], range_y=(-2.5, 2.5), caption="The corner sits where the weighted input is 0."),
        line({"slope": path[:, 2], "weight": path[:, 0], "bias": path[:, 1]}, x="step", y="value", dashed=["weight", "bias"],
             levels={"needed slope": wanted}, range_y=(-1.5, 1.5), caption="The slope moves only while some inputs are negative."),
        f"Slope {a:.3f}, weight {w:.3f}, bias {b:.3f}; mean squared error {loss:.4f}. The noise-free data need slope {wanted:g}.",
    )
