"""SiLU and Swish in NumPy."""

import numpy as np

from snippets.activations.sigmoid import sigmoid


def swish(x, beta=1.0):
    """x times a gate that x itself opens; SiLU for beta = 1."""
    return x * sigmoid(beta * x)


def slope(x, beta=1.0):
    """The gate, plus what opening it further brings."""
    s = sigmoid(beta * x)
    return s + beta * x * s * (1 - s)


# %% demo
from snippets.activations.gelu import gelu
from snippets.activations.gelu import slope as gelu_slope
from snippets.activations.hardswish import hardswish
from snippets.activations.hardswish import slope as hard_slope
from snippets.live import choice, demo, line, slider

OTHERS = {
    "ReLU": (lambda x: np.maximum(x, 0), lambda x: np.where(x > 0, 1.0, 0.0)),
    "GELU": (gelu, gelu_slope),
    "hard-swish": (hardswish, hard_slope),
}


@demo(
    beta=slider(0.0, 10.0, step=0.1, label="steepness β"),
    mark=slider(-6.0, 6.0, step=0.1, label="marker x"),
    other=choice("none", *OTHERS, label="compare with"),
)
def show(beta=1.0, mark=-1.3, other="ReLU"):
    """Go from β = 0 (a straight line) to 10 (ReLU). At 1.7, compare with GELU; at 1, with hard-swish."""
    x = np.linspace(-6, 6, 241)
    f, d = {"Swish": (x, swish(x, beta))}, {"Swish": (x, slope(x, beta))}
    if other != "none":
        f[other], d[other] = ((x, g(x)) for g in OTHERS[other])
    dashed = list(f)[1:]
    low = f"The minimum is {-0.27846 / beta:.4f} at x = {-1.27846 / beta:.4f}." if beta else "x/2 has no minimum."
    near = slice(60, 181)
    return (
        line({n: (x[near], y[near]) for n, (x, y) in f.items()}, x="x", y="value", dashed=dashed, range_y=(-1.5, 3),
             marks={"x": mark} if abs(mark) <= 3 else {},
             caption="Negative numbers are not dropped at once: the curve dips below zero and comes back."),
        line(d, x="x", y="derivative", dashed=dashed, marks={"x": mark}, levels={"1": 1.0}, range_y=(-0.6, 1.6),
             caption="1/2 at zero for every β; it overshoots 1 and undershoots 0 by about 0.1, at x = ±2.4/β."),
        f"At x = {mark:g}: value {float(swish(np.float64(mark), beta)):.4f}, slope {float(slope(np.float64(mark), beta)):.4f}. {low}",
    )
