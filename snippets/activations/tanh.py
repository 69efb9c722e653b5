"""Tanh in NumPy, and a signal and its gradient through many layers of it."""

import numpy as np

from snippets.activations.network import through, weights
from snippets.ops import matmul


def tanh(x):
    return np.tanh(x)


def slope(y):
    """The derivative, from the value y = tanh(x)."""
    return 1 - y**2


def backward(states, layers, grad):
    """The gradient by every layer's output, the input's first, from the gradient by the last."""
    grads = [grad]
    for y, w in zip(states[:0:-1], layers[::-1]):
        grads.insert(0, matmul(grads[0] * slope(y), np.ascontiguousarray(w.T)))
    return grads


# %% demo
from snippets.live import bars, demo, line, slider


def size(a):
    return np.sqrt((a**2).mean())


@demo(
    gain=slider(0.3, 3.0, step=0.05, label="gain: weight std × √width"),
    depth=slider(1, 50, label="layers"),
    scale=slider(0.1, 5.0, step=0.1, label="std of the inputs"),
)
def show(gain=1.65, depth=30, scale=1.0):
    """Gain 0.8: signal and gradient die. Gain 3: the signal saturates, and the gradient explodes on its way back."""
    rng = np.random.default_rng(1)
    layers = list(weights(100, depth, gain))
    states = through(tanh, scale * rng.normal(size=(100, 100)), layers)
    grads = backward(states, layers, rng.normal(size=(100, 100)))
    at = np.arange(depth + 1)
    edges = np.linspace(-1, 1, 11)
    share = np.histogram(states[-1], edges)[0] / states[-1].size
    back = size(grads[0]) / size(grads[-1])
    return (
        line({"activations": [size(s) for s in states[1:]]}, at=at[1:], x="layer", y="std of the activations", range_y=(0, 1),
             caption="The signal settles at a size that the gain alone decides; below gain 1 it fades to nothing."),
        line({"gradient": [size(g) / size(grads[-1]) for g in grads]}, at=at, x="layer", y="gradient, relative to the last layer",
             log_y=True, caption="Read from right to left: this is how much of the gradient reaches an early layer."),
        bars({f"{(a + b) / 2:.1f}": 100 * v for a, b, v in zip(edges, edges[1:], share)}, x="output of the last layer", y="share (%)",
             range_y=(0, 60), caption="Bars at the ends are saturated units: their slope is close to 0."),
        f"Gain {gain:g}: the activations of layer {depth} have size {size(states[-1]):.2g}, and the gradient at the input is "
        f"{back:.2g} times that at the output.",
    )
