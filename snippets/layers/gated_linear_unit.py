"""Gated linear units in NumPy."""

import numpy as np

from snippets.activations import gelu, relu, sigmoid, silu
from snippets.layers.linear import linear

GATES = {"sigmoid": sigmoid.sigmoid, "tanh": np.tanh, "ReLU": relu.relu, "GELU": gelu.gelu, "SiLU": silu.swish}


def glu(x, act=sigmoid.sigmoid):
    """The first half of the last axis, gated by the second: (..., 2h) -> (..., h)."""
    value, gate = np.split(x, 2, axis=-1)
    return value * act(gate)


def gated_feed_forward(x, up, gate, down, act=sigmoid.sigmoid):
    """x (..., D), up and gate (F, D), down (D, F) -> (..., D)."""
    return linear(linear(x, up) * act(linear(x, gate)), down)


SLOPES = {"sigmoid": sigmoid.slope, "tanh": lambda x: 1 - np.tanh(x) ** 2, "ReLU": relu.slope, "GELU": gelu.slope, "SiLU": silu.slope}


# %% demo
from snippets.live import choice, demo, line, slider


@demo(
    act=choice(*GATES, label="function on the gate"),
    value=slider(-2.0, 2.0, step=0.1, label="value weight"),
    gate=slider(-4.0, 4.0, step=0.1, label="gate weight"),
    bias=slider(-4.0, 4.0, step=0.1, label="gate bias"),
)
def show(act="sigmoid", value=1.0, gate=1.5, bias=0.0):
    """One number in, one out. Move the gate's bias to 4 and to −4: open and shut. Then look at the slope for large x:
    with a tanh on the value it is gone, without one it stays."""
    x = np.linspace(-4, 4, 121)
    a, g = value * x, gate * x + bias
    s, ds = GATES[act], SLOPES[act]
    y = glu(np.stack([a, g], -1), s)[:, 0]
    through_value, through_gate = value * s(g), a * ds(g) * gate
    squashed = (1 - np.tanh(a) ** 2) * through_value + np.tanh(a) * ds(g) * gate
    return (
        line({"value a": (x, a), "gate s(g)": (x, s(g)), "output a·s(g)": (x, y)}, dashed=["value a", "gate s(g)"],
             x="x", y="a, s(g) and their product", range_y=(-4.5, 4.5),
             caption="The output follows the value where the gate is open and lies at 0 where it is shut."),
        line({"through the value": (x, through_value), "through the gate": (x, through_gate),
              "both": (x, through_value + through_gate), "both, if the value had a tanh": (x, squashed)},
             dashed=["both, if the value had a tanh"], x="x", y="slope of the output", range_y=(-3, 3),
             caption="Where the slope comes from. The part through the value is the gate itself: an open gate passes "
             "gradients as it passes numbers."),
        f"At x = 4 the gate is at {s(g)[-1]:.2f}, and the output's slope is {(through_value + through_gate)[-1]:.2f}; "
        f"with a tanh on the value it would be {squashed[-1]:.3f}.",
    )
