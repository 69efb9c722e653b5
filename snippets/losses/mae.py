"""Mean absolute error and the pinball loss in NumPy."""

import numpy as np


def mae(prediction, target):
    return np.abs(prediction - target).mean()


def mae_slope(prediction, target):
    """Derivative by each prediction: a sign, however large the error is."""
    return np.sign(prediction - target) / target.size


def pinball(prediction, target, quantile=0.5):
    """Too low costs `quantile` per unit, too high the rest: the best constant has that share of the targets below it."""
    too_high = prediction - target
    return np.maximum((1 - quantile) * too_high, -quantile * too_high).mean()


# %% demo
from snippets.live import bars, demo, line, slider


def around(outlier):
    """Six measurements and one that the reader moves."""
    return np.array([-1.4, -0.6, 0.1, 0.5, 1.1, 1.5, outlier])


@demo(
    outlier=slider(-10.0, 10.0, step=0.1, label="position of the outlier"),
    guess=slider(-5.0, 5.0, step=0.1, label="prediction for all seven"),
    quantile=slider(0.05, 0.95, step=0.05, label="quantile of the pinball loss"),
)
def show(outlier=6.0, guess=0.9, quantile=0.8):
    """Move the outlier: under MAE its push does not change until it crosses the prediction. Then put the prediction where the pushes cancel."""
    target = around(outlier)
    prediction = np.full(7, float(guess))
    names = ["−1.4", "−0.6", "0.1", "0.5", "1.1", "1.5", "outlier"]
    absolute, square = mae_slope(prediction, target), 2 * (prediction - target) / 7
    at = np.linspace(-10, 10, 201)
    best = float(np.quantile(target, quantile, method="inverted_cdf"))
    return (
        bars({"MAE": dict(zip(names, absolute)), "MSE": dict(zip(names, square))}, x="measurement", y="push on the prediction", range_y=(-3, 3),
             caption="The gradient by the prediction of each measurement. Under MAE all have the size 1/7: they vote. Under MSE they pull like springs."),
        line({f"pinball, τ = {quantile:g}": np.array([pinball(c, target, quantile) for c in at]),
              "half of MAE": np.array([mae(c, target) / 2 for c in at])}, at=at, x="prediction for all seven", y="loss", dashed=["half of MAE"],
             range_y=(0, 6), marks={"quantile": best, "median": float(np.median(target))},
             caption="A corner at every measurement, straight lines between. The lowest corner of the dashed one is the median, of the other the quantile."),
        f"The pushes add up to {absolute.sum():.3f} under MAE and {square.sum():.3f} under MSE. The median is {np.median(target):.2f}, the mean {target.mean():.2f}.",
    )
