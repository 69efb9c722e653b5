"""Patch embedding in NumPy: cut, project, and see what is left."""

import numpy as np

from snippets.convolution.conv2d import patches as windows


def patchify(x, p):
    """x (H, W) -> (N, p·p): the windows of a convolution whose stride is its kernel, left to right, top to bottom."""
    if x.shape[0] % p or x.shape[1] % p:
        raise ValueError(f"{x.shape[0]} by {x.shape[1]} pixels cannot be cut into squares of {p}")
    return windows(x, p, stride=p).reshape(-1, p * p)


def unpatchify(tokens, p, height, width):
    return tokens.reshape(height // p, width // p, p, p).swapaxes(1, 2).reshape(height, width)


def axes(patches, kind):
    """Orthonormal columns, the first of which are kept: of largest variance, or at random."""
    if kind == "PCA":
        return np.linalg.svd(patches - patches.mean(0), full_matrices=False)[2].T
    size = patches.shape[1]
    return np.linalg.qr(np.random.default_rng(0).normal(size=(size, min(size, 64))))[0]


def reconstruct(patches, dim, kind):
    """Embeds each patch as dim numbers and goes back: what a token can tell about its pixels."""
    mean, basis = patches.mean(0), axes(patches, kind)[:, :dim]
    tokens = (patches - mean) @ basis
    return mean + tokens @ basis.T


# %% demo
from snippets.live import choice, demo, image, line, slider

SIDE = 48


def picture():
    """A disc, stripes, a ramp and a triangle."""
    i, j = np.mgrid[:SIDE, :SIDE]
    x = 0.15 + 0.3 * j / SIDE
    x[(i - 14) ** 2 + (j - 14) ** 2 < 90] = 0.9
    x[6:22, 28:44] = np.where(j[6:22, 28:44] % 4 < 2, 1.0, 0.1)
    x[(i >= 28) & (i < 44) & (np.abs(j - 14) <= (i - 28) * 0.7)] = 0.75
    x[30:42, 30:42] = np.where((i[30:42, 30:42] + j[30:42, 30:42]) % 6 < 3, 0.95, 0.3)
    return x


@demo(
    p=choice(2, 3, 4, 6, 8, 12, 16, label="side of a patch (pixels)"),
    dim=slider(1, 64, label="width of a token"),
    kind=choice("PCA", "random", label="projection"),
)
def show(p=8, dim=8, kind="PCA"):
    """Lower the width until the picture falls apart, then take smaller patches: less is lost, and attention has to pay for it."""
    x = picture()
    patches = patchify(x, p)
    n, size = patches.shape
    cut = np.pad(patches.reshape(-1, p, p), ((0, 0), (0, 1), (0, 1)), constant_values=1.0)  # white joints
    cut = cut.reshape(SIDE // p, SIDE // p, p + 1, p + 1).swapaxes(1, 2).reshape(SIDE // p * (p + 1), -1)
    back = unpatchify(reconstruct(patches, dim, kind), p, SIDE, SIDE)

    total = ((patches - patches.mean(0)) ** 2).sum()
    curves = {}
    for name in ("PCA", "random"):
        along = (((patches - patches.mean(0)) @ axes(patches, name)) ** 2).sum(0)  # what each axis carries
        lost = 1 - np.cumsum(along) / total
        curves[name] = np.concatenate([[1.0], np.maximum(lost, 0), np.zeros(64)])[:65]
    error = curves[kind][dim]
    return (
        image(cut, caption=f"The image, cut into {SIDE // p}·{SIDE // p} = {n} patches of {size} pixels. Each becomes one token."),
        image(back, caption=f"What can be read back from tokens of {dim} numbers. What recurs in many patches survives longest."),
        line(curves, at=np.arange(65), x="width of a token (numbers)", y="share of the variance lost", range_y=(0, 1), marks={"now": dim},
             dashed=["random" if kind == "PCA" else "PCA"],
             caption=f"A token as wide as its patch has pixels ({size}) loses nothing. A projection fitted to the patches gets by with far fewer numbers."),
        f"{n} tokens of {dim} numbers for {SIDE * SIDE:,} pixels; {error:.0%} of the variance is lost. Attention forms {n}² = {n * n:,} scores per head; "
        f"with patches half as wide it would be 16 times as many.",
    )
