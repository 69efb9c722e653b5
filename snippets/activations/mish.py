"""Mish in NumPy with two derivatives."""

import numpy as np

from snippets.activations.sigmoid import sigmoid
from snippets.activations.softplus import softplus


def mish(x):
    return x * np.tanh(softplus(x))


def slope(x):
    """The gate t, plus what opening it further brings."""
    t, s = np.tanh(softplus(x)), sigmoid(x)
    return t + x * s * (1 - t**2)


def curvature(x):
    t, s = np.tanh(softplus(x)), sigmoid(x)
    return (1 - t**2) * s * (2 + x * (1 - s) - 2 * x * s * t)


# %% demo
from snippets.activations.gelu import gelu
from snippets.activations.gelu import slope as gelu_slope
from snippets.activations.silu import slope as silu_slope
from snippets.activations.silu import swish
from snippets.live import choice, demo, line, slider


def silu_curvature(x):
    s = sigmoid(x)
    return s * (1 - s) * (2 + x * (1 - 2 * s))


def gelu_curvature(x):
    return np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi) * (2 - x**2)


CURVES = {
    "Mish": (mish, slope, curvature),
    "SiLU": (swish, silu_slope, silu_curvature),
    "GELU": (gelu, gelu_slope, gelu_curvature),
    "ReLU": (lambda x: np.maximum(x, 0), lambda x: np.where(x > 0, 1.0, 0.0), lambda x: 0 * x),
}
ORDERS = ("function", "first derivative", "second derivative")


@demo(
    order=choice(*ORDERS, label="show"),
    reach=slider(1, 8, label="range of x"),
    mark=slider(-6.0, 6.0, step=0.1, label="marker x"),
)
def show(order="function", reach=4, mark=-1.2):
    """Three smooth curves that differ by a tenth. Then go to the second derivative: there they are told apart."""
    k = ORDERS.index(order)
    x = np.linspace(-reach, reach, 241)
    here = {name: float(fs[k](np.float64(mark))) for name, fs in CURVES.items()}
    ends = ((-0.6, reach), (-0.3, 1.3), (-0.4, 0.9))[k]
    apart = {f"{name} − Mish": fs[k](x) - CURVES["Mish"][k](x) for name, fs in CURVES.items() if name in ("SiLU", "GELU")}
    return (
        line({name: (x, fs[k](x)) for name, fs in CURVES.items()}, x="x", y=order, dashed=["ReLU"], range_y=ends,
             marks={"x": mark} if abs(mark) <= reach else {},
             caption=("On the right Mish is close to GELU, on the left it dips deepest of all.",
                      "At zero: 0.6 for Mish, 1/2 for the others. All overshoot 1.",
                      "How sharply each bends. ReLU has its whole bend in one point, which no curve can show.")[k]),
        line(apart, at=x, x="x", y=f"difference of the {order}", range_y=((-0.25, 0.25), (-0.2, 0.2), (-0.45, 0.45))[k],
             caption="The other two relative to Mish."),
        f"At x = {mark:g}: " + ", ".join(f"{name} {v:.4f}" for name, v in here.items()) + ".",
    )
