"""Performer (FAVOR+) in NumPy: softmax attention by random features."""

import numpy as np

from snippets.attention.linear import linear_attention


def directions(m, d, orthogonal, rng):
    """Standard normal vectors (m, d); orthogonal ones in groups of d, with lengths drawn apart."""
    if not orthogonal:
        return rng.normal(size=(m, d))
    groups = [np.linalg.qr(rng.normal(size=(d, d)))[0].T for _ in range(-(-m // d))]
    lengths = np.linalg.norm(rng.normal(size=(m, d)), axis=1, keepdims=True)
    return np.concatenate(groups)[:m] * lengths * rng.choice([-1, 1], (m, 1))


def positive_features(x, omega):
    """phi(q).phi(k) is exp(q.k) on average, and never negative."""
    return np.exp(x @ omega.T - np.sum(x**2, -1, keepdims=True) / 2) / np.sqrt(len(omega))


def trigonometric_features(x, omega):
    """So is this one. But a sum of cosines that should be near 0 is anything around it, also negative."""
    angle = x @ omega.T
    size = np.exp(np.sum(x**2, -1, keepdims=True) / 2) / np.sqrt(len(omega))
    return size * np.concatenate((np.cos(angle), np.sin(angle)), -1)


def performer_attention(q, k, v, omega, causal=False):
    root = q.shape[1] ** -0.25  # queries and keys take half of the scale 1/√d each
    return linear_attention(positive_features(q * root, omega), positive_features(k * root, omega), v, causal)


# %% demo
from snippets.attention.multi_head import tiles
from snippets.live import choice, demo, heatmap, line, slider, toggle
from snippets.ops import softmax


@demo(
    n_features=slider(4, 512, log=True, label="features"),
    scale=slider(0.2, 3.0, step=0.1, label="scale of the scores"),
    kind=choice("positive", "trigonometric", label="features are"),
    orthogonal=toggle(label="orthogonal directions"),
    seed=slider(0, 20, label="draw"),
)
def show(n_features=64, scale=1.0, kind="positive", orthogonal=True, seed=0):
    """Take more features and see the weights settle. Raise the scale and see them fail. Then draw again."""
    n_features, T, d = round(n_features), 12, 8
    q, k = np.random.default_rng(0).normal(size=(2, T, d)) * np.sqrt(scale) / d**0.25
    exact = softmax(q @ k.T)
    features = positive_features if kind == "positive" else trigonometric_features

    def estimate(m, draw, orthogonal=orthogonal):
        omega = directions(m, d, orthogonal, np.random.default_rng(draw))
        weights = features(q, omega) @ features(k, omega).T
        return weights / weights.sum(1, keepdims=True)

    def error(m, orthogonal):
        """Half of the weight that is misplaced, in a typical draw: the median is not moved by one sum near 0."""
        return np.median([np.abs(estimate(m, 100 + draw, orthogonal) - exact).sum(1).mean() / 2 for draw in range(5)])

    sizes = [4, 8, 16, 32, 64, 128, 256, 512]
    curves = {name: [max(error(m, way), 1e-4) for m in sizes] for name, way in (("orthogonal", True), ("independent", False))}
    ours = estimate(n_features, seed)
    low = float(min(ours.min(), 0))
    return (
        heatmap(
            tiles([exact, np.clip(ours, -1, 1)]), x="key: exact · estimated", y="query", value="weight", rows=[""] * T,
            columns=[""] * (2 * T + 1), range=(-1 if low < 0 else 0, 1),
            caption="Left the softmax, right the same from random features. Trigonometric features give negative weights where the true one "
                    "is near 0.",
        ),
        line(
            curves, at=sizes, x="features", y="share of the weight that is misplaced", log_x=True, log_y=True,
            range_y=(0.01, 10), marks={"now": n_features},
            caption="More features settle the weights, slowly. Orthogonal directions are a little better.",
        ),
        f"With {n_features} features {100 * np.abs(ours - exact).sum(1).mean() / 2:.0f} % of the weight is misplaced in this draw; the "
        f"smallest weight is {low:.2f}.",
    )
