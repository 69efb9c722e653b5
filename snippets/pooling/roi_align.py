"""RoIAlign and RoI pooling in NumPy."""

import numpy as np


def bilinear(at, n):
    """Weights of n pixels in the value at each position, one row per position; nothing more than a pixel outside."""
    weights = np.maximum(1 - np.abs(np.clip(at, 0, n - 1)[:, None] - np.arange(n)), 0)
    return weights * ((at >= -1) & (at <= n))[:, None]


def roi_align(x, box, size, samples=2, aligned=True):
    """x (H, W), box (x1, y1, x2, y2) -> (size, size): bilinear samples, averaged per bin. Nothing is rounded."""
    axes = []
    for low, high, n in ((box[1], box[3], x.shape[0]), (box[0], box[2], x.shape[1])):
        low, side = (low - 0.5, high - low) if aligned else (low, max(high - low, 1.0))
        at = low + side * (np.arange(size * samples) + 0.5) / (size * samples)
        axes.append(bilinear(at, n).reshape(size, samples, n).mean(1))
    return axes[0] @ x @ axes[1].T


def roi_pool(x, box, size):
    """The same box, rounded to pixels, cut into bins that are rounded again, and the maximum of each."""
    x1, y1, x2, y2 = np.floor(np.asarray(box) + 0.5)
    members = []
    for low, high, n in ((y1, y2, x.shape[0]), (x1, x2, x.shape[1])):
        bins, side, pixel = np.arange(size)[:, None], max(high - low + 1, 1) / size, np.arange(n)
        members.append((pixel >= low + np.floor(bins * side)) & (pixel < low + np.ceil((bins + 1) * side)))
    over_rows = np.where(members[0][:, :, None], x, -np.inf).max(1)  # (size, W)
    out = np.where(members[1], over_rows[:, None], -np.inf).max(-1)
    return np.where(np.isfinite(out), out, 0.0)  # a bin without pixels


# %% demo
from snippets.live import choice, demo, heatmap, line, slider

RAMP = (np.arange(20)[None, :] + 0.5) + 0.5 * (np.arange(16)[:, None] + 0.5)  # x + y/2 at every pixel's centre
METHODS = {
    "RoIAlign": lambda box, samples: roi_align(RAMP, box, 7, samples),
    "RoIAlign, not aligned": lambda box, samples: roi_align(RAMP, box, 7, samples, aligned=False),
    "RoIPool": lambda box, samples: roi_pool(RAMP, box, 7),
}


@demo(
    left=slider(0.0, 10.0, step=0.1, label="left edge of the box", unit="px"),
    width=slider(1.0, 8.0, step=0.1, label="width of the box", unit="px"),
    samples=slider(1, 4, label="samples along a bin"),
    method=choice(*METHODS, label="method"),
)
def show(left=4.3, width=6.0, samples=2, method="RoIPool"):
    """The map is a ramp, so the right value of every bin is known. Move the box by tenths of a pixel and compare the errors."""
    box = lambda start: (start, 5.0, start + width, 5.0 + width)
    pooled = METHODS[method](box(left), samples)
    centre = (np.arange(7) + 0.5) / 7 * width
    exact = (left + centre)[None, :] + 0.5 * (5.0 + centre)[:, None]
    starts = np.linspace(0, 10, 41)
    curves = {name: [f(box(s), samples)[3, 3] for s in starts] for name, f in METHODS.items()}
    curves["exact"] = [s + width / 2 + 0.5 * (5.0 + width / 2) for s in starts]
    error = pooled - exact
    return (
        heatmap(error, x="bin along x", y="bin along y", value="error of the pooled value", signed=True, range=(-3, 3),
                caption=f"{method}: pooled minus exact, 7×7 bins. The ramp rises by 1 per pixel to the right, so an error of 1 is a pixel of displacement."),
        line(curves, at=starts, x="left edge of the box (px)", y="value of the middle bin", dashed=["exact"], marks={"now": left},
             caption="Stairs: rounding. Half a pixel beside the exact line: not aligned. On it: aligned."),
        f"Errors from {error.min():.2f} to {error.max():.2f}; the mean error is {error.mean():.2f}.",
    )
