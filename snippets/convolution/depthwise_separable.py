"""Depthwise separable convolution in NumPy."""

import numpy as np

from snippets.convolution.depthwise import depthwise
from snippets.convolution.pointwise import pointwise


def separable(x, d, p):
    """x (C, H, W), d (C, m, k, k), p (O, C·m) -> (O, H, W): look around in each channel, then mix the channels."""
    C, m = d.shape[:2]
    looked = depthwise(np.repeat(x, m, 0), d.reshape(C * m, *d.shape[2:]))
    return pointwise(looked, p)


def nearest_separable(w, m=1):
    """Full kernels w (O, C, k, k) -> the d and p that come closest: m singular vectors for each input channel."""
    O, C, k, _ = w.shape
    u, s, v = np.linalg.svd(w.swapaxes(0, 1).reshape(C, O, k * k), full_matrices=False)
    d = v[:, :m].reshape(C, -1, k, k)
    p = (u[..., :m] * s[:, None, :m]).swapaxes(0, 1).reshape(O, -1)
    return d, p


# %% demo
from snippets.live import bars, choice, demo, heatmap, line, slider


def bank(kind, O, C, k):
    """Kernels to be approximated: noise, or mixtures of blobs and edges with a little noise, as trained ones often are."""
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(O, C, k, k))
    if kind == "random":
        return noise
    t = np.arange(k) - (k - 1) / 2
    bell = np.exp(-((t / max(k / 4, 0.5)) ** 2) / 2)
    shapes = [np.outer(bell, bell), np.outer(bell, t * bell), np.outer(t * bell, bell)]
    return np.einsum("ocn,nij->ocij", rng.normal(size=(O, C, 3)) * [1, 0.7, 0.7], shapes) + 0.1 * noise


@demo(
    kind=choice("blobs and edges", "random", label="full kernels"),
    c_in=slider(1, 16, label="input channels"),
    c_out=slider(1, 64, label="output channels"),
    k=slider(1, 7, label="kernel size"),
    m=slider(1, 4, label="depth multiplier"),
)
def show(kind="blobs and edges", c_in=8, c_out=32, k=5, m=1):
    """Raise the multiplier: a few kernels per channel are enough for blobs and edges. For random kernels they are not."""
    w = bank(kind, c_out, c_in, k)
    sizes = np.linalg.svd(w.swapaxes(0, 1).reshape(c_in, c_out, k * k), compute_uv=False)
    most = sizes.shape[1]
    used = min(m, most)  # no more kernels than the matrices have singular values
    left = [np.sqrt((sizes[:, n:] ** 2).sum() / (sizes**2).sum()) for n in range(most + 1)]
    d, p = nearest_separable(w, used)
    rebuilt = np.einsum("om,mij->oij", p.reshape(c_out, c_in, used)[:, 0], d[0])
    worst = np.abs(w[:, 0]).sum((1, 2)).argmax()
    pair = np.hstack([w[worst, 0], np.full((k, 1), np.nan), rebuilt[worst]])
    full, looks, mixes = c_in * c_out * k * k, c_in * used * k * k, c_in * used * c_out
    names = [str(i + 1) for i in range(k)] + [""] + [str(i + 1) + " " for i in range(k)]
    return (
        bars({"depthwise": {"separable": looks}, "pointwise": {"full": 0, "separable": mixes}, "full": {"full": full, "separable": 0}},
             y="weights", stacked=True,
             caption="Weights, and just as many multiply-adds per output pixel."),
        line({"best possible": (np.arange(most + 1)[:11], left[:11])}, x="kernels per input channel (multiplier)", y="relative error",
             marks={"chosen": used}, range_y=(0, 1),
             caption="What is left of the full kernels' norm when each channel keeps that many."),
        heatmap(pair, columns=names, x="full kernel (left), separable (right)", y="row", value="weight", signed=True,
                caption="From the first input channel to one output: the kernel and its stand-in."),
        f"{looks + mixes:,} weights instead of {full:,}: {(looks + mixes) / full:.2f} of them "
        f"({used}·(1/{c_out} + 1/{k * k})). The kernels are off by {left[used]:.0%}.",
    )
