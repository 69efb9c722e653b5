"""What meets what: every convolution asked by nudging one input number and watching all outputs; and what it costs."""

import numpy as np

from snippets.convolution.causal import causal_conv1d
from snippets.convolution.conv2d import conv2d, receptive_field
from snippets.convolution.depthwise import depthwise
from snippets.convolution.dilated import dilated_conv2d
from snippets.convolution.grouped import grouped_conv2d
from snippets.convolution.octave import cost
from snippets.convolution.pointwise import pointwise


def layers(C, k):
    """Functions of an array (C, H, W) that keep its size; all weights are one."""
    ones = lambda *shape: np.ones((*shape, k, k))  # noqa: E731
    return {
        "full": lambda x: conv2d(x, ones(C, C), padding=k // 2),
        "2 groups": lambda x: grouped_conv2d(x, ones(C, C // 2), 2, padding=k // 2),
        "depthwise": lambda x: depthwise(x, ones(C)),
        "1×1": lambda x: pointwise(x, np.ones((C, C))),
        "dilated": lambda x: dilated_conv2d(x, ones(C, C), 2),
        "causal": lambda x: causal_conv1d(x[:, x.shape[1] // 2], np.ones((C, C, k)))[0][:, None],
    }


def costs(C, k):
    """Weights, and multiply-adds per output pixel, of layers from C to C channels."""
    full = k**2 * C * C
    return {
        "full": (full, full),
        "8 groups": (full / 8, full / 8),
        "depthwise": (k**2 * C, k**2 * C),
        "1×1": (C * C, C * C),
        "separable": (k**2 * C + C * C, k**2 * C + C * C),
        "octave ½": (full, full * cost(0.5)[0]),
        "deformable": (full + 3 * k**4 * C, full + 3 * k**4 * C + 4 * k**2 * C),
        "transp. ×2": (full, full / 4),
        "shuffle ×2": (4 * full, full),
        "3D": (k * full, k * full),
    }


# %% demo
from snippets.live import bars, choice, demo, heatmap, line, slider

C, H, W = 4, 5, 11


@demo(
    position=slider(1, W, label="position of the nudged number"),
    k=choice(1, 3, 5, label="kernel size"),
    channels=choice(16, 64, 256, label="channels, for the cost"),
    counted=choice("weights", "multiply-adds per output pixel", label="cost"),
)
def show(position=4, k=3, channels=64, counted="weights"):
    """One number of channel 2 is nudged. Coloured cells are outputs that notice. Which channels meet, and which pixels?"""
    x = np.zeros((C, H, W))
    x[1, H // 2, position - 1] = 1
    panels, rows = [], []
    for name, layer in layers(C, k).items():
        y = layer(x)
        y = y[:, y.shape[1] // 2]
        panels += [np.where(y != 0, y, np.nan), np.full((1, W), np.nan)]
        rows += [f"{name} · {c + 1}" for c in range(C)] + [""]

    depth = np.arange(1, 11)
    stacks = {
        "dilation doubles": lambda i: (k, 1, 2**i),
        "every 2nd strides": lambda i: (k, 1 + i % 2, 1),
        "plain": lambda i: (k, 1, 1),
        "1×1": lambda i: (1, 1, 1),
    }
    fields = {name: [receptive_field([stack(i) for i in range(n)]) for n in depth] for name, stack in stacks.items()}
    table = {name: pair[counted != "weights"] for name, pair in costs(channels, k).items()}
    return (
        heatmap(np.vstack(panels[:-1]), rows=rows[:-1], columns=range(1, W + 1), x="position in the row", y="layer · output channel", value="change of the output",
                range=(0, 1), caption="Computed, not drawn: the row of the nudged number, after each layer. Four output channels each."),
        bars(table, y=counted, log_y=True, caption=f"From {channels} to {channels} channels with a kernel size of {k}. A line of the grid is a factor of ten."),
        line({name: (depth, values) for name, values in fields.items()}, x="layers", y="receptive field (pixels)", log_y=True,
             caption="How far a stack sees: a straight line here is exponential growth."),
        f"At {channels} channels and k = {k} a separable layer has {costs(channels, k)['separable'][0] / costs(channels, k)['full'][0]:.0%} of the full layer's weights. "
        f"Ten plain layers see {fields['plain'][-1]} pixels, ten with doubling dilation {fields['dilation doubles'][-1]:,}.",
    )
