"""Huber loss in NumPy, and a line fitted with it."""

import numpy as np


def huber(error, delta=1.0):
    """Half the square up to delta, then straight on."""
    bent = np.minimum(np.abs(error), delta)
    return bent * (np.abs(error) - bent / 2)


def smooth_l1(error, beta=1.0):
    return huber(error, beta) / beta


def huber_slope(error, delta=1.0):
    """The gradient of half the square, clipped."""
    return np.clip(error, -delta, delta)


def fit(columns, y, delta, steps=100):
    """Coefficients that minimize the loss: least squares again and again, in which a large error counts delta / |error|."""
    coefficients = np.linalg.lstsq(columns, y, rcond=None)[0]
    for _ in range(steps):
        error = np.abs(columns @ coefficients - y)
        weight = np.minimum(1, delta / np.maximum(error, 1e-12))
        coefficients = np.linalg.solve((columns.T * weight) @ columns, (columns.T * weight) @ y)
    return coefficients


# %% demo
from snippets.live import demo, line, scatter, slider


@demo(
    delta=slider(0.05, 10.0, label="δ, where the parabola ends", log=True),
    share=slider(0.0, 0.4, step=0.05, label="share of outliers"),
    size=slider(0.0, 20.0, step=0.5, label="size of an outlier"),
)
def show(delta=1.0, share=0.2, size=10.0):
    """Raise the outliers and see which lines follow them. Then raise δ until Huber's line is that of least squares."""
    rng = np.random.default_rng(3)
    x = np.linspace(0, 10, 40)
    y = 0.5 * x + 0.5 * rng.standard_normal(40)
    bad = np.arange(40) >= 40 - int(round(40 * share))  # all at the right end, where a line has the longest lever
    y[bad] += size
    columns = np.stack([x, np.ones(40)], 1)
    lines = {"squared": fit(columns, y, np.inf, 1), "Huber": fit(columns, y, float(delta)), "absolute": fit(columns, y, 0.01)}
    error = np.linspace(-4, 4, 121)
    points = {"good": np.stack([x, y], 1)[~bad]}
    if bad.any():
        points["outliers"] = np.stack([x, y], 1)[bad]
    return (
        scatter(points, x="x", y="y", range_x=(0, 10), range_y=(-4, 26),
                lines={name: [np.array([[0, c[1]], [10, 10 * c[0] + c[1]]])] for name, c in lines.items()},
                caption=f"The good points lie around a line of slope 0.5. The outliers are {size:g} too high."),
        line({"squared / 2": error**2 / 2, "Huber": huber(error, delta), "absolute": np.abs(error)}, at=error, x="error", y="loss",
             dashed=["squared / 2", "absolute"], range_y=(0, 8.2),
             caption="Huber's loss follows the parabola up to ±δ and then goes straight on, with the slope that it has there."),
        line({"squared / 2": error, "Huber": huber_slope(error, delta), "absolute": np.sign(error)}, at=error, x="error", y="gradient",
             dashed=["squared / 2", "absolute"], range_y=(-4, 4), caption="Its gradient is that of the square, cut off at ±δ: no single point can pull harder."),
        "Slopes of the lines: " + ", ".join(f"{name} {c[0]:.2f}" for name, c in lines.items()) + "; the truth is 0.50.",
    )
