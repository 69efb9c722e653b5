"""Squared ReLU in NumPy, and what it does to a scale."""

import numpy as np


def squared_relu(x):
    return np.maximum(x, 0) ** 2


def slope(x):
    """Continuous, unlike ReLU's, and without limit."""
    return 2 * np.maximum(x, 0)


# %% demo
from snippets.activations.gelu import gelu
from snippets.activations.network import through, weights
from snippets.live import bars, demo, line, slider

# each with the weights that keep a standard normal signal: 1 / √E[f(z)²]
FUNCTIONS = {"squared ReLU": (squared_relu, 1.5**-0.5), "ReLU": (lambda x: np.maximum(x, 0), 2**0.5), "GELU": (gelu, 0.4252**-0.5)}


@demo(
    scale=slider(0.2, 4.0, step=0.1, label="std of the inputs"),
    depth=slider(1, 6, label="layers"),
)
def show(scale=1.5, depth=4):
    """Each network has the gain that keeps a signal of size 1. Move the input scale away from 1 and see who forgives it."""
    x = scale * np.random.default_rng(1).normal(size=(64, 64))
    states = {name: through(f, x, weights(64, depth, gain)) for name, (f, gain) in FUNCTIONS.items()}
    std = {name: [s.std() for s in ss] for name, ss in states.items()}
    zeros = {name: 100 * (ss[1] == 0).mean() for name, ss in states.items()}
    z = np.linspace(-3, 3, 241)
    end = std["squared ReLU"][-1]
    return (
        line({"squared ReLU": (z, squared_relu(z)), "its slope": (z, slope(z)), "ReLU": (z, np.maximum(z, 0)), "GELU": (z, gelu(z))},
             x="x", y="value", dashed=["its slope"], range_y=(-0.5, 6), caption="Below 1 it is smaller than ReLU, above 1 larger. No corner at 0."),
        line({name: (np.arange(depth + 1), v) for name, v in std.items()}, x="layer", y="std of the activations", log_y=True,
             caption="A factor in the input stays a factor with ReLU; with the square it is squared in every layer."),
        bars(zeros, y="exact zeros in layer 1 (%)", range_y=(0, 100), caption="What is exactly zero need not be read or multiplied. GELU has none."),
        f"Inputs of size {scale:g} become {end:.3g} after {depth} layers of squared ReLU and {std['ReLU'][-1]:.3g} after as many of ReLU.",
    )
