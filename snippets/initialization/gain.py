"""The gain of an activation in NumPy: what the weights behind it must make up for."""

import numpy as np

from snippets.activations.selu import ALPHA, SCALE, selu
from snippets.activations.sigmoid import sigmoid
from snippets.activations.sigmoid import slope as sigmoid_slope
from snippets.activations.silu import slope as silu_slope
from snippets.activations.silu import swish
from snippets.initialization.variance_propagation import ACTIVATIONS, backward, forward, second_moments, theory

FUNCTIONS = {  # each with its derivative
    "ReLU": ACTIVATIONS["ReLU"],
    "tanh": ACTIVATIONS["tanh"],
    "sigmoid": (sigmoid, sigmoid_slope),
    "SELU": (selu, lambda z: SCALE * np.where(z > 0, 1, ALPHA * np.exp(np.minimum(z, 0)))),
    "GELU": ACTIVATIONS["GELU"],
    "SiLU": (swish, silu_slope),
}


def second_moment(f, std=1.0):
    """E[f(z)²] for a normal z: a sum over a fine grid, each point with the weight of the bell curve there."""
    z = np.linspace(-10, 10, 2000)
    weight = np.exp(-(z**2) / 2)
    return (weight * f(std * z) ** 2).sum() / weight.sum()


def variance_gain(f, std=1.0):
    return std / np.sqrt(second_moment(f, std))


# %% demo
from snippets.initialization.variance_propagation import squares
from snippets.live import bars, choice, demo, line, slider

LAYERS, WIDTH = 20, 96


@demo(
    activation=choice(*FUNCTIONS, label="activation"),
    gain=slider(0.5, 3.0, step=0.01, label="gain"),
    size=slider(0.25, 4.0, step=0.25, label="mean square of the first signal"),
)
def show(activation="GELU", gain=1.41, size=1.0):
    """Set the gain to the exact one. Then change the size of the first signal: tanh finds back to the line, GELU runs away from it."""
    f, slope = FUNCTIONS[activation]
    rng = np.random.default_rng(1)
    exact, moment = variance_gain(f), second_moment(f)
    gains = np.linspace(0.5, 3, 51)
    share, edges = np.histogram(f(np.random.default_rng(0).normal(size=4000)), np.linspace(-2, 3, 11))
    # The first matrix only brings the signal to its size; every later one stands behind an activation.
    layers = squares([WIDTH] * (LAYERS + 1), lambda n, m: gain / n**0.5)
    layers[0] *= size**0.5 / gain
    x = rng.normal(size=(32, WIDTH))
    zs = forward(x, layers, f)
    back = backward(rng.normal(size=x.shape), zs, layers, slope)
    q, _ = theory(LAYERS, f, slope, gain**2, size / gain**2)
    cut = lambda v: np.clip(v, 1e-6, 1e6)  # noqa: E731
    at = np.arange(1, LAYERS + 1)
    return (
        bars({f"{a:g}": 100 * n / 4000 for a, n in zip(edges, share)}, x="output (lower end of the bin)", y="share (%)", range_y=(0, 60),
             caption=f"What {activation} makes of standard normal numbers. Their mean square is {moment:.3f} instead of 1."),
        line({"gain² · E[f²]": (gains, gains**2 * moment), "chosen": ([gain], [gain**2 * moment])}, x="gain", y="mean square after one layer",
             levels={"kept": 1.0}, marks={"exact": exact}, markers=["chosen"], range_y=(0, 4),
             caption=f"The exact gain is {exact:.4f}, where the curve crosses 1."),
        line({"signal": cut(second_moments(zs)), "infinitely wide": cut(q), "gradient": cut(second_moments(back))}, at=at, x="layer", y="mean square",
             log_y=True, range_y=(1e-6, 1e6), dashed=["infinitely wide"],
             caption=f"{LAYERS} layers of width {WIDTH} with this gain, before each activation; the gradient starts at the last layer."),
        f"One layer multiplies a signal of mean square 1 by {gain**2 * moment:.3g}. After {LAYERS} layers it is {q[-1]:.3g} in theory, from {size:g}.",
    )
