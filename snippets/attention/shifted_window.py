"""Shifted-window attention (Swin) in NumPy, one head."""

import numpy as np

from snippets.attention.scaled_dot_product import masked_softmax


def partition(x, M):
    """(H, W, ...) -> windows (N, M * M, ...), row by row."""
    H, W, *rest = x.shape
    return x.reshape(H // M, M, W // M, M, *rest).swapaxes(1, 2).reshape(-1, M * M, *rest)


def reverse(windows, M, H, W):
    rest = windows.shape[2:]
    return windows.reshape(H // M, W // M, M, M, *rest).swapaxes(1, 2).reshape(H, W, *rest)


def regions(H, W, shift):
    """After the roll, a number for each pixel: pixels that came in from the other side have another one."""
    return 2 * (np.arange(H) >= H - shift)[:, None] + (np.arange(W) >= W - shift)


def shifted_window_attention(x, wq, wk, wv, wo, table, M, shift):
    """An image (H, W, D); ``table`` holds a bias for each of the (2 M - 1)² relative positions in a window."""
    H, W, _ = x.shape
    rolled = np.roll(x, (-shift, -shift), (0, 1))
    q, k, v = (partition(rolled @ w, M) for w in (wq, wk, wv))
    place = np.stack(np.divmod(np.arange(M * M), M), 1)
    offset = place[:, None] - place + M - 1
    scores = q @ k.swapaxes(1, 2) / np.sqrt(q.shape[-1]) + table[offset[..., 0] * (2 * M - 1) + offset[..., 1]]
    region = partition(regions(H, W, shift), M)
    weights = masked_softmax(scores, region[:, :, None] == region[:, None])
    return np.roll(reverse(weights @ v @ wo, M, H, W), (shift, shift), (0, 1))


# %% demo
from snippets.attention.sparse import reach
from snippets.live import choice, demo, heatmap, slider

SIDE = 8


def windows_of(M, shift):
    """For each pixel of the image as it is, the piece of a window that it lies in."""
    line = (np.arange(SIDE) - shift) // M
    return (line - line.min())[:, None] * 10 + (line - line.min())


@demo(
    window=choice(2, 4, label="window"),
    shift=slider(0, 3, label="shift of every second layer"),
    row=slider(0, 7, label="row of the pixel"),
    column=slider(0, 7, label="column of the pixel"),
    layers=slider(1, 3, label="layers"),
)
def show(window=2, shift=1, row=3, column=3, layers=2):
    """Without a shift, windows stay strangers for ever. With one, the second layer looks across their borders."""
    if shift >= window:
        raise ValueError(f"a shift of {shift} moves windows of {window} to where they were: take less than {window}")
    pieces = windows_of(window, shift)
    grids = [windows_of(window, shift if n % 2 else 0).ravel() for n in range(layers)]
    reached = reach(*[grid[:, None] == grid for grid in grids])[row * SIDE + column].reshape(SIDE, SIDE)
    region = partition(regions(SIDE, SIDE, shift), window)
    last = region[-1][:, None] == region[-1]
    number = np.unique(pieces, return_inverse=True)[1].reshape(SIDE, SIDE)
    return (
        heatmap(
            number, x="column", y="row", value="window", range=(0, max(number.max(), 1)),
            caption=f"Windows of the shifted layer: {number.max() + 1} pieces. Those at the borders are packed together by the roll, so "
                    "that all windows stay of one size.",
        ),
        heatmap(
            last * 1.0, x="pixel of the window that is read", y="pixel that reads", value="seen", range=(0, 1),
            caption="The mask of the last window after the roll. Its pixels come from opposite borders of the image; without the "
                    "mask they would read each other.",
        ),
        heatmap(
            reached * 1.0, x="column", y="row", value="reached", range=(0, 1),
            caption=f"What pixel ({row}, {column}) can know after {layers} layer{'s' * (layers > 1)}.",
        ),
        f"{int(reached.sum())} of {SIDE * SIDE} pixels can have an influence on pixel ({row}, {column}); a layer computes "
        f"{SIDE * SIDE * window * window:,} scores, full attention {SIDE**4:,}.",
    )
