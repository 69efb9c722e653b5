"""Causal self-attention in NumPy: the mask, and one head with it."""

import numpy as np

from snippets.attention.scaled_dot_product import scaled_dot_product_attention


def causal_mask(T, S=None, window=None):
    """True where one of the last T of S tokens may see a key: at most ``window`` tokens back, itself included."""
    S = T if S is None else S
    back = np.arange(S - T, S)[:, None] - np.arange(S)
    return (back >= 0) & (back < (S if window is None else window))


def causal_self_attention(x, wq, wk, wv, wo, past=None):
    """New tokens x (T, D), and the keys and values of those before them. Returns the output and all keys and values."""
    q, k, v = x @ wq, x @ wk, x @ wv
    if past is not None:
        k, v = np.concatenate((past[0], k)), np.concatenate((past[1], v))
    out, _ = scaled_dot_product_attention(q, k, v, causal_mask(len(q), len(k)))
    return out @ wo, (k, v)


# %% demo
from snippets.live import bars, choice, demo, heatmap, slider
from snippets.ops import softmax

T = 8


@demo(
    mask=choice("before the softmax", "after the softmax", "none", label="mask"),
    token=slider(0, 7, label="token that is changed"),
    temperature=slider(0.2, 3.0, step=0.1, label="temperature"),
)
def show(mask="before the softmax", token=5, temperature=1.0):
    """Change a token and see which outputs notice. Then put the mask in the wrong place."""
    rng = np.random.default_rng(0)
    x, wq, wk, wv = rng.normal(size=(T, 6)), *rng.normal(size=(3, 6, 6)) / np.sqrt(6)
    seen = causal_mask(T)

    def attend(x):
        scores = (x @ wq) @ (x @ wk).T / np.sqrt(6) / temperature
        if mask == "before the softmax":
            scores = np.where(seen, scores, -np.inf)
        weights = softmax(scores)
        if mask == "after the softmax":  # later keys still count in the sum that each row was divided by
            weights = np.where(seen, weights, 0.0)
        return weights @ (x @ wv), weights

    other = x.copy()
    other[token] = rng.normal(size=6)
    (out, weights), (changed, _) = attend(x), attend(other)
    moved = np.linalg.norm(changed - out, axis=1)
    leaks = int(np.sum(moved[:token] > 1e-12))
    return (
        heatmap(
            weights, x="key", y="query", value="weight", range=(0, 1),
            caption="Row t is what token t reads. Below and on the diagonal is the past, above it the future.",
        ),
        bars(
            {str(t): round(float(m), 4) for t, m in enumerate(moved)}, x="token", y="change of the output", range_y=(0, 2.5),
            caption=f"Token {token} was replaced. A causal layer lets this be noticed from there on only; what moves before it "
                    "is a leak.",
        ),
        bars(
            {str(t): round(float(s), 3) for t, s in enumerate(weights.sum(1))}, x="token", y="sum of the weights", range_y=(0, 1.1),
            caption="Each row should sum to 1. Masked after the softmax it does not, and the missing part tells of the future.",
        ),
        "Nothing leaks: no output noticed a change in its future." if not leaks else f"{leaks} of the {token} earlier outputs noticed a change in their future.",
    )
