"""How a decoder without positional encodings can count, in NumPy."""

import numpy as np

from snippets.ops import softmax


def count(scores, causal=True):
    """Attention of every token to the marked first one: 1/(position + 1) if all scores are equal.

    scores (T,): what each key scores with any query.
    """
    n = len(scores)
    table = np.broadcast_to(scores, (n, n))
    if causal:
        table = np.where(np.tri(n, dtype=bool), table, -np.inf)
    value = np.zeros(n)
    value[0] = 1.0  # only the token that begins every text has something to say
    return softmax(np.ascontiguousarray(table)) @ value


def decode(output):
    """The position that an output stands for."""
    return 1 / output - 1


# %% demo
from snippets.live import demo, line, slider, toggle


@demo(
    tokens=slider(4, 64, label="tokens"),
    noise=slider(0.0, 0.5, step=0.02, label="noise in the scores"),
    causal=toggle(label="causal mask"),
)
def show(tokens=32, noise=0.1, causal=True):
    """Take the mask away: the same number everywhere. With it, add noise and see how far the head can count."""
    rng = np.random.default_rng(0)
    at = np.arange(tokens)
    outputs = np.array([count(noise * rng.normal(size=tokens), causal) for _ in range(24)])
    positions = decode(outputs)
    low, middle, high = np.quantile(positions, [0.1, 0.5, 0.9], axis=0)
    wrong = np.abs(positions - at).mean(0)
    return (
        line({"output of the head": (at, outputs[0]), "1/(position + 1)": (at, 1 / (at + 1.0))}, x="position", y="attention to the first token",
             range_y=(0, 1.05), dashed=["1/(position + 1)"],
             caption="All keys score alike, so the first one gets its share: one of one, one of two, one of three ..."
                     if causal else "Everyone sees everyone: the share of the first token is the same wherever one stands."),
        line({"median": (at, middle), "lowest tenth": (at, low), "highest tenth": (at, high), "true": (at, at)}, x="position", y="position decoded",
             dashed=["true"], range_y=(0, 1.3 * tokens),
             caption="One over the output, minus one, in 24 texts with different noise. Late positions are told apart less well."),
        f"The position is decoded to within {wrong[-1]:.1f} at the last token and {wrong[1]:.2f} at the second.",
    )
