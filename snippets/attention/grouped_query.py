"""Grouped-query attention in NumPy."""

import numpy as np

from snippets.ops import softmax


def grouped_query_attention(q, k, v):
    """Causal attention of H query heads over G key/value heads.

    q (H, T, d), k and v (G, S, d) -> (H, T, d). The queries are those of the last T of S tokens.
    """
    H, T, d = q.shape
    G, S, _ = k.shape
    if H % G:
        raise ValueError(f"{H} query heads cannot share {G} key/value heads evenly")
    hidden = np.triu(np.ones((T, S), bool), S - T + 1)
    out = np.empty_like(q)
    for i in range(H):
        g = i // (H // G)  # neighbours share: i % G would deal the heads out like cards
        scores = q[i] @ k[g].T / np.sqrt(d)
        out[i] = softmax(np.where(hidden, -np.inf, scores)) @ v[g]
    return out


def pool(heads, G):
    """Averages neighbouring key or value heads (H, ...) into G."""
    return heads.reshape(G, -1, *heads.shape[1:]).mean(1)


# %% demo
from snippets.inference.kv_cache import cache_bytes
from snippets.live import bars, choice, demo, graph, line, slider


@demo(
    n_heads=choice(2, 4, 8, 16, label="query heads"),
    n_kv_heads=choice(1, 2, 4, 8, 16, label="key/value heads"),
    alike=slider(0.0, 1.0, step=0.05, label="how alike the heads are before pooling"),
    layers=slider(8, 80, step=8, label="layers"),
    context=slider(1, 128, label="context", unit="k tokens"),
)
def show(n_heads=8, n_kv_heads=2, alike=0.8, layers=32, context=8):
    """Take fewer key/value heads: see what is shared, what it saves, and what pooling a multi-head layer destroys."""
    if n_heads % n_kv_heads:
        raise ValueError(f"{n_heads} query heads cannot share {n_kv_heads} key/value heads evenly")
    per_group = n_heads // n_kv_heads
    size = {name: cache_bytes(layers, heads, 128, context * 1024) / 2**30
            for name, heads in [("multi-head", n_heads), ("grouped", n_kv_heads), ("multi-query", 1)]}
    size["latent"] = layers * (512 + 64) * context * 1024 * 2 / 2**30

    # A multi-head layer on 8 tokens, whose keys and values are partly common to all heads, partly each head's own.
    rng = np.random.default_rng(0)
    q = rng.normal(size=(n_heads, 8, 16))
    common, own = rng.normal(size=(2, 1, 8, 16)), rng.normal(size=(2, n_heads, 8, 16))
    k, v = np.sqrt(alike) * common + np.sqrt(1 - alike) * own
    full = grouped_query_attention(q, k, v)
    divisors = [g for g in (1, 2, 4, 8, 16) if n_heads % g == 0]
    pooled = [grouped_query_attention(q, pool(k, g), pool(v, g)) for g in divisors]
    error = [np.linalg.norm(p - full) / np.linalg.norm(full) for p in pooled]
    at = {f"q{i}": ((i + 0.5) / n_heads, 0.25 * (i % 2) * (n_heads > 8)) for i in range(n_heads)}
    at |= {f"kv{g}": ((g + 0.5) / n_kv_heads, -1.0) for g in range(n_kv_heads)}
    return (
        graph(
            {name: "query head" if name[0] == "q" else "key/value head" for name in at},
            [(f"q{i}", f"kv{i // per_group}") for i in range(n_heads)],
            positions=at,
            caption="Which query head reads which key/value head: neighbours share.",
        ),
        bars(
            size, y="KV cache (GiB, 16 bit)",
            caption="One sequence, heads of width 128. Latent attention keeps 512 + 64 numbers per token and layer however "
                    "many heads there are. Multiply-adds are the same for the first three.",
        ),
        line(
            {"after pooling": (divisors, error)}, x="key/value heads kept", y="relative error of the output",
            range_y=(0, 1.25), marks={"chosen": n_kv_heads}, log_x=True,
            caption="What averaging the heads of each group does to the output, before further training. The more alike "
                    "the heads, the less is lost.",
        ),
        f"{per_group} query head{'s' * (per_group > 1)} per key/value head: {size['grouped']:.3g} GiB instead of "
        f"{size['multi-head']:.3g}. The pooled layer is off by {100 * error[divisors.index(n_kv_heads)]:.0f} % before training.",
    )
