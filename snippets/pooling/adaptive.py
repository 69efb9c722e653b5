"""Adaptive pooling in NumPy."""

import numpy as np


def adaptive_bins(n_in, n_out):
    """(start, end) of every bin: floor(i·n_in/n_out) to ceil((i+1)·n_in/n_out)."""
    return [(i * n_in // n_out, -(-(i + 1) * n_in // n_out)) for i in range(n_out)]


def adaptive_pool(x, n_out, reduce=np.mean, axis=-1):
    """Mean or maximum of every bin along one axis; for images, one axis after the other."""
    x = np.moveaxis(x, axis, -1)
    return np.moveaxis(np.stack([reduce(x[..., a:b], axis=-1) for a, b in adaptive_bins(x.shape[-1], n_out)], -1), -1, axis)


# %% demo
from snippets.live import bars, choice, demo, heatmap, slider


@demo(
    n_in=slider(1, 20, label="input size"),
    n_out=slider(1, 20, label="output size"),
    mode=choice("avg", "max", label="of each bin"),
)
def show(n_in=11, n_out=4, mode="avg"):
    """Try 12 into 4, then 11 into 4: bins start to overlap. Ask for more outputs than inputs: numbers repeat."""
    x = np.round(np.random.default_rng(3).uniform(0, 10, 20)[:n_in], 1)
    y = adaptive_pool(x, n_out, np.mean if mode == "avg" else np.max)
    bins = adaptive_bins(n_in, n_out)
    member = np.full((n_out, n_in), np.nan)
    for i, (a, b) in enumerate(bins):
        member[i, a:b] = 1 / (b - a)
    widths = sorted({b - a for a, b in bins})
    counted = np.bincount([j for a, b in bins for j in range(a, b)], minlength=n_in)
    return (
        heatmap(member, x="input", y="bin", value="weight in a mean", range=(0, 1), signed=False,
                caption="Which inputs each bin reads. Where two bins read the same input, it counts twice."),
        bars({str(i): v for i, v in enumerate(x)}, x="input", y="value", range_y=(0, 10), caption="Before pooling: the numbers that the bins above divide up."),
        bars({str(i): v for i, v in enumerate(y)}, x="bin", y="value", range_y=(0, 10), caption=f"After: the {'mean' if mode == 'avg' else 'maximum'} of each bin."),
        f"Bins are {' or '.join(map(str, widths))} wide; {np.count_nonzero(counted > 1)} of {n_in} inputs are read more than once. "
        f"The mean of the outputs is {y.mean():.2f}, that of the inputs {x.mean():.2f}.",
    )
