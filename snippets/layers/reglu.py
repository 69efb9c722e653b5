"""ReGLU in NumPy, and the work its zeros save."""

import numpy as np

from snippets.activations.relu import relu
from snippets.layers.linear import linear


def reglu(x, w_gate, w_up, w_down, b_gate=0.0):
    """x (..., D), w_gate and w_up (F, D), w_down (D, F) -> (..., D)."""
    return linear(linear(x, w_up) * relu(linear(x, w_gate, b_gate)), w_down)


def reglu_skipping(x, w_gate, w_up, w_down, b_gate=0.0):
    """One token x (D,): up and down only for units whose gate is open. -> (D,), units used."""
    gate = linear(x, w_gate, b_gate)
    (open_,) = np.nonzero(gate > 0)
    hidden = linear(x, w_up[open_]) * gate[open_]
    return w_down[:, open_] @ hidden, len(open_)


# %% demo
from snippets.live import bars, demo, line, slider


@demo(
    d_ff=slider(8, 128, step=8, label="hidden units"),
    bias=slider(-2.0, 2.0, step=0.1, label="bias of all gates"),
    scale=slider(0.1, 3.0, step=0.1, label="scale of the input"),
)
def show(d_ff=64, bias=-0.5, scale=1.0):
    """Lower the gates' bias: fewer units work, and work is saved. Then scale the input up: the bias matters less and less,
    and at a bias of 0 not at all for which gates are open, but the output grows with the square."""
    rng, d = np.random.default_rng(0), 16
    w_gate, w_up = rng.normal(size=(2, 128, d))[:, :d_ff] / np.sqrt(d)
    w_down = rng.normal(size=(d, 128))[:, :d_ff] / np.sqrt(d_ff)
    x = scale * rng.normal(size=(64, d))

    def closed(b):
        return (linear(x, w_gate, b) <= 0).mean()

    used = [reglu_skipping(token, w_gate, w_up, w_down, bias)[1] for token in x]
    share = 1 - np.mean(used) / d_ff
    biases = np.linspace(-2, 2, 41)
    dense = 3 * d * d_ff
    spent = d * d_ff + 2 * d * np.mean(used)
    size = np.sqrt((reglu(x, w_gate, w_up, w_down, bias) ** 2).mean())
    return (
        bars({str(i + 1): n for i, n in enumerate(used[:12])}, x="token (the first twelve of 64)", y="open gates",
             range_y=(0, d_ff), caption="Every token opens other gates, and another number of them."),
        line({"closed gates": (biases, [100 * closed(b) for b in biases])}, marks={f"bias {bias:g}": bias}, range_y=(0, 100),
             x="bias of all gates", y="closed gates (%)", caption="Share of hidden units that are exactly zero, over all tokens."),
        bars({"gate": {"dense": d * d_ff, "skipping": d * d_ff}, "up and down": {"dense": 2 * d * d_ff, "skipping": 2 * d * np.mean(used)}},
             y="multiply-adds per token", stacked=True, range_y=(0, dense),
             caption="The gate must be computed to know what to skip: a third of the work always stays."),
        f"{share:.0%} of the units are zero; skipping them saves {1 - spent / dense:.0%} of the multiply-adds. "
        f"The outputs have a root mean square of {size:.2f}.",
    )
