"""A bottleneck adapter in NumPy, in the middle of a frozen network."""

import numpy as np


def adapt(h, down, bias, up):
    """h (N, D) plus what a narrow network makes of it: down (m, D), bias (m,), up (D, m)."""
    return h + np.maximum(h @ down.T + bias, 0) @ up.T


def gradients(h, y, read, down, bias, up):
    """Of the cross-entropy of the frozen read-out of adapt(h), for the adapter's weights; and the loss."""
    inside = h @ down.T + bias
    hidden = np.maximum(inside, 0)
    logits = (h + hidden @ up.T) @ read
    loss = np.mean(np.logaddexp(0, logits) - y * logits)
    d_out = ((0.5 + 0.5 * np.tanh(logits / 2) - y) / len(y))[:, None] * read  # this form of the sigmoid cannot overflow
    d_inside = (d_out @ up) * (inside > 0)
    return (d_inside.T @ h, d_inside.sum(0), d_out.T @ hidden), loss


def moons(n, angle=0.0):
    """Two half circles that reach into each other, turned around the origin."""
    rng = np.random.default_rng(0)
    t = np.pi * rng.random(n)
    upper = np.stack([np.cos(t) - 0.5, np.sin(t) - 0.25], 1)
    points = np.concatenate([upper, -upper]) + 0.08 * rng.normal(size=(2 * n, 2))
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return 1.5 * points @ turn, np.repeat([0.0, 1.0], n)


# %% demo
from snippets.live import demo, line, scatter, slider

WIDTH = 24
FIRST = np.random.default_rng(4).normal(size=(WIDTH, 3)) * np.array([1.5, 1.5, 1.0])


def features(points):
    """The frozen first layer."""
    return np.tanh(points @ FIRST[:, :2].T + FIRST[:, 2])


def pretrained():
    """The frozen read-out: fitted to moons that are not turned."""
    points, y = moons(100)
    h = features(points)
    return np.linalg.solve(h.T @ h + np.eye(WIDTH), h.T @ (4 * y - 2))


READ = pretrained()


@demo(
    bottleneck=slider(1, 16, label="bottleneck m"),
    rotation=slider(0, 180, step=5, label="the new task is turned by", unit="°"),
    init=slider(0.0, 1.0, step=0.05, label="spread of the first up-projection"),
)
def show(bottleneck=4, rotation=60, init=0.0):
    """Turn the task: the frozen network fails and the adapter repairs it. Then start it at random: see the loss at step 0."""
    points, y = moons(60, np.radians(rotation))
    h = features(points)
    rng = np.random.default_rng(1)
    down, bias = rng.normal(size=(bottleneck, WIDTH)) / np.sqrt(WIDTH), np.zeros(bottleneck)
    up = init * rng.normal(size=(WIDTH, bottleneck))
    frozen = np.mean(np.logaddexp(0, h @ READ) - y * (h @ READ))
    losses = []
    for _ in range(200):
        (d_down, d_bias, d_up), loss = gradients(h, y, READ, down, bias, up)
        down, bias, up = down - 0.1 * d_down, bias - 0.1 * d_bias, up - 0.1 * d_up
        losses.append(loss)
    before, after = h @ READ > 0, adapt(h, down, bias, up) @ READ > 0
    grid = np.stack(np.meshgrid(np.linspace(-3, 3, 15), np.linspace(-3, 3, 15)), -1).reshape(-1, 2)
    side = adapt(features(grid), down, bias, up) @ READ > 0
    wrong = after != (y > 0.5)
    return (
        scatter({"class 0": points[y < 0.5], "class 1": points[y > 0.5], "read as 0": grid[~side], "read as 1": grid[side], "wrong": points[wrong]},
                x="first input", y="second input", equal=True, range_x=(-3.2, 3.2), range_y=(-3.2, 3.2),
                caption="The turned task, and how the adapted network reads the plane around it."),
        line({"adapted": (np.arange(200), losses)}, x="step", y="loss", log_y=True, range_y=(1e-2, 30), levels={"frozen network": frozen},
             caption="With a spread of 0 training starts exactly at the frozen network's loss. A random start begins with damage to repair."),
        f"Right: {np.mean(before == (y > 0.5)):.0%} of the points before, {1 - wrong.mean():.0%} after. "
        f"{2 * WIDTH * bottleneck + bottleneck} trained numbers; the network around them did not change.",
    )
