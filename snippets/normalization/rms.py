"""RMSNorm and LayerNorm in NumPy."""

import numpy as np

from snippets.normalization.layer import layer_norm  # the same, but the row's mean is taken away first


def rms_norm(x, gamma=1.0, eps=1e-6):
    """Each row divided by its root mean square; only the length changes, not the direction."""
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * gamma


def difference(ratio):
    """How far the two are apart, relative to their length, when a row's |mean| is `ratio` standard deviations (eps = 0)."""
    return np.sqrt(2 - 2 / np.sqrt(1 + ratio**2))


# %% demo
from snippets.live import bars, demo, line, slider


@demo(
    mean=slider(-3.0, 3.0, step=0.1, label="mean of the row"),
    std=slider(0.1, 3.0, step=0.1, label="standard deviation of the row"),
    dim=slider(2, 256, label="dimension"),
    eps=slider(1e-8, 1.0, log=True, label="eps"),
)
def show(mean=1.0, std=1.0, dim=8, eps=1e-6):
    """Set the mean to 0: the two norms agree. Move it away: only LayerNorm takes it out. Raise eps: both outputs shrink."""
    z = np.random.default_rng(0).normal(size=dim)
    z = (z - z.mean()) / z.std()  # mean and standard deviation of the row are then exactly those of the sliders
    row = mean + std * z
    shown = {"LayerNorm": layer_norm(row, eps=eps), "RMSNorm": rms_norm(row, eps=eps)}

    ratios = np.linspace(0, 6, 61)
    rows = ratios[:, None] * std + std * z
    centred, scaled = layer_norm(rows, eps=eps), rms_norm(rows, eps=eps)
    apart = np.linalg.norm(centred - scaled, axis=1) / np.linalg.norm(scaled, axis=1)
    here = abs(mean) / std
    now = np.linalg.norm(shown["LayerNorm"] - shown["RMSNorm"]) / np.linalg.norm(shown["RMSNorm"])
    first = min(dim, 6)
    return (
        bars({"input": {f"x{i + 1}": row[i] for i in range(first)},
              **{name: {f"x{i + 1}": y[i] for i in range(first)} for name, y in shown.items()}},
             y="value", caption=f"The first {first} components. LayerNorm's have mean 0; RMSNorm's keep the input's signs and proportions."),
        line({"this row, this eps": (ratios, apart), "eps = 0: √(2 − 2/√(1+r²))": (ratios, difference(ratios))},
             x="r = |mean| / standard deviation", y="relative difference", dashed=["eps = 0: √(2 − 2/√(1+r²))"],
             marks={"now": min(here, 6.0)}, range_y=(0, 1.5),
             caption="How far apart the norms are depends on the mean alone: not on dimension, and on eps only where it is not small."),
        f"r = {here:.2f}: the two results are {now:.0%} of their length apart. RMSNorm's output has a root mean square of "
        f"{np.sqrt((shown['RMSNorm'] ** 2).mean()):.4f}.",
    )
