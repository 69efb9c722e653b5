"""ReLU in NumPy, and what it does to a signal in a deep network."""

import numpy as np

from snippets.activations.network import spread, through, weights


def relu(x):
    return np.maximum(x, 0)


def slope(x):
    """There is no derivative at exactly 0; frameworks take 0."""
    return np.where(x > 0, 1.0, 0.0)


def dead(y):
    """Share of units (columns) that are 0 for every input (row): no gradient reaches their weights."""
    return (y <= 0).all(0).mean()


# %% demo
from snippets.live import bars, demo, line, slider


@demo(
    depth=slider(1, 50, label="layers"),
    factor=slider(0.5, 2.0, step=0.01, label="weight std × √width"),
    bias=slider(-1.0, 1.0, step=0.05, label="bias of every unit"),
)
def show(depth=30, factor=1.41, bias=0.0):
    """Start with He's 1.41. Go to 1, then to 2: the signal dies or explodes. Back at 1.41, lower the bias to −0.5."""
    x = np.random.default_rng(1).normal(size=(256, 100))
    states = through(relu, x, weights(100, depth, factor), bias)
    mean, std = spread(states)
    mean, std = (np.where(v > 0, v, np.nan) for v in (mean[1:], std[1:]))  # an exact 0 has no place on a log axis
    layers = np.arange(1, depth + 1)
    shown = np.unique(np.linspace(1, depth, min(depth, 10)).round().astype(int))
    z = np.linspace(-3, 3, 241)
    last = states[-1]
    return (
        line({"std": (layers, std), "mean": (layers, mean)}, x="layer", y="over 256 inputs, 100 units", log_y=True,
             caption="Straight lines on this axis are exponential growth or decay. The mean is as large as the spread: "
             "ReLU's output is never centred."),
        bars({str(n): dead(states[n]) for n in shown}, x="layer", y="share of dead units", range_y=(0, 1),
             caption="Units that are 0 for all 256 inputs; no gradient reaches their weights. Even at He's scale their share grows "
             "with depth, because the inputs come to look alike."),
        line({"relu": (z, relu(z)), "slope": (z, slope(z))}, x="x", y="value", dashed=["slope"], range_y=(-0.5, 3),
             caption="The function and its derivative: a switch that is open or shut."),
        f"After {depth} layers the standard deviation is {last.std():.2g} (1 at the input), "
        f"{(last == 0).mean():.0%} of all outputs are zero and {dead(last):.0%} of the units are dead.",
    )
