"""How much of a gradient comes back through each kind of cell."""

import numpy as np

from snippets.activations.sigmoid import sigmoid
from snippets.recurrent import gru, lstm, min_gru
from snippets.recurrent.rnn import unroll


def jacobian(step, x, state, eps=1e-5):
    """Derivative of the next state by this one, by differences."""
    columns = []
    for d in eps * np.eye(len(state)):
        columns.append((step(x, state + d) - step(x, state - d)) / (2 * eps))
    return np.stack(columns, 1)


def way_back(step, xs, state):
    """The largest factor by which a change of the state at step t can reach the last state, for every t."""
    states = unroll(step, xs, state)
    product, sizes = np.eye(len(state)), [1.0]
    for x, s in zip(xs[::-1], states[-2::-1]):
        product = product @ jacobian(step, x, s)
        sizes.append(np.linalg.norm(product, 2))
    return np.array(sizes[::-1])


def cells(H, keep, scale, rng):
    """A step function for each kind of cell, with random weights; keep is the bias of the gate that keeps."""

    def recurrent(n):
        return np.vstack([scale * np.linalg.qr(rng.normal(size=(H, H)))[0] for _ in range(n)])

    w_x = rng.normal(size=(4 * H, 1))
    u1, u3, u4 = recurrent(1), recurrent(3), recurrent(4)
    b3, b4 = np.repeat([0.0, keep, 0.0], H), np.repeat([0.0, keep, 0.0, 0.0], H)

    def lstm_step(x, state):
        i, f, g, o = lstm.gates(x, state[:H], w_x, u4, b4)
        c = f * state[H:] + i * g
        return np.concatenate([o * np.tanh(c), c])

    def gru_step(x, h):
        _, z, n = gru.cell(x, h, w_x[: 3 * H], u3, b3, np.zeros(3 * H))
        return (1 - z) * n + z * h

    def min_gru_step(x, h):
        a, b = min_gru.gates(x[None], w_x[:H], w_x[H : 2 * H], -keep)  # there the gate replaces
        return a[0] * h + b[0]

    return {
        "RNN": (lambda x, h: np.tanh(w_x[:H] @ x + u1 @ h), np.zeros(H)),
        "LSTM": (lstm_step, np.zeros(2 * H)),
        "GRU": (gru_step, np.zeros(H)),
        "minGRU": (min_gru_step, np.zeros(H)),
    }


# %% demo
from snippets.live import bars, demo, line, slider


@demo(
    keep=slider(-2.0, 6.0, step=0.5, label="bias of the gate that keeps"),
    scale=slider(0.2, 2.0, step=0.1, label="scale of the recurrent weights"),
    steps=slider(10, 60, step=5, label="steps"),
)
def show(keep=2.0, scale=1.0, steps=40):
    """Raise the bias: gates open, and gradients come back through every cell that has them. Raise the scale: where the state runs through
    a matrix they can explode; minGRU and the mLSTM have no such path."""
    rng = np.random.default_rng(0)
    xs = 0.7 * rng.normal(size=(steps, 1))
    back = {name: way_back(step, xs, start) for name, (step, start) in cells(4, keep, scale, rng).items()}
    back["mLSTM"] = float(sigmoid(np.array(keep))) ** np.arange(steps, -1, -1.0)  # its memory is only scaled
    t = np.arange(steps + 1)
    shown = {name: np.clip(b, 1e-6, 1e6) for name, b in back.items()}
    reach = {name: int((b[::-1] >= 0.01).cumprod().sum() - 1) for name, b in back.items()}
    return (
        line({name: (t, b[::-1]) for name, b in shown.items()}, log_y=True, range_y=(1e-6, 1e6), x="steps back from the end",
             y="largest factor of a gradient", caption="Random weights, four units each; a curve stops at a millionth and at a million."),
        bars(reach, y="steps", range_y=(0, steps), caption="How far back one per cent of a gradient still arrives (the whole sequence, where a bar reaches the top)."),
        f"One per cent of a gradient comes back over {reach['RNN']} of {steps} steps in the plain RNN, {reach['LSTM']} in the LSTM, "
        f"{reach['GRU']} in the GRU, {reach['minGRU']} in minGRU, {reach['mLSTM']} in the mLSTM.",
    )
