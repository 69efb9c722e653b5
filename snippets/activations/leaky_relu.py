"""Leaky ReLU in NumPy, and how long it takes to wake a unit that is off."""

import numpy as np


def leaky_relu(x, s=0.01):
    return np.where(x > 0, x, s * x)


def slope(x, s=0.01):
    return np.where(x > 0, 1.0, s)


def fit(x, target, s, bias, rate, steps=200):
    """One unit leaky_relu(w x + b), trained by gradient descent: (w, b), the loss and the share of inputs that switch it on."""
    w, b, losses, on = 1.0, bias, [], []
    for _ in range(steps):
        z = w * x + b
        error = leaky_relu(z, s) - target
        losses.append((error**2).mean())
        on.append((z > 0).mean())
        back = 2 * error * slope(z, s) / len(x)  # below zero, the error comes back s times as large
        w, b = w - rate * (back * x).sum(), b - rate * back.sum()
    return (w, b), losses, on


# %% demo
from snippets.live import demo, line, slider


def toy():
    """100 points on a noisy bend."""
    x = np.linspace(-2, 2, 100)
    return x, np.maximum(1.5 * x + 0.5, 0) + 0.1 * np.random.default_rng(0).normal(size=100)


@demo(
    s=slider(0.0, 0.5, step=0.01, label="slope of the leaky unit"),
    bias=slider(-10.0, 0.0, step=0.5, label="initial bias"),
    rate=slider(0.01, 0.5, step=0.01, label="learning rate"),
)
def show(s=0.1, bias=-3.0, rate=0.1):
    """Both units start switched off: with bias −3 no input lifts them above 0. Then try slope 0.01, and bias −10."""
    x, target = toy()
    leaky, dead = fit(x, target, s, bias, rate), fit(x, target, 0.0, bias, rate)
    woken = np.flatnonzero(leaky[2])
    (w, b), (w0, b0) = leaky[0], dead[0]
    return (
        line({"ReLU": dead[1], "leaky": leaky[1]}, x="step", y="mean squared error", dashed=["ReLU"], range_y=(0, 6),
             caption="A flat line is a unit without gradient. The leaky unit creeps first, then falls quickly once inputs reach it."),
        line({"ReLU": np.array(dead[2]) * 100, "leaky": np.array(leaky[2]) * 100}, x="step", y="inputs that switch it on (%)",
             dashed=["ReLU"], range_y=(0, 100), caption="At 0 % the unit is off for all 100 points."),
        line({"data": (x, target), "ReLU": (x, leaky_relu(w0 * x + b0, 0.0)), "leaky": (x, leaky_relu(w * x + b, s))},
             x="x", y="y", markers=["data"], dashed=["ReLU"], range_y=(-2, 4), caption="What the two units predict after 200 steps."),
        f"Slope {s:g}, bias {bias:g}: the leaky unit "
        + (f"is first switched on in step {woken[0]}." if len(woken) else "is still off for every input after 200 steps.")
        + (" ReLU never is." if not any(dead[2]) else ""),
    )
