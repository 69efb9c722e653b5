"""Highway layer in NumPy."""

import numpy as np


def highway(x, w, w_gate, gate_bias=-2.0):
    """x (d) -> y (d) and the gate: where it is 0, x passes unchanged; where it is 1, the layer's result takes its place."""
    gate = 1 / (1 + np.exp(-(w_gate @ x + gate_bias)))
    return gate * np.tanh(w @ x) + (1 - gate) * x, gate


def gradient_norms(x, weights, kind, gate_bias=-2.0):
    """How long the gradient of the summed output is at each layer, the input's first; by the chain rule, layer by layer."""
    states, jacobians = [x], []
    for w, w_gate in weights:
        x = states[-1]
        h = np.tanh(w @ x)
        slope = (1 - h**2)[:, None] * w
        if kind == "plain":
            y, jacobian = h, slope
        elif kind == "residual":
            y, jacobian = x + h, np.eye(len(x)) + slope
        else:
            y, gate = highway(x, w, w_gate, gate_bias)
            jacobian = np.diag(1 - gate) + gate[:, None] * slope + (gate * (1 - gate) * (h - x))[:, None] * w_gate
        states.append(y)
        jacobians.append(jacobian)
    g = [np.ones(len(x))]
    for jacobian in jacobians[::-1]:
        g.append(jacobian.T @ g[-1])
    return np.array([np.linalg.norm(row) for row in g[::-1]])


# %% demo
from snippets.live import demo, heatmap, line, slider


@demo(
    bias=slider(-6.0, 4.0, step=0.5, label="bias of the gates"),
    depth=slider(1, 60, label="layers"),
    gain=slider(0.5, 3.0, step=0.1, label="gain of the weights"),
)
def show(bias=-4.0, depth=30, gain=0.6):
    """Move the gates' bias up: the highway turns into the plain stack. Move it down: nothing is transformed any more."""
    rng = np.random.default_rng(0)
    d = 16
    weights = [(gain * rng.normal(size=(d, d)) / d**0.5, rng.normal(size=(d, d)) / d**0.5) for _ in range(depth)]
    x = rng.normal(size=d)
    norms = {kind: np.maximum(gradient_norms(x, weights, kind, bias), 1e-9) for kind in ("plain", "residual", "highway")}
    gates, h = [], x
    for w, w_gate in weights:
        h, gate = highway(h, w, w_gate, bias)
        gates.append(gate)
    gates = np.array(gates)
    step = -(-depth // 30)
    end = norms["highway"][-1]
    return (
        line({kind: (np.arange(depth + 1), values) for kind, values in norms.items()}, x="layer", y="gradient (cut off at 1e-9)", log_y=True, range_y=(1e-9, 1e9),
             caption="Length of the gradient that comes back to each layer from the end, on the right."),
        heatmap(gates[::step].T, columns=[str(i + 1) for i in range(0, depth, step)], x="layer", y="unit", value="gate", range=(0, 1),
                caption="Dark: passes unchanged. Bright: is replaced."),
        f"Gates are {gates.mean():.2f} open on average. The gradient at the input is {norms['highway'][0] / end:.2g} times that at the end; "
        f"in the plain stack {norms['plain'][0] / end:.2g}, in the residual one {norms['residual'][0] / end:.2g}.",
    )
