"""Depthwise convolution in NumPy."""

import numpy as np

from snippets.convolution.conv2d import kernel, patches


def depthwise(x, w, dilation=1):
    """x (C, H, W), w (C, k, k) -> (C, H, W): the sum runs over the window and not over channels."""
    k = w.shape[-1]
    reach = dilation * (k - 1)
    sides = reach // 2, reach - reach // 2  # an odd zero goes to the right and below
    return np.einsum("chwij,cij->chw", patches(np.pad(x, ((0, 0), sides, sides)), k, 1, dilation), w)


# %% demo
from snippets.live import choice, demo, heatmap, image, slider

KERNELS = "identity", "blur", "Sobel x", "Sobel y"


def picture():
    """Three channels: bars, a disc, a checkerboard."""
    i, j = np.mgrid[:26, :26]
    bars = np.where((abs(i - 12.5) < 10) & (abs(j - 12.5) < 10) & (j % 6 < 3), 0.9, 0.1)
    disc = np.where((i - 12.5) ** 2 + (j - 12.5) ** 2 < 80, 0.9, 0.1)
    board = np.where((abs(i - 12.5) < 10) & (abs(j - 12.5) < 10) & ((i // 5 + j // 5) % 2 == 0), 0.9, 0.1)
    return np.stack([bars, disc, board])


def side_by_side(x):
    """Channels next to each other on white."""
    return np.concatenate([np.pad(channel, 1, constant_values=1) for channel in x], 1)


@demo(
    first=choice(*KERNELS, label="kernel of channel 1"),
    second=choice(*KERNELS, label="kernel of channel 2"),
    third=choice(*KERNELS, label="kernel of channel 3"),
    k=slider(1, 7, label="kernel size"),
    dilation=slider(1, 3, label="dilation"),
)
def show(first="Sobel x", second="blur", third="Sobel y", k=3, dilation=1):
    """Change the kernel of one channel: one picture changes. Then read from the matrix why."""
    x = picture()
    w = np.zeros((3, k, k))
    for channel, name in enumerate((first, second, third)):
        if name == "identity":
            w[channel, (k - 1) // 2, (k - 1) // 2] = 1
        else:
            w[channel] = kernel(name, k)
    y = depthwise(x, w, dilation)
    scaled = [0.5 + channel / (2 * np.abs(channel).max()) if channel.min() < 0 else channel for channel in y]

    # Which output moves if one input channel does: the layer itself is asked.
    own = np.array([[np.abs(depthwise(x * (np.arange(3) == c)[:, None, None], w, dilation)[o]).max() > 0 for c in range(3)] for o in range(3)])
    used = np.hstack([own * k * k, np.full((3, 1), np.nan), np.full((3, 3), k * k)])
    return (
        image(side_by_side(x), caption="Before: three channels."),
        image(side_by_side(scaled), caption="After, each under its own kernel; where an output has both signs, grey is zero."),
        heatmap(used, rows=["out 1", "out 2", "out 3"], columns=["in 1", "in 2", "in 3", "", "in 1 ", "in 2 ", "in 3 "],
                x="depthwise (left), full convolution (right)", y="output channel", value="weights", range=(0, max(k * k, 2)),
                caption="How many weights lie between two channels. Outside the diagonal a depthwise layer has none."),
        f"{3 * k * k} weights, where a full convolution has {9 * k * k}. With 256 channels: {256 * k * k:,} and {256 * 256 * k * k:,}.",
    )
