"""Additive (Bahdanau) attention in NumPy."""

import numpy as np

from snippets.attention.scaled_dot_product import masked_softmax


def additive_scores(query, keys, W, U, v, b=0.0):
    """One hidden layer per pair: query (q,), keys (S, k), W (q, a), U (k, a), v (a,) -> scores (S,)."""
    return np.tanh(query @ W + b + keys @ U) @ v  # keys @ U is the same in every step: compute it once per sentence


def additive_attention(query, keys, values, W, U, v, b=0.0, mask=None):
    weights = masked_softmax(additive_scores(query, keys, W, U, v, b)[None], None if mask is None else mask[None])[0]
    return weights @ values, weights


# %% demo
from snippets.live import bars, demo, line, slider

KEYS = np.array([-2.0, -1.0, 0.0, 1.0, 2.0])[:, None]


def close_by(units):
    """Weights for which keys close to the query score high: each pair of units marks one place, and falls off on both sides."""
    place = np.linspace(-1.5, 1.5, units)
    return np.full((1, units), -1.0), np.ones((1, units)), np.sign(np.round(place, 9)), place


@demo(
    query=slider(-3.0, 3.0, step=0.1, label="query"),
    units=slider(1, 8, label="hidden units"),
    sharpness=slider(0.1, 5.0, step=0.1, label="sharpness"),
)
def show(query=1.0, units=8, sharpness=2.0):
    """Move the query. The dot product wants the largest key, always; the network can want the one that is close."""
    W, U, v, b = close_by(units)
    q = np.array([query])
    at = np.linspace(-3, 3, 61)[:, None]
    additive = sharpness * additive_scores(q, at, W, U, v, b)
    product = sharpness * at[:, 0] * query / 2
    _, weights = additive_attention(q, KEYS, KEYS, W, U, sharpness * v, b)
    by_product = masked_softmax(sharpness * KEYS[:, 0] * query / 2)
    names = [f"key {k:g}" for k in KEYS[:, 0]]
    best, wanted = float(KEYS[weights.argmax(), 0]), float(KEYS[by_product.argmax(), 0])
    return (
        line(
            {"additive": (at[:, 0], additive - additive.max()), "dot product": (at[:, 0], product - product.max())},
            x="key", y="score, less the largest", marks={"query": query}, range_y=(-20, 0),
            caption="A product is a straight line in the key. A hidden layer can bend: more units, more shapes.",
        ),
        bars(
            {"additive": dict(zip(names, weights.round(3))), "dot product": dict(zip(names, by_product.round(3)))}, y="weight", range_y=(0, 1),
            caption="The weights of five keys.",
        ),
        f"For the query {query:g} the network reads key {best:g} most, the dot product key {wanted:g}.",
    )
