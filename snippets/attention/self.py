"""Self-attention in NumPy: one head, one sequence."""

import numpy as np

from snippets.attention.scaled_dot_product import scaled_dot_product_attention


def self_attention(x, wq, wk, wv, wo, mask=None):
    """Tokens (T, D) -> mixed tokens (T, D) and the weights (T, T). All three come from x, each by its own matrix."""
    queries, keys, values = x @ wq, x @ wk, x @ wv
    mixed, weights = scaled_dot_product_attention(queries, keys, values, mask)
    return mixed @ wo, weights


# %% demo
from snippets.live import demo, heatmap, scatter, slider, toggle

WORDS = ["the", "bank", "of", "a", "wide", "river"]
# What a word looks for, row by row: grammar a little, money and size very much for nature; nature for its size.
LOOKS_FOR = np.array([[0, 0.4, 0, 0], [0, 0, 0, 1], [0, 1, 0, 0], [0, 1, 0, 0]], float)


@demo(
    separate=toggle(label="separate W_q and W_k"),
    alike=slider(-1.0, 1.0, step=0.1, label="similarity of “bank” and “river”"),
    temperature=slider(0.1, 4.0, step=0.1, label="temperature"),
)
def show(separate=True, alike=0.2, temperature=1.0):
    """Let “bank” read “river”. Then switch the separate projections off: every word mostly finds itself."""
    # Coordinates: a grammatical word, nature, money, size.
    bank, wide, river = [0, alike, np.sqrt(1 - alike**2), 0], [0.1, 0.2, 0, 1], [0, 1, 0, 0]
    x = np.array([[1, 0, 0, 0], bank, [0.9, 0, 0.1, 0.1], [0.95, 0, 0, 0.1], wide, river])
    eye = np.eye(4)
    mixed, weights = self_attention(x, (LOOKS_FOR if separate else eye) * 5 / temperature, eye, eye, eye)
    best = int(weights[1].argmax())
    own = np.mean(np.diag(weights) == weights.max(1))
    return (
        heatmap(
            weights, x="read (key)", y="reader (query)", value="weight", range=(0, 1), rows=WORDS, columns=WORDS,
            caption="Row by row, where each word reads. With one projection for both, the scores behind it are symmetric and "
                    "a word matches itself best.",
        ),
        scatter(
            {"before": x[:, 1:3], "after": mixed[:, 1:3]}, x="nature", y="money", equal=True,
            range_x=(-1.1, 1.1), range_y=(-0.2, 1.2),
            lines={"after": [np.array([x[1, 1:3], mixed[1, 1:3]])]}, labels={"before": ["", "bank", "", "", "", "river"]},
            caption="Two of the four coordinates, before and after the mixing. The line follows “bank”: it moves to the words it "
                    "reads.",
        ),
        f"“bank” reads “{WORDS[best]}” most, with {100 * weights[1, best]:.0f} % of its weight. "
        f"{100 * own:.0f} % of the words read themselves most.",
    )
