"""FlashAttention in NumPy: exact attention with a running softmax."""

import numpy as np


def online_softmax_attention(q, k, v, block, steps=None):
    """Keys and values come in blocks; ``steps`` says after how many of them to stop.

    Three things are carried along for each query: the largest score so far, the sum of exponentials, and the sum of
    values with these as weights. All exponentials are relative to the largest score, so none overflows.
    """
    highest, total, out = np.full(len(q), -np.inf), np.zeros(len(q)), np.zeros((len(q), v.shape[1]))
    for start in range(0, len(k), block)[:steps]:
        scores = q @ k[start : start + block].T / np.sqrt(q.shape[1])
        new = np.maximum(highest, scores.max(1))
        shrink = np.exp(highest - new)  # a larger maximum was found: what is there was too large by this factor
        weights = np.exp(scores - new[:, None])
        total = shrink * total + weights.sum(1)
        out = shrink[:, None] * out + weights @ v[start : start + block]
        highest = new
    return out / total[:, None], highest, total


def numbers_moved(T, d, block):
    """Numbers read and written in slow memory, for one head without a mask."""
    tokens = 4.0 * T * d  # queries, keys and values in, the output out
    return {
        "all weights": tokens + 4.0 * T * T,  # scores written, read for the softmax, weights written, read again
        "tiled": 2.0 * T * d + np.ceil(T / block) * 2.0 * T * d,  # for each block of queries, all keys and values once
    }


# %% demo
from snippets.live import bars, demo, heatmap, slider, table
from snippets.ops import softmax


@demo(
    block=slider(1, 16, label="block"),
    T=slider(8, 64, step=4, label="tokens"),
    scale=slider(1, 100, log=True, label="scale of the scores"),
    step=slider(1, 16, label="blocks of keys read"),
)
def show(block=8, T=32, scale=3, step=3):
    """Read block after block and watch the last row's output become exact. Raise the scale: no overflow."""
    rng, d = np.random.default_rng(0), 16
    q, k, v = rng.normal(size=(3, T, d))
    q = q * scale
    n_blocks = -(-T // block)
    step = min(step, n_blocks)
    exact = softmax(q @ k.T / np.sqrt(d)) @ v
    rows = []
    for n in sorted({*range(1, min(step, 5) + 1), step}):
        out, highest, total = online_softmax_attention(q[-1:], k, v, block, n)
        error = np.abs(out - exact[-1]).max()
        rows.append([n, f"{highest[0]:.4g}", f"{total[0]:.4g}", f"{out[0, 0]:.4f}", f"{error:.1e}" if error > 1e-12 else "0"])
    place = np.arange(T) // block
    seen = np.where(place[None] == step - 1, 1.0, np.where(place[None] < step, 0.5, 0.0)) * np.ones((T, 1))
    moved = numbers_moved(T, d, block)
    naive = scale * np.abs(q / scale @ k.T / np.sqrt(d)).max()
    return (
        heatmap(
            seen, x="key", y="query", value="read before: 0.5, now: 1", range=(0, 1),
            caption=f"Blocks of {block} keys, {step} of {n_blocks} read. A tile is computed, used and forgotten: the whole square never exists.",
        ),
        table(
            rows, columns=["blocks", "largest", "sum", "output", "error"],
            caption="What the last query carries along: its largest score, the sum, and the first number of its output so far. A new largest score shrinks what was summed up; after the last block the output "
                    "is exact.",
        ),
        bars(
            {name: n for name, n in moved.items()}, y="numbers moved",
            caption=f"Slow memory, {T} tokens, heads of width {d}. Tiles pay when they are large: with blocks of 1 all keys are read for each query.",
        ),
        f"The largest score is {naive:.3g}: without the running maximum its exponential would be {'beyond float64' if naive > 709 else f'{np.exp(naive):.2g}'}.",
    )
