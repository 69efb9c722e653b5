"""All schemes side by side: what becomes of signals and gradients in a deep plain network."""

import numpy as np

from snippets.initialization.gain import FUNCTIONS, variance_gain
from snippets.initialization.kaiming import SCHEMES
from snippets.initialization.lecun import lecun_std
from snippets.initialization.orthogonal import orthogonal
from snippets.initialization.variance_propagation import backward, forward, second_moments


def matrices(scheme, width, depth, f, rng):
    """Square matrices, where LeCun's and Xavier's rules are the same."""
    for _ in range(depth):
        if scheme == "orthogonal, exact gain":
            yield variance_gain(f) * orthogonal(width, rng)
            continue
        std = {"exact gain": variance_gain(f) / width**0.5, "LeCun, Xavier": lecun_std(width), "std 0.02": 0.02}.get(scheme)
        if std is None:
            std = SCHEMES[scheme](width, width, 0.0)
        yield std * rng.normal(size=(width, width))


NAMES = ["Kaiming", "LeCun, Xavier", "PyTorch's default", "std 0.02", "orthogonal, exact gain"]


# %% demo
from snippets.live import choice, demo, line, slider


@demo(
    activation=choice("ReLU", "tanh", "GELU", "SELU", label="activation"),
    depth=slider(2, 100, label="layers"),
    width=choice(24, 48, 72, label="width"),
)
def show(activation="ReLU", depth=40, width=48):
    """Each activation has its scheme: find the one that stays on the line, forward and backward. Widths are equal, nothing is normalized."""
    f, slope = FUNCTIONS[activation]
    signals, gradients = {}, {}
    for scheme in NAMES:
        rng = np.random.default_rng(0)
        layers = list(matrices(scheme, width, depth, f, rng))
        x, g = np.random.default_rng(1).normal(size=(2, 16, width))
        zs = forward(x, layers, f)
        gs = backward(g, zs, layers, slope)
        signals[scheme] = np.clip(second_moments(zs), 1e-12, 1e12)
        gradients[scheme] = np.clip(second_moments(gs), 1e-12, 1e12)
    at = np.arange(1, depth + 1)
    off = {scheme: abs(np.log10(signals[scheme][-1])) + abs(np.log10(gradients[scheme][0])) for scheme in NAMES}
    best = min(off, key=off.get)
    return (
        line({scheme: (at, v) for scheme, v in signals.items()}, x="layer", y="mean square of the signal", log_y=True, range_y=(1e-12, 1e12), levels={"1": 1.0},
             caption="Before the activation of each layer; one random net per scheme. Cut off at both ends."),
        line({scheme: (at, v) for scheme, v in gradients.items()}, x="layer", y="mean square of the gradient", log_y=True, range_y=(1e-12, 1e12), levels={"1": 1.0},
             caption="It starts with 1 at the last layer: read from right to left."),
        f"With {activation}, both ends together stay nearest to 1 with: {best}.",
    )
