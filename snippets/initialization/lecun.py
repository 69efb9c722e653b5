"""LeCun initialization in NumPy, and why SELU asks for it."""

import numpy as np

from snippets.activations.selu import selu
from snippets.initialization.gain import FUNCTIONS, second_moment
from snippets.initialization.variance_propagation import forward


def lecun_std(fan_in):
    """A sum of fan_in products with weights of this size is as large as one of its terms' other factor."""
    return 1 / np.sqrt(fan_in)


def next_variance(q, multiple=1.0):
    """Variance before an activation, one layer later, for weights of `multiple` times LeCun's size."""
    return multiple**2 * second_moment(selu, np.sqrt(q))


def path(moment, multiple, depth):
    """Mean square of the input, then the variances of all layers before their activations."""
    q = [moment, multiple**2 * moment]
    while len(q) <= depth:
        q.append(next_variance(q[-1], multiple))
    return np.array(q)


# %% demo
from snippets.initialization.variance_propagation import squares
from snippets.live import demo, line, scatter, slider


@demo(
    multiple=slider(0.5, 2.0, step=0.01, label="weight std, in units of 1/√fan_in"),
    depth=slider(1, 60, label="layers"),
    start=slider(0.1, 4.0, step=0.1, label="variance of the input"),
)
def show(multiple=1.0, depth=40, start=3.0):
    """Leave the weights at 1 and move the input: every start finds 1. Then try 0.58, PyTorch's default, and 1.41, Kaiming's for ReLU."""
    width = 96
    x = start**0.5 * np.random.default_rng(1).normal(size=(64, width))
    zs = forward(x, squares([width] * (depth + 1), lambda n, m: multiple * lecun_std(n)), FUNCTIONS["SELU"][0])
    after = [selu(z) for z in zs]
    q = path(start, multiple, depth)
    grid = np.concatenate([np.linspace(0.01, 5, 40)])
    steps = [[q[1], q[1]]]
    for a, b in zip(q[1:], q[2:]):
        steps += [[a, b], [b, b]]
    steps = [s for s in steps if max(s) <= 5]
    at = np.arange(1, depth + 1)
    return (
        line({"variance": [a.var() for a in after], "mean": [a.mean() for a in after]}, at=at, x="layer", y="after SELU", range_y=(-0.5, 4.0),
             levels={"variance 1": 1.0, "mean 0": 0.0},
             caption=f"A SELU net of width {width} over 64 inputs. The jitter around the two lines is that of {width} random weights per unit."),
        scatter({"fixed point of LeCun": [[1.0, 1.0]]}, lines={"one layer": [np.stack([grid, [next_variance(g, multiple) for g in grid]], 1)],
                "unchanged": [[[0, 0], [5, 5]]], "this net": [steps] if len(steps) > 1 else []}, x="variance of a layer", y="variance of the next",
                range_x=(0, 5), range_y=(0, 5), equal=True,
                caption="In theory: up or down to the curve, across to the line, and again. Where the curve crosses the line with a slope below 1, it attracts."),
        f"In theory the variance before the activation of layer {depth} is {q[-1]:.3g}, from {start:g}.",
    )
