"""Warm-up with cosine decay in NumPy."""

import numpy as np

from snippets.schedulers.cosine_annealing import half_cosine
from snippets.schedulers.warmup import warmup


def warmup_cosine(step, warmup_steps, total, lr, min_ratio=0.1):
    """Learning rate of a step, counted from 0: up to lr at warmup_steps, down to a share of it at total."""
    step = np.asarray(step)
    done = np.clip((step - warmup_steps) / (total - warmup_steps), 0, 1)  # of what remains after the rise
    falling = min_ratio + (1 - min_ratio) * half_cosine(done)
    return lr * np.where(step < warmup_steps, warmup(step, warmup_steps), falling)


# %% demo
from snippets.live import demo, line, slider
from snippets.schedulers.one_cycle import data, train


@demo(
    peak=slider(0.01, 2.0, label="peak learning rate", log=True),
    share=slider(0.0, 0.5, step=0.01, label="share of warm-up"),
    ratio=slider(0.0, 1.0, step=0.05, label="final rate, as a share of the peak"),
    tokens=slider(1, 500, label="tokens of a run", unit="billion"),
)
def show(peak=1.0, share=0.05, ratio=0.1, tokens=300):
    """Raise the peak, then give it warm-up. Then lift the final rate: the loss at the end rises with it."""
    z, steps = data(), 240
    rates = warmup_cosine(np.arange(steps), round(share * steps), steps, peak, ratio)
    losses = {"warm-up, cosine": train([(lr, 0.9) for lr in rates], z), "constant": train([(peak, 0.9)] * steps, z)}
    at = tokens * np.arange(steps) / (steps - 1)
    return (
        line({"learning rate": (at, rates)}, x="tokens (billion)", y="learning rate", range_y=(0, 1.05 * peak),
             caption=f"The warm-up takes {share * tokens:.3g} of {tokens} billion tokens; the cosine has what remains, down to {ratio * peak:.3g}."),
        line({name: np.minimum(values, 1.2) for name, values in losses.items()}, x="step", y="loss on all data (nats)", dashed=["constant"],
             range_y=(0.2, 1.22), caption="Logistic regression by SGD with momentum 0.9 and the same batches of 8 for both, 240 steps. The constant rate "
             "jumps to the end; the cosine settles."),
        "Final loss: " + ", ".join(f"{name} {values[-1]:.3f}" for name, values in losses.items()) + ".",
    )
