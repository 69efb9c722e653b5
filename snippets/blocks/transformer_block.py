"""A Transformer block in NumPy."""

import numpy as np

from snippets.activations.gelu import gelu
from snippets.attention.multi_head import multi_head_attention
from snippets.layers.feed_forward import feed_forward
from snippets.normalization.norm_placement import residual_norm


def transformer_block(x, w, n_heads, placement="pre", mask=None, scale=1.0):
    """x (..., T, D) -> y (..., T, D), and the steps between. w holds q, k, v, o (D, D), up (F, D), down (D, F)."""
    steps = {"input": x}

    def attend(u):
        out, steps["weights"] = multi_head_attention(u, w["q"], w["k"], w["v"], w["o"], u.shape[-1] // n_heads, mask=mask)
        steps["attention adds"] = scale * out
        return scale * out, None  # no backward pass here

    def transform(u):
        steps["FFN adds"] = scale * feed_forward(u, w["up"], 0.0, w["down"], 0.0, gelu)
        return steps["FFN adds"], None

    x, _ = residual_norm(x, attend, placement)  # tokens read each other
    steps["after attention"] = x
    x, _ = residual_norm(x, transform, placement)  # each token by itself
    return x, steps | {"output": x}


def costs(d, d_ff, T):
    """Weights, and floating-point operations per token among T tokens: 2 for each weight, and 2·2·T·d for the attention itself."""
    weights = {"projections": 4 * d * d, "attention": 0, "feed-forward": 2 * d * d_ff}
    return weights, {name: 2 * n or 4 * T * d for name, n in weights.items()}


# %% demo
from snippets.attention.multi_head import tiles
from snippets.live import bars, choice, demo, heatmap, slider, table, toggle

WORDS = "the cat saw the dog run".split()
D = 16


@demo(
    n_heads=choice(1, 2, 4, label="heads"),
    factor=slider(1, 8, label="hidden width, times the model's"),
    scale=slider(0.0, 2.0, step=0.1, label="scale of both branches"),
    placement=choice("pre", "post", label="norm"),
    causal=toggle(label="causal mask"),
)
def show(n_heads=2, factor=4, scale=1.0, placement="pre", causal=True):
    """Turn the scale down to 0: a pre-norm block does nothing at all, a post-norm block still normalizes. Then up to 2."""
    rng = np.random.default_rng(3)
    kinds = rng.normal(size=(len(set(WORDS)), D))
    x = 1.5 * (kinds[[sorted(set(WORDS)).index(word) for word in WORDS]] + 0.4 * rng.normal(size=(len(WORDS), D)))
    w = {name: rng.normal(size=(D, D)) / D**0.5 for name in "qkvo"}
    w |= dict(up=rng.normal(size=(8 * D, D))[: factor * D] / D**0.5, down=rng.normal(size=(D, 8 * D))[:, : factor * D] / (factor * D) ** 0.5)
    mask = np.tri(len(WORDS), dtype=bool) if causal else None
    y, steps = transformer_block(x, w, n_heads, placement, mask, scale)
    size = {name: float(np.linalg.norm(steps[name], axis=1).mean())
            for name in ("input", "attention adds", "after attention", "FFN adds", "output")}
    (weights, small), (_, large) = costs(D, factor * D, len(WORDS)), costs(768, factor * 768, 1024)
    seen = steps["weights"] if mask is None else np.where(mask, steps["weights"], np.nan)
    turned = (x * y).sum() / np.linalg.norm(x) / np.linalg.norm(y)
    return (
        heatmap(tiles(list(seen)), x="token read, head by head", y="token reading", value="weight", range=(0, 1), rows=WORDS,
                columns=("".join(word[0] for word in WORDS) + (" " + "".join(word[0] for word in WORDS)) * (n_heads - 1)),
                caption="The only place where tokens meet. More heads are more ways to look, at the same number of weights."),
        bars(size, y="mean length of a token's vector", range_y=(0, 16), levels={"√d": D**0.5},
             caption="What stands in the stream and what is added to it. The dashed line is the length of a normalized vector. "
             + ("Each branch reads a normalized copy; the stream itself is never normalized."
                if placement == "pre" else "Each sum is normalized, to the length √d, so the input is not carried through unchanged.")),
        table([[name, f"{weights[name]:,}", f"{small[name]:,}", f"{large[name]:,}"] for name in weights]
              + [["together", *(f"{sum(part.values()):,}" for part in (weights, small, large))]],
              columns=["part", "weights", "FLOPs", "at d = 768"],
              caption=f"Weights and operations per token at d = {D} with {len(WORDS)} tokens, and operations at d = 768 with 1,024. A weight is multiplied "
              "and added once per token: two operations. Only attention, scores and means without its projections, grows with the number of tokens."),
        f"The two branches add vectors of length {size['attention adds']:.2f} and {size['FFN adds']:.2f} to one of {size['input']:.2f}. "
        f"The output's cosine with the input is {turned:.2f}.",
    )
