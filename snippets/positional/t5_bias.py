"""T5's relative position bias in NumPy."""

import numpy as np


def bucket(relative, both_ways=True, buckets=32, max_distance=128):
    """Which of the buckets a distance falls into; relative = key position - query position."""
    each = buckets // 2 if both_ways else buckets
    exact = each // 2
    distance = np.abs(relative) if both_ways else np.maximum(-relative, 0)
    steps = np.log(np.maximum(distance, 1) / exact) / np.log(max_distance / exact) * (each - exact)
    far = np.minimum(exact + steps.astype(int), each - 1)
    found = np.where(distance < exact, distance, far)
    return found + each * (relative > 0) if both_ways else found


def bias(table, tokens, both_ways=True, max_distance=128):
    """table (buckets, heads) -> (heads, queries, keys), to be added to the scores."""
    relative = np.arange(tokens) - np.arange(tokens)[:, None]
    return np.moveaxis(table[bucket(relative, both_ways, len(table), max_distance)], -1, 0)


# %% demo
from snippets.live import choice, demo, heatmap, line, slider, toggle


@demo(
    buckets=slider(8, 64, step=4, label="buckets"),
    max_distance=slider(16, 512, log=True, label="largest distance told apart", unit="tokens"),
    decoder=toggle(label="decoder (one direction)"),
    table=choice("fading", "random", label="trained numbers"),
)
def show(buckets=32, max_distance=128, decoder=False, table="fading"):
    """Take fewer buckets: near tokens still have their own, far ones share wider ranges. Then switch to the decoder."""
    max_distance = int(max_distance)
    each = buckets if decoder else buckets // 2
    if max_distance <= each // 2:
        raise ValueError(f"distances up to {each // 2} have buckets of their own; the largest must lie above that")
    reach = int(1.25 * max_distance)
    at = np.unique(np.concatenate([np.arange(-min(reach, 40), min(reach, 40) + 1), np.linspace(-reach, reach, 161).round()])).astype(int)
    index = bucket(at, not decoder, buckets, max_distance)
    order = np.arange(buckets)
    values = -1.0 * (order % each) if table == "fading" else np.random.default_rng(1).normal(size=buckets)
    tokens = 28
    matrix = bias(values[:, None], tokens, not decoder, max_distance)[0]
    if decoder:
        matrix = np.where(np.tri(tokens, dtype=bool), matrix, np.nan)
    all_at = np.arange(1, reach + 1)
    sizes = np.bincount(bucket(-all_at, not decoder, buckets, max_distance), minlength=each)[:each]
    last = sizes[-2] if each > 2 else sizes[-1]
    return (
        line({"bucket": (at, index)}, x="key position − query position (tokens)", y="bucket", steps=["bucket"],
             caption="Steps of one near 0, then steps that grow with the distance. Beyond the largest distance there is one bucket."
                     + ("" if not decoder else " All later keys are in bucket 0; the mask hides them.")),
        heatmap(matrix, x="key", y="query", value="bias",
                caption=f"What one head adds to the scores of {tokens} tokens: equal along diagonals, in stripes that widen with distance."),
        f"{each} buckets for each direction, {each // 2} of them for a single distance. The last but one holds {last} distances, "
        f"the last all from {max_distance} on. A head has {buckets} trained numbers however long the text is.",
    )
