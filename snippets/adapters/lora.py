"""LoRA in NumPy: a change of low rank is trained by gradient descent."""

import numpy as np


def fit(target, rank, scaling=1.0, rate=0.05, steps=300):
    """Trains A (rank, in) and B (out, rank) so that scaling · B A comes near the target (out, in); B starts at zero."""
    rng = np.random.default_rng(0)
    outputs, inputs = target.shape
    A, B = rng.uniform(-1, 1, (rank, inputs)) / np.sqrt(inputs), np.zeros((outputs, rank))
    errors = []
    for _ in range(steps):
        missing = scaling * B @ A - target
        errors.append(np.linalg.norm(missing))
        # d/dB and d/dA of half the squared error. At the first step B = 0, so A gets no gradient.
        A, B = A - rate * scaling * B.T @ missing, B - rate * scaling * missing @ A.T
    errors.append(np.linalg.norm(scaling * B @ A - target))
    return A, B, np.array(errors)


def tail(target, rank):
    """The least error that any change of this rank can have: the singular values that are left."""
    return np.sqrt((np.linalg.svd(target, compute_uv=False)[rank:] ** 2).sum())


# %% demo
from snippets.live import bars, demo, heatmap, line, slider


@demo(
    r=slider(1, 8, label="rank r of the adapter"),
    true_rank=slider(1, 8, label="rank of the change that is needed"),
    scaling=slider(0.1, 4.0, step=0.1, label="alpha / r"),
    rate=slider(0.01, 0.3, step=0.01, label="learning rate"),
)
def show(r=2, true_rank=3, scaling=1.0, rate=0.1):
    """Raise r until it reaches the rank that is needed. Then change alpha/r alone: it acts like a learning rate."""
    rng = np.random.default_rng(1)
    size = 8
    needed = sum(0.8**i * np.outer(*rng.normal(size=(2, size))) for i in range(true_rank))
    needed *= 3 / np.linalg.norm(needed)
    with np.errstate(all="ignore"):
        A, B, errors = fit(needed, r, scaling, rate)
    found = scaling * B @ A
    diverged = not np.isfinite(errors[-1]) or errors[-1] > 1e3
    errors = np.where(np.isfinite(errors), np.clip(errors, 1e-4, 30), 30.0)
    bound = max(tail(needed, r), 1e-4)
    return (
        heatmap(needed, x="input", y="output", value="change", signed=True, range=(-1, 1), caption="The change of the weight that the new task needs."),
        heatmap(needed * 0 if diverged else found, x="input", y="output", value="change", signed=True, range=(-1, 1),
                caption="What B A has become after 300 steps." if not diverged else "Nothing: training diverged."),
        line({"error": (np.arange(len(errors)), errors)}, x="step", y="distance from the needed change", log_y=True, range_y=(1e-4, 30),
             levels={"best of this rank": bound},
             caption="No change of rank r can get below the line: it is made of the singular values that are left over."),
        bars({"LoRA": r * 2 * size, "whole matrix": size * size}, y="trained numbers", range_y=(0, 128),
             caption="At width 8 half the rank already costs as much as the matrix; at width 4,096 rank 8 costs 0.4 % of it."),
        "Diverged: lower the learning rate or alpha/r." if diverged else
        f"Distance {errors[-1]:.3g} from the needed change of size 3; no change of rank {r} can come closer than {tail(needed, r):.3g}.",
    )
