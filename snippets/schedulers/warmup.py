"""Learning-rate warm-up in NumPy, and a net with a sharp start to try it on."""

import numpy as np


def warmup(step, warmup_steps, start=0.0):
    """Share of the full rate at a step, counted from 0: a straight line to 1 at warmup_steps, then 1."""
    done = np.minimum((np.asarray(step) + (warmup_steps == 0)) / max(warmup_steps, 1), 1.0)  # without a warm-up step 0 is done too
    return start + (1 - start) * done


def loss_and_gradient(w, x, y):
    """Half the mean squared error of tanh(x W) a and its gradient, all weights in one vector."""
    hidden = len(w) // (x.shape[1] + 1)
    W, a = w[:-hidden].reshape(x.shape[1], hidden), w[-hidden:]
    h = np.tanh(x @ W)
    error = h @ a - y
    into = np.outer(error, a) * (1 - h * h)
    return (error**2).mean() / 2, np.concatenate([(x.T @ into).ravel(), h.T @ error]) / len(x)


def curvature(w, v, x, y, scale=1.0, rounds=2, h=1e-4):
    """Largest curvature after rescaling the axes, by power iteration on differences of gradients; and its direction, to begin the next with."""
    for _ in range(rounds):
        v = v / np.sqrt(v @ v)
        product = scale * (loss_and_gradient(w + h * scale * v, x, y)[1] - loss_and_gradient(w - h * scale * v, x, y)[1]) / (2 * h)
        value = v @ product
        v = product + 0.2 * abs(value) * v  # so that a negative curvature of the same size does not win
    return value, v


# %% demo
from snippets.live import choice, demo, line, slider
from snippets.optimizers.adam import adam_step


def problem(seed=1, n=40, d=4, hidden=8):
    """Inputs, targets, and first weights that are too large, as at the start of many nets."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d))
    y = np.tanh(x @ rng.normal(size=(d, 2))) @ np.array([1.0, -1.0])
    return x, y, np.concatenate([rng.normal(size=d * hidden) / 2, rng.normal(size=hidden)])


def run(rates, adam):
    """Loss before each step, and before every fourth the largest curvature, as the optimizer sees it."""
    x, y, w = problem()
    v, state, losses, found = np.ones(len(w)), {}, [], []
    for t, lr in enumerate(rates, 1):
        loss, gradient = loss_and_gradient(w, x, y)
        if not loss < 1e4:
            break
        after = adam_step(w, gradient, state, t, lr) if adam else w - lr * gradient
        scale = (np.sqrt(state["v"] / (1 - 0.999**t)) + 1e-8) ** -0.5 if adam else 1.0
        if t % 4 == 1:
            value, v = curvature(w, v, x, y, scale, rounds=3 if t > 1 else 30)
            found.append(value)
        losses.append(loss)
        w = after
    return np.array(losses), np.array(found)


@demo(
    steps=slider(0, 200, step=5, label="warm-up", unit="steps"),
    peak=slider(0.01, 2.0, label="full learning rate", log=True),
    optimizer=choice("gradient descent", "Adam", label="optimizer"),
)
def show(steps=60, peak=1.27, optimizer="gradient descent"):
    """Shorten the warm-up until the run is lost. In the last figure see the rate cross the limit, and the curvature give way."""
    adam = optimizer == "Adam"
    t = np.arange(200)
    rates = {"with warm-up": peak * warmup(t, steps), "without": np.full(len(t), peak)}
    found = {name: run(values, adam) for name, values in rates.items()}
    limit = 38.0 if adam else 2.0
    lost = {name: len(losses) < len(t) for name, (losses, _) in found.items()}
    return (
        line(rates, x="step", y="learning rate", dashed=["without"], range_y=(0, 1.05 * peak), caption="The rate of each step."),
        line({name: (np.arange(len(losses)), np.clip(losses, 1e-4, 1e3)) for name, (losses, _) in found.items()}, x="step", y="loss", log_y=True,
             dashed=["without"], range_y=(1e-4, 1e3), caption="A net with 8 hidden tanh units, all data at each step. A line that ends left the scale: "
             "the run is lost."),
        line({name: (4 * np.arange(len(c)), np.clip(rates[name][: len(losses) : 4] * c, 1e-2, 1e3)) for name, (losses, c) in found.items()}, x="step",
             y="learning rate × largest curvature", log_y=True, dashed=["without"], levels={f"limit {limit:g}": limit}, range_y=(1e-2, 1e3),
             caption="Above the limit steps overshoot and grow. With a slow rise the overshoot begins small: it throws the weights to a flatter place "
             "(the spike of the loss), and then the curve stays at the limit." + (" Adam's curvature is that after dividing by its root of v." if adam else "")),
        f"Largest curvature: {found['with warm-up'][1][0]:.2f} at the start, {found['with warm-up'][1][-1]:.2f} where the run with warm-up ends. "
        + " ".join(f"The run {name} {'is lost' if lost[name] else f'ends at a loss of {found[name][0][-1]:.2g}'}." for name in found),
    )
