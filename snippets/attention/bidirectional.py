"""Bidirectional attention in NumPy."""

import numpy as np

from snippets.attention.multi_head import multi_head_attention


def padding_mask(length, T):
    """True for the tokens, false for the padding behind them; the same for every query."""
    return np.arange(T)[None] < length


def bidirectional_attention(x, wq, wk, wv, wo, head_dim, length=None):
    """Every one of the first ``length`` tokens of x (T, D) is read by all. Padded queries give outputs without meaning."""
    mask = None if length is None else padding_mask(length, len(x))
    return multi_head_attention(x, wq, wk, wv, wo, head_dim, mask=mask)


# %% demo
from snippets.attention.causal import causal_mask
from snippets.live import bars, demo, heatmap, slider, toggle


@demo(
    causal=toggle(label="causal instead"),
    alike=slider(-1.0, 1.0, step=0.1, label="similarity of the new token to token 0"),
    temperature=slider(0.2, 3.0, step=0.1, label="temperature"),
)
def show(causal=False, alike=0.3, temperature=1.0):
    """A seventh token is appended. See who notices, then switch to causal."""
    rng = np.random.default_rng(1)
    x, wq, wk, wv = rng.normal(size=(6, 8)), *rng.normal(size=(3, 8, 8)) / np.sqrt(8)
    first, other = x[0] / np.linalg.norm(x[0]), rng.normal(size=8)
    other -= first * (other @ first)
    new = 2.8 * (alike * first + np.sqrt(1 - alike**2) * other / np.linalg.norm(other))

    def attend(x):
        mask = causal_mask(len(x)) if causal else None
        return multi_head_attention(x, wq / temperature, wk, wv, np.eye(8), 8, mask=mask)

    (before, old), (after, weights) = attend(x), attend(np.vstack((x, new)))
    moved = np.linalg.norm(after[:6] - before, axis=1)
    padded = np.full((7, 6), np.nan)
    padded[:6] = old[0]
    return (
        heatmap(
            np.hstack((padded, np.full((7, 1), np.nan), weights[0])), x="key: six tokens · then seven", y="query", value="weight",
            range=(0, 1), columns=[str(i) for i in range(6)] + [""] + [str(i) for i in range(7)],
            caption="Weights before and after. In each old row the new column takes its share, unless a mask hides it.",
        ),
        bars(
            {str(i): round(float(m), 4) for i, m in enumerate(moved)}, x="old token", y="change of its output", range_y=(0, 1.5),
            caption="How far the outputs of the old tokens moved. Whatever a cache had kept of them in the next layer would now be "
                    "wrong.",
        ),
        "No old output moved: keys and values can be cached." if moved.max() < 1e-12 else
        f"All {int(np.sum(moved > 1e-12))} old outputs moved, by {moved.mean():.2f} on average: nothing can be cached.",
    )
