"""Disentangled attention (DeBERTa) in NumPy, one head."""

import numpy as np

from snippets.attention.scaled_dot_product import masked_softmax


def disentangled_scores(q, k, pos_k, pos_q, reach):
    """Queries and keys of the content (T, d), keys and queries of the relative positions (2 · reach, d): three terms (T, T)."""
    place = np.arange(len(q))
    index = np.clip(place[:, None] - place + reach, 0, 2 * reach - 1)  # how far behind the query the key stands
    content = q @ k.T
    content_to_position = np.take_along_axis(q @ pos_k.T, index, 1)
    position_to_content = np.take_along_axis(k @ pos_q.T, index.T, 1).T  # rows are keys, so it is turned back
    return content, content_to_position, position_to_content


# %% demo
from snippets.attention.multi_head import tiles
from snippets.live import demo, heatmap, slider

T, D = 8, 16


@demo(
    content=slider(0.0, 2.0, step=0.1, label="weight of content-content"),
    c2p=slider(0.0, 2.0, step=0.1, label="weight of content-position"),
    p2c=slider(0.0, 2.0, step=0.1, label="weight of position-content"),
    reach=slider(1, 8, label="distances told apart"),
    preference=slider(-4.0, 4.0, step=0.5, label="preference for tokens behind"),
)
def show(content=1.0, c2p=1.0, p2c=1.0, reach=4, preference=2.0):
    """Leave out one term at a time. Content-position shifts all rows by where they stand, position-content depends on the key."""
    rng = np.random.default_rng(0)
    q, k = rng.normal(size=(2, T, D))
    q[:, 0] = k[:, 0] = 2.0  # a coordinate that all tokens have, through which positions can speak to all of them
    pos_k, pos_q = 0.6 * rng.normal(size=(2, 2 * reach, D))
    pos_k[:, 0] += preference * np.linspace(-1, 1, 2 * reach)
    terms = disentangled_scores(q, k, pos_k, pos_q, reach)
    scores = content * terms[0] + c2p * terms[1] + p2c * terms[2]
    weights = masked_softmax(scores / np.sqrt(3 * D))
    place = np.arange(T)
    behind = float((weights * (place[:, None] > place)).sum() / T)
    largest = max(np.abs(t).max() for t in terms)
    return (
        heatmap(
            tiles(list(terms), per_row=3), x="key: content-content · content-position · position-content", y="query", value="score",
            range=(-largest, largest), signed=True, rows=[str(i) for i in range(T)], columns=[""] * (3 * T + 2),
            caption="The three terms before they are weighted. The second changes along diagonals and is clipped beyond the last distance "
                    "that is told apart.",
        ),
        heatmap(
            weights, x="key", y="query", value="weight", range=(0, 1),
            caption="The softmax of their weighted sum, divided by √(3 d).",
        ),
        f"{100 * behind:.0f} % of the weight lies on tokens behind the query.",
    )
