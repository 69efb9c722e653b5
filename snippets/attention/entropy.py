"""Attention entropy in NumPy."""

import numpy as np

from snippets.attention.scaled_dot_product import masked_softmax


def attention_entropy(q, k, mask=None, scale=None):
    """The entropy of each row of weights, in nats, as logsumexp(s) - sum p s: no logarithm of a weight is taken."""
    scale = 1 / np.sqrt(q.shape[-1]) if scale is None else scale
    scores = scale * q @ np.swapaxes(k, -2, -1)
    weights = masked_softmax(scores, mask)
    seen = scores if mask is None else np.where(mask, scores, -np.inf)
    top = seen.max(-1, keepdims=True)
    logsumexp = top[..., 0] + np.log(np.exp(seen - top).sum(-1))
    return logsumexp - np.sum(weights * scores, -1)


# %% demo
from snippets.attention.causal import causal_mask
from snippets.live import bars, demo, heatmap, line, slider, toggle

T, HEADS, D = 32, 4, 16


@demo(
    inverse_temperature=slider(0.0, 5.0, step=0.1, label="inverse temperature"),
    growth=slider(0.5, 4.0, step=0.1, label="growth of the weights"),
    causal=toggle(label="causal"),
)
def show(inverse_temperature=1.0, growth=1.0, causal=True):
    """Let the weights of queries and keys grow, as in a run that is about to diverge: rows become one-hot."""
    rng = np.random.default_rng(0)
    x, wq, wk = rng.normal(size=(T, 24)), *rng.normal(size=(2, HEADS, 24, D)) / np.sqrt(24)
    own = np.linspace(0.5, 1.5, HEADS)[:, None, None]  # heads differ in how large their weights are
    q, k = x @ (wq * growth * own), x @ (wk * growth)
    mask = causal_mask(T) if causal else np.ones((T, T), bool)
    scale = inverse_temperature / np.sqrt(D)
    entropy = attention_entropy(q, k, mask, scale)
    weights = masked_softmax(scale * q[2] @ k[2].T, mask)
    most = np.log(mask.sum(1))
    effective = np.exp(entropy).mean(1)
    share = np.mean(entropy[:, 1:] / most[1:])
    return (
        heatmap(
            weights, x="key", y="query", value="weight", range=(0, 1),
            caption="Weights of the third head. Bright single cells are rows that have made up their mind.",
        ),
        line(
            {"largest possible": most, **{f"head {h + 1}": entropy[h] for h in (0, 3)}}, x="row", y="entropy (nats)", range_y=(0, 3.6),
            dashed=["largest possible"],
            caption="With a causal mask row i can have log(i + 1) at most, so a mean over rows says little: divide by it first.",
        ),
        bars(
            {f"head {h + 1}": round(float(n), 2) for h, n in enumerate(effective)}, y="effective tokens", range_y=(0, T),
            caption="exp(entropy), the mean over rows: as many equally weighted tokens would be as spread out.",
        ),
        f"On average the rows have {100 * share:.0f} % of the entropy they could have. " + ("That is collapse." if share < 0.25 else ""),
    )
