"""How far one input number is felt behind each block, and where the weights of each block are."""

import numpy as np

from snippets.blocks.bottleneck import bottleneck
from snippets.blocks.bottleneck import weights as bottleneck_weights
from snippets.blocks.convnext import convnext_block
from snippets.blocks.convnext import weights as convnext_weights
from snippets.blocks.dense import dense_block
from snippets.blocks.dense import weights as dense_weights
from snippets.blocks.fire import fire
from snippets.blocks.fire import weights as fire_weights
from snippets.blocks.highway import highway
from snippets.blocks.inception import costs, inception
from snippets.blocks.inverted_residual import inverted_residual
from snippets.blocks.squeeze_excitation import squeeze_excite
from snippets.blocks.transformer_block import costs as transformer_costs
from snippets.blocks.transformer_block import transformer_block
from snippets.convolution.conv2d import conv2d


def blocks(rng, C=4):
    """Functions of an array (C, H, W), with random weights."""
    w = lambda *shape: rng.normal(size=shape) / np.prod(shape[1:]) ** 0.5  # noqa: E731
    a, b = w(C, C, 3, 3), w(C, C, 3, 3)
    fixed = {
        "bottleneck": (bottleneck, w(C, C), w(C, C, 3, 3), w(C, C)),
        "inverted": (inverted_residual, w(6 * C, C), w(6 * C, 3, 3), w(C, 6 * C)),
        "fire": (fire, w(C, C), w(2, C), w(2, C, 3, 3)),
        "inception": (inception, w(1, C), w(C, C), w(1, C, 3, 3), w(C, C), w(1, C, 5, 5), w(1, C)),
        "convnext": (convnext_block, w(C, 7, 7), w(4 * C, C), w(C, 4 * C)),
    }
    layers = [(w(8, C + 2 * i), w(2, 8, 3, 3)) for i in range(3)]
    gate = w(2, C), np.ones(2), w(C, 2), np.zeros(C)
    t, g = w(C, C), w(C, C)
    tokens = {name: w(C, C) for name in "qkvo"} | dict(up=w(4 * C, C), down=w(C, 4 * C))
    return {
        "residual": lambda x: np.maximum(x + conv2d(np.maximum(conv2d(x, a, padding=1), 0), b, padding=1), 0),
        **{name: (lambda x, f=f, rest=rest: f(x, *rest)) for name, (f, *rest) in fixed.items()},
        "dense, 3 layers": lambda x: dense_block(x, layers),
        "squeeze-exc.": lambda x: squeeze_excite(x, *gate)[0],
        "highway": lambda x: highway(x.reshape(C, -1), t, g)[0].reshape(x.shape),
        "transformer": lambda x: transformer_block(x.reshape(C, -1).T, tokens, 2)[0].T.reshape(x.shape),
    }


def weights(C):
    """By what they join: neighbours and channels at once, channels only, neighbours only."""
    down, middle, up = bottleneck_weights(C, C // 4).values()
    squeeze, one, three = fire_weights(C, C // 8, C // 2, C // 2)
    parts = costs(C, C // 4, 3 * C // 8, C // 2, C // 16, C // 8, C // 8)
    full = 9 * (3 * C // 8) * (C // 2) + 25 * (C // 16) * (C // 8)
    growth = C // 8  # four layers from C / 2 to C channels
    looks, mixes = convnext_weights(C)
    return {
        "residual": (18 * C * C, 0, 0),
        "bottleneck": (middle, down + up, 0),
        "inverted": (0, 12 * C * C, 54 * C),
        "fire": (three, squeeze + one, 0),
        "inception": (full, sum(parts.values()) - full, 0),
        "convnext": (0, mixes, looks),
        "dense, 4 l.": (4 * 36 * growth**2, sum(dense_weights(4, C // 2, growth)) - 4 * 36 * growth**2, 0),
        "squeeze-exc.": (0, C * C // 8, 0),
        "highway": (0, 2 * C * C, 0),
        "transformer": (0, sum(transformer_costs(C, 4 * C, 1)[0].values()), 0),
    }


# %% demo
from snippets.live import bars, choice, demo, heatmap, slider


@demo(
    position=slider(1, 17, label="position of the nudged number"),
    channels=choice(64, 128, 256, 512, label="channels, for the weights"),
)
def show(position=9, channels=256):
    """One number is nudged a little. How far along its row is that felt behind each block? Move it to the border too."""
    rng = np.random.default_rng(2)
    rows, names = [], []
    for name, block in blocks(rng).items():
        change = 0.0
        for _ in range(1 if name == "transformer" else 6):  # several images, as a ReLU may hide the nudge in one; it has none
            x = rng.normal(size=(4, 17, 17))
            nudged = x.copy()
            nudged[1, 8, position - 1] += 1e-3
            change = np.maximum(change, np.abs(block(nudged) - block(x))[:, 8].max(0))
        rows += [np.where(change > 1e-13, np.log10(np.maximum(change, 1e-13) / change.max()), np.nan), np.full(17, np.nan)]
        names += [name, ""]
    table = weights(channels)
    kinds = "neighbours and channels", "channels only", "neighbours only"
    series = {kind: {name: round(values[i] / channels**2, 3) for name, values in table.items()} for i, kind in enumerate(kinds)}
    return (
        heatmap(np.array(rows[:-1]), rows=names[:-1], columns=range(1, 18), x="position in the row", y="block", value="change, powers of ten", range=(-5, 0),
                caption="Computed, not drawn: the change of the output, relative to its largest. Squeeze-and-excitation and the Transformer block feel it everywhere, a little."),
        bars(series, y="weights, in units of C²", stacked=True, caption=f"At {channels} channels in and out, by what the weights join."),
        f"At {channels} channels a residual block has {sum(table['residual']):,} weights, a bottleneck {sum(table['bottleneck']):,}, an inverted residual {sum(table['inverted']):,}.",
    )
