"""Prefix tuning in NumPy: one head reads a text and a few trained places before it."""

import numpy as np

from snippets.ops import softmax


def attend(q, k, v):
    """Means of v for each query, and the weights."""
    weights = softmax(q @ k.T / np.sqrt(q.shape[-1]))
    return weights @ v, weights


def with_prefix(q, k, v, prefix_k, prefix_v):
    """The same over prefix and text; and the share of the weights that the prefix gets."""
    out, weights = attend(q, np.concatenate([prefix_k, k]), np.concatenate([prefix_v, v]))
    return out, weights, weights[:, : len(prefix_k)].sum(-1)


# %% demo
from snippets.live import demo, heatmap, line, scatter, slider


@demo(
    length=slider(0, 8, label="prefix length"),
    alignment=slider(-3.0, 3.0, step=0.1, label="how much the prefix keys match the queries"),
    angle=slider(0, 360, step=10, label="direction of the prefix values", unit="°"),
)
def show(length=3, alignment=1.0, angle=90):
    """Raise the match: the prefix takes over. Turn its values: the output moves on the line between text and prefix, never off it."""
    rng = np.random.default_rng(4)
    tokens = 6
    q = rng.normal(size=(tokens, 2)) * 0.6 + np.array([1.0, 0.3])
    k, v = rng.normal(size=(tokens, 2)), rng.normal(size=(tokens, 2)) * 0.5 + np.array([1.2, -0.6])
    mean = q.mean(0) / np.linalg.norm(q.mean(0))
    prefix_k = alignment * mean + 0.15 * rng.normal(size=(8, 2))[:length]
    turn = np.radians(angle)
    prefix_v = 1.8 * np.array([np.cos(turn), np.sin(turn)]) + 0.2 * rng.normal(size=(8, 2))[:length]
    base = attend(q, k, v)[0][-1]
    out, weights, share = with_prefix(q, k, v, prefix_k, prefix_v)
    only = attend(q, prefix_k, prefix_v)[0][-1] if length else base
    names = [f"p{i + 1}" for i in range(length)] + [f"t{i + 1}" for i in range(tokens)]
    lengths = np.arange(9)
    every = 1.8 * np.array([np.cos(turn), np.sin(turn)]) + 0.2 * np.random.default_rng(0).normal(size=(8, 2))
    keys = alignment * mean + 0.15 * np.random.default_rng(1).normal(size=(8, 2))
    taken = [with_prefix(q, k, v, keys[:n], every[:n])[2][-1] for n in lengths]
    return (
        heatmap(weights, x="reads", y="text position", value="weight", columns=names, rows=[f"t{i + 1}" for i in range(tokens)], range=(0, 1), signed=False,
                caption="Who reads what. The prefix (p) is no text and has no row: it is read and never asks."),
        scatter({"text alone": [base], "prefix alone": [only], "output": [out[-1]]}, lines={"output": [np.array([base, only])]}, equal=True,
                range_x=(-2.6, 2.6), range_y=(-2.6, 2.6), x="first coordinate", y="second coordinate",
                caption="The output of the last position. It lies on the line between what the text says and what the prefix says."),
        line({"share of the prefix": (lengths, taken)}, x="prefix length", y="weight on the prefix", range_y=(0, 1), marks={"now": length} if length else {},
             caption="Longer prefixes draw more of the attention, and take it from the text."),
        f"λ = {share[-1]:.2f}: the last position reads the text with {1 - share[-1]:.0%} of its weight.",
    )
