"""Stochastic depth in NumPy, in a residual network of 50 blocks."""

import numpy as np

from snippets.regularization.dropout import dropout_mask


def linear_decay(depth, p_last):
    """The probability to drop each block."""
    return p_last * np.arange(1, depth + 1) / depth


def drop_path(residual, p, rng):
    """Each example keeps its branch, scaled up, or loses it."""
    return residual * dropout_mask((len(residual),) + (1,) * (residual.ndim - 1), p, rng)


def residual_net(x, weights, masks):
    """x + mask * tanh(x W), block after block; masks (depth, batch). Returns what enters each block."""
    inputs = []
    for w, mask in zip(weights, masks):
        inputs.append(x)
        x = x + mask[:, None] * np.tanh(x @ w)
    return inputs


def gradient_norms(inputs, weights, masks, g):
    """Norm of the gradient at the input of each block, for the gradient g at the output."""
    norms = []
    for x, w, mask in zip(inputs[::-1], weights[::-1], masks[::-1]):
        g = g + mask[:, None] * (g * (1 - np.tanh(x @ w) ** 2)) @ w.T
        norms.append(np.linalg.norm(g, axis=1))
    return np.array(norms[::-1])


# %% demo
from snippets.live import choice, demo, heatmap, line, slider


@demo(
    p_last=slider(0.0, 0.8, step=0.05, label="p of the last block"),
    decay=choice("linear", "uniform", label="p of the blocks"),
    scale=slider(0.05, 0.5, step=0.05, label="size of the branches' weights"),
)
def show(p_last=0.5, decay="linear", scale=0.2):
    """Each row is one example, light where a block is alive. Switch to uniform: early blocks, on which all others build, are lost as often."""
    depth, batch, width = 50, 30, 16
    rates = linear_decay(depth, p_last) if decay == "linear" else np.full(depth, p_last)
    rng = np.random.default_rng(0)
    weights = scale * rng.normal(size=(depth, width, width)) / np.sqrt(width)
    x, g = rng.normal(size=(2, batch, width))
    g /= np.linalg.norm(g, axis=1, keepdims=True)
    masks = np.array([dropout_mask(batch, p, rng) for p in rates])
    every = np.ones((depth, batch))
    norms = {name: gradient_norms(residual_net(x, weights, m), weights, m, g) for name, m in (("training", masks), ("evaluation", every))}
    at = np.arange(1, depth + 1)
    alive = (masks > 0).sum(0)
    return (
        heatmap((masks > 0).T.astype(float), x="block", y="example", value="alive", range=(0, 1), columns=at, rows=np.arange(1, batch + 1),
                caption="Which branches 30 examples of one batch go through. A dropped block passes on its input unchanged."),
        line({"dropped": rates, "share of the 30": (masks == 0).mean(1)}, at=at, x="block", y="probability", markers=["share of the 30"], range_y=(0, 1),
             caption="The probability to be dropped, and how often it happened."),
        line({"training, mean": norms["training"].mean(1), "evaluation, mean": norms["evaluation"].mean(1)}, at=at, x="block", y="gradient norm",
             caption="Gradient at the input of each block, 1 at the output. Kept branches are scaled up by 1/(1 − p): on average nothing changes, but the spread makes the norm in training larger."),
        f"On average {alive.mean():.1f} of 50 blocks are alive, from {alive.min()} to {alive.max()}; expected {(1 - rates).sum():.1f}. "
        f"Gradient at the input of the net: {norms['training'][0].mean():.2f} in training, {norms['evaluation'][0].mean():.2f} in evaluation.",
    )
