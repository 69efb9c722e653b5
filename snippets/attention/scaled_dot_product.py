"""Scaled dot-product attention in NumPy."""

import numpy as np

from snippets.ops import softmax


def scaled_dot_product_attention(q, k, v, mask=None, scale=None):
    """Queries (..., T, d), keys (..., S, d), values (..., S, e) -> means (..., T, e) and their weights (..., T, S).

    The mask is true where a key may be seen.
    """
    scale = 1 / np.sqrt(q.shape[-1]) if scale is None else scale
    scores = scale * q @ np.swapaxes(k, -2, -1)  # not k.T, which would turn the batch around as well
    weights = masked_softmax(scores, mask)
    return weights @ v, weights


def masked_softmax(scores, mask=None):
    """Each row becomes weights that sum to 1; what the mask hides gets exactly 0, and so does a row without any key."""
    if mask is None:
        return softmax(scores)
    empty = ~mask.any(-1, keepdims=True)
    scores = np.where(mask | empty, scores, -np.inf)  # an empty row would be 0/0
    return np.where(mask, softmax(scores), 0.0)


def entropy(weights):
    """How spread out a row of weights is, in nats: 0 for a single key, log(n) for n equal ones."""
    return -np.sum(weights * np.log(np.maximum(weights, 1e-300)), -1)


# %% demo
from snippets.live import bars, demo, line, scatter, slider

KEY_ANGLES = np.array([20, 75, 130, 160, 215, 250, 300, 345])
KEY_LENGTHS = np.array([1.0, 1.3, 0.8, 1.2, 1.0, 0.7, 1.4, 0.9])


def at(angle, length):
    return np.stack((length * np.cos(np.radians(angle)), length * np.sin(np.radians(angle))), -1)


@demo(
    angle=slider(0, 360, step=5, label="direction of the query", unit="°"),
    length=slider(0.0, 5.0, step=0.1, label="length of the query"),
    scale=slider(0.1, 4.0, step=0.1, label="scale of the scores"),
    n_keys=slider(2, 8, label="keys"),
)
def show(angle=60, length=2.0, scale=0.7, n_keys=6):
    """Turn the query and see which value the output moves to. Then make it longer, or raise the scale: the same thing."""
    keys = at(KEY_ANGLES, KEY_LENGTHS)[:n_keys]
    values = at(40 + 360 * np.arange(n_keys) / n_keys, 4.0)
    query = at(angle, length)[None]
    out, weights = scaled_dot_product_attention(query, keys, values, scale=scale)
    scales = np.linspace(0.05, 4, 80)
    spread = [entropy(scaled_dot_product_attention(query, keys, values, scale=s)[1])[0] for s in scales]
    names = [f"key {j + 1}" for j in range(n_keys)]
    best = int(weights[0].argmax())
    return (
        scatter(
            {"keys": keys, "query": query, "values": values, "output": out},
            x="first coordinate", y="second coordinate", equal=True, range_x=(-5.2, 5.2), range_y=(-5.2, 5.2),
            lines={"values": [np.concatenate((values, values[:1]))], "query": [np.array([[0, 0], query[0]])],
                   "keys": [np.array([[0, 0], key]) for key in keys]},
            labels={"keys": [str(j + 1) for j in range(n_keys)], "values": [str(j + 1) for j in range(n_keys)]},
            caption="Keys are the short arrows, values the corners. The output never leaves the polygon of the values: it is "
                    "their mean, weighted by how far each key points along the query.",
        ),
        bars(
            dict(zip(names, weights[0].round(3))), y="weight", range_y=(0, 1), levels={"equal": 1 / n_keys},
            caption="The weights sum to 1. A query of length 0 gives all keys the same.",
        ),
        line(
            {"entropy": (scales, spread)}, x="scale", y="entropy of the weights (nats)", range_y=(0, 2.2),
            marks={"now": scale}, levels={f"{n_keys} equal weights": np.log(n_keys)},
            caption="The larger the scale, the more the softmax resembles picking the best key. 1/√d is 0.71 here.",
        ),
        f"Value {best + 1} has {100 * weights[0, best]:.0f} % of the weight. The weights are as spread out as "
        f"{np.exp(entropy(weights)[0]):.1f} equal ones.",
    )
