"""Causal 1D convolution in NumPy."""

import numpy as np

from snippets.convolution.conv1d import conv1d


def causal_conv1d(x, w, dilation=1, state=None):
    """x (C, L), w (O, C, k) -> y (O, L) and the last (k − 1)·dilation inputs, which the next piece needs."""
    past = dilation * (w.shape[-1] - 1)
    if state is None:
        state = np.zeros((len(x), past))  # before the first position there was silence
    seen = np.concatenate([state, x], 1)
    return conv1d(seen, w, dilation=dilation), seen[:, seen.shape[1] - past :]


def reached(length, at, k, rates, causal=True):
    """How an impulse spreads: one row per layer, each layer a mean over its k taps."""
    x, w, rows = np.eye(length)[at][None], np.full((1, 1, k), 1 / k), []
    for rate in rates:
        rows.append(x[0])
        if causal:
            x, _ = causal_conv1d(x, w, rate)
        else:  # the same zeros, shared out to both sides
            reach = rate * (k - 1)
            x = conv1d(np.pad(x, ((0, 0), (reach // 2, reach - reach // 2))), w, dilation=rate)
    return np.array([*rows, x[0]])


# %% demo
from snippets.live import choice, demo, heatmap, slider, toggle


@demo(
    at=slider(0, 31, label="time of the impulse"),
    k=slider(2, 5, label="kernel size"),
    layers=slider(1, 6, label="layers"),
    growth=choice(1, 2, label="dilation grows by"),
    causal=toggle(label="causal"),
)
def show(at=8, k=3, layers=4, growth=2, causal=True):
    """An impulse runs down the layers. Switch causal off: it arrives at times before it happened."""
    rates = [growth**i for i in range(layers)]
    rows = reached(32, at, k, rates, causal)
    share = rows / np.maximum(rows.max(1, keepdims=True), 1e-300)
    field = 1 + (k - 1) * sum(rates)
    early = np.count_nonzero(rows[-1, :at])
    names = ["input", *(f"d = {rate}" for rate in rates)]
    return (
        heatmap(np.where(rows > 0, share, np.nan), rows=names, x="time", y="layer and its dilation",
                value="share of the row's largest", range=(0, 1),
                caption=f"Where the impulse at time {at} is felt after each layer. Empty cells know nothing of it."),
        f"An output of the last layer sees 1 + (k − 1)·({' + '.join(map(str, rates))}) = {field} positions. "
        + (f"{early} outputs know of the impulse before it happens. " if early else "No output knows of the impulse before it happens. ")
        + (f"To go on one position at a time, the stack keeps {field - 1} numbers per channel." if causal else ""),
    )
