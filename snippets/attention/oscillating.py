"""Oscillating attention in NumPy: masks of different directions in turn."""

import numpy as np

from snippets.attention.causal import causal_mask
from snippets.attention.multi_head import multi_head_attention


def direction_mask(T, kind):
    """True where seen. The diagonal always is: without it the last row of a backward mask would be empty."""
    masks = {"forward": causal_mask(T), "backward": causal_mask(T).T, "bidirectional": np.ones((T, T), bool)}
    return masks[kind]


def oscillating_attention(x, layers, head_dim, cycle):
    """Layer after layer (wq, wk, wv, wo) over tokens x (T, D), each with the next direction of the cycle."""
    for n, weights in enumerate(layers):
        x, _ = multi_head_attention(x, *weights, head_dim, mask=direction_mask(len(x), cycle[n % len(cycle)]))
    return x


# %% demo
from snippets.attention.multi_head import tiles
from snippets.attention.sparse import reach
from snippets.live import choice, demo, heatmap, slider

KINDS = ("bidirectional", "forward", "backward")


@demo(
    first=choice(*KINDS, label="first of the cycle"),
    second=choice(*KINDS, label="second"),
    third=choice(*KINDS, label="third"),
    layers=slider(1, 9, label="layers"),
    T=slider(4, 24, label="tokens"),
)
def show(first="forward", second="backward", third="bidirectional", layers=2, T=12):
    """Forward, then backward: two layers, and everyone knows of everyone. Is there a cycle that may predict the next token?"""
    cycle = (first, second, third)
    used = [cycle[n % 3] for n in range(layers)]
    masks = [direction_mask(T, kind) for kind in used]
    known = [reach(*masks[: n + 1]) for n in range(layers)]
    ahead = np.triu(known[-1], 1).any()
    full = next((n + 1 for n, k in enumerate(known) if k.all()), None)
    return (
        heatmap(
            tiles([m * 1.0 for m in masks], per_row=3), x="key, layer by layer", y="query", value="read", range=(0, 1),
            rows=[""] * (-(-layers // 3) * (T + 1) - 1), columns=[""] * (min(layers, 3) * (T + 1) - 1),
            caption="The masks in their order: " + ", ".join(used) + ".",
        ),
        heatmap(
            known[-1] * 1.0, x="input", y="output", value="reached", range=(0, 1),
            caption=f"Who can influence whom after {layers} layer{'s' * (layers > 1)}. Anything above the diagonal is a token's future.",
        ),
        ("From the future to the past something gets through. Usable for next-token prediction: no. " if ahead else
         "Nothing comes from the future. Usable for next-token prediction: yes. ")
        + (f"Every pair is connected after {full} layer{'s' * (full > 1)}." if full else "Not every pair is connected."),
    )
