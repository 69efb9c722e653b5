"""The masks of the family side by side, and what they cost."""

import numpy as np

from snippets.attention.causal import causal_mask
from snippets.attention.dilated import dilated_mask
from snippets.attention.global_local import global_local_mask
from snippets.attention.random import bigbird_blocks
from snippets.attention.sliding_window import band_mask
from snippets.attention.sparse import fixed_mask, strided_mask


def masks(T, w):
    """Who may read whom, true where read, with about ``w`` keys a query where the pattern has a width."""
    first = np.arange(T) == 0
    return {
        "bidirectional": np.ones((T, T), bool),
        "causal": causal_mask(T),
        "window": band_mask(T, w),
        "dilated": dilated_mask(T, w, 2),
        "strided": strided_mask(T, w),
        "fixed": fixed_mask(T, w),
        "global + local": global_local_mask(first, w),
        "random": bigbird_blocks(T, 1, max(w // 2 - 1, 0), 1, np.random.default_rng(0)),
    }


# %% demo
from snippets.attention.multi_head import tiles
from snippets.attention.sparse import reach
from snippets.live import bars, demo, heatmap, slider


@demo(
    T=slider(8, 32, step=4, label="tokens"),
    width=slider(2, 8, label="width of the patterns"),
    layers=slider(1, 4, label="layers"),
)
def show(T=16, width=4, layers=1):
    """One layer shows the masks. Add layers: who can influence whom fills up quickly, and differently."""
    each = masks(T, width)
    reached = {name: reach(*[mask] * layers) for name, mask in each.items()}
    names = list(each)
    what = "what is read" if layers == 1 else f"what can be reached in {layers} layers"
    return (
        heatmap(
            tiles([r * 1.0 for r in reached.values()]), x="key", y="query", value="reached", range=(0, 1),
            rows=[""] * (2 * T + 1), columns=[""] * (4 * T + 3),
            caption=f"Upper row: {', '.join(names[:4])}. Lower row: {', '.join(names[4:])}. Bright is {what}.",
        ),
        bars(
            {name: round(float(mask.sum()) / T, 2) for name, mask in each.items()}, y="scores a query", levels={"all": T},
            caption="What a layer costs: the mean number of keys that a query is compared with.",
        ),
        f"With {T} tokens a causal layer computes {causal_mask(T).sum() / T:.1f} scores a query, a window of {width} "
        f"{each['window'].sum() / T:.1f}; at 32,768 tokens it would be 16,384 and {width}.",
    )
