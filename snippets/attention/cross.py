"""Cross-attention in NumPy."""

import numpy as np

from snippets.attention.multi_head import merge_heads, split_heads
from snippets.attention.scaled_dot_product import scaled_dot_product_attention


def read_once(context, wk, wv, head_dim):
    """Keys and values (H, S, d) of the context (S, C): the same for every step, so computed before the first."""
    return split_heads(context @ wk, head_dim), split_heads(context @ wv, head_dim)


def cross_attention(x, kv, wq, wo, seen=None):
    """Tokens x (T, D) read from the context. ``seen`` (S,) is false for padding. No causal mask: the source is complete."""
    k, v = kv
    q = split_heads(x @ wq, k.shape[-1])
    mask = None if seen is None else np.broadcast_to(seen, (len(x), len(seen)))
    out, weights = scaled_dot_product_attention(q, k, v, mask)
    return merge_heads(out) @ wo, weights


# %% demo
from snippets.live import bars, choice, demo, heatmap, slider

SOURCE, TARGET = ["le", "chat", "noir", "dort", "ici"], ["the", "black", "cat", "sleeps"]
MEANING = np.eye(5)  # article, cat, black, sleep, here: the meanings of the source words in their order
MEANT = MEANING[[0, 2, 1, 3]]  # and of the target words


@demo(
    word=choice(*TARGET, label="target word"),
    temperature=slider(0.1, 3.0, step=0.1, label="temperature"),
    noise=slider(0.0, 1.0, step=0.05, label="noise in the source"),
    masked=slider(0, 5, label="source word masked (0: none)"),
)
def show(word="black", temperature=1.0, noise=0.2, masked=0):
    """Each English word looks for its French one: mind the crossing in the middle. Mask the word it looks for."""
    rng = np.random.default_rng(0)
    source = MEANING + noise * rng.normal(size=(5, 5))
    seen = np.arange(1, 6) != masked
    kv = read_once(source, np.eye(5), np.eye(5), 5)
    _, weights = cross_attention(MEANT, kv, 8 / temperature * np.eye(5), np.eye(5), seen)
    row = weights[0, TARGET.index(word)]
    wanted = SOURCE[int(MEANT[TARGET.index(word)].argmax())]
    best = SOURCE[int(row.argmax())]
    return (
        heatmap(
            weights[0], x="source (key)", y="target (query)", value="weight", range=(0, 1), rows=TARGET, columns=SOURCE,
            caption="The alignment, found by matching meanings. Adjective and noun change places. Nothing says that “ici” has "
                    "to be read.",
        ),
        bars(
            {name: round(float(w), 3) for name, w in zip(SOURCE, row)}, x="source word", y="weight", range_y=(0, 1),
            caption=f"One row: what “{word}” reads. A masked word gets exactly 0, and the others share its weight.",
        ),
        f"“{word}” reads “{best}” most, with {100 * row.max():.0f} % of its weight"
        + ("." if best == wanted else f"; its word would be “{wanted}”."),
    )
