"""Fractional max pooling in NumPy."""

import numpy as np


def pooling_sequence(n_in, n_out, k, u):
    """Where n_out windows of width k start: steps of about a = (n_in - k) / (n_out - 1), shifted by u from 0 to 1."""
    last = n_in - k
    if not 1 <= n_out <= last + 1:
        raise ValueError(f"{n_out} windows of width {k} have only {last + 1} places in {n_in}")
    if n_out == 1:
        return np.array([last])
    a = last / (n_out - 1)
    starts = ((np.arange(n_out) + u) * a).astype(int) - int(u * a)
    starts[-1] = last
    return starts


def fractional_max_pool(x, n_out, k, u):
    """x (H, W), n_out and u: one number each for height and width."""
    rows, columns = (pooling_sequence(n, m, k, v)[:, None] + np.arange(k) for n, m, v in zip(x.shape, n_out, u))
    return x[rows[:, None, :, None], columns[None, :, None, :]].max((-2, -1))


# %% demo
from snippets.live import choice, demo, heatmap, line, slider


@demo(
    ratio=slider(0.5, 0.95, step=0.01, label="output over input"),
    u=slider(0.0, 1.0, step=0.01, label="random number u"),
    kernel=choice(2, 3, label="window"),
)
def show(ratio=0.7, u=0.3, kernel=2):
    """Move u: the steps change places, the size stays. At 0.5 with window 2 nothing is random. Near 1 many gentle layers fit into a network."""
    n = 16
    y, x = np.mgrid[:n, :n]
    picture = 0.5 + 0.5 * np.sin(0.9 * x + 0.4 * y) * np.cos(0.5 * y)
    m = int(n * ratio + 1e-9)
    columns, rows = pooling_sequence(n, m, kernel, u), pooling_sequence(n, m, kernel, (u + 0.37) % 1)
    read = np.zeros(n), np.zeros(n)
    for count, starts in zip(read, (rows, columns)):
        for start in starts:
            count[start : start + kernel] += 1
    pooled = fractional_max_pool(picture, (m, m), kernel, ((u + 0.37) % 1, u))
    steps = np.diff(columns)
    ratios = np.linspace(0.5, 0.95, 46)

    def layers(r):
        size, used = 64, 0
        while size > 1:
            size, used = int(size * r + 1e-9), used + 1
        return used

    return (
        heatmap(np.outer(*read), x="column", y="row", value="windows that read it", signed=False, range=(0, kernel**2),
                caption=f"How many of the {m}×{m} windows read each of {n}×{n} pixels. Bright lines are borders where windows overlap: a step of 1."),
        heatmap(pooled, x="column", y="row", value="maximum", signed=False, range=(0, 1), caption=f"The pooled image, {m}×{m}."),
        line({"layers": [layers(r) for r in ratios]}, at=ratios, x="output over input", y="pooling layers from 64 to 1", marks={"now": ratio}, steps=True,
             caption="How many pooling layers, each with convolutions before it, a 64×64 image has room for."),
        f"Steps along a row: {' '.join(map(str, steps))}. Mean step {(n - kernel) / max(m - 1, 1):.2f}; {layers(ratio)} layers from 64 to 1, where halving has 6.",
    )
