"""Linear attention in NumPy."""

import numpy as np

from snippets.ops import softmax


def elu_plus_1(x):
    return np.where(x > 0, x + 1, np.exp(np.minimum(x, 0)))


def linear_attention(q, k, v, causal=True):
    """Features of queries and keys (T, m), none negative, and values (T, e). Nothing here is T x T."""
    if not causal:
        return q @ (k.T @ v) / (q @ k.sum(0))[:, None]  # the keys are summed up once, for all queries
    memory, total = np.zeros((k.shape[1], v.shape[1])), np.zeros(k.shape[1])
    out = np.empty_like(v)
    for t in range(len(q)):  # a recurrent network with a matrix as its state
        memory += np.outer(k[t], v[t])
        total += k[t]
        out[t] = q[t] @ memory / (q[t] @ total)
    return out


# %% demo
from snippets.attention.multi_head import tiles
from snippets.live import choice, demo, heatmap, line, slider


def random_features(x, m=256):
    """Whose products are exp(q.k) on average: the Performer."""
    omega = np.random.default_rng(1).normal(size=(m, x.shape[1]))
    return np.exp(x @ omega.T - np.sum(x**2, 1, keepdims=True) / 2) / np.sqrt(m)


MAPS = {"elu+1": elu_plus_1, "relu": lambda x: np.maximum(x, 0) + 1e-3, "exp features": random_features}


@demo(
    scale=slider(0.1, 5.0, step=0.1, label="scale of the scores"),
    features=choice(*MAPS, label="feature map"),
    T=slider(8, 64, step=4, label="tokens"),
    d=choice(16, 64, 128, label="width of a head"),
)
def show(scale=3.0, features="elu+1", T=16, d=64):
    """Raise the scale: the softmax sharpens, the linear weights hardly do. Only the features of the exponential follow it."""
    rng = np.random.default_rng(0)
    q, k, v = rng.normal(size=(3, T, 8)) * np.sqrt(scale) / 8**0.25
    exact = softmax(q @ k.T)
    similarity = MAPS[features](q) @ MAPS[features](k).T
    weights = similarity / similarity.sum(1, keepdims=True)
    off = np.abs(weights - exact).sum(1).mean() / 2
    same = np.allclose(linear_attention(MAPS[features](q), MAPS[features](k), v, causal=False), weights @ v)
    lengths = np.geomspace(8, 8192, 60)
    top = exact.max(1).mean(), weights.max(1).mean()
    return (
        heatmap(
            tiles([exact, weights]), x=f"key: softmax · {features}", y="query", value="weight", range=(0, max(exact.max(), weights.max())),
            rows=[""] * T, columns=[""] * (2 * T + 1),
            caption="The same queries and keys, left with a softmax, right with products of features. elu + 1 blurs.",
        ),
        line(
            {"T²·d": lengths**2 * d, "T·d²": lengths * d**2}, at=lengths, x="tokens T", y="multiply-adds", log_x=True, log_y=True,
            marks={"T = d": d}, dashed=["T²·d"],
            caption=f"With heads of width {d} the linear form is cheaper beyond {d} tokens"
                    + (", and its sums give the same output as the weights above." if same else "."),
        ),
        f"The largest weight of a row is {top[0]:.2f} with a softmax and {top[1]:.2f} here, on average; {100 * off:.0f} % of the weight "
        "lies elsewhere.",
    )
