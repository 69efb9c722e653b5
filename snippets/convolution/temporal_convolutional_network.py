"""A block of a temporal convolutional network in NumPy."""

import numpy as np

from snippets.convolution.causal import causal_conv1d
from snippets.convolution.conv1d import windows


def block(x, w1, w2, dilation, project=None):
    """x (C, L) -> (O, L): two causal layers at one dilation; what came in is added. project (O, C, 1) if O is not C."""
    y = np.maximum(causal_conv1d(x, w1, dilation)[0], 0)
    y = np.maximum(causal_conv1d(y, w2, dilation)[0], 0)
    return np.maximum(y + (x if project is None else causal_conv1d(x, project)[0]), 0)


def reachable(length, k, dilations):
    """Row by row from the last output down: which positions of each layer it depends on."""
    rows = [np.arange(length) == length - 1]
    for d in reversed(dilations):
        below = np.zeros(length, bool)
        for i in range(k):
            shift = min(i * d, length)
            below[: length - shift] |= rows[-1][shift:]
        rows.append(below)
    return np.array(rows)


# %% demo
from snippets.live import choice, demo, heatmap, line, slider


@demo(
    levels=slider(1, 6, label="blocks (dilation doubles)"),
    k=slider(2, 5, label="kernel size"),
    per_block=choice(1, 2, label="convolutions per block"),
    delay=slider(1, 40, label="delay of the echo", unit="steps"),
)
def show(levels=3, k=2, per_block=2, delay=10):
    """The task: repeat the input after a delay. Raise the delay past the receptive field, then add a block."""
    dilations = [2**i for i in range(levels) for _ in range(per_block)]
    field = 1 + (k - 1) * sum(dilations)
    rows = reachable(32, k, dilations)[::-1]
    names = ["input", *(f"d = {d}" for d in dilations)]
    depth = np.arange(len(rows))[:, None]

    # Whatever such a network computes, it computes from its window: the best linear function of that window is fitted.
    noise = np.random.default_rng(0).normal(size=700)
    x = np.zeros(700)
    for t in range(1, 700):
        x[t] = 0.6 * x[t - 1] + 0.8 * noise[t]
    seen = min(field, 41)
    past = windows(x, 41)[:, ::-1].copy()  # (times, 41): now, one step ago, two ...
    delays = np.arange(1, 41)
    products = past.T @ past
    best = np.linalg.solve(products[:seen, :seen], products[:seen, delays])
    error = 1 - (best * products[:seen, delays]).sum(0) / np.diag(products)[delays]
    return (
        heatmap(np.where(rows, depth, np.nan), rows=names, columns=[str(t) for t in range(-31, 1)], x="time (0 is now)", y="layer",
                value="layer", caption="What the newest output depends on, layer by layer. "
                + ("All of it is in the frame." if field <= 32 else f"The field is {field} steps wide; the last 32 are shown.")),
        line({"error of the best fit": (delays, error)}, x="delay (steps)", y="share of variance missed", range_y=(-0.02, 1.05), markers=["error of the best fit"],
             marks={"chosen": delay, **({"end of the field": field - 0.5} if field <= 40 else {})},
             caption="Inside the field an echo is repeated exactly. Outside, only what neighbouring steps have in common helps."),
        f"Receptive field: 1 + {per_block}·({k} − 1)·(2^{levels} − 1) = {field} steps. An echo after {delay} steps is "
        + ("inside: the error is 0." if delay < field else f"outside: {error[delay - 1]:.0%} of its variance cannot be had, with any weights."),
    )
