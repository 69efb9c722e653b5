"""4D convolution in NumPy: a sum of 3D convolutions."""

import numpy as np

from snippets.convolution.conv3d import convolve


def conv4d(x, w, dilation=1):
    """x (C, T, D, H, W), w (O, C, kt, kd, kh, kw): tap i along time is a 3D kernel, and it reads the volume i steps later."""
    taps = w.shape[2]
    times = x.shape[1] - dilation * (taps - 1)
    volumes = [
        sum(convolve(x[:, t + dilation * i], w[:, :, i], dilation) for i in range(taps))
        for t in range(times)
    ]
    return np.stack(volumes, 1)


# %% demo
from snippets.live import demo, heatmap, slider, table


@demo(
    k=slider(1, 3, label="kernel size along each axis"),
    dilation=slider(1, 2, label="dilation"),
    time=slider(0, 4, label="time slice"),
    depth=slider(0, 4, label="depth slice"),
)
def show(k=3, dilation=1, time=2, depth=2):
    """An impulse in the middle of a 5×5×5×5 array. Its answer is the kernel, turned around along all four axes."""
    x = np.zeros((1, 5, 5, 5, 5))
    x[0, 2, 2, 2, 2] = 1
    row = np.arange(1.0, k + 1)  # weights grow along each axis, so that every tap can be told from the others
    w = np.einsum("a,b,c,d->abcd", row, row, row, row)[None, None]
    reach = dilation * (k - 1)
    padded = np.pad(x, ((0, 0), *[(reach // 2, reach - reach // 2)] * 4))
    y = conv4d(padded, w, dilation)[0]

    seen = np.where(y > 0, y, np.nan)
    lines = [np.hstack([np.pad(seen[t, d], ((0, 1), (0, 1)), constant_values=np.nan) for d in range(5)]) for t in range(5)]
    whole = np.vstack(lines)[:-1, :-1]
    span = reach + 1
    labels = [f"{block}.{i}" if i < 5 else "" for block in range(5) for i in range(6)][:-1]
    return (
        heatmap(whole, rows=labels, columns=labels, x="depth . column", y="time . row", value="answer", range=(0, 81),
                caption="All 25 slices. Down: time; to the right: depth. Empty: not reached."),
        heatmap(seen[time, depth] if np.isfinite(seen[time, depth]).any() else np.zeros((5, 5)), x="column", y="row", value="answer", range=(0, 81),
                caption=f"The slice at time {time} and depth {depth}."),
        table([[f"{n}D", f"{k**n:,}", f"{64 * 64 * k**n:,}", f"{span**n:,}", f"{64 * 16**n * 2 / 1e6:.2g}"] for n in (1, 2, 3, 4)],
              columns=["axes", "taps", "weights", "window", "MB"],
              caption="Weights from 64 to 64 channels; megabytes of one activation with 64 channels and side 16, in 16 bits."),
        f"The answer fills {np.count_nonzero(y)} of 625 cells, one for each of the {k}⁴ taps"
        + (" that fall inside." if np.count_nonzero(y) < k**4 else "."),
    )
