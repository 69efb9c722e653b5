"""Kaiming initialization in NumPy, and what other schemes do to a ReLU network."""

import numpy as np

from snippets.activations.leaky_relu import leaky_relu
from snippets.activations.leaky_relu import slope as leaky_slope
from snippets.initialization.variance_propagation import backward, forward, second_moments
from snippets.initialization.xavier import xavier_std


def kaiming_std(fan_in, fan_out, a=0.0, mode="fan_in"):
    """ReLU lets half of the mean square through, a leaky one (1 + a²)/2: the weights behind it make up for that."""
    gain = np.sqrt(2 / (1 + a**2))
    return gain / np.sqrt(fan_in if mode == "fan_in" else fan_out)


SCHEMES = {  # standard deviations
    "Kaiming": kaiming_std,
    "Xavier": lambda fan_in, fan_out, a: xavier_std(fan_in, fan_out),
    "PyTorch's default": lambda fan_in, fan_out, a: kaiming_std(fan_in, fan_out, np.sqrt(5)),
}


# %% demo
from snippets.initialization.variance_propagation import squares
from snippets.live import choice, demo, line, slider


@demo(
    scheme=choice(*SCHEMES, label="weights"),
    depth=slider(1, 60, label="layers"),
    a=slider(0.0, 1.0, step=0.05, label="slope of the ReLU below zero"),
    width=choice(32, 64, 128, label="width"),
    net=slider(0, 20, label="which random net"),
)
def show(scheme="Xavier", depth=30, a=0.0, width=64, net=0):
    """Change the scheme: a factor per layer becomes one for the whole net. Then look at other random nets: even Kaiming's wander."""
    layers = squares([width] * (depth + 1), lambda n, m: SCHEMES[scheme](n, m, a), seed=net)
    x = np.random.default_rng(100).normal(size=(32, width))
    zs = forward(x, layers, lambda z: leaky_relu(z, a))
    gs = backward(np.random.default_rng(101).normal(size=x.shape), zs, layers, lambda z: leaky_slope(z, a))
    signal = np.append(1.0, second_moments([leaky_relu(z, a) for z in zs]))
    gradient = second_moments(gs)
    factor = width * SCHEMES[scheme](width, width, a) ** 2 * (1 + a**2) / 2
    at = np.arange(depth + 1)
    cut = lambda v: np.clip(v, 1e-16, 1e4)  # noqa: E731
    tiny = 6e-8**2
    below = next((int(i) for i in at if factor**i < tiny), None)
    return (
        line({"E[x²]": (at, cut(signal)), "mean over nets": (at, cut(factor ** at.astype(float))), "gradient": (at[1:], cut(gradient)),
              "smallest float16": ([0, depth], [tiny, tiny])}, x="layer", y="mean square", log_y=True, range_y=(1e-16, 1e4), dashed=["mean over nets", "smallest float16"],
             caption="E[x²]: after the activation of each layer. The gradient starts with 1 at the last layer. Below the lowest line numbers are smaller than "
             "float16 can hold."),
        f"Each layer multiplies the mean square by {factor:.3g} on average. "
        + (f"From layer {below} on, a typical number is too small for float16." if below else f"After {depth} layers that makes {factor**depth:.3g}; this net has {signal[-1]:.2g}."),
    )
