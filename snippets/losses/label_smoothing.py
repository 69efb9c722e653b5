"""Label smoothing in NumPy."""

import numpy as np

from snippets.activations.log_softmax import log_softmax


def soft_target(classes, truth, epsilon):
    """epsilon is spread over all classes, the true one too."""
    y = np.full(classes, epsilon / classes)
    y[truth] += 1 - epsilon
    return y


def loss(z, truth, epsilon=0.1):
    return -soft_target(len(z), truth, epsilon) @ log_softmax(z)


def push(z, truth, epsilon=0.1):
    """Gradient by the logits: 0 where the probabilities are the soft target."""
    return np.exp(log_softmax(z)) - soft_target(len(z), truth, epsilon)


def gap(classes, epsilon):
    """How far above the others the true logit ends."""
    return np.log((classes * (1 - epsilon) + epsilon) / epsilon)


def least(classes, epsilon):
    """Entropy of the soft target: the loss cannot fall below."""
    y = soft_target(classes, 0, epsilon)
    return -(y[y > 0] * np.log(y[y > 0])).sum()


# %% demo
from snippets.live import bars, demo, line, slider


@demo(epsilon=slider(0.0, 0.5, step=0.01, label="ε, share spread evenly"), steps=slider(0, 2000, step=20, label="steps of gradient descent"))
def show(epsilon=0.1, steps=100):
    """Five free logits are trained on one example. With ε = 0 the true one climbs for ever; with ε it stops. Where?"""
    z = np.array([0.5, 0.9, 0.0, -0.4, -0.9])
    path = [z]
    for _ in range(steps):
        z = z - push(z, 0, epsilon)
        path.append(z)
    path = np.array(path)[:: max(1, steps // 100)]
    at = np.arange(len(path)) * max(1, steps // 100)
    above = path[:, :1] - path[:, 1:]  # the truth above each of the others
    series = {f"above class {i + 2}": above[:, i] for i in range(4)} if steps else {}
    end = gap(5, epsilon) if epsilon else None
    p, y = np.exp(log_softmax(z)), soft_target(5, 0, epsilon)
    names = ["true", "class 2", "class 3", "class 4", "class 5"]
    stop = f"ends at a gap of {end:.2f}, with a loss of {least(5, epsilon):.3f}" if epsilon else "has no end, and its loss goes to 0"
    return (
        *((line(series, at=at, x="step", y="true logit minus another", range_y=(-1, 9), levels={"closed form": end} if epsilon else {},
                caption="The lead of the true logit over each other one. All four leads settle at the same height."),) if steps else ()),
        bars({"probability": dict(zip(names, p)), "soft target": dict(zip(names, y))}, y="probability", range_y=(0, 1),
             caption="The gradient is the difference of the two bars of a class: it is 0 once they are equal."),
        f"After {steps:,} steps the true class has probability {p[0]:.4f} and the loss is {loss(z, 0, epsilon):.4f}. This training {stop}.",
    )
