"""Squeeze-and-excitation in NumPy."""

import numpy as np


def sigmoid(x):
    return 1 / (1 + np.exp(-np.clip(x, -50, 50)))


def squeeze_excite(x, w1, b1, w2, b2):
    """x (C, H, W) -> the same with every channel scaled, and the C gates: means, a small network, numbers from 0 to 1."""
    means = x.mean((1, 2))
    gate = sigmoid(w2 @ np.maximum(w1 @ means + b1, 0) + b2)
    return x * gate[:, None, None], gate


def learn(means, target, parameters, steps=100, rate=1.0):
    """Gradient descent by hand: the summed, gated channel means (N, C) shall tell class 1 from class 0."""
    w1, b1, w2, b2 = (p.copy() for p in parameters)
    for _ in range(steps):
        a = means @ w1.T + b1
        hidden = np.maximum(a, 0)
        gate = sigmoid(hidden @ w2.T + b2)
        error = (sigmoid(4 * (gate * means).sum(1)) - target) / len(target)
        into_gate = 4 * error[:, None] * means * gate * (1 - gate)
        into_hidden = (into_gate @ w2) * (a > 0)
        w2 -= rate * into_gate.T @ hidden
        b2 -= rate * into_gate.sum(0)
        w1 -= rate * into_hidden.T @ means
        b1 -= rate * into_hidden.sum(0)
    return w1, b1, w2, b2


# %% demo
from snippets.live import bars, demo, image, slider, toggle


@demo(
    signal=slider(1, 8, label="first of the two signal channels"),
    noise=slider(0.0, 2.0, step=0.1, label="noise of the other channels"),
    reduction=slider(1, 8, label="reduction"),
    trained=toggle(label="100 steps of training"),
)
def show(signal=3, noise=1.0, reduction=2, trained=True):
    """Two of eight channels say what class an image is. Train the gate, and raise the noise: it shuts the channels that only disturb."""
    rng = np.random.default_rng(0)
    hidden, carriers = max(8 // reduction, 1), [signal - 1, signal % 8]
    target = rng.integers(0, 2, 96).astype(float)
    means = noise * rng.normal(size=(96, 8))
    means[:, carriers] = (2 * target - 1)[:, None] + 0.3 * rng.normal(size=(96, 2))
    parameters = [rng.normal(size=(hidden, 8)) / 8**0.5, np.zeros(hidden), 0.3 * rng.normal(size=(8, hidden)) / hidden**0.5, np.zeros(8)]
    if trained:
        parameters = learn(means, target, parameters)

    i, j = np.mgrid[:12, :12]
    x = np.stack([np.where((i - 5.5) ** 2 + (j - 5.5) ** 2 < 16, 1.0, -0.3) if c in carriers else noise * rng.normal(size=(12, 12)) for c in range(8)])
    x[carriers] += 1 - x[carriers].mean((1, 2), keepdims=True)
    y, gate = squeeze_excite(x, *parameters)
    quiet = (signal + 2) % 8
    frame = lambda channel: np.pad(0.5 + channel / 5, 1, constant_values=1)  # noqa: E731
    right = (((np.stack([squeeze_excite(m[:, None, None], *parameters)[1] for m in means]) * means).sum(1) > 0) == target).mean()
    before = ((means.sum(1) > 0) == target).mean()
    return (
        bars({f"{c + 1}{' *' if c in carriers else ''}": g for c, g in enumerate(gate)}, x="channel (*: carries the signal)", y="gate", range_y=(0, 1),
             levels={"untrained": 0.5}, caption="What each channel is multiplied by, for one image."),
        image(np.hstack([frame(x[carriers[0]]), frame(y[carriers[0]]), frame(x[quiet]), frame(y[quiet])]),
              caption=f"Channel {carriers[0] + 1} before and after, then channel {quiet + 1} before and after. Grey is zero."),
        f"The sum of all channels tells the class in {before:.0%} of 96 images without the gates, in {right:.0%} with them. "
        f"{hidden} hidden number{'s' if hidden > 1 else ''}, {2 * 8 * hidden} weights.",
    )
