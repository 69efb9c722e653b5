"""A SIREN in NumPy: two layers of sines that fit a signal, trained by hand-derived gradients."""

import numpy as np

from snippets.ops import matmul


def start(width, w0, sine, rng):
    """Weights of x -> width -> width -> 1. Sines: U(±1) for coordinates, then U(±√(6/n)/w0); tanh: Xavier's."""
    hidden = (6 / width) ** 0.5 / w0 if sine else (3 / width) ** 0.5
    return [
        rng.uniform(-1, 1, (1, width)), rng.uniform(-1, 1, width),
        rng.uniform(-hidden, hidden, (width, width)), np.zeros(width),
        rng.uniform(-1, 1, (width, 1)) * (6 / width) ** 0.5 / (w0 if sine else 1), np.zeros(1),
    ]


def forward(params, x, w0, sine):
    """Both hidden layers, their slopes, and the output; for tanh, w0 scales the first layer only (3 is plenty)."""
    w1, b1, w2, b2, w3, b3 = params
    z1 = x * w1 + b1
    if sine:
        h1, d1 = np.sin(w0 * z1), w0 * np.cos(w0 * z1)
        z2 = w0 * (matmul(h1, w2) + b2)
        h2, d2 = np.sin(z2), w0 * np.cos(z2)
    else:
        h1 = np.tanh(3 * z1)
        h2 = np.tanh(matmul(h1, w2) + b2)
        d1, d2 = 3 * (1 - h1**2), 1 - h2**2
    return h1, d1, h2, d2, matmul(h2, w3) + b3


def gradient(params, x, target, w0, sine):
    """Loss and its gradient by every parameter."""
    w2, w3 = params[2], params[4]
    h1, d1, h2, d2, y = forward(params, x, w0, sine)
    error = 2 * (y - target) / len(x)
    g2 = error * w3.T * d2
    g1 = matmul(g2, np.ascontiguousarray(w2.T)) * d1
    grads = [x.T @ g1, g1.sum(0), h1.T @ g2, g2.sum(0), h2.T @ error, error.sum(0)]
    return ((y - target) ** 2).mean(), grads


def derivative(params, x, w0, sine):
    """d output / d x: every sine becomes a cosine, which is a shifted sine."""
    _, d1, _, d2, _ = forward(params, x, w0, sine)
    return matmul(matmul(d1 * params[0], params[2]) * d2, params[4])


# %% demo
from snippets.live import demo, line, slider, toggle


def adam(params, loss_and_grads, rate, steps):
    flat, shapes = np.concatenate([p.ravel() for p in params]), [p.shape for p in params]
    ends = np.cumsum([0, *(p.size for p in params)])
    split = lambda v: [v[a:b].reshape(s) for a, b, s in zip(ends, ends[1:], shapes)]  # noqa: E731
    m, v, losses = np.zeros_like(flat), np.zeros_like(flat), []
    for t in range(1, steps + 1):
        loss, grads = loss_and_grads(split(flat))
        losses.append(loss)
        g = np.concatenate([x.ravel() for x in grads])
        m += 0.1 * (g - m)
        v += 0.001 * (g * g - v)
        flat = flat - rate * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    return split(flat), losses


def chirp(x):
    """A tone that rises, and its derivative."""
    u = x + 1
    phase, speed = 2 * np.pi * (0.5 * u + u**2), 2 * np.pi * (0.5 + 2 * u)
    return np.sin(phase), speed * np.cos(phase)


@demo(
    w0=slider(1, 60, label="frequency w0"),
    width=slider(8, 64, step=8, label="width"),
    rate=slider(1e-4, 1e-2, log=True, label="learning rate"),
    tanh=toggle(label="tanh instead of sine"),
)
def show(w0=12, width=24, rate=0.003, tanh=False):
    """300 steps on 64 noisy points of a rising tone. Try w0 = 2 and w0 = 60, then tanh."""
    sine, rng = not tanh, np.random.default_rng(0)
    x, fine = np.linspace(-1, 1, 64)[:, None], np.linspace(-1, 1, 201)[:, None]
    target = chirp(x)[0] + 0.02 * rng.normal(size=x.shape)
    params, losses = adam(start(width, w0, sine, rng), lambda p: gradient(p, x, target, w0, sine), rate, 300)
    y, slope = forward(params, fine, w0, sine)[-1][:, 0], derivative(params, fine, w0, sine)[:, 0]
    true, true_slope = (v[:, 0] for v in chirp(fine))
    off = np.sqrt(((slope - true_slope) ** 2).mean() / (true_slope**2).mean())
    return (
        line({"points": (x[:, 0], target[:, 0]), "signal": (fine[:, 0], true), "network": (fine[:, 0], y)}, x="x", y="signal",
             markers=["points"], dashed=["signal"], range_y=(-2, 2), caption="Too low a frequency cannot follow on the right; too high a one follows the noise."),
        line({"true": (fine[:, 0], true_slope), "network": (fine[:, 0], slope)}, x="x", y="derivative", dashed=["true"],
             range_y=(-50, 50), caption="It was never shown the derivative. With fitting sines it has it anyway."),
        line({"loss": losses, "noise": [0.0004] * 300}, x="step", y="mean squared error", log_y=True, dashed=["noise"],
             caption="Below the dashed line, the variance of the noise, the network learns the noise."),
        f"{'tanh' if tanh else f'sine, w0 = {w0}'}: error {losses[-1]:.2g} after 300 steps; the derivative is off by {off:.0%}.",
    )
