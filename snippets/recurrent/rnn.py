"""A vanilla recurrent network in NumPy, and a gradient on its way back."""

import numpy as np


def unroll(step, xs, state):
    """Runs a cell, step(x, state) -> state, over time. Gives all states, the first too."""
    states = [state]
    for x in xs:
        states.append(step(x, states[-1]))
    return states


def rnn(xs, w_x, w_h, b=0.0, h=0.0, act=np.tanh):
    """xs (T, I), w_x (H, I), w_h (H, H) -> states (T + 1, H)."""
    h = np.zeros(len(w_h)) + h
    return np.stack(unroll(lambda x, h: act(w_x @ x + w_h @ h + b), xs, h))


def influence(states, w_h, slope):
    """The largest factor by which a change of the state t can reach the last state, for every t.

    One step multiplies by diag(slope) @ w_h; from t to T all these matrices are multiplied."""
    product, sizes = np.eye(len(w_h)), [1.0]
    for h in states[:0:-1]:
        product = product @ (slope(h)[:, None] * w_h)
        sizes.append(np.linalg.norm(product, 2))
    return np.array(sizes[::-1])


# %% demo
from snippets.live import demo, line, scatter, slider, toggle


@demo(
    rho=slider(0.5, 1.5, step=0.01, label="factor of W_hh, ρ"),
    angle=slider(0, 180, step=5, label="turn of W_hh", unit="°"),
    steps=slider(1, 60, label="steps"),
    squashed=toggle(label="tanh (off: linear)"),
)
def show(rho=0.85, angle=20, steps=60, squashed=False):
    """ρ below 1: the past is forgotten exponentially; above 1 it explodes. Only at exactly 1 nothing
    happens. Then switch the tanh on: it tames the state, and shortens every gradient a little more."""
    a = np.deg2rad(angle)
    w_h = rho * np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]])
    act, slope = (np.tanh, lambda h: 1 - h**2) if squashed else (lambda x: x, np.ones_like)
    states = rnn(np.zeros((steps, 1)), np.zeros((2, 1)), w_h, h=np.array([0.8, 0.0]), act=act)
    back = influence(states, w_h, slope)
    k = np.arange(steps + 1)
    clip = lambda values: np.clip(values, 1e-6, 1e6)  # noqa: E731
    first = back[0]
    fate = "vanishes" if first < 0.1 else "explodes" if first > 10 else "survives"
    return (
        line({"∂h_T/∂h_t": (k, clip(back[::-1])), "ρ^k": (k, clip(rho**k))}, dashed=["ρ^k"], log_y=True,
             range_y=(1e-6, 1e6), x="k = T − t, steps back from the end", y="largest factor of a gradient",
             caption="A straight line on a logarithmic axis: exponential in the number of steps. It stops at a millionth and at a million."),
        scatter({"start": states[:1], "end": states[-1:]}, lines={"state": [states]}, x="h₁", y="h₂", equal=True,
                range_x=(-2, 2), range_y=(-2, 2), caption="The state without any input. It spirals in, runs away, or, with tanh and ρ above 1, "
                "settles on a cycle or a point."),
        f"Over {steps} steps a gradient is multiplied by {first:.2g}: it {fate}."
        + (" A gradient norm of 5 as a limit would cut it." if first > 5 else ""),
    )
