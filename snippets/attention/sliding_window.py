"""Sliding-window attention in NumPy."""

import numpy as np

from snippets.attention.causal import causal_mask
from snippets.attention.scaled_dot_product import scaled_dot_product_attention


def band_mask(T, window, causal=True):
    """Causal: the last ``window`` tokens, the own one included. Else: ``window // 2`` on each side, and the own one."""
    if causal:
        return causal_mask(T, window=window)
    place = np.arange(T)
    return np.abs(place[:, None] - place) <= window // 2


def sliding_window_attention(q, k, v, window):
    """Causal, and without any T x T array: each query (T, d) meets a view of the last ``window`` keys."""

    def windows(x):
        padded = np.concatenate((np.zeros((window - 1, x.shape[1])), x))
        return np.lib.stride_tricks.sliding_window_view(padded, window, axis=0).swapaxes(1, 2)  # (T, window, d), no copy

    before_the_first = np.arange(len(q))[:, None] + np.arange(window) < window - 1
    out, _ = scaled_dot_product_attention(q[:, None], windows(k), windows(v), ~before_the_first[:, None])
    return out[:, 0]


# %% demo
from snippets.attention.sparse import reach
from snippets.live import demo, heatmap, line, slider, toggle


@demo(
    window=slider(1, 16, label="window"),
    layers=slider(1, 8, label="layers"),
    T=slider(16, 64, step=4, label="tokens"),
    causal=toggle(label="causal"),
)
def show(window=5, layers=4, T=32, causal=True):
    """Stack layers and watch the cone of what one output can know grow, a window at a time."""
    mask = band_mask(T, window, causal)
    at = T - 1 if causal else T // 2
    cone = np.array([reach(*[mask] * n)[at] for n in range(1, layers + 1)])
    lengths = np.arange(64, 4097, 64.0)
    per_row = window if causal else 2 * (window // 2) + 1
    known = int(cone[-1].sum())
    return (
        heatmap(
            mask * 1.0, x="key", y="query", value="read", range=(0, 1),
            caption=f"The band: {int(mask.sum())} of {T * T} scores are computed.",
        ),
        heatmap(
            cone * 1.0, x="input token", y="layers", value="reached", range=(0, 1), rows=[str(n) for n in range(1, layers + 1)],
            caption=f"Which inputs can influence output {at} after each layer.",
        ),
        line(
            {"full": lengths**2 / (2 if causal else 1), "window": per_row * lengths}, at=lengths, x="tokens T", y="scores of a head",
            log_y=True, range_y=(10, 2e7), dashed=["full"],
            caption="Twice the length is twice the work with a window, and four times the work without.",
        ),
        f"After {layers} layer{'s' * (layers > 1)} output {at} reaches {known} tokens; a cache holds "
        + (f"{window} tokens a layer, however long the text." if causal else "nothing: the future is read too."),
    )
