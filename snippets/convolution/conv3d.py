"""3D convolution in NumPy; the code is the same for any number of axes."""

import numpy as np


def convolve(x, w, dilation=1):
    """x (C, *size), w (O, C, *kernel) -> (O, *output size): as many axes as w has after its second."""
    n = w.ndim - 2
    axes = tuple(range(1, n + 1))
    span = [dilation * (k - 1) + 1 for k in w.shape[2:]]
    windows = np.lib.stride_tricks.sliding_window_view(x, span, axes)
    windows = windows[(..., *[slice(None, None, dilation)] * n)]  # (C, *output size, *kernel)
    inner = tuple(range(n + 1, 2 * n + 1))
    return np.tensordot(w, windows, ((1, *(a + 1 for a in axes)), (0, *inner)))


def moving_kernel(speed, depth):
    """(depth, 5, 13): a spot that moves by speed pixels per frame, less its mean."""
    t = np.arange(depth)[:, None, None] - (depth - 1) / 2
    i, j = np.arange(5)[:, None] - 2.0, np.arange(13) - 6.0
    spot = np.exp(-(i**2 + (j - speed * t) ** 2) / 2)
    spot -= spot.mean((1, 2), keepdims=True)
    return spot / np.linalg.norm(spot)


def answer(video, speed, depth):
    """The video (T, H, W) under the kernel for one speed, as large as before."""
    before = (depth - 1) // 2
    padded = np.pad(video, ((before, depth - 1 - before), (2, 2), (6, 6)))
    return convolve(padded[None], moving_kernel(speed, depth)[None, None])[0]


# %% demo
from snippets.live import demo, image, line, slider


def blob(speed):
    """Eight frames of 16 by 16 pixels."""
    t, i, j = np.mgrid[:8, :16, :16].astype(float)
    return np.exp(-((i - 7.5) ** 2 + (j - 7.5 - speed * (t - 3.5)) ** 2) / 2)


def strip(frames):
    return np.concatenate([np.pad(frame, 1, constant_values=1) for frame in frames], 1)


@demo(
    speed=slider(-2.0, 2.0, step=0.5, label="speed of the blob", unit="px/frame"),
    tuned=slider(-2.0, 2.0, step=0.5, label="speed the kernel is tuned to", unit="px/frame"),
    depth=slider(1, 5, label="kernel depth", unit="frames"),
)
def show(speed=1.0, tuned=0.0, depth=3):
    """Tune the kernel to the blob's speed and the answer is largest. Make it one frame deep and it cannot tell speeds apart."""
    video = blob(speed)
    speeds = np.arange(-2, 2.5, 0.5)
    answers = {s: answer(video, s, depth) for s in speeds}
    energy = np.array([np.mean(np.maximum(a[2:6], 0) ** 2) for a in answers.values()])
    largest = max(np.abs(a).max() for a in answers.values())
    best = speeds[energy.argmax()]
    shown = [1, 3, 5]
    return (
        image(strip(video[shown]), caption="Frames 2, 4 and 6 of the video."),
        image(strip(0.5 + answers[tuned][shown] / (2 * largest)), caption=f"The answer of the kernel for {tuned:g} px/frame in these frames; grey is zero."),
        line({"energy": (speeds, energy / energy.max())}, x="speed the kernel is tuned to (px/frame)", y="energy, share of the largest",
             marks={"blob": speed, "kernel": tuned} if speed != tuned else {"blob and kernel": speed}, range_y=(0, 1.05),
             caption="Answers of nine kernels, each for another speed: a deeper kernel is more selective."),
        ("With a depth of one frame all kernels are the same: the kernel sees a picture, and a picture has no speed." if depth == 1 else
         f"The largest answer is that of the kernel for {best:g} px/frame; the blob moves at {speed:g}.")
        + f" Multiply-adds per output: {depth}·5·13 = {depth * 65}.",
    )
