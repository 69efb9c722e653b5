"""LAMB in NumPy: Adam's direction, as long as the layer's weights say."""

import numpy as np


def lamb_step(w, g, state, t, lr=1e-3, betas=(0.9, 0.999), eps=1e-6, weight_decay=0.01, rescale=True):
    """One step of one layer, number t counted from 1. Returns the new weights; the layer's trust ratio is state["ratio"]."""
    m = state["m"] = betas[0] * state.get("m", 0) + (1 - betas[0]) * g
    v = state["v"] = betas[1] * state.get("v", 0) + (1 - betas[1]) * g**2
    m_hat, v_hat = m / (1 - betas[0] ** t), v / (1 - betas[1] ** t)
    r = m_hat / (np.sqrt(v_hat) + eps) + weight_decay * w
    weight, update = np.linalg.norm(w), np.linalg.norm(r)
    ratio = state["ratio"] = weight / update if weight > 0 and update > 0 else 1.0
    if rescale:
        r = ratio * r  # now as long as w; without it, this is Adam with decoupled decay
    return w - lr * r


# %% demo
from snippets.live import choice, demo, line, slider
from snippets.optimizers.arena import NAMES, descend, race, surface


def moons(n, rng):
    """Two interleaved half circles, with noise."""
    label = np.arange(n) % 2
    angle = np.pi * rng.random(n)
    x = np.stack([np.cos(angle) * (1 - 2 * label) + label - 0.5, np.sin(angle) * (1 - 2 * label) + label * 0.5 - 0.25], 1)
    return x + rng.normal(0, 0.15, (n, 2)), label[:, None].astype(float)


def network(weights, x):
    """Two hidden layers; returns what each layer saw, and the logits."""
    seen = [x]
    for w, b in weights[:-1]:
        seen.append(np.tanh(seen[-1] @ w + b))
    w, b = weights[-1]
    return seen, seen[-1] @ w + b


def gradients(weights, x, y):
    """Backpropagation by hand through the mean logistic loss."""
    seen, logits = network(weights, x)
    error, found = ((1 + np.tanh(logits / 2)) / 2 - y) / len(x), []  # sigmoid, without overflow
    for (w, _), h in zip(weights[::-1], seen[::-1]):
        found.append((h.T @ error, error.sum(0)))
        error = error @ w.T * (1 - h**2)  # tanh' = 1 - tanh²
    return found[::-1]


def run(batch, lr, rescale, steps=150, width=16):
    """Loss on held-out points, and of each layer's weights the trust ratio, step by step."""
    rng = np.random.default_rng(0)
    (x, y), (x_test, y_test) = moons(2048, rng), moons(256, rng)
    sizes = [2, width, width, 1]
    weights = [[rng.normal(0, 1 / np.sqrt(a), (a, b)), np.zeros(b)] for a, b in zip(sizes, sizes[1:])]
    states = [[{}, {}] for _ in weights]
    losses, ratios = [], []
    for t in range(1, steps + 1):
        logits = network(weights, x_test)[1]
        losses.append(np.logaddexp(0, (1 - 2 * y_test) * logits).mean())
        some = rng.integers(0, len(x), batch)
        row = []
        for layer, state, (gw, gb) in zip(weights, states, gradients(weights, x[some], y[some])):
            layer[0] = lamb_step(layer[0], gw, state[0], t, lr, rescale=rescale)
            layer[1] = lamb_step(layer[1], gb, state[1], t, lr, weight_decay=0.0, rescale=False)  # biases: plain Adam
            row.append(state[0]["ratio"])
        ratios.append(row)
    return losses, np.array(ratios)


@demo(
    batch=slider(16, 1024, label="batch size", log=True),
    lr=slider(0.001, 1.0, step=0.001, label="learning rate", log=True),
    optimizer=choice("LAMB", "Adam", label="optimizer"),
    ground=choice(*NAMES, label="surface of the race"),
)
def show(batch=128, lr=0.01, optimizer="LAMB", ground="bowl"):
    """The same number means different things: for LAMB a share of a layer's norm, for Adam a distance per weight."""
    other = "Adam" if optimizer == "LAMB" else "LAMB"
    losses, ratios = run(batch, lr, optimizer == "LAMB")
    other_losses, _ = run(batch, lr, other == "LAMB")
    moved = 100 * lr * (np.ones_like(ratios) if optimizer == "LAMB" else 1 / ratios)
    layers = [f"layer {i + 1}" for i in range(3)]
    end, other_end = np.mean(losses[-10:]), np.mean(other_losses[-10:])
    cut = " Losses above 1 are drawn at 1." if max(*losses, *other_losses) > 1 else ""
    return (
        line({optimizer: np.minimum(losses, 1), other: np.minimum(other_losses, 1)}, x="step", y="held-out loss (nats)",
             dashed=[other], range_y=(0, 1.02), levels={"guessing": np.log(2)},
             caption=f"Two-moons data, two hidden layers; the same batches of {batch} and the same rate for both.{cut}"),
        line(dict(zip(layers, ratios.T)), x="step", y="trust ratio ‖w‖ / ‖r‖", log_y=True,
             caption="What LAMB multiplies each layer's update by. It rises where steps get shorter or weights grow."
             if optimizer == "LAMB" else "What LAMB would multiply each layer's update by. Adam multiplies by 1."),
        line({"every layer": moved[:, 0]} if optimizer == "LAMB" else dict(zip(layers, moved.T)), x="step",
             y="step length (% of the layer's norm)", log_y=True, range_y=(lr, 1000 * lr),
             caption="By construction: every layer, at every step, by the learning rate times its norm."
             if optimizer == "LAMB" else "Each layer moves by another share of itself, and the shares drift in training."),
        *race({"LAMB": descend(lambda w, g, state, t: lamb_step(w, g, state, t, 0.1, weight_decay=0.0), surface(ground))}, surface(ground),
              caption="LAMB takes the two weights for one layer and moves a tenth of their length at every step, so its steps shrink near the origin "
              "whatever the slope there."),
        f"Loss at the end, mean of ten steps: {optimizer} {end:.3f}, {other} {other_end:.3f}. The last step moved the "
        f"layers by {moved[-1, 0]:.3g}, {moved[-1, 1]:.3g} and {moved[-1, 2]:.3g} % of their norms.",
    )
