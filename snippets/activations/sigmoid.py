"""The sigmoid in NumPy, and what a chain of them does to a gradient."""

import numpy as np


def sigmoid(x):
    """1 / (1 + e^−x), with an exponential that is never above 1."""
    small = np.exp(-np.abs(x))
    return np.where(np.asarray(x) >= 0, 1.0, small) / (1 + small)


def slope(x):
    s = sigmoid(x)
    return s * (1 - s)


def logit(p):
    return np.log(p) - np.log1p(-p)


def chain(x, w, b, depth):
    """x -> σ(w x + b) -> σ(w · + b) ...: all values, and the derivative of each by the input x."""
    values, factors = [x], [1.0]
    for _ in range(depth):
        z = w * values[-1] + b
        values.append(sigmoid(z))
        factors.append(factors[-1] * w * slope(z))
    return np.array(values), np.array(factors)


# %% demo
from snippets.live import demo, line, slider


@demo(
    w=slider(0.1, 10.0, log=True, label="weight w"),
    b=slider(-5.0, 5.0, step=0.1, label="bias b"),
    depth=slider(1, 20, label="layers"),
)
def show(w=1.0, b=0.0, depth=10):
    """A chain of sigmoids with one unit each. Raise the weight to 4, then set the bias to −2: only just there the gradient lives."""
    x = np.linspace(-8, 8, 241)
    values, factors = chain(0.5, w, b, depth)
    steps, best = np.arange(depth + 1), (w / 4) ** np.arange(depth + 1)
    worst = np.maximum(factors, 1e-30)
    return (
        line({"σ(wx + b)": (x, sigmoid(w * x + b)), "slope w·s(1−s)": (x, w * slope(w * x + b))}, x="x", y="value",
             dashed=["slope w·s(1−s)"], levels={"w/4": w / 4}, range_y=(0, max(1.05, w / 4 * 1.05)),
             caption="One layer. The slope is at most w/4, in the middle of the rise, and fades on both sides."),
        line({"gradient": (steps, worst), "bound (w/4)ⁿ": (steps, best)}, x="layers n", y="d output / d input", log_y=True,
             dashed=["bound (w/4)ⁿ"], caption="Starting from 0.5, each layer multiplies the gradient by w·s(1−s). "
             "The distance between the curves is saturation."),
        f"After {depth} layers the gradient is {factors[-1]:.2g} times what it was; it can be at most (w/4)^{depth} = {best[-1]:.2g}. "
        f"The last output is {values[-1]:.3f}.",
    )
