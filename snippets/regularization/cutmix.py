"""CutMix in NumPy."""

import numpy as np


def cut_box(height, width, lam, center):
    """A rectangle with 1 - lam of the area, clipped at the border: rows top to bottom, columns left to right."""
    edges = []
    for size, at in zip((height, width), center):
        side = round(size * (1 - lam) ** 0.5)
        first = int(at * size) - side // 2
        edges += [max(first, 0), min(first + side, size)]
    return edges


def cutmix(a, b, lam, center):
    """Image a (C, H, W) with a rectangle of b, and the share of a that is really left: the weight of its label."""
    top, bottom, left, right = cut_box(*a.shape[-2:], lam, center)
    mixed = a.copy()
    mixed[:, top:bottom, left:right] = b[:, top:bottom, left:right]
    return mixed, 1 - (bottom - top) * (right - left) / (a.shape[-2] * a.shape[-1])


# %% demo
from snippets.live import bars, demo, image, slider


def pictures(n=48):
    """A disk on sand, and a striped square on blue."""
    r, c = np.mgrid[0:n, 0:n] / (n - 1)
    disk = (((r - 0.5) ** 2 + (c - 0.5) ** 2) < 0.09)[None]
    first = np.where(disk, np.array([0.84, 0.37, 0.0])[:, None, None], np.array([0.95, 0.9, 0.75])[:, None, None])
    square = ((np.abs(r - 0.5) < 0.33) & (np.abs(c - 0.5) < 0.33))[None]
    stripes = np.where((np.floor(c * 12) % 2 == 0)[None], np.array([0.0, 0.45, 0.7])[:, None, None], np.array([1.0, 1.0, 1.0])[:, None, None])
    return first, np.where(square, stripes, np.array([0.7, 0.85, 0.95])[:, None, None])


@demo(
    lam=slider(0.0, 1.0, step=0.05, label="lam, share to keep"),
    x=slider(0.0, 1.0, step=0.05, label="center of the box, from left"),
    y=slider(0.0, 1.0, step=0.05, label="center of the box, from top"),
)
def show(lam=0.6, x=0.85, y=0.3):
    """Push the box over the border: less is pasted, and the label follows the true area. Put it in the middle: the disk may be gone."""
    a, b = pictures()
    mixed, true = cutmix(a, b, lam, (y, x))
    top, bottom, left, right = cut_box(48, 48, lam, (y, x))
    disk = np.abs(a - a[:, :1, :1]).sum(0) > 0
    seen = disk.copy()
    seen[top:bottom, left:right] = False
    framed = mixed.copy()
    if bottom > top and right > left:
        for r in (top, bottom - 1):
            framed[:, r, left:right] = 0
        for c in (left, right - 1):
            framed[:, top:bottom, c] = 0
    pair = np.concatenate([a, np.ones((3, 48, 4)), b, np.ones((3, 48, 4)), framed], 2)
    return (
        image(pair.transpose(1, 2, 0), caption=f"Image a, image b, and a with a box of b (framed here in black): {bottom - top} × {right - left} of 48 × 48 pixels."),
        bars({"as drawn": {"disk": lam, "stripes": 1 - lam}, "true area": {"disk": true, "stripes": 1 - true}}, y="weight in the label", range_y=(0, 1),
             caption="The label has the weights of the true areas. With the drawn ones it would claim pixels that lie outside."),
        f"Drawn {lam:.2f}, true {true:.3f}. Of the disk itself {100 * seen.sum() / disk.sum():.0f} % can be seen, while its label keeps {100 * true:.0f} %.",
    )
