"""Decoding with a KV cache in NumPy."""

import numpy as np

from snippets.ops import softmax


def decode(x, wq, wk, wv):
    """One causal attention head over tokens x (T, D) that come one at a time."""
    T, d = len(x), wk.shape[1]
    keys, values, out = np.empty((3, T, d))
    for t in range(T):
        keys[t] = x[t] @ wk  # of the new token only: those before are still there
        values[t] = x[t] @ wv
        weights = softmax(keys[: t + 1] @ (x[t] @ wq) / np.sqrt(d))  # the newest token may see all, so no mask
        out[t] = weights @ values[: t + 1]
    return out


def decode_without_cache(x, wq, wk, wv):
    """The same numbers, but every step computes the keys and values of all tokens again."""
    T, d = len(x), wk.shape[1]
    out = np.empty((T, d))
    for t in range(T):
        keys, values = x[: t + 1] @ wk, x[: t + 1] @ wv
        out[t] = softmax(keys @ (x[t] @ wq) / np.sqrt(d)) @ values
    return out


def cache_bytes(layers, kv_heads, head_dim, tokens, batch=1, bytes_per_number=2):
    """Keys and values of every layer, key/value head, coordinate, token and sequence."""
    return 2 * layers * kv_heads * head_dim * tokens * batch * bytes_per_number


# %% demo
from snippets.live import bars, choice, demo, heatmap, slider

MODELS = {  # layers, query heads, published key/value heads, width of a head, parameters
    "Llama 2 7B": (32, 32, 32, 128, 6_738_415_616),
    "Llama 2 70B": (80, 64, 8, 128, 68_976_648_192),
    "Llama 3 8B": (32, 32, 8, 128, 8_030_261_248),
}


@demo(
    model=choice(*MODELS, label="model"),
    kv_heads=choice("as published", 1, 2, 4, 8, 16, 32, 64, label="key/value heads"),
    context=slider(1000, 1_000_000, log=True, label="context", unit="tokens"),
    batch=slider(1, 256, label="sequences at once"),
    number=choice(0.5, 1, 2, 4, label="bytes per number"),
)
def show(model="Llama 2 70B", kv_heads="as published", context=32_000, batch=8, number=2):
    """Raise the context or the batch until the cache outgrows the weights; then take fewer key/value heads."""
    layers, heads, published, width, parameters = MODELS[model]
    grouped = published if kv_heads == "as published" else kv_heads
    if heads % grouped:
        raise ValueError(f"{model} has {heads} query heads: {grouped} key/value heads cannot share them evenly")
    gib = 2.0**30

    def size(kv, tokens=context * batch):
        return cache_bytes(layers, kv, width, tokens, bytes_per_number=number) / gib

    latent = layers * (512 + 64) * context * batch * number / gib  # one latent and one rotary key instead of K and V
    weights = 2 * parameters / gib

    lengths = np.ceil(context * np.random.default_rng(0).uniform(0.02, 1, batch))  # float: an int of the browser has 32 bits
    held = {
        "tokens written": lengths.sum(),
        "paged": (np.ceil(lengths / 16) * 16).sum(),
        "static": context * batch,
        "rolling 4096": np.minimum(lengths, 4096).sum(),
    }

    rng = np.random.default_rng(1)
    x, projections = rng.normal(size=(8, 16)), rng.normal(size=(3, 16, 4))
    same = np.allclose(decode(x, *projections), decode_without_cache(x, *projections))
    step, token = np.indices((8, 8))
    per_token = size(grouped, 1) * gib / 1024
    sizes = {f"multi-head ({heads})": size(heads), f"this ({grouped})": size(grouped), "multi-query (1)": size(1)}
    return (
        bars(
            {**sizes, "latent": latent},
            y="KV cache (GiB)", levels={f"weights in 16 bit: {weights:.0f} GiB": weights},
            caption="The cache of the whole batch, by the number of key/value heads. Latent: 512 + 64 numbers per token and "
                    "layer, as in DeepSeek-V2.",
        ),
        bars(
            {name: size(grouped, tokens) for name, tokens in held.items()}, y="memory taken (GiB)",
            caption="Sequences of mixed lengths (2 to 100 % of the context). Static memory is taken for the longest "
                    "possible one; blocks of 16 follow what is written; a rolling cache forgets.",
        ),
        heatmap(
            np.where(token < step, 0.0, np.where(token == step, 1.0, np.nan)),
            x="token", y="step", value="1 computed, 0 reused", range=(0, 1),
            caption="Keys in eight steps: 8 are computed, 28 read from the cache. Without it all 36 are computed, and the "
                    "outputs " + ("are the same." if same else "should be the same, but differ."),
        ),
        f"{per_token:,.4g} KiB per token, {size(grouped):,.4g} GiB for {batch} × {context:,} tokens: "
        f"{size(grouped) / weights:.2g} times the weights.",
    )
