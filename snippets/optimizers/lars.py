"""LARS in NumPy: momentum, with a rate of its own for each layer."""

import numpy as np


def lars_step(w, g, state, t, lr=1.0, momentum=0.9, weight_decay=1e-4, trust=0.001, eps=1e-8, rescale=True):
    """One step of one layer, number t counted from 1. Returns the new weights."""
    weight, gradient = np.linalg.norm(w), np.linalg.norm(g)
    ratio = trust * weight / (gradient + weight_decay * weight + eps) if rescale and weight > 0 else 1.0
    v = state["v"] = momentum * state.get("v", 0) + ratio * (g + weight_decay * w)
    return w - lr * v


# %% demo
from snippets.live import bars, choice, demo, line, slider
from snippets.optimizers.arena import NAMES, descend, race, surface
from snippets.optimizers.lamb import gradients, moons, network

SIZES, SCALES = (2, 16, 16, 1), (0.2, 1.0, 5.0)


def run(rescale, lr, trust, steps=60, batch=128):
    """Held-out losses, and of each layer the share of its norm that the first step moved it."""
    rng = np.random.default_rng(0)
    (x, y), (x_test, y_test) = moons(1024, rng), moons(256, rng)
    weights = [[scale * rng.normal(0, 1 / np.sqrt(a), (a, b)), np.zeros(b)] for scale, a, b in zip(SCALES, SIZES, SIZES[1:])]
    states, losses, moved = [[{}, {}] for _ in weights], [], []
    for t in range(1, steps + 1):
        losses.append(np.logaddexp(0, np.clip((1 - 2 * y_test) * network(weights, x_test)[1], -50, 50)).mean())
        some = rng.integers(0, len(x), batch)
        for layer, state, (gw, gb) in zip(weights, states, gradients(weights, x[some], y[some])):
            before = layer[0]
            layer[0] = lars_step(before, gw, state[0], t, lr, trust=trust, rescale=rescale)
            layer[1] = lars_step(layer[1], gb, state[1], t, min(lr, 0.1), weight_decay=0.0, rescale=False)  # biases: plain momentum
            if t == 1:
                moved.append(np.linalg.norm(layer[0] - before) / np.linalg.norm(before))
    return np.array(losses), moved


@demo(
    trust=slider(1e-4, 1e-1, step=1e-4, label="trust coefficient (LARS only)", log=True),
    lr=slider(0.001, 1.0, step=0.001, label="learning rate of both", log=True),
    ground=choice(*NAMES, label="surface of the race"),
)
def show(trust=0.05, lr=0.5, ground="bowl"):
    """The layers start with weights of very different size. Compare which share of itself each layer moves in the first step."""
    names = [f"layer {i + 1}" for i in range(3)]
    found = {name: run(rescale, lr, trust) for name, rescale in (("SGD", False), ("LARS", True))}
    sgd, lars = (found[name][1] for name in ("SGD", "LARS"))
    return (
        bars({name: dict(zip(names, 1e6 * np.array(moved))) for name, (_, moved) in found.items()}, y="‖update‖ / ‖weights‖ (millionths)",
             log_y=True, range_y=(1, 1e7),
             caption="The first step of both, as a share of each layer's norm. LARS: learning rate times trust coefficient, in every layer."),
        line({name: np.minimum(losses, 1.5) for name, (losses, _) in found.items()}, x="step", y="held-out loss (nats)", range_y=(0, 1.55),
             levels={"guessing": np.log(2)}, caption="Two-moons data, the same batches of 128; losses above 1.5 are drawn at 1.5. Momentum 0.9 for both."),
        *race({"LARS": descend(lambda w, g, state, t: lars_step(w, g, state, t, lr, trust=trust), surface(ground))}, surface(ground),
              caption="LARS takes both weights for one layer: the slope says only the direction, the length of the weights says how far."),
        f"The share of a layer that the first step moves differs by a factor of {max(sgd) / min(sgd):.1f} between SGD's layers, and by "
        f"{max(lars) / min(lars):.1f} between those of LARS.",
    )
