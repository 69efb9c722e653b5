"""Softplus in NumPy, with its inverse."""

import numpy as np

from snippets.activations.sigmoid import sigmoid


def softplus(x, beta=1.0):
    """log(1 + e^z) / beta with z = beta x: the larger of z and 0 is taken out first, so that no exponential is above 1."""
    z = beta * x
    return (np.maximum(z, 0) + np.log1p(np.exp(-np.abs(z)))) / beta


def slope(x, beta=1.0):
    return sigmoid(beta * x)


def inverse_softplus(y, beta=1.0):
    """log(e^z − 1) = z + log(1 − e^−z), divided by beta."""
    return y + np.log(-np.expm1(-beta * y)) / beta


# %% demo
from snippets.live import demo, line, slider, toggle


@demo(
    beta=slider(0.2, 20.0, log=True, label="sharpness β"),
    mark=slider(-6.0, 6.0, step=0.1, label="marker x"),
    inverse=toggle(label="show the inverse"),
)
def show(beta=1.0, mark=1.0, inverse=False):
    """Raise β: the curve settles on ReLU and its slope becomes a switch. The gap at 0 is always ln 2 / β."""
    x = np.linspace(-6, 6, 241)
    relu, y = np.maximum(x, 0), softplus(x, beta)
    curves = {"softplus": (x, y), "ReLU": (x, relu)}
    if inverse:
        positive = np.linspace(0.002, 6, 240)
        back = inverse_softplus(positive, beta)
        curves["inverse"] = (positive[back > -4], back[back > -4])
    here, gap = float(softplus(np.float64(mark), beta)), np.log(2) / beta
    return (
        line(curves, x="x", y="value", dashed=["ReLU"], marks={"x": mark}, range_y=(-4 if inverse else -0.5, 6),
             caption="Always positive, always rising, and curved only where |βx| is below about 4."
             + (" The inverse is its mirror image in the diagonal; it exists for positive numbers only." if inverse else "")),
        line({"slope σ(βx)": (x, slope(x, beta)), "slope of ReLU": (x, np.where(x > 0, 1.0, 0.0))}, x="x", y="derivative",
             dashed=["slope of ReLU"], marks={"x": mark}, range_y=(0, 1.05), caption="The derivative is a sigmoid. On the left it fades."),
        line({"softplus − ReLU": (x, y - relu)}, x="x", y="difference", levels={"ln 2 / β": gap}, marks={"x": mark},
             range_y=(0, max(0.75, 1.05 * gap)), caption="Largest at 0, the same on both sides."),
        f"softplus({mark:g}) = {here:.4g} with slope {float(slope(np.float64(mark), beta)):.3g}; "
        f"the inverse returns {float(inverse_softplus(here, beta)):.4g}. At 0 it is {gap:.3g} above ReLU.",
    )
