"""GEGLU in NumPy, and a race with its relatives."""

import numpy as np

from snippets.activations.gelu import gelu
from snippets.layers.gated_linear_unit import GATES, SLOPES, gated_feed_forward


def geglu(x, w_gate, w_up, w_down):
    """x (..., D), w_gate and w_up (F, D), w_down (D, F) -> (..., D)."""
    return gated_feed_forward(x, w_up, w_gate, w_down, gelu)


def fit(x, target, gates, units, gated, rate, rng, steps=300):
    """Gradient descent by hand on y = sum of w · (v x + c) · s(g x + b) over the units, for several
    functions s side by side. Without a gate the value v x + c is 1, and only s(g x + b) is left."""
    learned = np.zeros((len(gates), 5, max(units)))
    for i, n in enumerate(units):
        learned[i, 0 if gated[i] else 2 :, :n] = 1
    p = 0.7 * rng.normal(size=learned.shape[1:]) * learned
    p[:, 1] += ~np.array(gated)[:, None]
    x, losses = x[:, None], []
    for _ in range(steps):
        v, c, g, b, w = p.transpose(1, 0, 2)[:, :, None]
        value, gate = v * x + c, g * x + b
        s = np.stack([GATES[name](z) for name, z in zip(gates, gate)])
        ds = np.stack([SLOPES[name](z) for name, z in zip(gates, gate)])
        y = (w * value * s).sum(-1)
        losses.append(((y - target) ** 2).mean(1))
        d_y = 2 / len(x) * (y - target)[..., None]
        d_value, d_gate = d_y * w * s, d_y * w * value * ds
        d = np.stack([d_value * x, d_value, d_gate * x, d_gate, d_y * value * s], 1).sum(2) * learned
        size = np.sqrt((d**2).sum((1, 2), keepdims=True))
        p = p - rate * d / np.maximum(1, size / 4)  # clipped, or a high rate blows up
    return y, np.array(losses)


VARIANTS = {"GLU": "sigmoid", "ReGLU": "ReLU", "GEGLU": "GELU", "SwiGLU": "SiLU", "no gate": "GELU"}


# %% demo
from snippets.live import bars, demo, line, slider


@demo(
    d_ff=slider(1, 16, label="hidden units of a gated layer"),
    rate=slider(0.01, 0.3, step=0.01, label="learning rate"),
    draw=slider(0, 9, label="draw of the start"),
)
def show(d_ff=2, rate=0.1, draw=1):
    """Five small networks learn x². Two units are enough for three of the gates to be exact, if training gets there.
    Give them 8, then 16, and try several draws: the start decides much."""
    x = np.linspace(-2, 2, 17)
    plain = 5 * d_ff // 3  # as many numbers without a gate: three per unit instead of five
    units, gated = [d_ff] * 4 + [plain], [True] * 4 + [False]
    fits, losses = fit(x, x**2, list(VARIANTS.values()), units, gated, rate, np.random.default_rng(draw))
    curves = dict(zip(VARIANTS, losses.T))
    last = {name: curve[-1] for name, curve in curves.items()}
    best = min(last, key=last.get)
    return (
        line({"x²": (x, x**2), "GLU": (x, fits[0]), "GEGLU": (x, fits[2]), "no gate": (x, fits[4])}, dashed=["x²"],
             x="x", y="output", range_y=(-1, 5), caption="The fit after 300 steps; three of the five are drawn."),
        bars({name: max(0.0, -np.log10(v + 1e-12)) for name, v in last.items()}, y="correct digits", range_y=(0, 6),
             caption=f"How far below 1 the mean squared error is, in powers of ten: {d_ff} gated units, or {plain} with a GELU "
             "and no gate, which have as many numbers to learn."),
        line(curves, x="step", y="mean squared error", log_y=True, range_y=(1e-7, 30),
             caption="On the way. The gated variants start from the same random numbers."),
        f"The smallest error has {best}: {last[best]:.1e}. GEGLU has {last['GEGLU']:.1e}, the network without a gate "
        f"{last['no gate']:.1e}.",
    )
