"""SwiGLU in NumPy."""

import numpy as np

from snippets.activations.silu import swish
from snippets.layers.linear import linear


def clamp(gate, up, limit):
    """gpt-oss cuts the gate above, and what it gates on both sides."""
    return np.minimum(gate, limit), np.clip(up, -limit, limit)


def swiglu(x, w_gate, w_up, w_down, beta=1.0, limit=np.inf):
    """x (..., D), w_gate and w_up (F, D), w_down (D, F) -> (..., D)."""
    gate, up = clamp(linear(x, w_gate), linear(x, w_up), limit)
    return linear(swish(gate, beta) * up, w_down)


# %% demo
from snippets.activations.silu import slope as swish_slope
from snippets.layers.gated_linear_unit import GATES, SLOPES
from snippets.live import choice, demo, heatmap, line, slider, table, toggle


@demo(
    variant=choice("SwiGLU", "GEGLU", "ReGLU", label="function on the gate"),
    beta=slider(0.0, 10.0, step=0.1, label="β, steepness of SwiGLU's sigmoid"),
    clamped=toggle(label="clamp gate and up"),
    limit=slider(1.0, 8.0, step=0.5, label="limit of the clamp"),
)
def show(variant="SwiGLU", beta=1.0, clamped=False, limit=2.0):
    """Turn β to 0: the gate is half of g, a plain product. Turn it to 10: ReGLU. β = 1.7 is almost GEGLU. Then clamp."""
    act, slope = {
        "SwiGLU": (lambda g: swish(g, beta), lambda g: swish_slope(g, beta)),
        "GEGLU": (GATES["GELU"], SLOPES["GELU"]),
        "ReGLU": (GATES["ReLU"], SLOPES["ReLU"]),
    }[variant]
    cut = limit if clamped else np.inf
    axis = np.linspace(-4, 4, 17)
    gate, up = clamp(*np.meshgrid(axis, axis), cut)
    g = np.linspace(-4, 4, 161)
    clipped, one = clamp(g, np.ones_like(g), cut)
    d, f = 512, 8 * 512 // 3
    names = [f"{v:g}" for v in axis]
    return (
        heatmap((act(gate) * up)[::-1], x="gate g", y="up u", value="output", rows=names[::-1], columns=names, signed=True,
                range=(-16, 16), caption="Output over both inputs. On the right it is nearly the product g·u, on the left "
                "nearly nothing."),
        line({"u = 1": (g, act(clipped) * one), "its slope": (g, slope(clipped) * (g <= cut))}, dashed=["its slope"],
             x="gate g", y="output and its slope", range_y=(-1.0, 4.2),
             caption="The slice u = 1. Just below 0 the smooth gates go under zero and still have a slope there; ReGLU has none."),
        table([["ungated", "2,048", f"{2 * d * 2048:,}"], ["gated, as wide", "2,048", f"{3 * d * 2048:,}"],
               ["gated, as large", f"{f:,}", f"{3 * d * f:,}"]],
              columns=["layer", "width", "weights"],
              caption="Tokens of width 512. A gate costs a third matrix: compare layers that are as large, not as wide."),
        f"At g = −1 the function on the gate gives {float(act(np.array([-1.0]))[0]):.3f}, at g = 4 it is {float(act(np.minimum([4.0], cut))[0]):.3f}."
        + (f" Nothing beyond ±{limit:g} has a gradient any more." if clamped else ""),
    )
