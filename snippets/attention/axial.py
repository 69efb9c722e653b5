"""Axial attention in NumPy."""

import numpy as np

from snippets.attention.multi_head import merge_heads, split_heads
from snippets.attention.scaled_dot_product import scaled_dot_product_attention


def axial_attention(x, wq, wk, wv, wo, head_dim, axis):
    """An image (H, W, D) whose lines are sequences: along "width" a pixel reads its row, along "height" its column."""
    lines = np.swapaxes(x, 0, 1) if axis == "height" else x
    q, k, v = (split_heads(lines @ w, head_dim) for w in (wq, wk, wv))
    out = merge_heads(scaled_dot_product_attention(q, k, v)[0]) @ wo
    return np.swapaxes(out, 0, 1) if axis == "height" else out


def scores(side, kind, window=4):
    """Scores of a head for a square image."""
    per_pixel = {"full": side * side, "axial": 2 * side, "window": window * window}
    return side * side * per_pixel[kind]


# %% demo
from snippets.attention.sparse import reach
from snippets.live import choice, demo, heatmap, line, slider


@demo(
    row=slider(0, 7, label="row of the pixel"),
    column=slider(0, 7, label="column of the pixel"),
    axis=choice("row", "column", "both", label="a layer reads"),
    layers=choice(1, 2, label="layers"),
    size=slider(8, 16, label="size of the image", unit="pixels"),
)
def show(row=2, column=5, axis="both", layers=1, size=8):
    """Both: a layer reads the row and the column of a pixel. A second layer brings in everything."""
    place = np.arange(size * size)
    same_row = place[:, None] // size == place // size
    same_column = place[:, None] % size == place % size
    mask = {"row": same_row, "column": same_column, "both": same_row | same_column}[axis]
    at = row * size + column
    # In how many ways a pixel's news can come: along one path only where row and column cross.
    ways = np.linalg.matrix_power(mask.astype(float), layers)[at].reshape(size, size)
    reached = reach(*[mask] * layers)[at]
    sides = np.arange(4.0, 129.0, 4)
    return (
        heatmap(
            ways / ways.max(), x="column", y="row", value="paths to the pixel", range=(0, 1),
            caption=f"What can influence pixel ({row}, {column}), and through how many paths, relative to the most. After two layers of "
                    "both, a pixel off the lines has two paths only: its two corners.",
        ),
        line(
            {"full": scores(sides, "full"), "axial, both": scores(sides, "axial"), "windows of 4 × 4": scores(sides, "window")}, at=sides,
            x="side of the image (pixels)", y="scores of a head", log_y=True, dashed=["full"], marks={"now": size},
            caption="Doubling the side costs 16 times as much with full attention, 8 times with axial, 4 times with windows.",
        ),
        f"{int(reached.sum())} of {size * size} pixels can have an influence. Axial attention over both axes computes {size // 2} times "
        "fewer scores than full attention.",
    )
