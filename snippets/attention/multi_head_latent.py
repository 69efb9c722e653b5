"""Multi-head latent attention in NumPy: the two ways to compute it, without the rotary part."""

import numpy as np

from snippets.attention.causal import causal_mask
from snippets.attention.scaled_dot_product import scaled_dot_product_attention


def expanded_attention(q, latent, up_k, up_v, scale):
    """Queries (H, T, n), latents (S, r): keys and values of every head are made, (H, S, n) and (H, S, e)."""
    keys, values = latent @ up_k.swapaxes(1, 2), latent @ up_v.swapaxes(1, 2)
    return scaled_dot_product_attention(q, keys, values, causal_mask(q.shape[1], len(latent)), scale)[0]


def absorbed_attention(q, latent, up_k, up_v, scale):
    """The same, with q.(W c) = (W^T q).c: one product on the side of the query, none for the tokens that are cached."""
    in_latent_space = q @ up_k  # (H, T, r)
    mean, _ = scaled_dot_product_attention(in_latent_space, latent, latent, causal_mask(q.shape[1], len(latent)), scale)
    return mean @ up_v.swapaxes(1, 2)


def best_latents(stacked, rank):
    """The latents (S, r) that lose least of stacked keys and values (S, width), and how they are made again (r, width)."""
    u, size, v = np.linalg.svd(stacked, full_matrices=False)
    return u[:, :rank] * size[:rank], v[:rank]


# %% demo
from snippets.live import bars, demo, line, slider

TOKENS, D = 64, 8


@demo(
    rank=slider(1, 32, label="rank of the latent"),
    alike=slider(0.0, 1.0, step=0.05, label="how alike the heads are"),
    n_heads=slider(2, 8, label="heads"),
)
def show(rank=12, alike=0.8, n_heads=4):
    """Compress keys and values of all heads into one latent. The more alike the heads, the less it loses."""
    rng = np.random.default_rng(0)
    common, own = rng.normal(size=(2, 1, TOKENS, D)), rng.normal(size=(2, n_heads, TOKENS, D))
    keys, values = np.sqrt(alike) * common + np.sqrt(1 - alike) * own
    stacked = np.concatenate([*keys, *values], 1)  # (tokens, 2 · heads · 8)
    width = stacked.shape[1]
    _, size, _ = np.linalg.svd(stacked, full_matrices=False)
    ranks = np.arange(1, min(width, TOKENS) + 1)
    lost = np.sqrt(np.maximum(1 - np.cumsum(size**2) / np.sum(size**2), 0))
    latent, up = best_latents(stacked, rank)
    off = np.linalg.norm(latent @ up - stacked) / np.linalg.norm(stacked)

    up_k, up_v = (up[:, half].reshape(len(up), n_heads, D).transpose(1, 2, 0) for half in (slice(0, width // 2), slice(width // 2, width)))
    q = rng.normal(size=(n_heads, TOKENS, D))
    exact, _ = scaled_dot_product_attention(q, keys, values, causal_mask(TOKENS))
    ours, same = (f(q, latent, up_k, up_v, 1 / np.sqrt(D)) for f in (absorbed_attention, expanded_attention))
    error = np.linalg.norm(ours - exact) / np.linalg.norm(exact)
    return (
        line(
            {"latent": (ranks, lost)}, x="rank", y="error of keys and values", range_y=(0, 1), marks={"now": rank},
            caption=f"The best that a latent of each rank can do for {n_heads} heads of width {D}. Heads that have something in common leave "
                    "a small error early.",
        ),
        bars(
            {"multi-head": width, "grouped, 2": 4 * D, "multi-query": 2 * D, "latent": rank}, y="numbers cached for a token",
            caption="A latent of this rank beside the alternatives. In the model 64 more numbers carry the rotary key.",
        ),
        f"Keys and values are off by {100 * off:.0f} %, the output of attention by {100 * error:.0f} %. Absorbed and expanded form "
        + ("agree to the last digits." if np.abs(ours - same).max() < 1e-12 else "differ."),
    )
