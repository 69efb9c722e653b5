"""Spatial dropout in NumPy, on maps of edges."""

import numpy as np

from snippets.regularization.dropout import dropout, dropout_mask


def channel_dropout(x, p, rng):
    """x (B, C, H, W): one draw for each map."""
    return x * dropout_mask((*x.shape[:2], 1, 1), p, rng)


def neighbor_mean(x, known):
    """For each pixel of x (..., H, W), the mean of the known ones among its eight neighbors; 0 where there is none."""
    pad = [(0, 0)] * (x.ndim - 2) + [(1, 1), (1, 1)]
    value, count = np.pad(x * known, pad), np.pad(known * 1.0, pad)
    h, w = x.shape[-2:]
    around = [(r, c) for r in range(3) for c in range(3) if (r, c) != (1, 1)]
    total = sum(value[..., r : r + h, c : c + w] for r, c in around)
    n = sum(count[..., r : r + h, c : c + w] for r, c in around)
    return total / np.maximum(n, 1)


# %% demo
from snippets.live import bars, demo, image, slider, toggle

FILTERS = {"vertical": [[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]], "horizontal": [[-1, -2, -1], [0, 0, 0], [1, 2, 1]],
           "diagonal": [[0, 1, 2], [-1, 0, 1], [-2, -1, 0]], "blob": [[1, 2, 1], [2, 4, 2], [1, 2, 1]]}


def edge_maps(n=28):
    """A soft ring through four filters, behind a ReLU: (1, 4, n, n)."""
    r, c = np.mgrid[0 : n + 2, 0 : n + 2] - (n + 1) / 2
    ring = np.exp(-((np.hypot(r, c) - n / 3.5) ** 2) / 12)
    maps = [sum(w * ring[i : i + n, j : j + n] for i, row in enumerate(k) for j, w in enumerate(row)) for k in FILTERS.values()]
    maps = np.maximum(np.array(maps), 0)
    return (maps / maps.max((1, 2), keepdims=True))[None]


@demo(
    p=slider(0.0, 0.9, step=0.05, label="p, probability of a zero"),
    channels=toggle(label="drop whole channels (off: single pixels)"),
    draw=slider(0, 9, label="which mask"),
)
def show(p=0.5, channels=False, draw=0):
    """With half of the pixels gone you still see every shape, and so does the next layer. Switch to channels: a map is there or not."""
    x, rng = edge_maps(), np.random.default_rng(draw)
    y = channel_dropout(x, p, rng) if channels else dropout(x, p, rng)
    known = (y != 0) | ((x == 0) & (y.any((2, 3), keepdims=True)))
    gap = np.ones((28, 2))
    rows = [np.concatenate([m for one in maps[0] for m in (one, gap)][:-1], 1) for maps in (x, y * (1 - p))]
    guess = neighbor_mean(x, known)
    told = {}
    for i, name in enumerate(FILTERS):
        lost = ~known[0, i]
        # Pixels are judged against a guess of 0, which is what a dropped number says.
        told[name] = 100 * max(0.0, 1 - ((x[0, i] - guess[0, i])[lost] ** 2).sum() / max((x[0, i][lost] ** 2).sum(), 1e-12)) if lost.any() else 100.0
    flat = lambda m: np.corrcoef(m[:, :, :, :-1].ravel(), m[:, :, :, 1:].ravel())[0, 1]
    gone = int((~y.any((2, 3))).sum())
    return (
        image(np.concatenate([rows[0], np.ones((2, rows[0].shape[1])), rows[1]]), caption="Above: maps of four edge filters. Below: after dropout, shown without the scaling."),
        bars(told, x="map", y="recovered from neighbors (%)", range_y=(0, 100),
             caption="How much of what was dropped the mean of the neighbors tells. What can be guessed that well was not really taken away."),
        f"Neighboring pixels are correlated by {flat(x):.2f}. {gone} of 4 maps are gone as a whole.",
    )
