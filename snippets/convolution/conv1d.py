"""1D convolution in NumPy."""

import numpy as np


def output_size(length, k, stride=1, padding=0, dilation=1):
    """At how many positions the kernel fits."""
    return (length + 2 * padding - dilation * (k - 1) - 1) // stride + 1


def windows(x, k, stride=1, dilation=1):
    """x (..., L) -> (..., L_out, k): what the kernel sees at each of its positions."""
    first = stride * np.arange(output_size(x.shape[-1], k, stride, 0, dilation))
    return x[..., first[:, None] + dilation * np.arange(k)]


def conv1d(x, w, bias=0.0, stride=1, padding=0, dilation=1):
    """x (C, L), w (O, C, k) -> (O, L_out): every window becomes a row, every kernel a column, and one product does the rest."""
    O, C, k = w.shape
    x = np.pad(x, ((0, 0), (padding, padding)))
    rows = windows(x, k, stride, dilation).swapaxes(0, 1).reshape(-1, C * k)
    return (rows @ w.reshape(O, C * k).T + bias).T


# %% demo
from snippets.live import choice, demo, line, slider

LENGTH = 64


def signals():
    t = np.arange(LENGTH)
    clean = np.where(t < 32, np.where(t < 12, -0.8, 0.8), np.sin((t - 32) / 3))
    return t, clean, clean + 0.3 * np.random.default_rng(0).normal(size=LENGTH)


@demo(
    preset=choice("moving average", "Gaussian", "derivative", "learned", label="kernel"),
    k=slider(1, 9, label="kernel size"),
    stride=slider(1, 4, label="stride"),
    padding=slider(0, 4, label="padding on each side"),
    dilation=slider(1, 4, label="dilation"),
)
def show(preset="Gaussian", k=5, stride=1, padding=2, dilation=1):
    """A noisy step and a noisy wave. Raise the stride: fewer dots, same kernel. Raise the padding: the ends bend to zero."""
    t, clean, noisy = signals()
    offset = np.arange(k) - (k - 1) / 2
    centre = stride * np.arange(output_size(LENGTH, k, stride, padding, dilation)) - padding + dilation * (k - 1) / 2
    if preset == "moving average":
        w = np.full(k, 1 / k)
    elif preset == "Gaussian":
        w = np.exp(-((offset / max(k / 4, 0.5)) ** 2) / 2)
        w /= w.sum()
    elif preset == "derivative":
        if k == 1:
            raise ValueError("A derivative compares neighbours: choose a kernel size of 2 or more.")
        w = offset / (offset**2).sum() / dilation  # the slope of the straight line that fits the window best
    else:  # the least-squares kernel that turns this noisy signal into the clean one
        seen = windows(np.pad(noisy, padding), k, stride, dilation)
        w = np.linalg.lstsq(seen, np.interp(centre, t, clean), rcond=None)[0]
    y = conv1d(noisy[None], w[None, None], 0.0, stride, padding, dilation)[0]

    taps = dilation * np.arange(k) - padding
    if preset == "derivative":
        verdict = "The output is large where the signal climbs: at the step and on the flanks of the wave."
    else:
        error = np.sqrt(np.mean((y - np.interp(centre, t, clean)) ** 2))
        verdict = f"Its distance from the clean signal is {error:.2f} (root mean square); the input's was {np.sqrt(np.mean((noisy - clean) ** 2)):.2f}."
    return (
        line({"input": (t, noisy), "clean": (t, clean), "output": (centre, y)}, x="position (samples)", y="value",
             dashed=["clean"], markers=["output"] if stride > 1 else [], range_y=(-2, 2),
             caption="Each output stands at the middle of the window that it read."),
        line({"1st": (taps, w), "2nd": (taps + stride, w)}, x="position (samples; below 0 is padding)",
             y="weight", markers=["1st", "2nd"], marks={"first sample": 0},
             caption="The taps of the first and the second window: the same weights, one stride apart."),
        f"Outputs: ⌊({LENGTH} + 2·{padding} − {dilation}·({k} − 1) − 1) / {stride}⌋ + 1 = {len(y)}. " + verdict,
    )
