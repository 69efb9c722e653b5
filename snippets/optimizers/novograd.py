"""NovoGrad in NumPy: one second moment for a whole layer."""

import numpy as np


def novograd_step(w, g, state, t, lr=1e-3, betas=(0.95, 0.98), eps=1e-8, weight_decay=0.0, grad_averaging=False):
    """One step of one layer. Returns the new weights; the length of the scaled gradient is state["length"]."""
    square = np.sum(g * g)
    v = state["v"] = betas[1] * state["v"] + (1 - betas[1]) * square if t > 1 else square
    scaled = g / (np.sqrt(v) + eps)
    state["length"] = np.sqrt(square) / (np.sqrt(v) + eps)
    scaled = scaled + weight_decay * w
    m = state["m"] = betas[0] * state.get("m", 0) + (1 - betas[0] if grad_averaging else 1) * scaled
    return w - lr * m


# %% demo
from snippets.live import choice, demo, line, slider
from snippets.optimizers.arena import NAMES, best_rate, descend, race, surface


def train(betas, scale, adapt, steps=120, lr=0.03):
    """A net of two layers on a smooth target; layer 1's gradient is multiplied by scale. Losses, and each layer's raw and scaled norms."""
    rng = np.random.default_rng(0)
    x = rng.uniform(-2, 2, (64, 2))
    y = np.sin(x[:, :1] * 1.5) * np.cos(x[:, 1:])
    weights, states = [rng.normal(0, 1, (2, 16)), rng.normal(0, 0.25, (16, 1))], [{}, {}]
    losses, raw, scaled = [], [], []
    for t in range(1, steps + 1):
        h = np.tanh(x @ weights[0])
        error = h @ weights[1] - y
        losses.append(float(np.mean(error**2)))
        back = 2 * error / len(x)
        gradients = [scale * (x.T @ (back @ weights[1].T * (1 - h * h))), h.T @ back]
        raw.append([np.linalg.norm(g) for g in gradients])
        for i, g in enumerate(gradients):
            if adapt:
                weights[i] = novograd_step(weights[i], g, states[i], t, lr, betas, grad_averaging=True)
            else:
                m = states[i]["m"] = betas[0] * states[i].get("m", 0) + (1 - betas[0]) * g
                weights[i] = np.clip(weights[i] - lr * m, -1e3, 1e3)
        scaled.append([s["length"] if adapt else r for s, r in zip(states, raw[-1])])
    return np.array(losses), np.array(raw), np.array(scaled)


@demo(
    beta1=slider(0.0, 0.99, step=0.01, label="β₁"),
    beta2=slider(0.5, 0.999, step=0.001, label="β₂"),
    scale=slider(0.001, 1000.0, label="gradient of layer 1, times", log=True),
    ground=choice(*NAMES, label="surface of the race"),
)
def show(beta1=0.9, beta2=0.9, scale=100.0, ground="bowl"):
    """Multiply one layer's gradient by anything: NovoGrad's curve stays. Shorten β₂ and each gradient comes closer to length 1."""
    losses, raw, scaled = train((beta1, beta2), scale, True)
    same, *_ = train((beta1, beta2), 1.0, True)
    plain, *_ = train((beta1, beta2), scale, False)
    place = surface(ground)
    step = lambda w, g, s, t, lr: novograd_step(w, g, s, t, lr, (beta1, beta2), grad_averaging=True)  # noqa: E731
    tuned = best_rate(step, place)
    return (
        line({"NovoGrad": np.clip(losses, 0.005, 2), "scale 1": np.clip(same, 0.005, 2), "momentum": np.clip(plain, 0.005, 2)}, x="step", y="loss",
             dashed=["scale 1", "momentum"], log_y=True, range_y=(0.005, 2.2),
             caption="A net of two layers. NovoGrad lies on its own curve for scale 1; momentum with the same rate does not. Cut at 0.005 and 2."),
        line({"layer 1, raw": raw[:, 0], "layer 2, raw": raw[:, 1], "layer 1": scaled[:, 0], "layer 2": scaled[:, 1]}, at=range(1, 121), x="step",
             y="norm of the layer's gradient", log_y=True, dashed=["layer 1, raw", "layer 2, raw"], levels={"1": 1.0},
             caption="Before and after the division by √v. It is near 1 where norms change slowly, below 1 where they fall faster than v forgets."),
        *race({"NovoGrad": descend(lambda w, g, s, t: step(w, g, s, t, tuned), place)}, place,
              caption=f"NovoGrad takes both weights for one layer, so it keeps the gradient's direction. It has the best of ten rates, {tuned:.2g}."),
        f"Loss after 120 steps: NovoGrad {losses[-1]:.3g}, with scale 1 {same[-1]:.3g}, momentum {min(plain[-1], 9999):.3g}.",
    )
