"""Sparse attention in NumPy: the two patterns of the paper, and who reaches whom through layers."""

import numpy as np

from snippets.attention.scaled_dot_product import scaled_dot_product_attention


def strided_mask(T, stride):
    """The last ``stride`` tokens, and every ``stride``-th before."""
    back = np.arange(T)[:, None] - np.arange(T)
    return (back >= 0) & ((back < stride) | (back % stride == 0))


def fixed_mask(T, stride, summary=1):
    """The own block of ``stride`` tokens, and the last ``summary`` of every block before."""
    query, key = np.arange(T)[:, None], np.arange(T)
    return (key <= query) & ((query // stride == key // stride) | (key % stride >= stride - summary))


def sparse_attention(q, k, v, stride):
    """The strided pattern without a mask: query i (T, d) gathers its keys, and computes no other score."""
    T = len(q)
    offsets = np.concatenate((np.arange(min(stride, T)), np.arange(stride, T, stride)))
    keys = np.arange(T)[:, None] - offsets
    seen = keys >= 0
    out, _ = scaled_dot_product_attention(q[:, None], k[keys], v[keys], seen[:, None])
    return out[:, 0]


def reach(*masks):
    """Which inputs can influence which outputs after these layers, one mask each."""
    reached = np.eye(len(masks[0]), dtype=bool)
    for mask in masks:
        reached = mask.astype(float) @ reached > 0
    return reached


# %% demo
from snippets.attention.causal import causal_mask
from snippets.live import choice, demo, heatmap, line, slider


def a_mask(pattern, T, stride):
    if pattern == "strided":
        return strided_mask(T, stride)
    if pattern == "fixed":
        return fixed_mask(T, stride)
    if pattern == "window":
        return causal_mask(T, window=2 * stride)
    drawn = np.random.default_rng(0).random((T, T)) < 2 * stride / T
    return causal_mask(T) & (drawn | np.eye(T, dtype=bool))


@demo(
    pattern=choice("strided", "fixed", "window", "random", label="pattern"),
    T=slider(16, 64, step=4, label="tokens"),
    stride=slider(2, 16, label="stride"),
    layers=slider(1, 3, label="layers"),
)
def show(pattern="strided", T=36, stride=6, layers=2):
    """Compare what one layer reads with what two layers can reach. A window has as many keys and reaches far less."""
    mask = a_mask(pattern, T, stride)
    reached = reach(*[mask] * layers)
    share = reached.sum() / causal_mask(T).sum()
    lengths = np.arange(16, 1025, 48.0)
    return (
        heatmap(
            mask * 1.0, x="key", y="query", value="read", range=(0, 1),
            caption=f"One layer: {int(mask.sum())} of the {T * (T + 1) // 2} scores of causal attention are computed.",
        ),
        heatmap(
            reached * 1.0, x="input", y="output", value="reached", range=(0, 1),
            caption=f"{layers} layer{'s' * (layers > 1)}: {100 * share:.0f} % of the earlier tokens can have an influence.",
        ),
        line(
            {"all": lengths**2 / 2, "strided": 2 * lengths**1.5, f"window of {2 * stride}": 2 * stride * lengths},
            at=lengths, x="tokens T", y="scores of a head", log_y=True, dashed=["all"],
            caption="With a stride of √T the count grows like T·√T: between all pairs and a window of fixed width.",
        ),
        f"Row {T - 1} reads {int(mask[-1].sum())} keys and reaches {100 * reached[-1].mean():.0f} % of all tokens in {layers} "
        f"layer{'s' * (layers > 1)}; over all rows it is {100 * share:.0f} % of the past.",
    )
