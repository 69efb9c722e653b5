"""Relative position representations in NumPy."""

import numpy as np

from snippets.ops import softmax


def distances(tokens, largest):
    """Row of the table for each query and key: their distance, cut off in both directions."""
    return np.clip(np.arange(tokens) - np.arange(tokens)[:, None], -largest, largest) + largest


def logits(q, key_table):
    """What each query's score with each key gains by the distance alone (before scaling)."""
    rows = distances(len(q), len(key_table) // 2)
    by_distance = q @ key_table.T  # each query with each vector of the table, once
    return np.take_along_axis(by_distance, rows, -1)


def attention(q, k, v, key_table, value_table):
    """q, k, v (tokens, d), tables (2 largest + 1, d) -> output (tokens, d) and weights (tokens, tokens)."""
    weights = softmax((q @ k.T + logits(q, key_table)) / np.sqrt(q.shape[-1]))
    rows = distances(len(q), len(value_table) // 2)
    return weights @ v + np.einsum("ij,ijd->id", weights, value_table[rows]), weights


# %% demo
from snippets.live import bars, choice, demo, heatmap, slider


@demo(
    taught=choice("previous token", "next token", "every third", label="what training taught the table"),
    largest=slider(1, 9, label="largest distance told apart"),
    strength=slider(0.0, 4.0, step=0.1, label="strength of the table"),
    shift=slider(0, 20, label="position of the first token"),
)
def show(taught="previous token", largest=4, strength=2.0, shift=0):
    """Lower the largest distance and see what becomes equal. Then move the text: nothing changes, as only distances are looked up."""
    tokens, d = 10, 8
    rng = np.random.default_rng(0)
    at = np.arange(-largest, largest + 1)
    liking = {"previous token": at == -1, "next token": at == 1, "every third": at % 3 == 0}[taught].astype(float)
    direction = np.zeros(d)
    direction[0] = np.sqrt(d)
    text = rng.normal(size=(tokens + 20, 3, d)) * 0.3  # the same ten tokens wherever they stand
    q, k, v = np.moveaxis(text[:tokens], 1, 0)
    q = q + direction / np.sqrt(d)
    positions = shift + np.arange(tokens)
    table = strength * liking[:, None] * direction
    gained = logits(q, table) / np.sqrt(d)
    weights = attention(q, k, v, table, np.zeros_like(table))[1]
    names = [str(p) for p in positions]
    return (
        heatmap(gained, x="key", y="query", value="added to the score", rows=names, columns=names, signed=False, range=(0, 6),
                caption="What the distance adds. Along a diagonal the distance is the same; differences there come from the queries, "
                        "which decide how much the table counts for them."),
        heatmap(weights, x="key", y="query", value="weight", rows=names, columns=names, signed=False, range=(0, 1),
                caption="The weights after the softmax, with the content of the tokens."),
        bars({str(p): s for p, s in zip(at, strength * liking)}, x="key − query", y="strength in the table", range_y=(0, 4),
             caption=f"{len(at)} vectors for any length of text. The outer two serve all distances from {largest} on."),
        f"The first token stands at {shift}; its neighbours' distances are what they were. {np.mean(weights.argmax(-1) == np.clip(np.arange(tokens) - 1, 0, None)):.0%} "
        "of the queries look most at the token before them.",
    )
