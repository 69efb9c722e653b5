"""A GRU in NumPy."""

import numpy as np

from snippets.activations.sigmoid import sigmoid
from snippets.recurrent.rnn import unroll


def cell(x, h, w_x, w_h, b_x, b_h, reset_after=True):
    """One step -> r, z, candidate n. The weights hold their rows in this order."""
    H = len(h)
    gx = w_x @ x + b_x
    gates = sigmoid(gx[: 2 * H] + w_h[: 2 * H] @ h + b_h[: 2 * H])
    r, z = gates[:H], gates[H:]
    w_n, b_n = w_h[2 * H :], b_h[2 * H :]
    recurrent = r * (w_n @ h + b_n) if reset_after else w_n @ (r * h) + b_n
    return r, z, np.tanh(gx[2 * H :] + recurrent)


def gru(xs, w_x, w_h, b_x, b_h, h=0.0, reset_after=True):
    """xs (T, I), w_x (3H, I), w_h (3H, H), two biases (3H,) -> states (T + 1, H)."""

    def step(x, h):
        _, z, n = cell(x, h, w_x, w_h, b_x, b_h, reset_after)
        return (1 - z) * n + z * h  # part of the new, part of the old

    return np.stack(unroll(step, xs, np.zeros(w_h.shape[1]) + h))


# %% demo
from snippets.live import demo, line, slider, toggle


@demo(
    update=slider(-4.0, 4.0, step=0.25, label="update-gate bias"),
    reset=slider(-4.0, 4.0, step=0.25, label="reset-gate bias"),
    delay=slider(1, 50, label="delay", unit="steps"),
    recurrent=toggle(label="the candidate sees the state"),
)
def show(update=2.5, reset=2.0, delay=25, recurrent=False):
    """One unit is shown a pulse and asked for it after the delay. Raise the update gate's bias until it is still there. Then let
    the candidate see the state: now the reset gate decides whether the memory is refreshed."""
    xs = np.zeros((delay + 5, 1))
    xs[3] = 1.0
    # The pulse itself shuts the update gate (weight −9), so that it is written; without it z is set by its bias.
    w_x = np.array([[0.0], [-9.0], [2.0]])
    w_h = np.array([[0.0], [0.0], [1.0 if recurrent else 0.0]])
    b_x, zero = np.array([reset, update, 0.0]), np.zeros(3)
    h = gru(xs, w_x, w_h, b_x, zero)[:, 0]
    seen = [cell(x, h[t : t + 1], w_x, w_h, b_x, zero) for t, x in enumerate(xs)]
    r, z = (np.array([s[i][0] for s in seen]) for i in range(2))
    t = np.arange(len(xs) + 1)
    z0 = float(sigmoid(np.array(update)))
    written = h[4]
    fraction = written * z0 ** np.maximum(t[4:] - 4, 0)
    left = h[4 + delay] / written
    return (
        line({"input": (t[1:], xs[:, 0]), "state h": (t, h), "z^t": (t[4:], fraction)}, dashed=["input", "z^t"], range_y=(0, 1.05),
             marks={"asked": 4 + delay}, x="time (steps)", y="value",
             caption="The state, and what would be left of it if nothing but the update gate acted."),
        line({"update gate z": (t[1:], z), "reset gate r": (t[1:], r)}, range_y=(0, 1.05), x="time (steps)", y="gate",
             caption="z near 1 keeps the state, z near 0 takes the candidate; the pulse shuts z for one step."),
        f"After {delay} steps {left:.0%} of the pulse is left; z alone would leave {z0**delay:.0%} ({z0:.3f} to the power {delay}).",
    )
