"""Infini-attention in NumPy: exact within a segment, and a memory of fixed size for what was before."""

import numpy as np

from snippets.attention.causal import causal_mask
from snippets.attention.linear import elu_plus_1
from snippets.attention.scaled_dot_product import scaled_dot_product_attention


def read(features, memory, total):
    """The mean of what is stored, weighted by phi(q).phi(k); zero if nothing is."""
    weight = features @ total
    return features @ memory / np.where(weight == 0, 1.0, weight)[:, None]


def write(features, v, memory, total, delta_rule):
    """Adds values under their keys; with the delta rule only what the memory does not return already."""
    new = v - read(features, memory, total) if delta_rule else v
    return memory + features.T @ new, total + features.sum(0)


def infini_attention(q, k, v, segment, share, delta_rule=True):
    """One head, (T, d). ``share`` of the output comes from the memory: the sigmoid of the learned gate."""
    memory, total, outs = np.zeros((k.shape[1], v.shape[1])), np.zeros(k.shape[1]), []
    for start in range(0, len(q), segment):
        s = slice(start, start + segment)
        local, _ = scaled_dot_product_attention(q[s], k[s], v[s], causal_mask(len(q[s])))
        outs.append(share * read(elu_plus_1(q[s]), memory, total) + (1 - share) * local)
        memory, total = write(elu_plus_1(k[s]), v[s], memory, total, delta_rule)
    return np.concatenate(outs)


# %% demo
from snippets.live import bars, choice, demo, line, slider


@demo(
    pairs=slider(1, 64, label="pairs stored"),
    width=slider(2, 32, label="width of a key"),
    share=slider(0.0, 1.0, step=0.05, label="share of the memory in the output"),
    rule=choice("delta", "additive", label="rule"),
    kind=choice("far apart", "random", label="keys"),
)
def show(pairs=32, width=16, share=1.0, rule="delta", kind="far apart"):
    """Store more and more pairs, and ask for the first one. A memory of d rows keeps d pairs apart at best. Then try random keys."""
    rng = np.random.default_rng(0)
    keys, values = 3 * rng.normal(size=(64, width)), rng.normal(size=(64, 8))
    if kind == "far apart":  # features that hardly overlap: each key has one coordinate of its own, as long as there are any
        keys = np.where(np.arange(64)[:, None] % width == np.arange(width), 8.0, -5.0) + 0.1 * keys
    curves = {}
    for name in ("delta", "additive"):
        memory, total, errors = np.zeros((width, 8)), np.zeros(width), []
        for n in range(64):  # one pair a segment
            memory, total = write(elu_plus_1(keys[n : n + 1]), values[n : n + 1], memory, total, name == "delta")
            found = share * read(elu_plus_1(keys[:1]), memory, total)[0]  # in a later segment the local part knows nothing of it
            errors.append(np.linalg.norm(found - values[0]) / np.linalg.norm(values[0]))
        curves[name] = errors
    now = curves[rule][pairs - 1]
    size = width * 8 + width
    return (
        line(
            {name: e[:pairs] if pairs > 1 else e[:2] for name, e in curves.items()}, at=np.arange(1, max(pairs, 2) + 1), x="pairs stored",
            y="relative error of the first value", range_y=(0, 1.5), marks={"width of a key": width} if width <= pairs else {},
            dashed=["additive" if rule == "delta" else "delta"],
            caption="How far the recalled first value is from the stored one. Keys far apart: well until the rows are used up. Random keys: features that are never negative overlap, and it blurs at once.",
        ),
        bars(
            {"memory": size, "cache": pairs * (width + 8)}, y="numbers kept",
            caption="The memory has one size; a cache of keys and values grows with every token.",
        ),
        f"After {pairs} pairs the first value comes back with an error of {100 * now:.0f} %, from {size} numbers.",
    )
