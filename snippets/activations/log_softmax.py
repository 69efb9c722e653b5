"""Log-softmax and log-sum-exp in NumPy, in any precision."""

import numpy as np


def logsumexp(x):
    """log Σ e^x along the last axis: the largest exponential is made 1."""
    top = x.max(-1, keepdims=True)
    return np.log(np.exp(x - top).sum(-1, keepdims=True)) + top


def log_softmax(x):
    z = x - x.max(-1, keepdims=True)  # first the maximum, then the logarithm: near large x it would be lost
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


def log_of_softmax(x):
    """What not to do: the probability may be rounded to 0 before its logarithm is taken."""
    e = np.exp(x - x.max(-1, keepdims=True))
    with np.errstate(divide="ignore"):
        return np.log(e / e.sum(-1, keepdims=True))


# %% demo
from snippets.live import bars, choice, demo, line, slider


def both(gap, n, dtype):
    """The log-probability of the last of n logits, which go down evenly from 0 to −gap: naive and right."""
    x = np.linspace(0, -gap, n).astype(dtype)
    return log_of_softmax(x)[-1], log_softmax(x)[-1]


@demo(
    gap=slider(0, 200, label="gap between largest and smallest logit"),
    n=slider(2, 64, label="number of logits"),
    precision=choice("float16", "float32", "float64", label="precision"),
)
def show(gap=20, n=8, precision="float16"):
    """In float16 the naive logarithm falls off at a gap of about 17. Switch to float32: it holds, up to a gap of about 104."""
    dtype = np.dtype(precision)
    gaps = np.arange(0, 201, 2)
    naive, right = np.array([both(g, n, dtype) for g in gaps], dtype=float).T
    lost = gaps[~np.isfinite(naive)]
    x = np.linspace(0, -gap, n)
    here = both(gap, n, dtype)
    return (
        line({"log_softmax": (gaps, right), "log(softmax)": (gaps, np.where(np.isfinite(naive), naive, np.nan))}, x="gap",
             y="log-probability of the smallest", dashed=["log_softmax"], marks={"now": gap}, range_y=(-210, 5),
             caption=f"Where the solid line ends the probability has become 0 in {precision}"
             + (f": from a gap of {lost[0]:.0f} on." if len(lost) else "; here it never does.")),
        bars({"largest": x.max(), "log-sum-exp": float(logsumexp(x)[0]), "largest + log n": x.max() + np.log(n)}, y="value",
             range_y=(0, 4.5), caption="The smooth maximum lies between these bounds. It reaches the upper one when all logits are equal (gap 0), "
             "the lower one when one stands out."),
        f"Gap {gap}, {n} logits, {precision}: log(softmax) gives {here[0]:.4g}, log_softmax {here[1]:.4g}.",
    )
