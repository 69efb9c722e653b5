"""Warmup-stable-decay in NumPy."""

import numpy as np

from snippets.schedulers.cosine_annealing import half_cosine
from snippets.schedulers.warmup import warmup

SHAPES = {"1-sqrt": lambda done: 1 - np.sqrt(done), "linear": lambda done: 1 - done, "cosine": half_cosine}


def warmup_stable_decay(step, warmup_steps, stable_steps, decay_steps, lr, decay="1-sqrt", min_ratio=0.0):
    """Learning rate of a step, counted from 0: up to lr, level, and down at the end."""
    step = np.asarray(step)
    done = np.clip((step - warmup_steps - stable_steps) / decay_steps, 0, 1)
    return lr * np.where(step < warmup_steps, warmup(step, warmup_steps), min_ratio + (1 - min_ratio) * SHAPES[decay](done))


# %% demo
from snippets.live import choice, demo, line, slider
from snippets.schedulers.arena import expected_loss
from snippets.schedulers.cosine_annealing import cosine_annealing


@demo(
    share=slider(0.02, 0.5, step=0.02, label="share of a run that decays"),
    shape=choice("1-sqrt", "linear", "cosine", label="curve of the decay"),
    peak=slider(0.01, 2.0, label="rate of the plateau", log=True),
    noise=slider(0.0, 2.0, step=0.1, label="noise of the gradient"),
)
def show(share=0.2, shape="1-sqrt", peak=0.12, noise=1.0):
    """One trunk serves three run lengths. Make the decay shorter, then longer: what does a branch lose against a cosine of its length?"""
    lengths, top = (100, 200, 400), 10
    trunk = warmup_stable_decay(np.arange(400), top, 400, 1, peak)
    rates, losses, cosines = {"trunk": trunk}, {"trunk": expected_loss(trunk, noise)}, {}
    for n in lengths:
        fall = max(round(share * n), 1)
        run = warmup_stable_decay(np.arange(n), top, n - top - fall, fall, peak, shape)
        branch = slice(n - fall, None)
        rates[f"branch at {n - fall} steps"] = (np.arange(n)[branch], run[branch])
        loss = expected_loss(run, noise)
        losses[f"branch at {n - fall} steps"] = (np.arange(n + 1)[branch], np.clip(loss[branch], 1e-6, 1e3))
        cosine = cosine_annealing(np.arange(n), n, np.geomspace(0.05, 1.9, 16)[:, None])
        cosines[n] = (loss[-1], expected_loss(cosine, noise)[:, -1].min())
    losses["trunk"] = np.clip(losses["trunk"], 1e-6, 1e3)
    losses["cosines of their own, best peak"] = (np.array(lengths), np.clip([c for _, c in cosines.values()], 1e-6, 1e3))
    return (
        line(rates, x="step", y="learning rate", range_y=(0, 1.05 * peak), dashed=["trunk"],
             caption="The trunk can go on for ever. Each branch leaves it from a checkpoint and is a finished run of its own length."),
        line(losses, x="step", y="expected loss", log_y=True, dashed=["trunk"], markers=["cosines of their own, best peak"],
             caption="The trunk's loss is mostly the noise of its rate: it says little of what a run would reach. A branch takes the noise away within its decay. "
             "Points: a run of that length with a cosine, at the best of 16 peaks; it is about twice the best plateau."),
        "At the end, branch and cosine of the same length: " + "; ".join(f"{n} steps {a:.3g} and {b:.3g}" for n, (a, b) in cosines.items()) + ".",
    )
