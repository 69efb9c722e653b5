"""ELU in NumPy, and the mean that it keeps near zero."""

import numpy as np


def elu(x, alpha=1.0):
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


def celu(x, alpha=1.0):
    """The same end, but slope 1 at zero for every alpha."""
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0) / alpha))


def slope(x, alpha=1.0):
    return np.where(x > 0, 1.0, alpha * np.exp(np.minimum(x, 0)))


# %% demo
from snippets.activations.network import spread, through, weights
from snippets.live import demo, line, slider


@demo(
    alpha=slider(0.1, 3.0, step=0.1, label="alpha"),
    factor=slider(0.5, 2.0, step=0.05, label="weight std × √width"),
    depth=slider(1, 40, label="layers"),
)
def show(alpha=1.0, factor=1.25, depth=20):
    """ReLU has the same weights. Move alpha to 1.7: the mean all but vanishes. Then look at the slope, which now has a jump at 0."""
    x = np.random.default_rng(1).normal(size=(128, 100))
    layers = list(weights(100, depth, factor))
    mean, std = spread(through(lambda z: elu(z, alpha), x, layers))
    relu_mean, relu_std = spread(through(lambda z: np.maximum(z, 0), x, layers))
    at = np.arange(1, depth + 1)
    z = np.linspace(-4, 3, 281)
    ratio, relu_ratio = ((m[1:] / np.maximum(s[1:], 1e-300)) for m, s in ((mean, std), (relu_mean, relu_std)))
    return (
        line({"ELU": (z, elu(z, alpha)), "slope": (z, slope(z, alpha)), "CELU": (z, celu(z, alpha))}, x="x", y="value",
             dashed=["slope", "CELU"], range_y=(-3, 3),
             caption="Below zero the curve ends at −alpha. Only for alpha = 1 is the slope unbroken; CELU mends that."),
        line({"ELU": ratio, "ReLU": relu_ratio}, at=at, x="layer", y="mean / standard deviation", dashed=["ReLU"], range_y=(-1, 1.5),
             levels={"0": 0.0}, caption="The offset of the activations. Negative outputs pull it towards zero."),
        line({"ELU": np.where(std[1:] > 0, std[1:], np.nan), "ReLU": np.where(relu_std[1:] > 0, relu_std[1:], np.nan)}, at=at,
             x="layer", y="standard deviation", log_y=True, dashed=["ReLU"],
             caption="A straight line is exponential growth or decay. ELU with alpha 1 needs weights of 1.25 / √width, ReLU 1.41 / √width."),
        f"Over {depth} layers the mean is on average {ratio.mean():.2f} standard deviations with ELU, {relu_ratio.mean():.2f} with ReLU.",
    )
