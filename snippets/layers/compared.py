"""The layers beside each other: what they store, what a token uses of it, and what one unit computes."""

import numpy as np

from snippets.activations.gelu import gelu
from snippets.activations.relu import relu
from snippets.activations.silu import swish
from snippets.layers.gated_linear_unit import glu


def weights(d, experts, used, same_size):
    """Layer: (weights it stores, weights that one token meets), at width d, without biases."""
    f = 8 * d / 3 if same_size else 4 * d  # hidden width of a gated layer
    return {
        "linear": (d * d, d * d),
        "sparse 90 %": (0.1 * d * d, 0.1 * d * d),
        "embedding": (32000 * d, d),
        "feed-forward": (8 * d * d, 8 * d * d),
        "gated": (3 * d * f, 3 * d * f),
        "experts": (experts * (3 * d * f + d), used * 3 * d * f + experts * d),
        "bilinear": (d**3, d**3),
        "… of rank D": (3 * d * d, 3 * d * d),
    }


def units(x):
    """One hidden unit of each kind, all of its weights 1: a number goes in, a number comes out."""
    pair = np.stack([x, x], -1)  # value and gate
    return {
        "linear": x,
        "GELU": gelu(x),
        "GLU": glu(pair)[:, 0],
        "SwiGLU": glu(pair, swish)[:, 0],
        "ReGLU": glu(pair, relu)[:, 0],
        "bilinear": glu(pair, lambda gate: gate)[:, 0],
    }


# %% demo
from snippets.live import bars, choice, demo, line, slider, toggle


@demo(
    d=choice(512, 1024, 4096, label="width D"),
    experts=slider(2, 64, label="experts, two of them used"),
    same_size=toggle(label="gated layers as large as the ungated one"),
)
def show(d=1024, experts=8, same_size=True):
    """Add experts: the store grows, what a token meets does not. Then let gated layers be as wide as the ungated one, and see
    what the third matrix costs."""
    sizes = weights(d, experts, 2, same_size)
    x = np.linspace(-2, 2, 81)
    ratio = sizes["gated"][0] / sizes["feed-forward"][0]
    stored, met = sizes["experts"]
    return (
        bars({"stored": {n: s for n, (s, _) in sizes.items()}, "met by one token": {n: m for n, (_, m) in sizes.items()}},
             y="weights", log_y=True, range_y=(100, 1e12),
             caption="The axis is logarithmic. Embedding (32,000 rows) and experts store much more than a token meets; a bilinear layer "
             "is another order of magnitude."),
        line({name: (x, y) for name, y in units(x).items()}, dashed=["linear", "bilinear"], x="x", y="output of one unit", range_y=(-2, 4),
             caption="A single unit. GELU ends in a straight line, GLU too; the gates without a ceiling end in a parabola on one side and at 0 "
             "on the other, the bilinear unit has both sides."),
        f"At width {d:,} a gated layer has {ratio:.2f} times the weights of the ungated one. {experts} experts store {stored / met:.1f} times what "
        "a token meets.",
    )
