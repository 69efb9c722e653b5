"""Reduce on plateau in NumPy."""

import numpy as np


def plateau_step(state, value, lr, factor=0.1, patience=10, threshold=1e-4):
    """The rate after one more measurement, lower is better. state begins as {}."""
    if value < state.get("best", np.inf) * (1 - threshold):  # never true of NaN
        state["best"], state["bad"] = value, 0
    else:
        state["bad"] = state.get("bad", 0) + 1
    if state["bad"] > patience:
        state["bad"] = 0
        return lr * factor
    return lr


def reduce_on_plateau(values, lr, factor=0.1, patience=10, threshold=1e-4):
    """The rates before the first and after each of these measurements."""
    state, rates = {}, [lr]
    for value in values:
        rates.append(plateau_step(state, value, rates[-1], factor, patience, threshold))
    return np.array(rates)


# %% demo
from snippets.live import demo, line, slider
from snippets.schedulers.arena import CURVATURES, spread


@demo(
    patience=slider(0, 30, label="patience", unit="epochs"),
    factor=slider(0.05, 0.9, step=0.05, label="factor of a drop"),
    noise=slider(0.0, 1.0, step=0.05, label="noise of the measurement"),
)
def show(patience=8, factor=0.3, noise=0.3):
    """Noise of the measurement makes luck look like progress: with patience 0 the rate collapses, with 30 it comes down too late."""
    draws = np.random.default_rng(0).normal(size=120)
    square, lr, state = np.full(len(CURVATURES), 9.0), 0.5, {}
    rates, true, measured, drops = [], [], [], []
    for epoch, draw in enumerate(draws):
        for _ in range(5):  # steps of an epoch, in expectation
            square = spread(square, lr)
        true.append((CURVATURES * square).sum() / 2)
        measured.append(true[-1] * (1 + 0.2 * noise * draw))
        rates.append(lr)
        after = plateau_step(state, measured[-1], lr, factor, patience)
        if after < lr:
            drops.append(epoch)
        lr = max(after, 1e-6)
    series = {"measured": measured, "expected": true}
    if drops:
        series["drop"] = (np.array(drops), np.array(measured)[drops])
    final = true[-1]
    return (
        line(series, x="epoch", y="validation loss", log_y=True, dashed=["expected"], markers=["drop"] if drops else [], range_y=(0.1, 10),
             caption="Points: here the last best value was too long ago, and the rate drops. A lucky low value moves the mark that all later ones must beat."),
        line({"learning rate": rates}, x="epoch", y="learning rate", log_y=True, steps=True, range_y=(1e-6, 1),
             caption="The rate of each epoch. Nothing here knows the length of the run. The demo stops at a millionth."),
        f"{len(drops)} drops" + (f", the first after epoch {drops[0]}" if drops else "") + f". Expected loss at the end {final:.3g}, rate {rates[-1]:.2g}.",
    )
