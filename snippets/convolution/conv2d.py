"""2D convolution in NumPy."""

import numpy as np

from snippets.convolution.conv1d import output_size


def patches(x, k, stride=1, dilation=1):
    """x (..., H, W) -> (..., H_out, W_out, k, k): what the kernel sees at each of its positions, as a view."""
    span = dilation * (k - 1) + 1
    views = np.lib.stride_tricks.sliding_window_view(x, (span, span), (-2, -1))
    return views[..., ::stride, ::stride, ::dilation, ::dilation]


def conv2d(x, w, stride=1, padding=0, dilation=1):
    """x (C, H, W), w (O, C, k, k) -> (O, H_out, W_out): over channel, row and column of the patch, multiply and add."""
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding)))
    return np.tensordot(w, patches(x, w.shape[-1], stride, dilation), ((1, 2, 3), (0, 3, 4)))


def receptive_field(layers):
    """Pixels that one output of a stack sees along one axis; a layer is (kernel size, stride, dilation)."""
    size = step = 1
    for k, stride, dilation in layers:
        size, step = size + dilation * (k - 1) * step, step * stride
    return size


def kernel(name, k):
    """Known filters in any size k."""
    middle = (k - 1) // 2
    blur = np.full((k, k), 1 / k**2)
    if name == "blur":
        return blur
    if name == "sharpen":  # the image, plus what a blur would take away
        delta = np.zeros((k, k))
        delta[middle, middle] = 2
        return delta - blur
    if k == 1:
        raise ValueError(f"{name} compares neighbours: choose a kernel size of 2 or more.")
    if name == "emboss":
        i = np.arange(k) - (k - 1) / 2
        return (i[:, None] + i) / k**2
    smooth, slope = np.ones(1), np.array([-1.0, 1.0])
    for _ in range(k - 1):
        smooth = np.convolve(smooth, [1, 1])
    for _ in range(k - 2):
        slope = np.convolve(slope, [1, 1])
    return np.outer(smooth, slope) if name == "Sobel x" else np.outer(slope, smooth)


# %% demo
from snippets.live import choice, demo, heatmap, image, slider


def picture():
    """Bars, a disc and a checkerboard."""
    i, j = np.mgrid[:28, :28]
    x = np.full((28, 28), 0.2)
    x[2:12, 2:14] = np.where(j[2:12, 2:14] % 4 < 2, 0.95, 0.2)
    x[(i - 7) ** 2 + (j - 21) ** 2 <= 25] = 0.8
    x[16:26, 4:24] = np.where((i[16:26, 4:24] // 3 + j[16:26, 4:24] // 3) % 2, 0.9, 0.2)
    return x


@demo(
    name=choice("blur", "Sobel x", "Sobel y", "sharpen", "emboss", label="kernel"),
    k=slider(1, 7, label="kernel size"),
    stride=slider(1, 3, label="stride"),
    padding=slider(0, 3, label="padding"),
    dilation=slider(1, 3, label="dilation"),
)
def show(name="Sobel x", k=3, stride=1, padding=1, dilation=1):
    """Sobel x answers to upright edges only. Give it dilation 2: its taps then stand as far apart as the bars, which vanish."""
    x, w = picture(), kernel(name, k)
    y = conv2d(x[None], w[None, None], stride, padding, dilation)[0]
    expected = output_size(28, k, stride, padding, dilation)
    taps = [dilation * i for i in range(k)]
    return (
        image(x, caption="Input, 28×28: bars four pixels apart, a disc, a checkerboard."),
        heatmap(w, rows=taps, columns=taps, x="column of the window (pixels)", y="row", value="weight", signed=True,
                caption=f"The kernel: {k * k} weights, used at every position."),
        heatmap(y, x="column of the output", y="row", value="output", signed=name != "blur" and name != "sharpen",
                caption="The output. Where it stands out at the rim you see the zeros of the padding."),
        f"Each side: ⌊(28 + 2·{padding} − {dilation}·({k} − 1) − 1) / {stride}⌋ + 1 = {expected}. "
        f"{expected**2 * k * k:,} multiply-adds with {k * k} weights; a dense layer would have {28 * 28 * expected**2:,} weights.",
    )
