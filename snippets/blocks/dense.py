"""Dense block in NumPy, without its normalizations."""

import numpy as np

from snippets.convolution.conv2d import conv2d
from snippets.convolution.pointwise import pointwise


def dense_block(x, layers):
    """x (C, H, W), layers of pairs (mix, look) -> (C + L·k, H, W): each layer reads all that is there and adds to it."""
    for mix, look in layers:
        h = pointwise(np.maximum(x, 0), mix)
        x = np.concatenate([x, conv2d(np.maximum(h, 0), look, padding=1)])
    return x


def channels(layers, start, growth):
    """How many channels each layer reads, and how many there are at the end."""
    return [start + i * growth for i in range(layers + 1)]


def weights(layers, start, growth):
    """Of each layer: 1×1 to four times the growth rate, then 3×3."""
    return [c * 4 * growth + 9 * 4 * growth * growth for c in channels(layers, start, growth)[:-1]]


# %% demo
from snippets.live import bars, demo, heatmap, line, slider


@demo(
    layers=slider(1, 12, label="layers"),
    growth=slider(4, 48, step=4, label="growth rate", unit="channels"),
    start=slider(16, 128, step=16, label="input channels"),
    compression=slider(0.3, 1.0, step=0.1, label="compression after the block"),
)
def show(layers=6, growth=32, start=64, compression=0.5):
    """Every layer reads all before it. Raise the growth rate: channels pile up, and with them the first convolution of each layer."""
    widths = channels(layers, start, growth)
    uses = np.full((layers, layers + 1), np.nan)
    for layer in range(layers):
        uses[layer, 0] = start
        uses[layer, 1 : layer + 1] = growth
    names = ["in", *(str(i + 1) for i in range(layers))]
    out, left = widths[-1], int(compression * widths[-1])
    block, transition, residual = sum(weights(layers, start, growth)), out * left, 18 * out**2
    stored = sum(2 * c for c in widths[:-1])
    return (
        heatmap(uses, rows=names[1:], columns=names, x="output of", y="is read by layer", value="channels", range=(0, max(start, growth)),
                caption=f"Who reads whom: {layers * (layers + 1) // 2} connections for {layers} layers."),
        line({"channels": (np.arange(len(widths)), widths), "after the transition": ([layers, layers + 0.6], [out, left])}, x="layers so far", y="channels",
             markers=["channels"], caption="Each layer adds as many. The transition behind the block cuts them down, and halves the map's sides."),
        bars({"dense block": block, "transition": transition, "residual block": residual}, y="weights",
             caption=f"For comparison: one residual block of {out} channels, the width at the end."),
        f"{start} + {layers}·{growth} = {out} channels. Copied naively, concatenations and their normalized forms keep {stored:,} maps for the backward pass; the block itself has {out}.",
    )
