"""Parameter groups: the rate and the decay of each parameter, from its name."""

import re

import numpy as np


def param_groups(names, lr, weight_decay, no_decay=("bias", "norm"), layer_decay=1.0):
    """{name: (rate, decay)}; the last layer has the full rate, each one before it layer_decay times the next one's."""
    blocks, depth = [], {}
    for name in names:
        block = re.match(r"(?:[^.\d][^.]*\.)*\d+(?=\.)", name)  # up to the first number
        if block and block[0] not in blocks:
            blocks.append(block[0])
        depth[name] = len(blocks)
    last = max(depth.values())
    return {name: (lr * layer_decay ** (last - depth[name]), 0.0 if any(word in name for word in no_decay) else weight_decay)
            for name in names}


# %% demo
from functools import lru_cache

from snippets.live import bars, demo, line, slider
from snippets.optimizers.adamw import adamw_step

NAMES = ("layers.0.weight", "layers.0.bias", "layers.1.weight", "layers.1.bias")


def task(shift, n, start):
    """Points and targets; the second task is the first one, shifted."""
    x = np.random.default_rng(start).uniform(-2, 2, (n, 2))
    return x, np.sin(1.5 * x[:, :1] + shift) * np.cos(x[:, 1:])


def losses(w, tasks):
    return [float(np.mean((np.tanh(x @ w[NAMES[0]] + w[NAMES[1]]) @ w[NAMES[2]] + w[NAMES[3]] - y) ** 2)) for x, y in tasks]


def train(w, x, y, options, steps, watch=()):
    """Steps of AdamW, each parameter with its own rate and decay; weights and the losses of the watched tasks on the way."""
    w, states, seen = dict(w), {name: {} for name in NAMES}, [losses(w, watch)]
    for t in range(1, steps + 1):
        h = np.tanh(x @ w[NAMES[0]] + w[NAMES[1]])
        back = 2 * (h @ w[NAMES[2]] + w[NAMES[3]] - y) / len(x)
        inner = back @ w[NAMES[2]].T * (1 - h * h)
        for name, g in zip(NAMES, (x.T @ inner, inner.sum(0), h.T @ back, back.sum(0))):
            lr, decay = options[name]
            w[name] = adamw_step(w[name], g, states[name], t, lr, weight_decay=decay)
        seen.append(losses(w, watch))
    return w, np.array(seen)


@lru_cache
def pretrained():
    """Weights that know the first task."""
    rng = np.random.default_rng(0)
    w = dict(zip(NAMES, (rng.normal(0, 1, (2, 16)), np.zeros(16), rng.normal(0, 0.25, (16, 1)), np.zeros(1))))
    return train(w, *task(0.0, 64, 1), {name: (0.03, 0.0) for name in NAMES}, 200)[0]


@demo(
    relative=slider(0.0, 1.0, step=0.05, label="rate of layer 1 / rate of layer 2"),
    weight_decay=slider(0.0, 0.1, step=0.005, label="weight decay (of matrices)"),
    shift=slider(0.1, 1.5, step=0.1, label="shift of the second task"),
)
def show(relative=0.3, weight_decay=0.05, shift=0.7):
    """A net that knows one task learns a shifted one from 20 points. Set the first layer's rate to 0: it keeps more of what it knew, and learns less."""
    options = param_groups(NAMES, 0.01, weight_decay, layer_decay=relative)
    w = pretrained()
    old, new = task(0.0, 200, 2), task(shift, 200, 3)
    tuned, seen = train(w, *task(shift, 20, 4), options, 150, (old, new))
    even, _ = train(w, *task(shift, 20, 4), param_groups(NAMES, 0.01, weight_decay), 150)
    moved = {name: {f"layer {i + 1}": 100 * float(np.linalg.norm(v[NAMES[2 * i]] - w[NAMES[2 * i]]) / np.linalg.norm(w[NAMES[2 * i]])) for i in range(2)}
             for name, v in (("these groups", tuned), ("one rate", even))}
    return (
        bars(moved, y="change of the matrix (% of its norm)", range_y=(0, 100),
             caption="How far each layer has gone from its pre-trained weights after 150 steps of AdamW."),
        line({"new task": seen[:, 1], "old task": seen[:, 0]}, x="step", y="held-out loss", range_y=(0, 0.6), dashed=["old task"],
             caption="What is learned, and what is forgotten. Held-out points of both tasks."),
        f"Layer 1 learns at {options[NAMES[0]][0]:.3g}, layer 2 at {options[NAMES[2]][0]:.3g}; biases do not decay. The new task's loss went from "
        f"{seen[0, 1]:.3g} to {seen[-1, 1]:.3g}, the old one's from {seen[0, 0]:.3g} to {seen[-1, 0]:.3g}.",
    )
