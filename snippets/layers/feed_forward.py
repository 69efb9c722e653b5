"""A position-wise feed-forward network in NumPy."""

import numpy as np

from snippets.activations.gelu import gelu
from snippets.activations.relu import relu
from snippets.layers.linear import linear


def feed_forward(x, w1, b1, w2, b2, act=relu):
    """x (..., D), w1 (F, D), w2 (D, F): each row by itself, no row sees another."""
    return linear(act(linear(x, w1, b1)), w2, b2)


def parts(x, w1, b1, w2, act=relu):
    """What each hidden unit adds to the output, (..., F, D). Their sum and b2 are the output."""
    return act(linear(x, w1, b1))[..., None] * w2.T


# %% demo
from snippets.live import bars, choice, demo, heatmap, line, slider


@demo(
    d_ff=slider(1, 32, label="hidden units"),
    weights=slider(0, 20, label="draw of the weights"),
    act=choice("ReLU", "GELU", label="activation"),
    x0=slider(-3.0, 3.0, step=0.1, label="look at x ="),
)
def show(d_ff=6, weights=18, act="ReLU", x0=1.0):
    """A network from one number to one number. Add units: each brings one bend. Then move x and see which of them work there."""
    rng = np.random.default_rng(weights)
    w1, place = rng.normal(size=(32, 1)), rng.uniform(-2.5, 2.5, 32)
    w2 = rng.normal(size=(1, 32))[:, :d_ff]
    w1, b1 = w1[:d_ff], (-w1[:, 0] * place)[:d_ff]  # unit i is at zero at place[i]
    order = np.argsort(place[:d_ff])
    w1, b1, w2, bends = w1[order], b1[order], w2[:, order], place[:d_ff][order]
    function = relu if act == "ReLU" else gelu

    x = np.linspace(-3, 3, 121)[:, None]
    y = feed_forward(x, w1, b1, w2, 0.0, function)[:, 0]
    each = parts(x, w1, b1, w2, function)[..., 0]
    biggest = sorted(np.argsort(-np.abs(each).max(0))[:3])
    coarse = parts(np.linspace(-3, 3, 25)[:, None], w1, b1, w2, function)[..., 0]
    working = int((linear(np.array([x0]), w1, b1) > 0).sum())
    return (
        line({"output": (x[:, 0], y), **{f"unit {i + 1}": (x[:, 0], each[:, i]) for i in biggest}},
             dashed=[f"unit {i + 1}" for i in biggest], marks={f"x = {x0:g}": x0}, x="x", y="output",
             caption=f"The output is the sum of {d_ff} hinges; the three largest are dashed. "
             + ("Between two bends it is a straight line." if act == "ReLU" else "GELU rounds each bend.")),
        heatmap(coarse.T, x="x", y="hidden unit", value="adds", rows=[str(i + 1) for i in range(d_ff)],
                columns=[f"{v:g}" for v in np.linspace(-3, 3, 25)], signed=True,
                caption="What every unit adds, units in the order of their bends. Each is silent on one side of its bend."),
        bars({"above zero": working, "below zero": d_ff - working}, y="hidden units", range_y=(0, d_ff),
             caption=f"At x = {x0:g}. Units below zero add nothing there"
             + (" and would learn nothing from it." if act == "ReLU" else ", or almost.")),
        f"{d_ff} units, bends at {', '.join(f'{b:.1f}' for b in bends[:8])}{' …' if d_ff > 8 else ''}. At x = {x0:g} the output is "
        f"{feed_forward(np.array([x0]), w1, b1, w2, 0.0, function)[0]:.2f}, with {working} of them above zero.",
    )
