"""Dilated attention in NumPy."""

import numpy as np

from snippets.attention.scaled_dot_product import scaled_dot_product_attention


def dilated_mask(T, window, dilation):
    """Causal: tokens i, i - r, i - 2r ..., ``window`` of them."""
    back = np.arange(T)[:, None] - np.arange(T)
    return (back >= 0) & (back < window * dilation) & (back % dilation == 0)


def dilated_attention(q, k, v, window, dilation):
    """Each query (T, d) gathers ``window`` keys that stand ``dilation`` apart, and computes no other score."""
    keys = np.arange(len(q))[:, None] - dilation * np.arange(window)
    out, _ = scaled_dot_product_attention(q[:, None], k[keys.clip(0)], v[keys.clip(0)], (keys >= 0)[:, None])
    return out[:, 0]


# %% demo
from snippets.attention.sparse import reach
from snippets.live import bars, choice, demo, heatmap, slider

T = 64


@demo(
    rates=choice("equal", "growing", label="dilation of the layers"),
    dilation=slider(1, 8, label="dilation of the first layer"),
    window=slider(2, 6, label="window"),
    layers=slider(1, 5, label="layers"),
)
def show(rates="growing", dilation=1, window=2, layers=4):
    """Stack equal dilations and see the holes; let them grow and see none. Then start growing from 3."""
    each = [dilation * (window**n if rates == "growing" else 1) for n in range(layers)]
    masks = [dilated_mask(T, window, r) for r in each]
    cone = np.array([reach(*masks[: n + 1])[-1] for n in range(layers)])
    far = min(1 + (window - 1) * sum(each), T)
    seen = int(cone[-1].sum())
    return (
        heatmap(
            cone * 1.0, x="input token", y="dilation of the layer", value="reached", range=(0, 1), rows=[str(r) for r in each],
            caption=f"Which inputs output {T - 1} can know, layer by layer. Dark stripes in the last row are tokens that it will never "
                    "know of.",
        ),
        heatmap(
            masks[-1] * 1.0, x="key", y="query", value="read", range=(0, 1),
            caption=f"What one layer with dilation {each[-1]} reads: {window} keys a query at most.",
        ),
        bars(
            {"reach": far, "tokens known": seen, "scores a query": window * layers}, y="tokens",
            caption="The reach of all layers, how much of it is really known, and the scores that it took.",
        ),
        f"{layers} layer{'s' * (layers > 1)} reach{'es' * (layers == 1)} {far} tokens back and know{'s' * (layers == 1)} "
        + ("every token of them." if seen == far else f"only {seen} of them: the rest are holes."),
    )
