"""Multi-query attention in NumPy, and what a decoding step has to read."""

import numpy as np

from snippets.attention.causal import causal_mask
from snippets.attention.multi_head import merge_heads, split_heads
from snippets.attention.scaled_dot_product import scaled_dot_product_attention


def multi_query_attention(x, wq, wk, wv, wo):
    """Causal. Queries (H, T, d) of every head against the one key head (T, d) that all of them share."""
    keys, values = x @ wk, x @ wv
    queries = split_heads(x @ wq, keys.shape[1])
    out, _ = scaled_dot_product_attention(queries, keys, values, causal_mask(len(x)))
    return merge_heads(out) @ wo


def step_seconds(parameters, cache_bytes, batch, bandwidth, flops):
    """One new token for each of ``batch`` sequences, in 16 bits: seconds to read the weights, to read the caches, to compute.

    Reading and computing overlap, so the step takes about the longer of the two.
    """
    return 2 * parameters / bandwidth, batch * cache_bytes / bandwidth, 2 * parameters * batch / flops


# %% demo
from snippets.inference.kv_cache import cache_bytes
from snippets.live import bars, choice, demo, line, slider

LAYERS, WIDTH, PEAK = 32, 128, 990e12  # a head is 128 wide; the peak is that of 16-bit tensor cores of an H100


def parameters(heads, kv_heads):
    d = heads * WIDTH
    return LAYERS * (2 * d * d + 2 * d * kv_heads * WIDTH + 8 * d * d)  # attention, and a feed-forward of 4 times the width


@demo(
    kind=choice("multi-head", "grouped, 8", "multi-query", label="key/value heads"),
    n_heads=choice(8, 16, 32, 64, label="query heads"),
    batch=slider(1, 256, log=True, label="sequences at once"),
    context=slider(1, 64, label="context", unit="k tokens"),
    bandwidth=slider(1.0, 5.0, step=0.1, label="memory bandwidth", unit="TB/s"),
)
def show(kind="multi-head", n_heads=32, batch=16, context=8, bandwidth=3.3):
    """Raise the batch: the weights are read once for all sequences, each cache only for its own. Then share the heads."""
    batch = round(batch)
    kinds = {"multi-head": n_heads, "grouped, 8": 8, "multi-query": 1}

    def step(heads, n):
        return step_seconds(parameters(n_heads, heads), cache_bytes(LAYERS, heads, WIDTH, context * 1024.0), n, bandwidth * 1e12, PEAK)

    times = {name: [1e3 * t for t in step(heads, batch)] for name, heads in kinds.items()}
    batches = np.unique(np.geomspace(1, 256, 40).round())
    speed = {name: [n / max(sum(step(heads, n)[:2]), step(heads, n)[2]) for n in batches] for name, heads in kinds.items()}
    read, cached, computed = times[kind]
    size = batch * cache_bytes(LAYERS, kinds[kind], WIDTH, context * 1024.0) / 2**30
    return (
        bars(
            {part: {name: round(t[i], 4) for name, t in times.items()} for i, part in enumerate(("weights", "cache"))},
            y="time to read (ms a step)", stacked=True,
            caption=f"What one step reads, with {batch} sequences of {context}k tokens. All three compute the same scores.",
        ),
        line(
            speed, at=batches, x="sequences at once", y="tokens per second", log_x=True, log_y=True, marks={"now": batch},
            caption="A larger batch shares the reading of the weights, until the caches are all that is read: there a curve goes flat.",
        ),
        f"{kind}: {read + cached:.3g} ms of reading a step against {computed:.2g} ms of arithmetic; the caches are "
        f"{100 * cached / (read + cached):.0f} % of it and take {size:.3g} GiB.",
    )
