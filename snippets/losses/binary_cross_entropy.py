"""Binary cross-entropy in NumPy: right, and as it should not be done."""

import numpy as np


def softplus(x):
    return np.logaddexp(0, x)  # log(1 + e^x), never infinite


def bce(z, y, pos_weight=1.0):
    """Loss of the logit z against y, which is 0, 1, or the probability of yes."""
    return pos_weight * y * softplus(-z) + (1 - y) * softplus(z)


def bce_slope(z, y, pos_weight=1.0):
    """Its derivative: sigmoid(z) - y, if yes and no weigh the same."""
    p = np.exp(-softplus(-z))
    return (1 - y) * p - pos_weight * y * (1 - p)


def naive(z, y):
    """A sigmoid, then logarithms: once the sigmoid is rounded to 1, the logarithm of what is left is infinite."""
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        p = 1 / (1 + np.exp(-z))
        return -np.where(y > 0, y * np.log(p), 0) - np.where(y < 1, (1 - y) * np.log(1 - p), 0)


# %% demo
from snippets.live import demo, line, slider, toggle
from snippets.losses.arena import value_and_gradient


@demo(
    target=slider(0.0, 1.0, step=0.05, label="target y, the probability of yes"),
    pos_weight=slider(0.1, 10.0, label="pos_weight, factor of yes", log=True),
    rounded=toggle(label="also the naive form in 32 bits"),
)
def show(target=0.8, pos_weight=1.0, rounded=False):
    """Make the target soft and find where the gradient crosses 0. Then give yes another weight: the crossing moves away from the target."""
    z = np.linspace(-8, 8, 129)
    p = pos_weight * target / (pos_weight * target + 1 - target)
    inside = 0 < p < 1
    best = float(np.log(p / (1 - p))) if inside else None
    figures = value_and_gradient(
        {f"y = {target:g}": lambda z: bce(z, target, pos_weight), "all no": lambda z: bce(z, 0.0, pos_weight), "all yes": lambda z: bce(z, 1.0, pos_weight)},
        z, "logit", dashed=("all no", "all yes"), range_value=(0, 8), range_gradient=(-2, 2), marks={"best": best} if inside else None,
        caption="A soft target mixes the two dashed curves: it has a lowest point, and that is not 0.")
    if rounded:
        far = np.linspace(8, 24, 161).astype(np.float32)
        figures += (line({"softplus": (far, bce(far, 0.0)), "naive": (far, naive(far, np.float32(0)))}, x="logit, truth: no", y="loss", range_y=(6, 26),
                         dashed=["softplus"],
                         caption="In 32 bits 1 − sigmoid(z) comes in steps of 6·10⁻⁸: the naive loss is a staircase from 14 on, and infinite, "
                                 "where the curve ends, from 17 on."),)
    least = bce(best, target, pos_weight) if inside else 0.0
    where = f"at the logit {best:.2f}, probability {p:.3f}" if inside else "only at an infinite logit"
    return (*figures, f"The least loss is {least:.3f}, {where}; the target is {target:g}.")
