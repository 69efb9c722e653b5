"""Softmax in NumPy, with its temperature, entropy and Jacobian."""

import numpy as np


def softmax(x, temperature=1.0):
    z = x / temperature
    e = np.exp(z - z.max())  # the constant cancels; without it, e^710 overflows
    return e / e.sum()


def entropy(p):
    """In nats; a probability of 0 adds nothing."""
    return -sum(q * np.log(q) for q in p if q > 0)


def jacobian(p):
    """How probability i changes with logit j (temperature 1)."""
    return np.diag(p) - np.outer(p, p)


# %% demo
from snippets.live import bars, demo, heatmap, line, slider


@demo(
    temperature=slider(0.05, 10.0, log=True, label="temperature"),
    first=slider(-10.0, 10.0, step=0.1, label="logit of a"),
    constant=slider(-100.0, 100.0, step=1.0, label="constant added to all"),
)
def show(temperature=1.0, first=2.0, constant=0.0):
    """Lower the temperature: the winner takes all. Then add a constant to every logit and watch nothing happen."""
    names = list("abcdef")
    x = np.array([first, 1.5, 1.0, 0.0, -0.5, -2.0]) + constant
    p = softmax(x, temperature)
    many = np.geomspace(0.05, 10, 81)
    j = jacobian(p) / temperature
    return (
        bars(dict(zip(names, p)), x="logit", y="probability", range_y=(0, 1),
             caption=f"The logits are {', '.join(f'{v:g}' for v in x)}. Ratios of probabilities are e^(difference / temperature)."),
        line({"entropy": (many, [entropy(softmax(x, t)) for t in many])}, x="temperature", y="entropy (nats)", log_x=True,
             marks={"now": temperature}, levels={"log 6": np.log(6)}, range_y=(0, 1.9),
             caption="From 0, a sure choice, to log 6, no preference. The rise is Var(x)/T³ and never turns back."),
        heatmap(j, x="logit that changes", y="probability", value="derivative", rows=names, columns=names, signed=True,
                caption="The Jacobian (diag(p) − p pᵀ)/T. Every row and column sums to 0: what one gains, the others lose. "
                "When one probability is near 1 all of it fades."),
        f"The largest probability is {p.max():.3f}, the entropy {entropy(p):.3f} of at most {np.log(6):.3f}. Without subtracting the "
        f"maximum, the largest exponential would be e^{x.max() / temperature:.0f}"
        + ("." if x.max() / temperature < 88 else ": too large for float32." if x.max() / temperature < 709 else ": too large even for float64."),
    )
