"""DropBlock in NumPy."""

import numpy as np

from snippets.regularization.dropout import dropout_mask


def block_rate(h, w, p, size):
    """The probability to draw a corner of a square, if squares did not overlap."""
    return p / size**2 * h * w / ((h - size + 1) * (w - size + 1))


def block_mask(shape, p, size, rng):
    """1 where a map (..., H, W) is kept: no square whose upper left corner was drawn covers it."""
    *lead, h, w = shape
    corners = dropout_mask((*lead, h - size + 1, w - size + 1), block_rate(h, w, p, size), rng) == 0
    kept = np.ones(shape)
    for r in range(size):
        for c in range(size):
            kept[..., r : r + h - size + 1, c : c + w - size + 1][corners] = 0
    return kept


def dropblock(x, p, size, rng):
    """The rest is scaled up by the share that is left."""
    kept = block_mask(x.shape, p, size, rng)
    return x * kept * kept.size / max(kept.sum(), 1)


def drop_share(h, w, p, size):
    """What is really dropped on average: pixels that more squares can cover are dropped more often."""
    rows, columns = (np.array([min(i + 1, n - i, size, n - size + 1) for i in range(n)]) for n in (h, w))
    return (1 - (1 - block_rate(h, w, p, size)) ** np.outer(rows, columns)).mean()


# %% demo
from snippets.live import demo, heatmap, line, slider


@demo(
    p=slider(0.0, 0.5, step=0.05, label="p, share to drop"),
    size=slider(1, 11, label="side of a square", unit="px"),
    draw=slider(0, 9, label="which mask"),
)
def show(p=0.2, size=5, draw=0):
    """Size 1 is dropout: you still see the shape. With larger squares parts of it are gone. Raise p: squares overlap, and less is dropped than asked for."""
    n = 24
    r, c = np.mgrid[0:n, 0:n] - (n - 1) / 2
    feature = np.exp(-((np.hypot(r, c) - 7) ** 2) / 6) + 0.15
    kept = block_mask((n, n), p, size, np.random.default_rng(draw))
    scaled = feature * kept * kept.size / max(kept.sum(), 1)
    asked = np.arange(0, 0.51, 0.025)
    real = np.array([drop_share(n, n, a, size) for a in asked])
    many = 1 - block_mask((40, n, n), p, size, np.random.default_rng(1)).mean((1, 2))
    return (
        heatmap(kept, x="column", y="row", value="kept", range=(0, 1), caption="The mask: dark squares are dropped."),
        heatmap(scaled, x="column", y="row", value="activation", range=(0, 1.6), caption="The map behind it. What is left is scaled up, so that the mean over all maps stays."),
        line({"real share": real, "asked for": asked}, at=asked, x="p", y="share dropped", dashed=["asked for"], range_y=(0, 0.5), marks={"p": p},
             caption="Squares that overlap drop a pixel once only: the larger p, the more is missing."),
        f"Asked {p:.2f}, expected {drop_share(n, n, p, size):.3f}; this mask drops {1 - kept.mean():.3f}, the mean of 40 masks is {many.mean():.3f}.",
    )
