"""Grouped convolution and channel shuffle in NumPy."""

import numpy as np

from snippets.convolution.conv2d import conv2d


def grouped_conv2d(x, w, groups, stride=1, padding=0):
    """x (C, H, W), w (O, C / groups, k, k) -> (O, H', W'): every group is a convolution of its own."""
    parts = zip(np.split(x, groups), np.split(w, groups))
    return np.concatenate([conv2d(part, weights, stride, padding) for part, weights in parts])


def channel_shuffle(x, groups):
    """x (C, ...): deal the channels out, one from each group in turn."""
    return x.reshape(groups, -1, *x.shape[1:]).swapaxes(0, 1).reshape(x.shape)


def reach(channels, groups, shuffle, layers):
    """In how many ways each output channel (row) depends on each input channel (column)."""
    x = np.eye(channels)[:, :, None]  # "pixel" n holds a one in channel n and zeros elsewhere
    w = np.ones((channels, channels // groups, 1, 1))
    for _ in range(layers):
        x = grouped_conv2d(x, w, groups)
        if shuffle:
            x = channel_shuffle(x, groups)
    return x[..., 0]


# %% demo
from snippets.live import bars, choice, demo, heatmap, toggle


@demo(groups=choice(1, 2, 3, 4, 6, 12, label="groups"), shuffle=toggle(label="shuffle after each layer"))
def show(groups=3, shuffle=False):
    """Twelve channels through two grouped layers. Without the shuffle a second layer adds nothing; with it, groups meet."""
    one, two = reach(12, groups, shuffle, 1), reach(12, groups, shuffle, 2)
    names = [str(c + 1) for c in range(12)]
    figures = [
        heatmap(np.where(paths > 0, paths, np.nan), rows=names, columns=names, x="input channel", y="output channel",
                value="paths", range=(0, 12), caption=caption)
        for paths, caption in [(one, "After one layer: which outputs depend on which inputs."),
                               (two, "After two layers. Empty cells: this input never reaches this output.")]
    ]
    seen = np.count_nonzero(two[0])
    weights = {g: 2 * 9 * 144 // g for g in (1, 2, 3, 4, 6, 12)}
    return (
        *figures,
        bars({f"g = {g}": w for g, w in weights.items()}, y="weights", levels={"chosen": weights[groups]},
             caption="Weights of the two layers if they are 3×3: each group costs its own share squared."),
        f"After two layers an output depends on {seen} of 12 input channels"
        + (", that is, on all." if seen == 12 else f". A group has {12 // groups} channel{'s' if groups < 12 else ''}, and there are {groups} groups.")
        + f" Weights: {weights[groups]:,} instead of {weights[1]:,}.",
    )
