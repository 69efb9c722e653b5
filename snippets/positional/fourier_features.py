"""Fourier features in NumPy: what they let a linear fit see."""

import numpy as np


def features(x, rates):
    """x (N,) -> x itself, and sine and cosine of x at every rate (radians per unit)."""
    angle = x[:, None] * rates
    return np.concatenate([x[:, None], np.sin(angle), np.cos(angle)], -1)


def octaves(n):
    """NeRF: each frequency is twice the one before."""
    return np.pi * 2.0 ** np.arange(n)


def gaussian(n, scale, seed=0):
    """Random frequencies, of the order of scale turns per unit."""
    return 2 * np.pi * scale * np.random.default_rng(seed).normal(size=n)


def ridge(inputs, y, at, strength):
    """Least squares with a small penalty on the weights; a constant is fitted too. Its values at other inputs."""
    mean = y.mean()
    gram = inputs.T @ inputs + strength * len(y) * np.eye(inputs.shape[1])
    return mean + at @ np.linalg.solve(gram, inputs.T @ (y - mean))


# %% demo
from snippets.live import demo, heatmap, line, slider


def signal(x):
    """A jump and a fast sine."""
    return np.where(x > 0.15, 1.0, 0.0) + 0.4 * np.sin(6 * np.pi * x)


@demo(
    frequencies=slider(0, 10, label="octaves"),
    scale=slider(0.1, 30.0, log=True, label="scale of the random frequencies", unit="turns/unit"),
    samples=slider(16, 128, step=8, label="samples"),
)
def show(frequencies=4, scale=2.0, samples=64):
    """Add octaves one by one, then raise the scale: blurred, right, and at last noise between the samples."""
    rng = np.random.default_rng(0)
    x = np.sort(rng.uniform(-1, 1, samples))
    y = signal(x)
    at = np.linspace(-1, 1, 241)
    fits, error = {}, {}
    for name, rates in (("octaves", octaves(frequencies)), ("random", gaussian(64, scale))):
        values = ridge(features(x, rates), y, features(at, rates), 1e-4)
        fits[name] = np.clip(values, -1.2, 2.2)
        error[name] = np.sqrt(np.mean((values - signal(at)) ** 2))
    grid = np.linspace(-1, 1, 31)
    f = features(grid, gaussian(64, scale))[:, 1:]
    names = [f"{v:.1f}" for v in grid]
    return (
        line({"signal": (at, signal(at)), **{name: (at, v) for name, v in fits.items()}}, x="x", y="value", range_y=(-1.2, 2.2),
             dashed=["signal"],
             caption="A linear fit on the features. Too few or too slow frequencies round off the jump; too fast ones follow the samples "
                     "and swing between them."),
        heatmap(f @ f.T / 64, x="x", y="x′", value="kernel", rows=names, columns=names, signed=True, range=(-1, 1),
                caption="How much a sample at x tells about x′, random frequencies. A wide band blurs, a thin one leaves gaps between samples."),
        f"Root mean square error: {error['octaves']:.2f} with {frequencies} octaves, {error['random']:.2f} with random frequencies of "
        f"about {scale:.2g} turns per unit.",
    )
