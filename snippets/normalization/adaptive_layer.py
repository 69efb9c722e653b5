"""Adaptive layer normalization (AdaLN) and FiLM in NumPy."""

import numpy as np

from snippets.normalization.layer import layer_norm


def film(x, gamma, beta):
    """One gain and one shift per feature, the last axis."""
    return gamma * x + beta


def ada_layer_norm(x, cond, W, b, eps=1e-6):
    """x (..., T, D), cond (K,), W (K, 3D): the modulated x, and the gate for what is computed of it."""
    active = cond / (1 + np.exp(-cond))  # SiLU
    shift, scale, gate = np.split(active @ W + b, 3, -1)
    return film(layer_norm(x, eps=eps), 1 + scale, shift), gate


# %% demo
from snippets.live import demo, line, slider

D, CONDITIONS = 128, np.linspace(0, 1, 9)
rng = np.random.default_rng(0)
X = np.linspace(-np.pi, np.pi, 81)
HIDDEN = np.tanh(rng.normal(size=D) * X[:, None] + rng.normal(size=D) * 2)  # a fixed first layer: features of x
SCALE, SHIFT = rng.normal(size=(2, D))  # what the condition does to each feature


def target(c):
    return (1 + c) * np.sin((1 + c) * X)


def features(c, scale, shift):
    """The modulated features, through a ReLU: here the condition is the number c itself."""
    return np.maximum(film(layer_norm(HIDDEN), 1 + scale * c * SCALE, shift * c * SHIFT), 0)


def fit():
    """Last layer by least squares, so that at strengths 1 the branch adds what is missing to sin x for nine conditions."""
    A = np.concatenate([features(c, 1.0, 1.0) for c in CONDITIONS])
    y = np.concatenate([target(c) - np.sin(X) for c in CONDITIONS])
    return np.linalg.solve(A.T @ A + 1e-4 * np.eye(D), A.T @ y)


READOUT = fit()


@demo(
    condition=slider(0.0, 1.0, step=0.05, label="condition c"),
    scale=slider(0.0, 3.0, step=0.1, label="strength of the scale"),
    shift=slider(-2.0, 2.0, step=0.1, label="strength of the shift"),
    gate=slider(0.0, 1.0, step=0.05, label="gate"),
)
def show(condition=0.6, scale=1.0, shift=1.0, gate=1.0):
    """Move the condition: one set of weights draws a family of curves. Set scale and shift to 0: all are one. Set the gate to 0: the block is the identity."""
    curve = lambda c: np.sin(X) + gate * features(c, scale, shift) @ READOUT
    now = curve(condition)
    error = np.sqrt(np.mean((now - target(condition)) ** 2))
    told = abs(curve(1.0) - curve(0.0)).max()
    return (
        line({"output at c": now, "wanted at c": target(condition)}, at=X, x="x", y="output", dashed=["wanted at c"], range_y=(-3, 3),
             caption="sin x goes in; the block adds gate · f(modulated x). Wanted is (1 + c) sin((1 + c) x), fitted with both strengths and the gate at 1."),
        line({f"c = {c:g}": curve(c) for c in (0.0, 0.5, 1.0)}, at=X, x="x", y="output", range_y=(-3, 3),
             caption="The same weights under three conditions. What tells them apart is a gain and a shift per feature."),
        f"At c = {condition:g} the output misses the wanted curve by {error:.2f} (root mean square). Between c = 0 and c = 1 it moves by up to {told:.2f}.",
    )
