"""SELU in NumPy, and the fixed point it is made for."""

import numpy as np

from snippets.activations.elu import elu

ALPHA, SCALE = 1.6732632423543772, 1.0507009873554805


def selu(x):
    """With these two constants a standard normal input gives mean 0 and variance 1."""
    return SCALE * elu(x, ALPHA)


# %% demo
from snippets.activations.network import spread, through, weights
from snippets.live import bars, choice, demo, scatter, slider

INITS = {"LeCun normal": (1.0, False), "He normal": (2**0.5, False), "PyTorch's default": (3**-0.5, True)}


@demo(
    init=choice(*INITS, label="weights"),
    depth=slider(1, 100, label="layers"),
    mean=slider(-1.0, 1.0, step=0.1, label="mean of the inputs"),
    variance=slider(0.1, 3.0, step=0.1, label="variance of the inputs"),
)
def show(init="LeCun normal", depth=40, mean=0.8, variance=2.5):
    """Start anywhere: with LeCun's weights the layers find the way to mean 0 and variance 1. Then change the weights."""
    factor, uniform = INITS[init]
    x = mean + variance**0.5 * np.random.default_rng(1).normal(size=(256, 64))
    states = through(selu, x, weights(64, depth, factor, seed=2, uniform=uniform))
    means, stds = spread(states)
    path = np.stack([means, stds**2], 1)
    inside = path[(np.abs(path[:, 0]) <= 1.2) & (path[:, 1] <= 4)]
    edges = np.linspace(-2, 3, 11)
    share = np.histogram(states[-1], edges)[0] / states[-1].size
    return (
        scatter({"layers": inside, "goal": [[0.0, 1.0]]}, lines={"path": [inside]}, x="mean", y="variance", range_x=(-1.2, 1.2),
                range_y=(0, 4), caption="One dot per layer, joined in order, over 256 inputs and 64 units. "
                "The jitter around the goal is that of 64 random weights per unit; what leaves the frame is not drawn."),
        bars({f"{a:g}": 100 * v for a, v in zip(edges, share)}, x="output of the last layer (lower end of the bin)",
             y="share (%)", range_y=(0, 60), caption="Nothing lies below −1.758, where SELU saturates; the tail on the right balances it."),
        f"Layer {depth}: mean {means[-1]:.2f}, variance {stds[-1] ** 2:.3g}. It started at {mean:.1f} and {variance:.1f}.",
    )
