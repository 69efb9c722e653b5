"""The inverse square-root schedule in NumPy."""

import numpy as np

from snippets.schedulers.warmup import warmup


def inverse_sqrt(step, warmup_steps, lr):
    """Learning rate of a step, counted from 0: up to lr at warmup_steps, then down as one over the root of the step."""
    step = np.asarray(step, float)
    return lr * np.where(step < warmup_steps, warmup(step, warmup_steps), np.sqrt(warmup_steps / np.maximum(step, warmup_steps)))


def noam(step, d_model, warmup_steps):
    """The Transformer's absolute rate, with steps counted from 1 inside: d^-0.5 min(t^-0.5, t warmup^-1.5)."""
    return inverse_sqrt(np.asarray(step) + 1, warmup_steps, (d_model * warmup_steps) ** -0.5)


# %% demo
from snippets.live import demo, line, slider
from snippets.schedulers.arena import beside


@demo(
    d_model=slider(128, 4096, label="width of the model", log=True),
    warmup_steps=slider(100, 10_000, label="warm-up", unit="steps", log=True),
    cool=slider(0.0, 0.5, step=0.05, label="share of the run that cools down"),
)
def show(d_model=1024, warmup_steps=4000, cool=0.2):
    """Change the width and the warm-up: both move the peak, only the warm-up moves the place. Then take the cool-down away."""
    t = np.unique(np.geomspace(1, 1e6, 120).round()) - 1
    usual = noam(t, 512, 4000)
    relative = np.minimum(1e-2, (t + 1) ** -0.5)
    # The same shape in a run of 300 steps, alone and with a straight line to zero at its end.
    steps = np.arange(300)
    root = inverse_sqrt(steps, 30, 0.5)
    left = np.minimum(1.0, (300 - steps) / max(cool * 300, 1))
    peak = noam(warmup_steps - 1, d_model, warmup_steps)
    return (
        line({"this one": (t + 1, noam(t, d_model, warmup_steps)), "base Transformer": (t + 1, usual), "T5, Adafactor": (t + 1, relative)}, x="step",
             y="learning rate", log_x=True, log_y=True, dashed=["base Transformer", "T5, Adafactor"], range_y=(1e-7, 0.02),
             caption="Both axes are logarithmic: a rise of slope 1, then a fall of slope minus one half for ever. T5 and Adafactor stay at 0.01 for 10,000 "
             "steps instead of rising; their steps are relative to the size of the weights."),
        *beside({"inverse root": root, "with cool-down": root * left}, caption="The shape in a run of 300 steps. At ten times its warm-up it still has "
                "a third of the peak, and the noise that goes with it."),
        f"The peak is {peak:.3g} at step {warmup_steps:,}; at step {16 * warmup_steps:,} a quarter of it is left.",
    )
