"""Batch normalization in NumPy."""

import numpy as np

from snippets.normalization.layer import moments, standardize


def batch_norm(x, running, momentum=0.1, training=True, eps=1e-5):
    """x (B, C, ...): one mean and variance per channel, over everything else.

    Returns the result and the new running (mean, variance): `momentum` is the weight of the new batch.
    """
    channel = (1, -1) + (1,) * (x.ndim - 2)
    if not training:
        mean, variance = (r.reshape(channel) for r in running)
        return standardize(x, mean, variance, eps), running
    mean, variance = moments(x, (0, *range(2, x.ndim)))
    n = x.size / mean.size
    unbiased = variance * n / (n - 1)  # what is remembered; the output uses the biased one
    running = [r + momentum * (new.ravel() - r) for r, new in zip(running, (mean, unbiased))]
    return standardize(x, mean, variance, eps), running


# %% demo
from snippets.live import choice, demo, line, scatter, slider

STEPS = 80


@demo(
    batch=slider(2, 128, label="batch size"),
    scale=slider(0.1, 10.0, log=True, label="standard deviation of the input"),
    mean=slider(-5.0, 5.0, step=0.1, label="mean of the input"),
    momentum=slider(0.01, 1.0, log=True, label="momentum"),
    mode=choice("train", "eval", label="mode"),
)
def show(batch=8, scale=2.0, mean=3.0, momentum=0.1, mode="train"):
    """Take momentum 1: the running averages are those of the last batch. Take 0.01: after 80 steps they have not arrived. Batch 2 is noise."""
    rng = np.random.default_rng(3)
    stream = mean + scale * rng.normal(size=(STEPS, batch, 2))
    stream[:, :, 1] = mean + 0.5 * (stream[:, :, 1] - mean)  # the second feature has half the deviation
    running, means, variances = (np.zeros(2), np.ones(2)), [0.0], [1.0]
    for x in stream:
        y, running = batch_norm(x, running, momentum)
        means.append(running[0][0])
        variances.append(running[1][0])
    if mode == "eval":
        y, _ = batch_norm(x, running, training=False)
    # Averages of many batches wander by sqrt(m / (2 - m)) of what a single batch's statistic does.
    wander = np.sqrt(momentum / (2 - momentum)) * scale / np.sqrt(batch)
    return (
        scatter({"input": x, "output": y}, x="feature 1", y="feature 2", equal=True,
                caption="The last batch. Each feature is moved and stretched on its own"
                        + (" by the batch's own mean and deviation: the output is centred, however odd the batch."
                           if mode == "train" else " by the running averages: what is odd about this batch stays visible.")),
        line({"running mean": means}, levels={"true mean": mean}, x="step", y="running mean of feature 1",
             caption="It starts at 0 and moves a fraction, the momentum, of the way to each batch's mean. A higher momentum arrives sooner and trembles more."),
        line({"running variance": variances}, levels={"true variance": scale**2}, x="step", y="running variance of feature 1",
             caption="It starts at 1. With two values a batch, a single estimate is off by more than the variance itself."),
        f"After {STEPS} steps the running mean is {abs(means[-1] - mean) / scale:.2f} deviations from the truth; {(1 - momentum) ** STEPS:.1%} "
        f"of the start is left, and batches of {batch} at momentum {momentum:.3g} make it wander by {wander / scale:.2f}.",
    )
