"""A stack of residual layers in NumPy, with its gradients."""

from math import comb

import numpy as np


def signals(x, weights, scale=1.0, skip=True):
    """x (d), weights (L, d, d) -> (L + 1, d): the signal after each layer h + scale·tanh(W h)."""
    h = [x]
    for w in weights:
        h.append(skip * h[-1] + scale * np.tanh(w @ h[-1]))
    return np.array(h)


def gradients(h, weights, scale=1.0, skip=True):
    """The gradient of the sum of the last signal with respect to each one before: back through I + scale·J."""
    g = [np.ones_like(h[-1])]
    for w, before in zip(weights[::-1], h[-2::-1]):
        branch = w.T @ ((1 - np.tanh(w @ before) ** 2) * g[-1])
        g.append(skip * g[-1] + scale * branch)
    return np.array(g[::-1])


def path_shares(layers, scale=1.0):
    """Of all 2^L ways through, the share that passes n branches, if each branch counts with its scale."""
    weight = np.array([comb(layers, n) * scale**n for n in range(layers + 1)], float)
    return weight / weight.sum()


# %% demo
from snippets.live import bars, demo, line, slider, toggle


@demo(
    depth=slider(1, 100, label="layers"),
    scale=slider(0.0, 1.5, step=0.05, label="scale of the branches"),
    skip=toggle(label="way around each branch"),
)
def show(depth=40, scale=0.5, skip=True):
    """Switch the way around off: after some layers nothing is left of the signal, and less of the gradient. Then try it with scale 1."""
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(depth, 24, 24)) / 24**0.5
    h = signals(rng.normal(size=24), weights, scale, skip)
    g = gradients(h, weights, scale, skip)
    at = np.arange(depth + 1)
    norm = lambda x: np.maximum(np.linalg.norm(x, axis=1), 1e-12)  # noqa: E731
    shares = path_shares(depth, scale if skip else 1.0) if skip else np.eye(depth + 1)[depth]
    width = -(-(depth + 1) // 11)
    groups = {}
    for start in range(0, depth + 1, width):
        end = min(start + width, depth + 1) - 1
        groups[str(start) if start == end else f"{start}–{end}"] = round(shares[start : end + 1].sum(), 3)
    mean = (at * shares).sum()
    return (
        line({"signal": (at, norm(h)), "gradient": (at, norm(g))}, x="layer", y="length (cut off at 1e-12)", log_y=True, range_y=(1e-12, 1e4),
             caption="How long the signal is after each layer, and the gradient that comes back to it from the end."),
        bars(groups, x="branches on the way", y="share", range_y=(0, 1),
             caption="All ways through the stack, by the number of branches that they pass, each counted with its scale."),
        f"The gradient that reaches the input is {norm(g)[0] / norm(g)[-1]:.2g} times that at the end. "
        + (f"A way through passes {mean:.0f} of {depth} branches on average." if skip else f"The only way through passes all {depth} branches."),
    )
