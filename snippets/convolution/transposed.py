"""Transposed convolution in NumPy."""

import numpy as np


def transposed_conv2d(x, w, stride=1, padding=(0, 0), output_padding=(0, 0)):
    """x (C, H, W), w (C, O, kh, kw) -> (O, H', W'): every pixel stamps the kernel, and where stamps overlap they add up."""
    C, H, W = x.shape
    O, kh, kw = w.shape[1:]
    rows, columns = (H - 1) * stride + kh + output_padding[0], (W - 1) * stride + kw + output_padding[1]
    y = np.zeros((O, rows, columns))
    for i in range(kh):  # tap (i, j) of all stamps at once
        for j in range(kw):
            y[:, i : i + (H - 1) * stride + 1 : stride, j : j + (W - 1) * stride + 1 : stride] += np.tensordot(w[:, :, i, j], x, (0, 0))
    return y[:, padding[0] : rows - padding[0], padding[1] : columns - padding[1]]  # padding cuts off


def bilinear(k):
    """Rises and falls in a straight line."""
    return 1 - np.abs(np.arange(k) - (k - 1) / 2) / ((k + 1) // 2)


# %% demo
from snippets.live import demo, heatmap, line, slider, toggle


@demo(
    k=slider(1, 6, label="kernel size"),
    stride=slider(1, 4, label="stride"),
    padding=slider(0, 2, label="padding"),
    more=slider(0, 3, label="output padding"),
    smooth=toggle(label="bilinear kernel (off: random)"),
)
def show(k=3, stride=2, padding=1, more=0, smooth=False):
    """Six equal pixels go in, so the output should be flat. Set the kernel to 4, then to 5: what matters is whether the stride divides it."""
    if more >= stride:
        raise ValueError(f"An output padding of {more} must be below the stride, {stride}: a larger one would be another input pixel.")
    row = bilinear(k) if smooth else np.random.default_rng(3).uniform(0.2, 1.0, k)
    flat, ones = np.ones((1, 1, 6)), np.ones((1, 1, 1, k))
    count = transposed_conv2d(flat, ones, stride, (0, padding), (0, more))[0, 0]
    value = transposed_conv2d(flat, row[None, None, None], stride, (0, padding), (0, more))[0, 0]
    square = transposed_conv2d(np.ones((1, 6, 6)), np.ones((1, 1, k, k)), stride, (padding, padding), (more, more))[0]
    size, edge = len(count), max(k - 1 - padding, 0)  # outside, stamps are missing
    inner = count[edge : size - edge] if size > 2 * edge else count
    even = k % stride == 0
    kind = "bilinear" if smooth else "random"
    return (
        line({"stamps that meet": count, f"output, {kind} kernel": value}, x="output position", y="stamps, or value", steps=True,
             range_y=(0, max(6, value.max())),
             caption="One row. Six ones at the input: each stamps its kernel, one stride after the other."),
        heatmap(square, x="column", y="row", value="stamps that meet",
                caption="The same in two dimensions: counts multiply, and a stripe becomes a checkerboard."),
        f"Size: (6 − 1)·{stride} − 2·{padding} + ({k} − 1) + {more} + 1 = {size}"
        + (", exactly 6 times the stride. " if size == 6 * stride else f", not 6·{stride} = {6 * stride}. ")
        + (f"{stride} divides {k}: away from the border every position gets {k // stride} stamp{'s' if k > stride else ''}." if even
           else f"{stride} does not divide {k}: positions get {inner.min():.0f} to {inner.max():.0f} stamps by turns."),
    )
