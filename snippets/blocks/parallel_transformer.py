"""A parallel Transformer block in NumPy."""

import numpy as np

from snippets.activations.gelu import gelu
from snippets.attention.multi_head import merge_heads, multi_head_attention, split_heads
from snippets.attention.scaled_dot_product import scaled_dot_product_attention
from snippets.layers.feed_forward import feed_forward
from snippets.normalization.layer import layer_norm


def parallel_block(x, w, n_heads, mask=None, scale=1.0):
    """x (..., T, D) -> (..., T, D). w holds q, k, v, o (D, D), up (F, D), down (D, F). Both branches read u."""
    u = layer_norm(x)
    attention, _ = multi_head_attention(u, w["q"], w["k"], w["v"], w["o"], x.shape[-1] // n_heads, mask=mask)
    return x + scale * (attention + feed_forward(u, w["up"], 0.0, w["down"], 0.0, gelu))


def fuse(w):
    """Four matrices that read u become one, (D, 3·D + F), and the two that write become one, (D + F, D)."""
    return np.hstack((w["q"], w["k"], w["v"], w["up"].T)), np.vstack((w["o"], w["down"].T))


def fused_block(x, w_in, w_out, n_heads, mask=None):
    """The same with two large products. A sequential block cannot do this: its up waits for o."""
    D = x.shape[1]
    q, k, v, hidden = np.split(layer_norm(x) @ w_in, (D, 2 * D, 3 * D), axis=1)
    q, k, v = (split_heads(y, D // n_heads) for y in (q, k, v))
    heads = merge_heads(scaled_dot_product_attention(q, k, v, mask)[0])
    return x + np.hstack((heads, gelu(hidden))) @ w_out


# %% demo
from snippets.blocks.transformer_block import transformer_block
from snippets.live import bars, demo, line, slider

D, HEADS, T = 16, 2, 4
MASK = np.tri(T, dtype=bool)
CHAINS = {"sequential": ["q, k, v", "scores", "mean", "o", "up", "down"], "parallel": ["q, k, v, up", "scores", "mean", "o, down"]}


def streams(x, layers, scales):
    """Relative difference of the two stacks in front of the first layer and behind each, (layers + 1, scales), with the same weights."""
    scales = np.asarray(scales)[:, None, None]
    one = other = np.broadcast_to(x, (len(scales), *x.shape))
    apart = [np.zeros(len(scales))]
    for w in layers:
        one, _ = transformer_block(one, w, HEADS, "pre", MASK, scales)
        other = parallel_block(other, w, HEADS, MASK, scales)
        apart.append(np.linalg.norm(other - one, axis=(1, 2)) / np.linalg.norm(one, axis=(1, 2)))
    return np.array(apart)


@demo(scale=slider(0.0, 1.0, step=0.02, label="scale of the branches"), depth=slider(1, 24, label="layers"))
def show(scale=0.3, depth=12):
    """The same weights in both kinds of block. Below 0.3, half the scale makes a quarter of the difference. Then add layers."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(T, D))
    layers = []
    for _ in range(depth):
        w = {name: rng.normal(size=(D, D)) / D**0.5 for name in "qkvo"}
        layers.append(w | dict(up=rng.normal(size=(4 * D, D)) / D**0.5, down=rng.normal(size=(D, 4 * D)) / (2 * D**0.5)))
    scales = np.geomspace(0.01, 1, 5)
    found = streams(x, layers, [*scales, scale])
    along, apart = found[:, -1], found[:, :-1]
    curves = {"1 layer": (scales, apart[1])}
    if depth > 1:
        curves[f"{depth} layers"] = (scales, apart[-1])
    curves["slope 2"] = (scales, apart[1, 0] * (scales / scales[0]) ** 2)
    per_layer = {name: {"products in a row": len(chain), "norms": norms, "exchanges": norms}
                 for (name, chain), norms in zip(CHAINS.items(), (2, 1))}
    return (
        line(curves, x="scale of the branches", y="relative difference", log_x=True, log_y=True, dashed=["slope 2"], range_y=(1e-5, 3),
             marks={"chosen": scale} if scale >= 0.01 else {},
             caption="Output of a parallel and of a sequential stack with the same weights. A tenth of the scale makes a hundredth of the difference."),
        line({"difference": (np.arange(depth + 1), along)}, x="behind layer", y="relative difference", range_y=(0, 1.2),
             caption=f"Along the stack at scale {scale:g}: every layer adds its share. Weights trained for one kind of block are not weights for the other."),
        bars(per_layer, y="per layer", range_y=(0, 7),
             caption=f"Products that wait for each other: {', then '.join(CHAINS['parallel'])} in the parallel block. Exchanges: sums over all devices, if they share the matrices."),
        f"At scale {scale:g}, {depth} layer{'s' * (depth > 1)} make the outputs {along[-1]:.2g} of their length apart. "
        f"{6 * depth} products in a row become {4 * depth}.",
    )
