"""GELU in NumPy: the exact gate and its two replacements."""

import math

import numpy as np

erfc = np.vectorize(math.erfc, otypes=[float])  # NumPy has no error function, the standard library has


def gate(x, form="exact"):
    """How much of x passes: a number between 0 and 1."""
    if form == "exact":  # the probability that a standard normal number is below x
        return erfc(-x / np.sqrt(2)) / 2
    if form == "tanh":  # GPT-2
        return 0.5 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    if form == "sigmoid":  # CLIP's "quick GELU"
        return 1 / (1 + np.exp(-1.702 * x))
    raise ValueError(f"{form} is not exact, tanh or sigmoid")


def gelu(x, form="exact"):
    return x * gate(x, form)


def slope(x):
    """Derivative of the exact form: the gate, plus what opening the gate further brings."""
    return gate(x) + x * np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)


def coin(x, tosses, rng):
    """Where GELU comes from: keep x or drop it, with probability gate(x) of keeping; the mean of many tosses."""
    kept = rng.random((tosses, len(x))) < gate(x)
    return (kept * x).mean(0)


# %% demo
from snippets.live import demo, line, slider


@demo(
    reach=slider(1, 8, step=0.5, label="range of x"),
    zoom=slider(1, 1000, label="zoom of the difference", log=True),
    tosses=slider(1, 500, label="coin tosses per dot"),
)
def show(reach=4.0, zoom=20, tosses=50):
    """Toss more coins and the dots settle on the curve. Zoom until the tanh form parts from the exact one too."""
    x = np.linspace(-reach, reach, 161)
    at = np.linspace(-reach, reach, 25)
    forms = {form: gelu(x, form) for form in ("exact", "tanh", "sigmoid")}
    mean = coin(at, tosses, np.random.default_rng(0))

    edge = 0.5 / zoom
    wrong = {form: forms[form] - forms["exact"] for form in ("tanh", "sigmoid")}
    seen = {form: np.where(np.abs(d) <= edge, d, np.nan) for form, d in wrong.items()}
    largest = {form: np.abs(d).max() for form, d in wrong.items()}
    return (
        line(
            {**{form: (x, y) for form, y in forms.items()}, "kept or dropped": (at, mean)},
            x="x", y="GELU(x)", markers=["kept or dropped"], dashed=["tanh", "sigmoid"],
            caption=f"Each dot is the mean of {tosses} tosses that keep x with probability Φ(x) and drop it otherwise. "
            "The three curves lie almost on each other.",
        ),
        line(
            {"exact": (x, slope(x)), "gate Φ(x)": (x, gate(x))},
            x="x", y="derivative", dashed=["gate Φ(x)"], range_y=(-0.2, 1.2),
            caption="The slope overshoots 1 and undershoots 0, most at x = ±√2: the gate itself depends on x.",
        ),
        line(
            {f"{form} − exact": (x, d) for form, d in seen.items()},
            x="x", y="difference from exact", range_y=(-edge, edge),
            caption=f"Zoomed {zoom:g} times. Where a curve stops it has left the frame.",
        ),
        f"Between −{reach:g} and {reach:g} the sigmoid form is off by at most {largest['sigmoid']:.1e}, "
        f"the tanh form by {largest['tanh']:.1e}. The dots' largest distance from the curve is "
        f"{np.abs(mean - gelu(at)).max():.2f}.",
    )
