"""4-bit weights in NumPy: sixteen levels, a scale for each block."""

import math

import numpy as np

# Quantiles of a normal distribution: 8 above zero, 7 below, and zero, scaled to −1 … 1.
NF4 = [-1.0, -0.6961928, -0.52507305, -0.39491749, -0.28444138, -0.18477343, -0.09105004, 0.0, 0.0795803, 0.1609302,
       0.2461123, 0.33791524, 0.44070983, 0.562617, 0.72295684, 1.0]
FORMATS = {
    "NF4": np.array(NF4),
    "equal steps": np.arange(-7, 8) / 7,
    "FP4": np.array([-6, -4, -3, -2, -1.5, -1, -0.5, 0, 0.5, 1, 1.5, 2, 3, 4, 6]) / 6,
}


def quantize(w, levels, block):
    """Each block is divided by its largest number, rounded to the nearest level, and multiplied again."""
    flat = np.concatenate([w.ravel(), np.zeros(-w.size % block)]).reshape(-1, block)
    scale = np.maximum(np.abs(flat).max(1, keepdims=True), 1e-30)
    middles = (levels[1:] + levels[:-1]) / 2
    rounded = levels[np.searchsorted(middles, flat / scale)] * scale
    return rounded.ravel()[: w.size].reshape(w.shape)


def bits(block, double=True):
    """Per weight: the code, its part of a scale, and of the scale's scale."""
    return 4 + 8 / block + 32 / (block * 256) if double else 4 + 32 / block


# %% demo
from snippets.live import bars, choice, demo, line, slider, table


@demo(
    shape=choice("normal", "Laplace", "uniform", label="the weights are"),
    block=choice(16, 32, 64, 128, 256, 512, label="block size"),
    outlier=slider(0.0, 20.0, step=0.5, label="one weight in 200 is larger by"),
)
def show(shape="normal", block=64, outlier=0.0):
    """Let a few weights be large: every block that has one loses its fine levels. Then make blocks smaller."""
    rng = np.random.default_rng(0)
    w = {"normal": rng.normal(size=4096), "Laplace": rng.laplace(size=4096) / 2**0.5, "uniform": rng.uniform(-(3**0.5), 3**0.5, 4096)}[shape]
    hit = rng.permutation(4096)[:20]
    w[hit] += outlier * np.sign(w[hit])
    error = {name: np.mean((quantize(w, levels, block) - w) ** 2) for name, levels in FORMATS.items()}
    typical = np.median(np.abs(w.reshape(-1, block)).max(1))
    counts, edges = np.histogram(w / typical, bins=60, range=(-1.5, 1.5))
    at = (edges[1:] + edges[:-1]) / 2
    counts = counts / counts.max()
    comb = {}
    for i, (name, levels) in enumerate(FORMATS.items()):
        x = np.repeat(levels, 3)
        y = np.tile([np.nan, -0.08 * (i + 0.2), -0.08 * (i + 0.9)], len(levels))
        comb[name] = (x, y)
    return (
        line({"weights": (at, counts), **comb}, x="weight / largest of its block", y="how many, 1 = most", range_y=(-0.3, 1.1),
             caption="Below the histogram, the levels of each format. NF4 has most of them where normal weights are."),
        bars(error, y="mean squared error", log_y=False,
             caption="After rounding. For normal weights NF4 is best, for uniform ones equal steps are. Outliers ruin all three."),
        table([[str(b), f"{bits(b, False):.3f}", f"{bits(b):.3f}"] for b in (16, 64, 256)], columns=["block", "32-bit scales", "8-bit scales"],
              caption="Bits per weight. Smaller blocks cost scales; rounding the scales as well makes them cheap."),
        f"NF4's root mean square error is {error['NF4'] ** 0.5:.3f}, equal steps have {error['equal steps'] ** 0.5:.3f}; "
        f"a block of {block} takes {bits(block):.2f} bits per weight.",
    )
