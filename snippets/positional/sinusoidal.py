"""Sinusoidal positional encoding in NumPy."""

import numpy as np


def sinusoidal_table(positions, d, base=10000.0):
    """One row of d numbers for each position: sine and cosine of d/2 clocks, the fastest first."""
    rate = base ** (-np.arange(0, d, 2) / d)
    angle = np.asarray(positions)[:, None] * rate
    return np.stack([np.sin(angle), np.cos(angle)], -1).reshape(len(angle), d)


def product(distance, d, base=10000.0):
    """Product of two rows that are so far apart, whichever rows they are; 1 at distance 0."""
    rate = base ** (-np.arange(0, d, 2) / d)
    return np.cos(np.asarray(distance)[:, None] * rate).mean(-1)


# %% demo
from snippets.live import demo, heatmap, line, slider


@demo(
    d=slider(4, 128, step=4, label="width of the vectors"),
    base=slider(10.0, 1e5, log=True, label="base"),
    length=slider(16, 256, label="positions", unit="tokens"),
    reference=slider(0, 255, label="reference position"),
)
def show(d=32, base=10000.0, length=64, reference=20):
    """Lower the base until the slowest clock turns within the picture. Then move the reference: the peak moves, its shape stays."""
    reference = min(reference, length - 1)
    rows = np.unique(np.linspace(0, length - 1, min(length, 32)).round().astype(int))
    columns = np.unique(np.linspace(0, d - 1, min(d, 32)).round().astype(int))
    at = np.arange(length)
    table = sinusoidal_table(at, d, base)
    match = table @ table[reference] / (d / 2)
    chosen = sorted({0, d // 4 * 2 if d > 4 else 2, d - 2})
    slowest = 2 * np.pi * base ** ((d - 2) / d)
    return (
        heatmap(table[np.ix_(rows, columns)], x="coordinate", y="position", value="encoding", signed=True, range=(-1, 1),
                rows=rows, columns=columns,
                caption="Each column is a wave over positions, fast on the left and slow on the right. With a large base the right "
                        "half hardly changes: those clocks are for longer texts."),
        line({"match": (at, match)}, x="position", y="product with the reference, 1 = itself", range_y=(-0.6, 1.05),
             marks={"reference": reference}, levels={"0": 0.0},
             caption="How alike each position's vector is to the reference. The curve is the same around every reference: "
                     "only the distance counts."),
        line({f"coordinate {c}": (at, table[:, c]) for c in chosen}, x="position", y="encoding", range_y=(-1.1, 1.1),
             caption="Three of the sines: the fastest, one from the middle and the slowest."),
        f"One turn takes 6.3 positions in the fastest pair and {slowest:,.0f} in the slowest. Neighbours match by "
        f"{product([1], d, base)[0]:.3f}, positions 10 apart by {product([10], d, base)[0]:.3f}.",
    )
