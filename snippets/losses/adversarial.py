"""Adversarial losses in NumPy."""

import numpy as np

from snippets.losses.binary_cross_entropy import bce, bce_slope

# What it costs the discriminator to answer d to a real sample and to a generated one, and what the second answer costs the generator;
# then the slopes of the three.
COSTS = {
    "nonsaturating": (lambda d: bce(d, 1), lambda d: bce(d, 0), lambda d: bce(d, 1)),
    "minimax": (lambda d: bce(d, 1), lambda d: bce(d, 0), lambda d: -bce(d, 0)),
    "lsgan": (lambda d: (d - 1) ** 2 / 2, lambda d: d**2 / 2, lambda d: (d - 1) ** 2 / 2),
    "hinge": (lambda d: np.maximum(0, 1 - d), lambda d: np.maximum(0, 1 + d), lambda d: -d),
    "wgan": (lambda d: -d, lambda d: d, lambda d: -d),
}
SLOPES = {
    "nonsaturating": (lambda d: bce_slope(d, 1), lambda d: bce_slope(d, 0), lambda d: bce_slope(d, 1)),
    "minimax": (lambda d: bce_slope(d, 1), lambda d: bce_slope(d, 0), lambda d: -bce_slope(d, 0)),
    "lsgan": (lambda d: d - 1, lambda d: d, lambda d: d - 1),
    "hinge": (lambda d: -1.0 * (d < 1), lambda d: 1.0 * (d > -1), lambda d: -np.ones_like(d)),
    "wgan": (lambda d: -np.ones_like(d), np.ones_like, lambda d: -np.ones_like(d)),
}


def discriminator_loss(real, fake, mode="nonsaturating"):
    return COSTS[mode][0](real).mean() + COSTS[mode][1](fake).mean()


def generator_loss(fake, mode="nonsaturating"):
    return COSTS[mode][2](fake).mean()


# %% demo
from snippets.live import choice, demo, line, slider
from snippets.losses.arena import slope

Z = np.linspace(-3, 3, 61)
CHANCE = np.exp(-(Z**2) / 2) / np.exp(-(Z**2) / 2).sum()  # a standard normal distribution on a grid: expectations without random numbers
DATA = (1.0, 1.0)


def features(x):
    """With these two and a constant the discriminator can be the best there is between two normal distributions."""
    return np.stack([np.ones_like(x), x / 2, x**2 / 4])


def play(mode, ratio, start, steps=300, rate=0.2):
    """Both players in turn, by gradients worked out by hand: the discriminator's three weights, the generator's shift and scale."""
    (shift, scale), w, path = (start, 0.4), np.zeros(3), []
    rate_d, rate_g = rate * ratio**0.5, rate / ratio**0.5
    real = features(DATA[0] + DATA[1] * Z)
    of_real, of_fake, of_generator = SLOPES[mode]
    for step in range(steps + 1):
        x = shift + scale * Z
        fake = features(x)
        d_real, d_fake = w @ real, w @ fake
        costs = [CHANCE @ cost(d) for cost, d in zip(COSTS[mode], (d_real, d_fake, d_fake))]
        path.append((shift, scale, costs[0] + costs[1], costs[2]))
        if step == steps:
            return np.array(path), w
        w = w - rate_d * (real @ (CHANCE * of_real(d_real)) + fake @ (CHANCE * of_fake(d_fake)))
        if mode == "wgan":
            w = np.clip(w, -1, 1)  # what bounds the slope of this discriminator
        push = CHANCE * of_generator(w @ fake) * (w[1] / 2 + w[2] * x / 2)
        shift, scale = shift - rate_g * push.sum(), scale - rate_g * (push * Z).sum()


def density(x, shift, scale):
    width = max(abs(scale), 0.05)
    return np.exp(-(((x - shift) / width) ** 2) / 2) / width / np.sqrt(2 * np.pi)


@demo(
    mode=choice(*COSTS, label="losses"),
    ratio=slider(0.1, 10.0, label="rate of the discriminator / rate of the generator", log=True),
    start=slider(-3.0, 0.0, step=0.5, label="where the generator starts (the data are at 1)"),
)
def show(mode="nonsaturating", ratio=1.0, start=-1.0):
    """Two players who chase each other: watch them overshoot. Then start at −3 with ratio 10, and compare minimax with nonsaturating."""
    path, w = play(mode, ratio, start)
    x = np.linspace(-5, 5, 101)
    answer = w @ features(x)
    asks = mode in ("nonsaturating", "minimax")  # for a probability; the others for a number
    verdict = 1 / (1 + np.exp(-np.clip(answer, -30, 30))) if asks else np.clip(answer, -1, 1)
    mean = CHANCE @ (w @ features(path[-1, 0] + path[-1, 1] * Z))
    at = np.linspace(-3, 3, 121)
    shown = {"nonsaturating": "nonsaturating", "minimax": "minimax", "lsgan": "lsgan", "hinge, wgan": "hinge"}
    last = path[200:]
    return (
        line({"data": density(x, *DATA), "generated": density(x, *path[-1, :2]), "D": verdict}, at=x, x="x", y="density, and answer of D", dashed=["data"],
             range_y=(0 if asks else -1, 1.2), levels={"undecided": 0.0 if mode in ("hinge", "wgan") else 0.5},
             caption=f"After 300 steps. D is what the discriminator answers to a sample at x: {'the probability that it is real' if asks else 'a number, cut at ±1'}."),
        line({"shift": path[:, 0], "scale": path[:, 1], "loss of D": path[:, 2], "loss of G": path[:, 3]}, x="step", y="loss; shift and scale of the generator",
             levels={"data": 1.0}, range_y=(min(start, -1.2), 2.6),
             caption="The game. The shift and the scale of the data are 1; the generator runs past both and comes back. The losses hardly tell when."),
        line({name: -slope(COSTS[m][2], at) for name, m in shown.items()}, at=at, x="answer of D to a generated sample", y="push on that answer", range_y=(-2, 4),
             marks={"mean now": float(np.clip(mean, -3, 3))}, caption="How hard each generator tries to raise the answer. On the left D is sure that the sample is not real: minimax gives up there."),
        f"Over the last 100 steps the shift went from {last[:, 0].min():.2f} to {last[:, 0].max():.2f} and the scale from {abs(last[:, 1]).min():.2f} to {abs(last[:, 1]).max():.2f}; "
        f"the loss of the discriminator was {last[:, 2].mean():.2f} on average.",
    )
