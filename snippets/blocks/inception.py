"""Inception module in NumPy."""

import numpy as np

from snippets.convolution.conv2d import conv2d, patches
from snippets.convolution.pointwise import pointwise


def largest_neighbour(x):
    """x (C, H, W): the maximum of every 3×3 window; the border is outside."""
    return patches(np.pad(x, ((0, 0), (1, 1), (1, 1)), constant_values=-np.inf), 3).max((-2, -1))


def inception(x, one, reduce3, three, reduce5, five, pool):
    """x (C, H, W) -> four branches side by side; the 3×3 and 5×5 read a few mixtures of the channels only."""
    relu = lambda y: np.maximum(y, 0)  # noqa: E731
    return np.concatenate([
        relu(pointwise(x, one)),
        relu(conv2d(relu(pointwise(x, reduce3)), three, padding=1)),
        relu(conv2d(relu(pointwise(x, reduce5)), five, padding=2)),
        relu(pointwise(largest_neighbour(x), pool)),
    ])


def costs(C, c1, r3, c3, r5, c5, pool):
    """Weights of each branch, and as many multiply-adds per pixel."""
    return {"1×1": C * c1, "3×3": C * r3 + 9 * r3 * c3, "5×5": C * r5 + 25 * r5 * c5, "pool": C * pool}


# %% demo
from snippets.live import bars, demo, image, slider


def picture(scale):
    """Upright stripes of one width, level stripes of the next, and a disc."""
    i, j = np.mgrid[:24, :24]
    x = np.full((24, 24), 0.1)
    x[1:12, 1:23] = 0.1 + 0.8 * (j[1:12, 1:23] // scale % 2)
    x[13:23, 1:12] = 0.1 + 0.8 * (i[13:23, 1:12] // scale % 2)
    x[(i - 17.5) ** 2 + (j - 17.5) ** 2 < min(2.0 * scale, 5) ** 2] = 0.9
    return x


@demo(
    scale=slider(1, 6, label="width of the details", unit="pixels"),
    width=slider(4, 64, step=4, label="channels of the 3×3 branch, per 64 in"),
    reduce=slider(4, 64, step=4, label="reduction in front of it, per 64 in"),
)
def show(scale=1, width=32, reduce=16):
    """Each branch looks for a spot of its own size. Details of one pixel belong to the 3×3; at two and three the 5×5 has caught up; wider ones escape both."""
    x = picture(scale)[None]
    spot3 = -np.ones((1, 1, 3, 3)) / 8
    spot3[0, 0, 1, 1] = 1
    spot5 = -np.ones((1, 1, 5, 5)) / 16
    spot5[0, 0, 1:4, 1:4] = 1 / 9
    eye = np.eye(1)
    y = inception(x, eye, eye, spot3, eye, spot5, eye)
    gap = np.ones((24, 1))
    inside = y[1:3, 3:-3, 3:-3]
    energy = np.sqrt((inside**2).mean((1, 2)))

    C, c5 = 192, max(width * 3 // 4, 1)
    sizes = C, C // 3, 3 * reduce, 3 * width, max(3 * reduce // 6, 1), c5, C // 6
    with_, without = costs(*sizes), {"1×1": C * sizes[1], "3×3": 9 * C * sizes[3], "5×5": 25 * C * sizes[5], "pool": C * sizes[6]}
    return (
        image(x[0], caption="The input: details of one width, upright, level and round."),
        image(np.hstack([y[0], gap, y[1], gap, y[2], gap, y[3]]), caption="The branches: 1×1 (here a copy), a 3×3 spot, a 5×5 spot, and the largest of each neighbourhood."),
        bars({"with reductions": with_, "without": without}, y="multiply-adds per pixel", caption="From 192 channels, as in GoogLeNet's first module."),
        f"The 3×3 spot answers with {energy[0]:.2f}, the 5×5 spot with {energy[1]:.2f} (root mean square). "
        f"The reductions cut {sum(without.values()):,} multiply-adds per pixel to {sum(with_.values()):,}.",
    )
