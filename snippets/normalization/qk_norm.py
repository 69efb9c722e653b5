"""Query-key normalization and soft-capping in NumPy."""

import numpy as np

from snippets.attention.scaled_dot_product import masked_softmax


def unit(x, eps=1e-6):
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), eps)


def qk_norm_logits(q, k, scale):
    """Cosines times a scale: never above the scale, however large the weights."""
    return scale * unit(q) @ np.swapaxes(unit(k), -2, -1)


def softcap(logits, cap):
    return cap * np.tanh(logits / cap)


def attention(logits, v, causal=True):
    mask = np.tri(*logits.shape[-2:], dtype=bool) if causal else None
    return masked_softmax(logits, mask) @ v


# %% demo
from snippets.attention.scaled_dot_product import entropy
from snippets.live import bars, choice, demo, line, slider
from snippets.ops import softmax

METHODS = ("none", "QK-norm", "soft cap")


def logits_of(method, weight_scale, bound):
    """One query and eight keys of width 16, from projections whose weights are `weight_scale` times what they were."""
    rng = np.random.default_rng(4)
    x = rng.normal(size=(9, 16))
    W_q, W_k = weight_scale * rng.normal(size=(2, 16, 16)) / 4
    q, k = x[:1] @ W_q, x[1:] @ W_k
    if method == "QK-norm":
        return qk_norm_logits(q, k, bound)[0]
    logits = (q @ k.T / 4)[0]
    return softcap(logits, bound) if method == "soft cap" else logits


@demo(
    weight_scale=slider(0.1, 50.0, log=True, label="scale of the weights"),
    bound=slider(1.0, 30.0, step=0.5, label="scale of QK-norm, cap of the soft cap"),
    method=choice(*METHODS, label="what bounds the logits"),
)
def show(weight_scale=4.0, bound=8.0, method="none"):
    """Raise the scale of the weights: without a bound one key takes everything. QK-norm does not notice; the soft cap saturates."""
    scales = np.geomspace(0.1, 50, 41)
    found = {m: [logits_of(m, s, bound) for s in scales] for m in METHODS}
    logits = logits_of(method, weight_scale, bound)
    weights = softmax(logits)
    return (
        bars({str(i + 1): w for i, w in enumerate(weights)}, x="key", y="attention weight", range_y=(0, 1),
             caption=f"The weights of one query over eight keys, {'with ' + method if method != 'none' else 'with no bound'}."),
        line({m: [entropy(softmax(row)) for row in found[m]] for m in METHODS}, at=scales, x="scale of the weights", y="entropy (nats)", log_x=True,
             levels={"eight equal weights": np.log(8)}, marks={"now": weight_scale}, range_y=(0, 2.3),
             caption="At 0 one key has all the weight, and its logit hardly any gradient. QK-norm is flat. The soft cap makes all large logits equal, so its entropy rises again."),
        line({m: [np.abs(row).max() for row in found[m]] for m in METHODS}, at=scales, x="scale of the weights", y="largest logit", log_x=True, log_y=True,
             levels={"bound": bound}, marks={"now": weight_scale}, caption="Two projections multiply, so the logits grow with the square of the weights."),
        f"Largest logit {np.abs(logits).max():.3g}, entropy {entropy(weights):.2f} of {np.log(8):.2f} nats, largest weight {weights.max():.3f}.",
    )
