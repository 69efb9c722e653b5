"""Stochastic pooling in NumPy."""

import numpy as np

from snippets.pooling.max import windows


def probabilities(a):
    """a (..., k²), not negative: each in proportion to its size; windows of zeros stay zeros."""
    total = a.sum(-1, keepdims=True)
    return a / np.where(total == 0, 1, total)


def expected(a):
    """What evaluation gives: the mean of a draw, sum a² / sum a."""
    return (probabilities(a) * a).sum(-1)


def draw(a, rng):
    """What training gives: one of the numbers."""
    winner = (a / rng.exponential(size=a.shape)).argmax(-1)  # a race whose winner has exactly these probabilities
    return np.take_along_axis(a, winner[..., None], -1)[..., 0], winner


def stochastic_pool(x, k, stride, rng=None):
    a = windows(x, k, stride)
    a = a.reshape(*a.shape[:2], -1)
    return expected(a) if rng is None else draw(a, rng)[0]


# %% demo
from snippets.live import bars, demo, line, slider


@demo(
    first=slider(0.0, 5.0, step=0.1, label="first activation"),
    second=slider(0.0, 5.0, step=0.1, label="second activation"),
    third=slider(0.0, 5.0, step=0.1, label="third activation (the fourth is 1)"),
    draws=slider(1, 500, label="draws"),
)
def show(first=3.0, second=1.5, third=0.5, draws=200):
    """Make one activation large: the draws turn into a maximum. Make all equal: they turn into a mean. Set one to 0: it is never drawn."""
    a = np.array([first, second, third, 1.0])
    p = probabilities(a)
    values, winners = draw(np.broadcast_to(a, (draws, 4)), np.random.default_rng(0))
    names = [f"{v:g} ({c})" for v, c in zip(a, "abcd")]
    running = np.cumsum(values) / np.arange(1, draws + 1)
    return (
        bars({"probability": dict(zip(names, p)), "share of the draws": dict(zip(names, np.bincount(winners, minlength=4) / draws))},
             x="activation in a window of 2×2", y="probability", range_y=(0, 1), caption="Each is drawn in proportion to its size, not evenly."),
        line({"mean of the draws so far": (np.arange(1, draws + 1), running)}, x="draws", y="output", range_y=(0, 5.2),
             levels={"maximum": a.max(), "expected: evaluation": expected(a), "average": a.mean()},
             caption="One draw is what training sees. Their mean approaches the evaluation output, which lies between average and maximum."),
        f"Average {a.mean():.2f}, expected {expected(a):.2f}, maximum {a.max():.2f}; the mean of {draws} draws is {values.mean():.2f}.",
    )
