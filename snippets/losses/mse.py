"""Mean squared error in NumPy."""

import numpy as np


def mse(prediction, target):
    return ((prediction - target) ** 2).mean()


def mse_slope(prediction, target):
    """Derivative by each prediction: as large as its error."""
    return 2 * (prediction - target) / target.size


def best_constant(target):
    """Where the slopes add up to 0."""
    return target.mean()


# %% demo
from snippets.live import demo, line, scatter, slider
from snippets.losses.huber import fit, huber
from snippets.losses.mae import around, mae


@demo(
    outlier=slider(-10.0, 10.0, step=0.1, label="position of the outlier"),
    delta=slider(0.1, 10.0, label="δ of Huber's loss", log=True),
)
def show(outlier=6.0, delta=1.0):
    """Pull the outlier out to one side. The mean follows it without limit; who stays?"""
    target = around(outlier)
    at = np.linspace(-4.5, 4.5, 145)
    center = float(fit(np.ones((7, 1)), target, float(delta), 300)[0])
    best = {"mean (MSE)": best_constant(target), "Huber": center, "median (MAE)": float(np.median(target))}
    row = lambda points, height: np.stack([points, np.full(len(points), float(height))], 1)
    return (
        scatter({"data": row(target[:6], 0), "outlier": row(target[6:], 0), **{name: row([value], i) for i, (name, value) in enumerate(best.items(), 1)}},
                x="value", y="data, and the best constant of each loss", range_x=(-10.5, 10.5), range_y=(-0.7, 3.7),
                lines={"center of the six": [np.array([[0.2, -0.7], [0.2, 3.7]])]},
                caption="Bottom row: six measurements around 0.2 and one outlier. Above: the constant that each loss likes best."),
        line({"MSE": np.array([mse(c, target) for c in at]), "Huber": np.array([huber(c - target, delta).mean() for c in at]),
              "MAE": np.array([mae(c, target) for c in at])}, at=at, x="constant prediction", y="loss", range_y=(0, 25),
             marks={"mean": best["mean (MSE)"]},
             caption="The loss of every constant. The parabola is lowest at the mean, and what is left there is the variance of the data."),
        f"Without the outlier the mean is 0.20. With it: mean {best['mean (MSE)']:.2f}, Huber {center:.2f}, median {best['median (MAE)']:.2f}.",
    )
