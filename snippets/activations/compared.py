"""All activations side by side: value, slope, and what each does to a normal signal."""

import numpy as np

from snippets.activations.elu import elu
from snippets.activations.gelu import gelu
from snippets.activations.hardsigmoid import hardsigmoid, relu6
from snippets.activations.hardswish import hardswish
from snippets.activations.leaky_relu import leaky_relu
from snippets.activations.mish import mish
from snippets.activations.relu import relu
from snippets.activations.selu import selu
from snippets.activations.sigmoid import sigmoid
from snippets.activations.silu import swish
from snippets.activations.softplus import softplus
from snippets.activations.squared_relu import squared_relu
from snippets.activations.tanh import tanh

FAMILIES = {
    "below zero": {"ReLU": relu, "leaky (0.1)": lambda x: leaky_relu(x, 0.1), "ELU": elu, "SELU": selu},
    "smooth gates": {"ReLU": relu, "GELU": gelu, "SiLU": swish, "Mish": mish, "hard-swish": hardswish},
    "bounded": {"sigmoid": sigmoid, "hard sigmoid": hardsigmoid, "tanh": tanh, "sine": np.sin},
    "zero or above": {"ReLU": relu, "softplus": softplus, "squared ReLU": squared_relu, "ReLU6": relu6},
}


def slope(f, x, h=1e-6):
    return (f(x + h) - f(x - h)) / (2 * h)


def moments(f, std=1.0):
    """Mean and second moment of f(z) for normal z, as a sum over a fine grid."""
    z = np.linspace(-9, 9, 4002)
    weight = np.exp(-(z**2) / 2)
    weight /= weight.sum()
    y = f(std * z)
    return (weight * y).sum(), (weight * y**2).sum()


# %% demo
from snippets.live import bars, choice, demo, line, slider

ENDS = {"below zero": (-2, 3), "smooth gates": (-0.6, 3), "bounded": (-1.1, 1.1), "zero or above": (-0.2, 4)}


@demo(
    group=choice(*FAMILIES, label="compare"),
    reach=slider(1, 8, label="range of x"),
    std=slider(0.1, 4.0, step=0.1, label="std of the input"),
)
def show(group="smooth gates", reach=3, std=1.0):
    """Look at the slopes: that is what a gradient is multiplied by. Then change the size of the input below."""
    x = np.linspace(-reach, reach, 240)  # an even number: 0, where some have no slope, is left out
    functions = FAMILIES[group]
    found = {name: moments(f, std) for name, f in functions.items()}
    best = max(found, key=lambda name: abs(found[name][0]) / found[name][1] ** 0.5)
    return (
        line({name: (x, f(x)) for name, f in functions.items()}, x="x", y="value", dashed=[n for n in ("ReLU",) if n in functions],
             range_y=ENDS[group], caption="The functions. ReLU is dashed where it is among them."),
        line({name: (x, slope(f, x)) for name, f in functions.items()}, x="x", y="derivative",
             dashed=[n for n in ("ReLU",) if n in functions], levels={"1": 1.0}, range_y=(-1.1 if group == "bounded" else -0.6, 2),
             caption="Their slopes. Where one is near 0 nothing is learned; where it passes 1, gradients grow."),
        bars({"mean²": {n: m**2 for n, (m, _) in found.items()}, "variance": {n: s - m**2 for n, (m, s) in found.items()}}, stacked=True,
             y="second moment of the output", levels={"input": std**2},
             caption=f"For normal inputs of standard deviation {std:g}. The weights before the function must make up for the distance to the line; "
             "the part that is mean² is an offset common to all inputs."),
        f"For this input the gain that keeps the second moment is "
        + ", ".join(f"{name} {std / s**0.5:.3g}" for name, (_, s) in found.items()) + f". The largest share of offset has {best}.",
    )
