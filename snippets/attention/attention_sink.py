"""Attention sinks in NumPy."""

import numpy as np

from snippets.ops import softmax


def sink_attention(q, k, v, sink):
    """A score of its own for "nothing": it takes part in the softmax, and has no value to hand over."""
    scores = q @ k.T / np.sqrt(q.shape[1])
    column = np.full((len(q), 1), float(sink))
    return softmax(np.hstack((scores, column)))[:, :-1] @ v


def kept(n, n_sink, window):
    """Of n tokens of a stream, those that StreamingLLM keeps: the first ones, and the latest."""
    token = np.arange(n)
    return token[(token < n_sink) | (token >= n - window)]


# %% demo
from snippets.live import bars, demo, line, slider

N = 20
NAMES = [str(i) for i in range(N)]
LOGITS = np.random.default_rng(0).normal(size=N)
VALUES = np.random.default_rng(1).normal(size=(N, 8))
VALUES[:4] *= 0.05  # the first tokens say next to nothing: they are where weight goes that is not needed


def row(sink, tokens):
    """Weights of the last query over these tokens, and its output. Token 0 is the sink that the model has made itself."""
    logits = LOGITS.copy()
    logits[0] = sink
    weights = np.zeros(N)
    weights[tokens] = softmax(logits[tokens])
    return weights, weights @ VALUES


@demo(
    sink=slider(-5.0, 10.0, step=0.5, label="score of the first token"),
    evicted=slider(0, 4, label="first tokens evicted"),
    window=slider(4, 16, label="window of latest tokens"),
)
def show(sink=5.0, evicted=1, window=10):
    """Evict the first token: its weight has to go somewhere. Lower its score, and evicting it does no harm."""
    whole, wanted = row(sink, np.arange(N))

    def stream(evicted, window):
        tokens = kept(N, 4, window)
        return row(sink, tokens[tokens >= evicted])

    weights, out = stream(evicted, window)

    def error(out):
        return np.linalg.norm(out - wanted) / np.linalg.norm(wanted)

    windows = np.arange(4, 17)
    curves = {f"{4 - n} first tokens kept": [error(stream(n, w)[1]) for w in windows] for n in (0, 1, 4)}
    curves["now"] = ([window], [error(out)])
    return (
        bars(
            {"before": dict(zip(NAMES, whole.round(3))), "after": dict(zip(NAMES, weights.round(3)))}, x="token", y="weight", range_y=(0, 1),
            caption="One row of weights over 20 tokens, before and after. The softmax must sum to 1, so what the sink had is spread over tokens that "
                    "did not deserve it.",
        ),
        line(
            {name: c if isinstance(c, tuple) else (windows, c) for name, c in curves.items()}, x="window (tokens)", y="relative error of the output",
            markers=["now"], log_y=True, range_y=(0.005, 100),
            caption="How far the output is from that with all tokens. The first token makes the difference, not the size of the window.",
        ),
        f"Token 0 had {100 * whole[0]:.0f} % of the weight. The output is now off by {100 * error(out):.0f} % of its length.",
    )
