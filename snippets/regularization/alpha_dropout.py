"""Alpha dropout in NumPy, in a deep SELU network."""

import numpy as np

from snippets.activations.selu import ALPHA, SCALE, selu
from snippets.regularization.dropout import dropout, dropout_mask

LOWER_LIMIT = -SCALE * ALPHA  # of SELU far to the left


def affine(p):
    """What restores mean 0 and variance 1 after a share p was set to the lower limit."""
    q = 1 - p
    a = (q + LOWER_LIMIT**2 * q * p) ** -0.5
    return a, -a * p * LOWER_LIMIT


def alpha_dropout(x, p, rng):
    kept = dropout_mask(x.shape, p, rng) != 0
    a, b = affine(p)
    return a * np.where(kept, x, LOWER_LIMIT) + b


# %% demo
from snippets.live import demo, line, slider
from snippets.ops import matmul

KINDS = {"none": lambda x, p, rng: x, "dropout": dropout, "alpha dropout": alpha_dropout}


@demo(
    p=slider(0.0, 0.5, step=0.05, label="p, probability to be dropped"),
    depth=slider(2, 40, label="layers"),
)
def show(p=0.1, depth=20):
    """Raise p: with plain dropout the variance rises above 1, at p = 0.5 without end; alpha dropout keeps mean and variance near 0 and 1."""
    width, batch = 96, 64
    rng = np.random.default_rng(0)
    inputs, layers = rng.normal(size=(batch, width)), rng.normal(size=(depth, width, width)) / np.sqrt(width)  # LeCun's initialization
    means, variances, last = {}, {}, {}
    for name, drop in KINDS.items():
        masks, x = np.random.default_rng(1), inputs
        m, v = [0.0], [1.0]
        for w in layers:
            x = drop(selu(matmul(x, w)), p, masks)
            m.append(x.mean())
            v.append(x.var())
        means[name], variances[name], last[name] = m, v, x
    edges = np.linspace(-4.1, 4.1, 42)
    shares = {name: np.histogram(last[name], edges)[0] / last[name].size for name in ("dropout", "alpha dropout")}
    return (
        line(variances, x="layer", y="variance", levels={"1": 1.0}, log_y=True, range_y=(0.5, 100), dashed=["none"],
             caption="Variance of the activations behind each layer. Plain dropout adds p/(1 − p) of the mean square at each."),
        line(means, x="layer", y="mean", levels={"0": 0.0}, range_y=(-0.5, 0.5), dashed=["none"],
             caption="Mean of the activations behind each layer."),
        line(shares, at=(edges[1:] + edges[:-1]) / 2, x="activation", y="share", caption="The last layer. Plain dropout puts a peak at 0; alpha dropout puts it where SELU's own numbers pile up."),
        f"After {depth} layers the variance is {variances['dropout'][-1]:.2f} with dropout and {variances['alpha dropout'][-1]:.2f} with alpha dropout, without any {variances['none'][-1]:.2f}.",
    )
