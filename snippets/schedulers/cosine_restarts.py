"""Cosine annealing with warm restarts in NumPy."""

import numpy as np

from snippets.schedulers.cosine_annealing import cosine_annealing


def cosine_restarts(step, t_0, lr, t_mult=1, eta_min=0.0):
    """Learning rate of a step, counted from 0: down along a cosine within a cycle, then again from the top."""
    within, length = np.asarray(step), np.full(np.shape(step), t_0)
    while (within >= length).any():
        after = within >= length  # these steps lie in a later cycle
        within = np.where(after, within - length, within)
        length = np.where(after, length * t_mult, length)
    return cosine_annealing(within, length, lr, eta_min)


def walk(rates, noise, runs=200, tilt=0.1):
    """SGD in two valleys, w^4/4 - w^2/2 + tilt w, from the shallow one on the right; the weight before each step and after the last."""
    draws = np.random.default_rng(0).normal(size=(len(rates), runs))
    w = [np.full(runs, 1.0)]
    for lr, draw in zip(rates, draws):
        after = w[-1] - lr * (w[-1] ** 3 - w[-1] + tilt + noise * draw)
        w.append(np.clip(after, -2.5, 2.5))  # walls, as w^4 is too steep for such steps further out
    return np.array(w)


# %% demo
from snippets.live import demo, line, slider


@demo(
    t_0=slider(10, 100, step=5, label="first cycle", unit="steps"),
    t_mult=slider(1, 3, label="each cycle is longer by the factor"),
    noise=slider(0.0, 1.5, step=0.05, label="noise of the gradient"),
)
def show(t_0=50, t_mult=1, noise=1.0):
    """Each restart is a chance to leave the valley, each end a snapshot. Take the noise away: no restart helps."""
    steps = 300
    rates = cosine_restarts(np.arange(steps), t_0, 0.3, t_mult)
    ends = np.append(np.flatnonzero(np.diff(rates) > 0) + 1, steps)  # a snapshot is the weight after the last step of a cycle
    w = walk(rates, noise)
    single = walk(cosine_restarts(np.arange(steps), steps, 0.3), noise)
    below = w < 0
    chosen = int(np.abs(np.diff(below[ends].astype(int), axis=0)).sum(0).argmax())
    kept = np.maximum.accumulate(below[ends], 0).mean(1)  # has one of the snapshots so far been in the deep valley?
    return (
        line({"learning rate": rates}, x="step", y="learning rate", range_y=(0, 0.32), caption="A saw of cosines: down slowly, up at once."),
        line({"weight": w[:, chosen], "snapshots": (ends, w[ends, chosen])}, x="step", y="weight of one run", markers=["snapshots"], range_y=(-2.5, 2.5),
             levels={"deep valley": -1.047, "shallow": 0.946},
             caption="The run whose snapshots change valleys most often. In the middle of a cycle it shakes, at the end it lies still: evaluate and keep the weights "
             "there. Snapshots of different valleys make an ensemble."),
        line({"weights now, with restarts": below.mean(1), "a snapshot so far": (ends, kept), "weights now, one long cosine": (single < 0).mean(1)}, x="step",
             y="share in the deep valley", dashed=["weights now, one long cosine"], range_y=(0, 1),
             caption="200 runs that start in the shallow valley. They change valleys while the rate is high, both ways. So the last weights are no better than those "
             "of one long cosine, which cools more slowly; but one of the snapshots more often is."),
        f"{len(ends)} snapshots. In the deep valley at the end: {100 * below[-1].mean():.0f} % of the runs with restarts, "
        f"{100 * (single[-1] < 0).mean():.0f} % with one long cosine; at least one snapshot of {100 * kept[-1]:.0f} %.",
    )
