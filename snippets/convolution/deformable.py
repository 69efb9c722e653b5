"""Deformable convolution in NumPy."""

import numpy as np


def sample(x, rows, columns):
    """x (C, H, W), points (...) -> (C, ...): the four nearest pixels, weighted by nearness; outside is 0."""
    H, W = x.shape[1:]
    result = 0.0
    for below in (0, 1):
        for right in (0, 1):
            i, j = np.floor(rows) + below, np.floor(columns) + right
            near = (1 - abs(rows - i)) * (1 - abs(columns - j)) * ((i >= 0) & (i < H) & (j >= 0) & (j < W))
            result = result + near * x[:, np.clip(i, 0, H - 1).astype(int), np.clip(j, 0, W - 1).astype(int)]
    return result


def deform_conv2d(x, offset, w, mask=1.0):
    """x (C, H, W), offset (k·k, 2, H', W') down and right, w (O, C, k, k) -> (O, H', W')."""
    O, C, k, _ = w.shape
    tap = np.arange(k * k)[:, None, None]
    i, j = np.mgrid[: offset.shape[2], : offset.shape[3]]
    seen = sample(x, i + tap // k + offset[:, 0], j + tap % k + offset[:, 1])  # (C, k·k, H', W')
    return np.einsum("ock,ckhw->ohw", w.reshape(O, C, k * k), seen * mask)


# %% demo
from snippets.live import bars, demo, scatter, slider, toggle

REACH = 4.0  # pixels from one tap to the next, before they move
WEIGHTS = np.array([-0.5, -0.5, -0.5, 1, 1, 1, -0.5, -0.5, -0.5])  # looks for a bar that lies level


def bar(scale, degrees):
    """A soft bar in the middle of 33×33 pixels, and its outline."""
    i, j = np.mgrid[:33, :33] - 16.0
    turn = np.radians(degrees)
    along, across = j * np.cos(turn) + i * np.sin(turn), -j * np.sin(turn) + i * np.cos(turn)
    long, wide = 7 * scale, 2.5 * scale
    soft = lambda distance: 1 / (1 + np.exp(np.clip(distance / 0.8, -50, 50)))  # noqa: E731
    corners = np.array([[-long, -wide], [long, -wide], [long, wide], [-long, wide], [-long, -wide]])
    outline = corners @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    return soft(abs(along) - long) * soft(abs(across) - wide), outline * [1, -1]  # drawn with down as below


def fit(x, grid, steps=50):
    """Move the nine points uphill for 50 steps: what training does to the offsets, here for a single image."""
    offset = np.zeros_like(grid)
    for _ in range(steps):
        slope = np.stack([
            sample(x, *(grid + offset + step)) - sample(x, *(grid + offset - step)) for step in 0.5 * np.eye(2)[:, :, None]
        ])[:, 0]
        offset += np.clip(2.0 * WEIGHTS * slope, -0.3, 0.3)
    return offset


@demo(
    scale=slider(0.5, 2.0, step=0.1, label="size of the bar"),
    degrees=slider(0, 90, step=5, label="rotation", unit="°"),
    strength=slider(0.0, 2.0, step=0.1, label="strength of the offsets"),
    learned=toggle(label="offsets found by 50 gradient steps"),
)
def show(scale=1.0, degrees=35, strength=1.0, learned=True):
    """The kernel looks for a level bar: its middle row counts +1, the others −½. Turn the bar, and watch the taps follow it."""
    image, outline = bar(scale, degrees)
    tap = np.arange(9)
    grid = 16 + REACH * np.stack([tap // 3 - 1.0, tap % 3 - 1.0])
    offset = strength * fit(image[None], grid) if learned else np.zeros_like(grid)
    before, after = sample(image[None], *grid)[0], sample(image[None], *(grid + offset))[0]
    place = lambda points: np.stack([points[1] - 16, 16 - points[0]], 1)  # noqa: E731
    start, end = place(grid), place(grid + offset)
    middle = WEIGHTS > 0
    names = [str(n) for n in range(1, 10)]
    groups = {"counts +1": end[middle], "counts −½": end[~middle]}
    if learned:
        groups["regular grid"] = start
    return (
        scatter(groups, lines={"bar": [outline], "moved": [np.stack(pair) for pair in zip(start, end)]}, equal=True, range_x=(-17, 17), range_y=(-17, 17),
                x="to the right (pixels)", y="up (pixels)", caption="The bar's outline and the nine points at which the kernel reads."),
        bars({"regular": dict(zip(names, before)), "moved": dict(zip(names, after))}, x="tap, row by row", y="value read", range_y=(0, 1),
             caption="What each tap reads. The middle row, taps 4 to 6, should read 1 and the others 0."),
        f"Response: {WEIGHTS @ before:.2f} on the regular grid, {WEIGHTS @ after:.2f} with these offsets; 3 is the most there is.",
    )
