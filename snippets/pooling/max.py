"""Max pooling in NumPy."""

import numpy as np


def windows(x, k, stride, padding=0, fill=0.0):
    """x (H, W) -> (H', W', k, k): every window, as a view."""
    x = np.pad(x, padding, constant_values=fill)
    if min(x.shape) < k:
        raise ValueError(f"a window of {k} at stride {stride} does not fit into {x.shape[0]}×{x.shape[1]} numbers")
    return np.lib.stride_tricks.sliding_window_view(x, (k, k))[::stride, ::stride]


def max_pool(x, k, stride, padding=0):
    return windows(x, k, stride, padding, -np.inf).max((-2, -1))  # padded with -inf, so that padding never wins


# %% demo
from snippets.live import choice, demo, heatmap, line, slider


def winners(x, k, stride):
    """How many windows each number wins: the gradient of the sum of all outputs."""
    count = np.zeros(x.shape)
    for i, row in enumerate(windows(x, k, stride)):
        for j, window in enumerate(row):
            a, b = divmod(int(window.argmax()), k)
            count[i * stride + a, j * stride + b] += 1
    return count


def shares(x, k, stride):
    """The same for the mean: every number of a window gets 1/k²."""
    count = np.zeros(x.shape)
    for i, row in enumerate(windows(x, k, stride)):
        for j, _ in enumerate(row):
            count[i * stride : i * stride + k, j * stride : j * stride + k] += 1 / k**2
    return count


def scene(position):
    """A bright spot in row 3 of a dim, fixed texture."""
    y, x = np.mgrid[:8, :8]
    texture = 0.25 * np.random.default_rng(0).random((8, 8))
    return texture + np.exp(-((y - 3) ** 2 + (x - position) ** 2) / 0.6)


@demo(
    kernel=slider(2, 4, label="window"),
    stride=slider(1, 4, label="stride"),
    position=slider(0, 7, label="column of the spot"),
    kind=choice("max", "average", label="pooling"),
)
def show(kernel=2, stride=2, position=3, kind="max"):
    """Move the spot by one: inside a window nothing much happens, across its border the output jumps. With stride 1 it glides."""
    pools = {"max": lambda x: max_pool(x, kernel, stride), "average": lambda x: windows(x, kernel, stride).mean((-2, -1))}
    x = scene(position)
    gradient = (winners if kind == "max" else shares)(x, kernel, stride)
    y = pools[kind](x)
    both = np.concatenate([x, np.full((8, 1), np.nan), np.where(gradient > 0, gradient, np.nan)], 1)
    change = {name: [np.linalg.norm(pool(scene(p + 1)) - pool(scene(p))) / np.linalg.norm(pool(scene(p))) for p in range(7)] for name, pool in pools.items()}
    used = np.count_nonzero(gradient)
    return (
        heatmap(both, columns=[*range(8), "", *range(8)], x="input, and its gradient", y="row", value="input; gradient", range=(0, 1.3), signed=False,
                caption="Left the image. Right how much each pixel counts in the sum of the outputs: the winners of a maximum, everybody in a mean."),
        heatmap(y, x="column", y="row", value="output", range=(0, 1.3), signed=False, caption=f"The output, {y.shape[0]}×{y.shape[1]} for 8×8."),
        line(change, x="column of the spot before it moves by one", y="relative change of the output", dashed=["average" if kind == "max" else "max"],
             marks={"now": position} if position < 7 else None, range_y=(0, 1.5),
             caption="How much the output changes when the spot moves one pixel. Even and odd columns differ: pooling with a stride is not shift-invariant."),
        f"{used} of 64 pixels get a gradient. The output has {y.size} numbers instead of 64.",
    )
