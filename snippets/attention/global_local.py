"""Global and local attention in NumPy."""

import numpy as np

from snippets.attention.scaled_dot_product import scaled_dot_product_attention
from snippets.attention.sliding_window import band_mask


def global_local_mask(is_global, window):
    """A band; and whoever is global (T,) reads everyone (its row) and is read by everyone (its column)."""
    return band_mask(len(is_global), window, causal=False) | is_global[:, None] | is_global


def global_local_attention(local, wide, is_global, window):
    """``local`` and ``wide`` are (q, k, v) of width (T, d): global tokens ask with projections of their own."""
    near, _ = scaled_dot_product_attention(*local, mask=global_local_mask(is_global, window))
    far, _ = scaled_dot_product_attention(*wide)
    return np.where(is_global[:, None], far, near)


# %% demo
from snippets.attention.sparse import reach
from snippets.live import bars, demo, heatmap, slider


@demo(
    window=slider(0, 8, label="window"),
    n_global=slider(0, 4, label="global tokens"),
    place=slider(0, 15, label="place of the first one"),
    T=slider(16, 48, step=4, label="tokens"),
    layers=slider(1, 3, label="layers"),
)
def show(window=4, n_global=1, place=0, T=32, layers=2):
    """Add one global token: what took a window many layers takes two. Move it; it does not matter where it stands."""
    is_global = np.zeros(T, bool)
    is_global[[(place + i * T // 4) % T for i in range(n_global)]] = True
    mask = global_local_mask(is_global, window)
    reached, in_band = reach(*[mask] * layers), int(band_mask(T, window, causal=False).sum())
    return (
        heatmap(
            mask * 1.0, x="key", y="query", value="read", range=(0, 1),
            caption="The band is the window. Each global token adds its row (it reads all) and its column (all read it).",
        ),
        heatmap(
            reached * 1.0, x="input", y="output", value="reached", range=(0, 1),
            caption=f"Who can influence whom after {layers} layer{'s' * (layers > 1)}.",
        ),
        bars(
            {"full attention": T * T, "window": in_band, "global": int(mask.sum()) - in_band},
            y="scores of a head",
            caption="A few global tokens add about 2·T scores each. With many the cost is that of full attention again.",
        ),
        f"{100 * reached.mean():.0f} % of all pairs are connected, with {100 * mask.mean():.0f} % of the scores of full attention.",
    )
