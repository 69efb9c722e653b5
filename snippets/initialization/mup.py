"""muP in NumPy: how initial sizes and Adam's learning rates follow the width."""

import numpy as np

from snippets.ops import matmul

BASE = 32


def start(inputs, width, mup, seed=0):
    """A net inputs -> width -> width -> 1. Only the output weights differ: 1/√width, or 1/width times √BASE."""
    rng = np.random.default_rng(seed)
    out = width**-0.5 * ((BASE / width) ** 0.5 if mup else 1)
    return [rng.normal(size=(width, inputs)) / inputs**0.5, rng.normal(size=(width, width)) / width**0.5, out * rng.normal(size=(1, width))]


def rates(lr, width, mup):
    """Adam moves every number by about its rate. A sum over `width` of them moves by width times that: divide it out."""
    return [lr, lr * BASE / width, lr * BASE / width] if mup else [lr, lr, lr]


def forward(x, net):
    h = [x]
    for w in net[:-1]:
        h.append(np.tanh(matmul(h[-1], w.T)))
    return h, matmul(h[-1], net[-1].T)


def train(x, y, width, lr, mup, steps):
    """Adam on half the mean squared error; the losses, and the second hidden layer at the start and at the end."""
    net, losses = start(x.shape[1], width, mup), []
    m, v = [0.0] * 3, [0.0] * 3
    first = forward(x, net)[0][2]
    for t in range(1, steps + 1):
        h, out = forward(x, net)
        losses.append(0.5 * np.mean((out - y) ** 2))
        g = (out - y) / len(x)
        grads = [None] * 3
        for i in (2, 1, 0):
            grads[i] = matmul(g.T, h[i])
            if i:
                g = matmul(g, net[i]) * (1 - h[i] ** 2)
        for i, rate in enumerate(rates(lr, width, mup)):
            m[i], v[i] = 0.9 * m[i] + 0.1 * grads[i], 0.95 * v[i] + 0.05 * grads[i] ** 2
            net[i] = net[i] - rate * (m[i] / (1 - 0.9**t)) / (np.sqrt(v[i] / (1 - 0.95**t)) + 1e-8)
    h, out = forward(x, net)
    return losses + [0.5 * np.mean((out - y) ** 2)], first, h[2]


# %% demo
from snippets.live import demo, line, slider, toggle

LRS = 2.0 ** np.arange(-10, -3)


@demo(
    width=slider(32, 1024, step=32, label="widest net", log=True),
    mup=toggle(label="muP (off: standard parametrization)"),
    steps=slider(2, 12, label="steps of Adam"),
)
def show(width=256, mup=False, steps=6):
    """Look where each curve is lowest: it moves left as nets get wider. Switch muP on, and the best rate stays."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(16, 6))
    y = np.sin(x[:, :1]) + 0.5 * x[:, 1:2] * x[:, 2:3]
    widths = [w for w in (32, 64, 128, 256) if w <= width]
    found = {w: [train(x, y, w, lr, mup, steps)[0][-1] for lr in LRS] for w in widths}
    best = {w: LRS[int(np.argmin(losses))] for w, losses in found.items()}
    check = [w for w in (32, 64, 128, 256, 512, 1024) if w <= width]
    moved = []
    for w in check:
        _, before, after = train(x, y, w, 0.002, mup, 3)
        moved.append(np.sqrt(np.mean((after - before) ** 2)))
    cut = lambda v: np.clip(v, 1e-3, 30)  # noqa: E731
    return (
        line({f"width {w}": (LRS, cut(np.array(losses))) for w, losses in found.items()}, x="learning rate at the base width", y=f"loss after {steps} steps",
             log_x=True, log_y=True, range_y=(1e-3, 30), caption="One curve per width, the same task and the same number of steps. Base width 32, where both parametrizations agree."),
        line({"hidden change": (check, moved)}, x="width", y="change of the second hidden layer", log_x=len(check) > 1, log_y=True, range_y=(1e-2, 1), markers=["hidden change"] if len(check) == 1 else [],
             caption="The coordinate check: how far three steps with rate 0.002 move the hidden activations. Flat is right; growing means that wide nets learn too fast."),
        "Best rates: " + ", ".join(f"{lr:.2g} at width {w}" for w, lr in best.items()) + ".",
    )
