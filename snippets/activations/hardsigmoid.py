"""Hard sigmoid and ReLU6 in NumPy, and what few bits do to them."""

import numpy as np


def relu6(x):
    return np.clip(x, 0, 6)


def hardsigmoid(x):
    return relu6(x + 3) / 6


def slope(x):
    """Derivative of the hard sigmoid: 1/6 inside, nothing outside."""
    return np.where((x > -3) & (x < 3), 1 / 6, 0.0)


def quantise(y, low, high, bits):
    """The nearest of 2^bits evenly spaced levels from low to high; what is outside goes to the ends."""
    step = (high - low) / (2**bits - 1)
    return low + step * np.round((np.clip(y, low, high) - low) / step)


# %% demo
from snippets.activations.sigmoid import sigmoid
from snippets.activations.sigmoid import slope as soft_slope
from snippets.live import bars, demo, line, slider


@demo(
    scale=slider(0.5, 4.0, step=0.1, label="std of the inputs"),
    bits=slider(2, 8, label="bits per activation"),
)
def show(scale=2.0, bits=4):
    """Scale the inputs up to 3: a third of them leaves the hard sigmoid's range and gets no gradient. Then lower the bits."""
    x = np.linspace(-6, 9, 301)
    z = scale * np.random.default_rng(0).normal(size=20000)
    positive = np.maximum(z, 0)
    top = positive.max()
    known, calibrated = quantise(z, 0, 6, bits), quantise(positive, 0, top, bits)
    clipped = {"gate 0": (z <= -3).mean(), "gate 1": (z >= 3).mean(), "ReLU6 at 6": (z >= 6).mean()}
    return (
        line({"sigmoid": (x, sigmoid(x)), "hard": (x, hardsigmoid(x)), "slope": (x, soft_slope(x)), "hard slope": (x, slope(x))},
             x="x", y="value", dashed=["slope", "hard slope"], range_y=(0, 1.05),
             caption="Never more than 0.07 apart, but the hard slope is 1/6 or nothing."),
        line({"ReLU": (x, np.maximum(x, 0)), f"ReLU6, {bits} bits": (x, quantise(x, 0, 6, bits))}, x="x", y="value",
             dashed=["ReLU"], range_y=(0, 9), caption=f"{2**bits} levels from 0 to 6: because the range is known, the step is known."),
        bars({k: 100 * v for k, v in clipped.items()}, y="clipped inputs (%)", range_y=(0, 50),
             caption=f"Share of normal inputs with standard deviation {scale:g} that are cut off: hard sigmoid below −3 and above 3, ReLU6 above 6."),
        f"With {bits} bits ReLU6 is off by {np.sqrt(((known - relu6(z)) ** 2).mean()):.3f} (root mean square). ReLU with the range of these "
        f"20,000 inputs, 0 to {top:.1f}, is off by {np.sqrt(((calibrated - positive) ** 2).mean()):.3f}; "
        f"ReLU6 pays {np.sqrt(((relu6(z) - positive) ** 2).mean()):.3f} for cutting off.",
    )
