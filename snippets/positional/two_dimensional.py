"""2D positional embedding in NumPy, and its interpolation for another grid."""

import numpy as np

from snippets.positional.sinusoidal import sinusoidal_table


def axis(n, d, base):
    """The table of one axis: all sines, then all cosines."""
    table = sinusoidal_table(np.arange(n), d, base)
    return np.concatenate([table[:, 0::2], table[:, 1::2]], -1)


def sincos_2d(h, w, d, base=10000.0):
    """(h, w, d): the first half of a vector says the row, the second half the column."""
    rows, columns = axis(h, d // 2, base)[:, None], axis(w, d // 2, base)[None]
    return np.concatenate([np.broadcast_to(rows, (h, w, d // 2)), np.broadcast_to(columns, (h, w, d // 2))], -1)


def cubic(new, old, a=-0.75):
    """Matrix (new, old) that resamples a line: each new point takes from its four neighbours."""
    at = (np.arange(new) + 0.5) * old / new - 0.5
    matrix = np.zeros((new, old))
    for tap in (-1, 0, 1, 2):
        j = np.floor(at).astype(int) + tap
        t = np.abs(at - j)
        near, far = ((a + 2) * t - (a + 3)) * t * t + 1, ((a * t - 5 * a) * t + 8 * a) * t - 4 * a
        np.add.at(matrix, (np.arange(new), np.clip(j, 0, old - 1)), np.where(t <= 1, near, far))
    return matrix


def resize(table, h, w):
    """Bicubic, each coordinate of (H, W, d) as a picture of its own."""
    return np.einsum("ah,bw,hwd->abd", cubic(h, table.shape[0]), cubic(w, table.shape[1]), table)


# %% demo
from snippets.live import demo, heatmap, slider


@demo(
    row=slider(0, 13, label="row of the patch"),
    column=slider(0, 13, label="column of the patch"),
    d=slider(8, 128, step=8, label="width of the vectors"),
    base=slider(10.0, 1e4, log=True, label="base"),
    size=slider(7, 28, label="side of the new grid", unit="patches"),
)
def show(row=4, column=9, d=64, base=100.0, size=21):
    """Move the patch: the bright spot follows. Then resize the grid: the spot keeps its place in the picture."""
    table = sincos_2d(14, 14, d, base)
    match = table @ table[row, column] / (d / 2)
    larger = resize(table, size, size)
    at = int((row + 0.5) * size / 14), int((column + 0.5) * size / 14)
    length = np.linalg.norm(larger, axis=-1)
    new = larger @ larger[at] / (length * length[at])
    own = table[row, column]
    return (
        heatmap(match, x="column", y="row", value="match with the patch", range=(-0.4, 1), signed=False,
                caption="How alike each of 14 × 14 patches is to the chosen one. The cross comes from the two halves: patches in "
                        "the same row share one half, patches in the same column the other."),
        heatmap(new, x="column", y="row", value="match with the patch", range=(-0.4, 1), signed=False,
                caption=f"The table resampled to {size} × {size} for another resolution, without the class token: the same picture, "
                        "in finer or coarser dots."),
        f"The neighbour in the row matches by {own @ table[row, (column + 1) % 14] / (d / 2):.3f}, the one across the corner by "
        f"{own @ table[(row + 1) % 14, (column + 1) % 14] / (d / 2):.3f}; a patch far away in both by "
        f"{own @ table[(row + 7) % 14, (column + 7) % 14] / (d / 2):.3f}.",
    )
