"""Cosine annealing in NumPy."""

import numpy as np


def half_cosine(done):
    """What is left of the way down, from 1 to 0, when this share of it is done: level at both ends."""
    return (1 + np.cos(np.pi * np.asarray(done))) / 2


def cosine_annealing(step, t_max, lr, eta_min=0.0):
    """Learning rate of a step, counted from 0: from lr down to eta_min at t_max. Beyond, it climbs again."""
    return eta_min + (lr - eta_min) * half_cosine(np.asarray(step) / t_max)


# %% demo
from snippets.live import demo, line, slider
from snippets.schedulers.arena import CURVATURES, expected_loss


def same_mean(rates):
    """A line and a staircase, both from the first rate, with the mean of these rates."""
    steps, first, mean = len(rates), rates[0], rates.mean()
    last = max(2 * mean - first, 0.0)
    # Three stairs of equal length: their mean, first * (1 + g + g^2) / 3, gives the size g of the drops.
    g = (np.sqrt(max(12 * mean / first - 3, 1.0)) - 1) / 2
    return np.linspace(first, last, steps), first * g ** (3 * np.arange(steps) // steps)


@demo(
    t_max=slider(20, 300, step=10, label="T_max", unit="steps"),
    ratio=slider(0.0, 0.5, step=0.05, label="lowest rate, as a share of the first"),
    noise=slider(0.0, 2.0, step=0.1, label="noise of the gradient"),
)
def show(t_max=200, ratio=0.0, noise=1.0):
    """The run has 200 steps. Set T_max below that and see the rate climb again; above, and the run ends before it has settled."""
    t = np.arange(200)
    cosine = cosine_annealing(t, t_max, 0.5, 0.5 * ratio)
    straight, stairs = same_mean(cosine)
    rates = {"cosine": cosine, "line, same mean": straight, "three steps, same mean": stairs}
    losses = {name: expected_loss(values, noise) for name, values in rates.items()}
    others = list(rates)[1:]
    return (
        line(rates, x="step", y="learning rate", dashed=others, range_y=(0, 0.52), marks={"T_max": t_max} if t_max < 200 else None,
             caption="Half a cosine: level at the start, steepest in the middle, level at the end. The others spend the same sum of rates."),
        line({name: np.clip(values, 1e-4, 1e3) for name, values in losses.items()}, x="step", y="expected loss", log_y=True, dashed=others,
             caption=f"Expected loss of SGD on a quadratic with curvatures from {CURVATURES[0]:g} to {CURVATURES[-1]:g}, computed exactly. "
             "What it is in the middle is no result: the noise of the rate is still in it."),
        "Expected loss at the end: " + ", ".join(f"{name} {values[-1]:.3g}" for name, values in losses.items())
        + f"; of the cosine halfway {losses['cosine'][100]:.3g}.",
    )
