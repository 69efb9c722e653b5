"""Average pooling in NumPy."""

import numpy as np

from snippets.pooling.max import windows


def average_pool(x, k, stride, padding=0, count_include_pad=True):
    """x (H, W): the mean of every window; the zeros of the padding count in it or not."""
    sums = windows(x, k, stride, padding).sum((-2, -1))
    counted = np.ones_like(x) if not count_include_pad else None
    return sums / (k * k if counted is None else windows(counted, k, stride, padding).sum((-2, -1)))


# %% demo
from snippets.live import bars, choice, demo, heatmap, line, slider, toggle

SIZE = 24


def picture(kind):
    y, x = np.mgrid[:SIZE, :SIZE]
    if kind == "checkerboard":
        return ((x // 2 + y // 2) % 2).astype(float)
    if kind == "flat":
        return np.ones((SIZE, SIZE))
    return np.clip(0.5 + 0.2 * np.random.default_rng(0).normal(size=(SIZE, SIZE)), 0, 1)


@demo(
    kernel=slider(2, 6, label="window"),
    stride=slider(1, 6, label="stride"),
    padding=slider(0, 2, label="padding"),
    include=toggle(label="zeros of the padding count"),
    kind=choice("checkerboard", "noise", "flat", label="image"),
)
def show(kernel=4, stride=2, padding=1, include=True, kind="flat"):
    """A flat image must stay flat: it does not, while the padding counts. Then take noise, and the checkerboard at windows 2 and 4."""
    if padding > kernel // 2:
        raise ValueError(f"a padding of {padding} is more than half of a window of {kernel}: some windows would be empty")
    x = picture(kind)
    y = average_pool(x, kernel, stride, padding, include)
    flat = average_pool(np.ones_like(x), kernel, stride, padding, include)
    noise = np.random.default_rng(1).normal(size=(96, 96))
    left = {f"{k}×{k}": average_pool(noise, k, k).var() for k in range(2, 7)}
    return (
        heatmap(y, x="column", y="row", value="output", range=(0, 1), signed=False,
                caption=f"{SIZE}×{SIZE} pixels, {kind}, averaged to {y.shape[0]}×{y.shape[1]}."),
        line({"zeros count": average_pool(np.ones_like(x), kernel, stride, padding, True)[len(flat) // 2],
              "they do not": average_pool(np.ones_like(x), kernel, stride, padding, False)[len(flat) // 2]},
             x="output column", y="output for an image of ones", range_y=(0, 1.1), dashed=["they do not" if include else "zeros count"],
             caption="The middle row of the output for an image of ones. Counted zeros darken the border."),
        bars({"measured": left, "1/k²": {f"{k}×{k}": 1 / k**2 for k in range(2, 7)}}, x="window", y="variance left of noise", range_y=(0, 0.3),
             caption="Independent noise of variance 1 keeps 1/k² of it: averaging is a low-pass filter."),
        f"In the corner an image of ones comes out as {flat[0, 0]:.3f}. This {kind} image had a variance of {x.var():.3f} and has {y.var():.3f} now.",
    )
