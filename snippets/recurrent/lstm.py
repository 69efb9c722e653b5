"""An LSTM in NumPy."""

import numpy as np

from snippets.activations.sigmoid import sigmoid
from snippets.recurrent.rnn import influence, rnn, unroll


def gates(x, h, w_x, w_h, b):
    """i, f, g, o: write, keep, what to write, show. The weights hold their rows in this order."""
    i, f, g, o = np.split(w_x @ x + w_h @ h + b, 4)
    return sigmoid(i), sigmoid(f), np.tanh(g), sigmoid(o)


def lstm(xs, w_x, w_h, b, h=0.0, c=0.0):
    """xs (T, I), w_x (4H, I), w_h (4H, H), b (4H,) -> h and c (T + 1, H) each."""

    def step(x, state):
        h, c = state
        i, f, g, o = gates(x, h, w_x, w_h, b)
        c = f * c + i * g
        return o * np.tanh(c), c

    zero = np.zeros(w_h.shape[1])
    hs, cs = zip(*unroll(step, xs, (zero + h, zero + c)))
    return np.stack(hs), np.stack(cs)


# %% demo
from snippets.live import choice, demo, line, slider


@demo(
    forget=slider(-4.0, 6.0, step=0.25, label="forget-gate bias"),
    write=slider(-4.0, 4.0, step=0.25, label="input-gate bias"),
    output=slider(-4.0, 4.0, step=0.25, label="output-gate bias"),
    length=slider(10, 100, step=5, label="steps"),
    signal=choice("one pulse", "two pulses", "noise", label="input"),
)
def show(forget=4.0, write=-2.0, output=2.0, length=50, signal="one pulse"):
    """One cell with one memory. At a forget bias of 6 it keeps the pulse to the end; at 1 it has lost it after ten steps. Shut
    the output gate: c remembers and h is silent."""
    t = np.arange(length)
    rng = np.random.default_rng(0)
    x = {"one pulse": 1.0 * (t == 3), "two pulses": 1.0 * (t == 3) - 1.0 * (t == length // 2),
         "noise": rng.normal(size=length) * 0.5}[signal]
    # The input opens the input gate and is the candidate; nothing else depends on it, and nothing on h.
    w_x = np.array([[4.0], [0.0], [2.0], [0.0]])
    b = np.array([write, forget, 0.0, output])
    no_recurrence = np.zeros((4, 1))
    h, c = lstm(x[:, None], w_x, no_recurrence, b)
    i = np.array([gates(v, np.zeros(1), w_x, no_recurrence, b)[0][0] for v in x[:, None]])
    f, o = sigmoid(np.array(forget)), sigmoid(np.array(output))
    back = f ** np.arange(length, -1, -1.0)
    w_h = np.array([[0.9]])
    plain = influence(rnn(x[:, None], np.array([[1.0]]), w_h), w_h, lambda h: 1 - h**2)
    k, floor = np.arange(length + 1), 1e-6
    return (
        line({"input": (t + 1, x), "memory c": (k, c[:, 0]), "output h": (k, h[:, 0])}, dashed=["input"], range_y=(-1.6, 1.6),
             x="time (steps)", y="value", caption="The memory is added to and leaks by the forget gate; the output is what the output gate lets through."),
        line({"write i": (t + 1, i), "keep f": (t + 1, f + 0 * t), "show o": (t + 1, o + 0 * t)}, range_y=(0, 1.05), x="time (steps)",
             y="gate", caption="Gates between 0 and 1. Here only the input gate looks at the input."),
        line({"LSTM, ∂c_T/∂c_t": (k, np.maximum(back, floor)), "RNN, ∂h_T/∂h_t": (k, np.maximum(plain, floor))}, log_y=True,
             range_y=(1e-6, 2), x="time t (steps)", y="factor of a gradient from the end",
             caption="How much of a gradient at the end reaches step t: for the memory the product of forget gates, for a plain "
             "RNN with weight 0.9 the product of 0.9 and slopes of tanh."),
        f"The forget gate is {f:.3f}: of a memory {length} steps old {f**length:.1%} is left, and the same share of its gradient. "
        f"In the plain RNN it is {plain[0]:.1%}.",
    )
