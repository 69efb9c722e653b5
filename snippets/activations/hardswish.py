"""Hard swish in NumPy, and what fixed-point arithmetic does to it and to SiLU."""

import numpy as np

from snippets.activations.hardsigmoid import hardsigmoid, quantise


def hardswish(x):
    return x * hardsigmoid(x)


def slope(x):
    return np.where(x <= -3, 0.0, np.where(x >= 3, 1.0, (2 * x + 3) / 6))


# %% demo
from snippets.activations.sigmoid import sigmoid
from snippets.live import bars, demo, line, slider, toggle


def silu(x):
    return x * sigmoid(x)


def quantised(f, reach, bits, points=801):
    """A function on [−reach, reach], its output rounded to 2^bits levels between its smallest and largest value."""
    y = f(np.linspace(-reach, reach, points))
    low, high = y.min(), y.max()
    return low, high, quantise(y, low, high, bits)


@demo(
    bits=slider(2, 8, label="bits per output"),
    reach=slider(3.0, 8.0, step=0.5, label="range of x"),
    derivative=toggle(label="show derivatives"),
)
def show(bits=4, reach=6.0, derivative=False):
    """Two curves that are hard to tell apart; at 8 bits both are exact enough, at 3 neither is. Then look at the derivatives."""
    x = np.linspace(-reach, reach, 801)
    soft, hard = silu(x), hardswish(x)
    _, _, soft_q = quantised(silu, reach, bits)
    _, _, hard_q = quantised(hardswish, reach, bits)
    s = sigmoid(x)
    every = slice(None, None, 2)
    shown = {"hard-swish": hard, "SiLU": soft, f"hard, {bits} bits": hard_q}
    if derivative:
        shown = {"hard-swish": slope(x), "SiLU": s + soft * (1 - s)}
    errors = {
        "hard − SiLU": np.abs(hard - soft).max(),
        "hard, rounded": np.abs(hard_q - hard).max(),
        "SiLU, rounded": np.abs(soft_q - soft).max(),
    }
    return (
        line({n: (x[every], y[every]) for n, y in shown.items()}, x="x", y="derivative" if derivative else "value", dashed=["SiLU"],
             marks={"−3": -3.0, "3": 3.0}, range_y=(-0.6, 1.6) if derivative else (-1, reach),
             caption="The derivative jumps from 0 to −1/2 at −3 and from 3/2 to 1 at 3." if derivative
             else "Exactly 0 below −3 and exactly x above 3; the steps are what fixed-point arithmetic leaves."),
        line({"hard − SiLU": (x[every], (hard - soft)[every])}, x="x", y="difference", marks={"−3": -3.0, "3": 3.0},
             range_y=(-0.15, 0.15), caption="The same on both sides. Largest at ±3, where the hard gate has already closed or opened."),
        bars(errors, y="largest difference", range_y=(0, max(0.5, max(errors.values()))),
             caption="The first bar is what replacing the function changes; the others are rounding, half a level each."),
        f"{bits} bits on [−{reach:g}, {reach:g}]: a level is {(hard.max() - hard.min()) / (2**bits - 1):.3f} wide. "
        f"The two functions differ by at most {errors['hard − SiLU']:.3f}.",
    )
