"""ALiBi in NumPy."""

import numpy as np

from snippets.ops import softmax


def slopes(n_heads):
    """How fast each head forgets: 2^(-8h/H); for other numbers than powers of two the rest comes from between."""
    n = 2 ** int(np.log2(n_heads))
    own = 2.0 ** (-8 * np.arange(1, n + 1) / n)
    between = 2.0 ** (-8 * np.arange(1, 2 * n, 2) / (2 * n))
    return np.concatenate([own, between])[:n_heads]


def bias(n_heads, tokens):
    """(heads, queries, keys): minus slope times distance, and no later keys."""
    back = np.arange(tokens)[:, None] - np.arange(tokens)
    return np.where(back >= 0, -slopes(n_heads)[:, None, None] * back, -np.inf)


def weights(scores, slope):
    """Attention of the last token: its scores with all tokens (T,), lowered by the distance."""
    back = np.arange(len(scores))[::-1]
    return softmax(scores - slope * back)


# %% demo
from snippets.live import bars, choice, demo, heatmap, line, slider


@demo(
    n_heads=choice(2, 4, 8, 12, 16, label="heads"),
    head=slider(1, 16, label="head shown in the picture"),
    spread=slider(0.0, 5.0, step=0.1, label="spread of the content scores"),
    context=slider(16, 256, step=16, label="tokens"),
)
def show(n_heads=8, head=3, spread=0.0, context=64):
    """Without content every head is a fading memory. Add content: steep heads still see near tokens only."""
    all_slopes = slopes(n_heads)
    head = min(head, n_heads)
    content = spread * np.random.default_rng(0).normal(size=256)[-context:]
    back = np.arange(context)[::-1]
    shown = sorted({0, head - 1, n_heads - 1}, key=lambda h: -all_slopes[h])
    w = {f"head {h + 1}, slope {all_slopes[h]:.3g}": weights(content, all_slopes[h]) for h in shown}
    picture = bias(n_heads, 24)[head - 1]
    far = weights(content, all_slopes[head - 1])[: -context // 4].sum()
    return (
        line({name: (back, v) for name, v in w.items()}, x="tokens back", y="weight of the last query", range_y=(0, None),
             caption="What the last token reads. Slopes are fixed, so each head has its own reach before anything is trained."),
        heatmap(np.where(np.isfinite(picture), picture, np.nan), x="key", y="query", value="bias", signed=False,
                caption=f"What head {head} adds to the scores of 24 tokens. Only the distance counts; later keys are hidden."),
        bars({str(h + 1): 1 / s for h, s in enumerate(all_slopes)}, x="head", y="reach 1/slope (tokens)", log_y=True,
             levels={"context": context}, range_y=(1, 400),
             caption="After so many tokens a weight has fallen to 37 %. Heads above the line see all of the context."),
        f"Head {head} puts {100 * (1 - far):.0f} % of its weight on the nearest quarter of {context} tokens; "
        f"its slope is {all_slopes[head - 1]:.3g}.",
    )
