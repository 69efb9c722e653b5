"""Sub-pixel convolution in NumPy."""

import numpy as np

from snippets.convolution.conv2d import conv2d


def pixel_shuffle(x, r):
    """x (C·r², H, W) -> (C, r·H, r·W): r² neighbouring channels become a square of r × r pixels."""
    _, H, W = x.shape
    return x.reshape(-1, r, r, H, W).transpose(0, 3, 1, 4, 2).reshape(-1, r * H, r * W)


def pixel_unshuffle(x, r):
    """The way back: (C, r·H, r·W) -> (C·r², H, W)."""
    C, H, W = x.shape
    return x.reshape(C, H // r, r, W // r, r).transpose(0, 2, 4, 1, 3).reshape(-1, H // r, W // r)


def sub_pixel_conv2d(x, w, r):
    """x (C, H, W), w (O·r², C, k, k) -> (O, r·H, r·W): all multiplications happen at low resolution."""
    reach = w.shape[-1] - 1
    sides = reach // 2, reach - reach // 2
    return pixel_shuffle(conv2d(np.pad(x, ((0, 0), sides, sides)), w), r)


def icnr(w, r):
    """Weights to start with: the first kernel of every r² takes the place of all."""
    return w[:: r * r].repeat(r * r, 0)


# %% demo
from snippets.live import demo, image, slider, toggle


def picture():
    i, j = np.mgrid[:16, :16]
    x = np.full((16, 16), 0.25)
    x[(i - 5.0) ** 2 + (j - 5.0) ** 2 < 14] = 0.9
    x[9:14, 8:14] = 0.7
    x[2:8, 11:13] = 0.55
    return x


def grey(x):
    """From 0 for the smallest to 1 for the largest."""
    return (x - x.min()) / max(np.ptp(x), 1e-9)


@demo(
    r=slider(2, 4, label="scale"),
    k=slider(1, 5, label="kernel size"),
    same=toggle(label="ICNR: the kernels start equal"),
)
def show(r=2, k=3, same=False):
    """An untrained layer enlarges a picture. Switch ICNR on: the r² maps become equal, and the checkerboard is gone."""
    x = picture()[None]
    w = np.random.default_rng(4).uniform(-1, 1, (r * r, 1, k, k)) / k + 1.0 / k**2
    if same:
        w = icnr(w, r)
    y = sub_pixel_conv2d(x, w, r)[0]
    maps = pixel_unshuffle(y[None], r)
    framed = np.pad((maps - y.min()) / np.ptp(y), ((0, 0), (0, 1), (0, 1)), constant_values=1)
    mosaic = np.vstack([np.hstack(list(framed[row * r : (row + 1) * r])) for row in range(r)])[:-1, :-1]
    middle = maps[:, 2:-2, 2:-2]
    rough = (middle - middle.mean(0)).var() / middle.var()
    return (
        image(x[0], caption="In: 16×16 pixels."),
        image(mosaic, caption=f"The {r * r} maps of the convolution, at low resolution, in the places that their pixels will take."),
        image(grey(y), caption=f"Out: {16 * r}×{16 * r} pixels, one from each map by turns. Maps that differ show as a pattern of period {r}."),
        f"{rough:.0%} of the variance is between pixels of the same {r}×{r} square: "
        + ("none, each square is one colour, as nearest-neighbour upsampling makes it." if rough < 1e-9 else "a checkerboard that training has to remove first.")
        + f" Multiply-adds: {16 * 16 * r * r * k * k:,}, as for one {k}×{k} layer after enlarging, but with {r * r} times the weights.",
    )
