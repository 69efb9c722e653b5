"""Routing by agreement in NumPy."""

import numpy as np

from snippets.ops import softmax


def squash(s):
    """Keeps the direction, brings the length below 1."""
    square = (s**2).sum(-1, keepdims=True)
    return s * np.sqrt(square) / (1 + square)


def routing(u_hat, iters=3):
    """u_hat (I, J, e), what input i predicts for output j -> outputs (J, e), and c (I, J) of every round."""
    b, history = np.zeros(u_hat.shape[:2]), []
    for _ in range(iters):
        c = softmax(b)  # an input shares itself out over the outputs
        v = squash(np.einsum("ij, ije -> je", c, u_hat))
        b = b + np.einsum("ije, je -> ij", u_hat, v)  # more for outputs that agree with its prediction
        history.append(c)
    return v, np.stack(history)


# %% demo
from snippets.live import bars, demo, heatmap, scatter, slider


@demo(
    agreeing=slider(0.0, 1.0, step=0.05, label="share of the 12 inputs that agree on parent A"),
    noise=slider(0.0, 1.0, step=0.05, label="noise on their predictions"),
    iters=slider(1, 6, label="routing iterations"),
)
def show(agreeing=0.35, noise=0.15, iters=3):
    """Add iterations one by one: inputs that agree about A move over to A, and A grows. With no agreement six rounds find
    a winner all the same; that is a weakness, not a feature."""
    rng = np.random.default_rng(3)
    n = round(12 * agreeing)
    around = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    angle = np.stack([rng.permutation(around) for _ in range(3)], 1) + rng.normal(size=(12, 3)) * 0.2
    u_hat = np.stack([np.cos(angle), np.sin(angle)], -1)  # what is not agreed on points everywhere and nearly cancels
    u_hat[:n, 0] = np.array([np.cos(0.6), np.sin(0.6)]) + noise * rng.normal(size=(12, 2))[:n]
    v, history = routing(u_hat, iters)
    length = np.linalg.norm(v, axis=1)
    first = np.linalg.norm(routing(u_hat, 1)[0], axis=1)
    names = ["A", "B", "C"]
    mean = history[-1][:n, 0].mean() if n else 0.0
    return (
        scatter({**{f"for {name}": u_hat[:, j] for j, name in enumerate(names)}}, equal=True, range_x=(-2, 2), range_y=(-2, 2),
                lines={f"parent {name}": [[(0, 0), v[j]]] for j, name in enumerate(names)}, x="first number", y="second",
                caption=f"What the inputs predict for each parent (dots), and the parents that come out (lines from 0). {n} of 12 "
                "predictions for A agree."),
        heatmap(history[:, :, 0].T, x="iteration", y="input capsule", value="coupling to A", range=(0, 1),
                rows=[f"{i + 1}{' ✓' if i < n else ''}" for i in range(12)], columns=[str(t + 1) for t in range(iters)],
                caption="How much of each input goes to A, from 1/3 at the start. ✓: one of those that agree."),
        bars({"plain average": dict(zip(names, first)), f"after {iters}": dict(zip(names, length))}, x="parent", y="length", range_y=(0, 1),
             caption="The length of a parent is read as the probability that it is there."),
        f"After {iters} iteration{'s' * (iters > 1)} A has length {length[0]:.2f}, B {length[1]:.2f}, C {length[2]:.2f}."
        + (f" Inputs that agree send {mean:.0%} of themselves to A." if n else " Nobody agrees on anything; see what six rounds make of it."),
    )
