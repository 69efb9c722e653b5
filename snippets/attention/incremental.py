"""Incremental attention in NumPy: a step computes the new tokens only."""

import numpy as np

from snippets.attention.causal import causal_mask
from snippets.attention.multi_head import merge_heads, split_heads
from snippets.attention.scaled_dot_product import scaled_dot_product_attention


class Buffer:
    """Keys and values (H, max_len, d), allocated once. Setting ``length`` back forgets the tokens behind it."""

    def __init__(self, n_heads, max_len, head_dim):
        self.keys, self.values = np.zeros((2, n_heads, max_len, head_dim))
        self.length = 0

    def append(self, k, v):
        end = self.length + k.shape[1]
        if end > self.keys.shape[1]:
            raise ValueError(f"{end} tokens do not fit into the {self.keys.shape[1]} places of the buffer")
        self.keys[:, self.length : end], self.values[:, self.length : end] = k, v
        self.length = end
        return self.keys[:, :end], self.values[:, :end]


def step(x, wq, wk, wv, wo, buffer):
    """New tokens x (t, D): one in decoding, a chunk in prefill. They are the last t of all that the buffer then holds."""
    head_dim = buffer.keys.shape[2]
    q, k, v = (split_heads(x @ w, head_dim) for w in (wq, wk, wv))
    keys, values = buffer.append(k, v)
    out, _ = scaled_dot_product_attention(q, keys, values, causal_mask(len(x), buffer.length))
    return merge_heads(out) @ wo


def multiply_adds(context, width, cached):
    """Of the step that writes token number ``context``: four projections, then scores and means."""
    tokens, scores = (1, context) if cached else (context, context * (context + 1) / 2)
    return tokens * 4.0 * width**2 + 2.0 * scores * width


# %% demo
from snippets.inference.kv_cache import cache_bytes
from snippets.live import bars, demo, heatmap, line, slider, toggle


@demo(
    cached=toggle(label="cache"),
    context=slider(1, 4096, log=True, label="context", unit="tokens"),
    layers=slider(1, 80, label="layers"),
    kv_heads=slider(1, 64, label="key/value heads"),
)
def show(cached=True, context=1024, layers=32, kv_heads=8):
    """Switch the cache off: every step computes the whole triangle again. What it costs in memory is in the bars."""
    context, T, width = float(round(context)), 12, 4096
    row, key = np.indices((T, T))
    computed = np.where(key > row, np.nan, np.where(cached, row + 1.0, T))
    lengths = np.unique(np.geomspace(1, 4096, 60).round())
    now, without = multiply_adds(context, width, cached) * layers, multiply_adds(context, width, False) * layers
    memory = cache_bytes(layers, kv_heads, 128, context) / 2**20
    return (
        heatmap(
            computed, x="key", y="query", value="step in which it was last computed", range=(1, T),
            caption="The scores of 12 tokens, written one by one. " + ("Each row was computed once, when its token came." if cached
                    else "All of them have been computed in the last step, and in each before."),
        ),
        line(
            {"cached": multiply_adds(lengths, width, True), "not cached": multiply_adds(lengths, width, False)}, at=lengths,
            x="tokens so far", y="multiply-adds of a step and layer", log_x=True, log_y=True, marks={"now": context},
            dashed=["not cached"] if cached else ["cached"],
            caption="Width 4096. With a cache, a step is nearly as cheap at 4,096 tokens as at 1; without, it grows with the length "
                    "and more.",
        ),
        bars(
            {"this": round(memory, 3), "1 head": round(memory / kv_heads, 3), "64 heads": round(memory / kv_heads * 64, 3)},
            y="cache of a sequence (MiB)",
            caption="In 16 bits, with heads of width 128. It grows with every token, in every layer.",
        ),
        f"Token {context:.0f} takes {now / 1e9:,.3g} billion multiply-adds of attention"
        + (f", {without / now:,.0f} times fewer than without a cache, for {memory:,.3g} MiB." if cached else " and no memory."),
    )
