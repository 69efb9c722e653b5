"""What each pooling keeps of a row of numbers, and who gets its gradient."""

import numpy as np

from snippets.pooling.average import average_pool
from snippets.pooling.generalized_mean import gem
from snippets.pooling.max import max_pool, windows
from snippets.pooling.stochastic import expected


def poolings(k, p):
    """Functions of an image (H, W) with windows of k×k: the same windows, other reductions."""
    flat = lambda x: windows(x, k, k).reshape(x.shape[0] // k, x.shape[1] // k, -1)
    return {
        "max": lambda x: max_pool(x, k, k),
        "average": lambda x: average_pool(x, k, k),
        f"GeM p={p:g}": lambda x: gem(flat(x), p),
        "stochastic": lambda x: expected(flat(x)),  # its value in evaluation
    }


def influence(f, x, step=1e-6):
    """Derivative of the sum of all outputs by every input, by nudging one input after the other."""
    out = np.zeros_like(x)
    for at in np.ndindex(x.shape):
        nudge = np.zeros_like(x)
        nudge[at] = step
        out[at] = (f(x + nudge).sum() - f(x - nudge).sum()) / (2 * step)
    return out


# %% demo
from snippets.live import bars, choice, demo, heatmap, slider


@demo(
    kernel=choice(2, 4, 8, label="window and stride"),
    p=slider(1.0, 30.0, log=True, label="exponent of the generalized mean"),
    sparse=slider(0.0, 0.9, step=0.1, label="share of pixels near zero"),
)
def show(kernel=4, p=3.0, sparse=0.5):
    """Make most pixels zero: the average fades, the maximum stays. Move p from 1 to 30: the generalized mean walks from one to the other."""
    rng = np.random.default_rng(2)
    x = rng.gamma(1.5, 0.4, size=(8, 8))
    x[rng.random((8, 8)) < sparse] *= 0.02
    x += 1e-3
    functions = poolings(kernel, p)
    gradients = {name: influence(f, x) for name, f in functions.items()}
    across, down = np.full((8, 1), np.nan), np.full((1, 17), np.nan)
    one, two, three, four = (np.where(np.abs(d) > 1e-6, d, np.nan) for d in gradients.values())
    mosaic = np.concatenate([np.concatenate([one, across, two], 1), down, np.concatenate([three, across, four], 1)])
    shares = {name: np.abs(d) / np.abs(d).sum() for name, d in gradients.items()}
    counted = {name: 1 / (s**2).sum() / (8 // kernel) ** 2 for name, s in shares.items()}  # as many equal shares would do the same
    return (
        heatmap(x, x="column", y="row", value="activation", signed=False, range=(0, 2), caption=f"The activations. Windows of {kernel}×{kernel} lie side by side."),
        heatmap(mosaic, rows=[""] * 17, columns=[""] * 17, x="max and average; below GeM and stochastic", y="row of the image", value="gradient", signed=True, range=(-0.4, 0.4),
                caption="How much each pixel moves the output, found by nudging it. Upper left: maximum, one pixel per window. Upper right: average, all alike. "
                        "Lower left: generalized mean. Lower right: the expected value of stochastic pooling, which small numbers even lower."),
        bars(counted, y="pixels per window that count", range_y=(0, kernel**2), caption=f"Over how many of {kernel**2} pixels the gradient is spread."),
        "Mean output: " + ", ".join(f"{name} {f(x).mean():.2f}" for name, f in functions.items()) + f"; the image has a mean of {x.mean():.2f}.",
    )
