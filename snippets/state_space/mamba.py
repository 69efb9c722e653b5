"""Mamba's selective scan in NumPy."""

import numpy as np

from snippets.ops import scan


def selective_scan(u, dt, A, B, C, hold=False):
    """u and dt (T, E), A (E, N), B and C (T, N) -> y (T, E) and the states (T, E, N).

    dt decides, token by token and channel by channel, how much is forgotten and how much is written.
    """
    step = dt[:, :, None] * A
    # A zero-order hold integrates the input over the step; the code in use takes the step as it is.
    write = np.expm1(step) / A if hold else dt[:, :, None]
    states = scan(np.exp(step), write * B[:, None] * u[:, :, None])
    return (states * C[:, None]).sum(-1), states


# %% demo
from snippets.live import bars, demo, heatmap, line, slider, toggle

MARKED = {2: 0.9, 5: -0.7, 9: 0.5, 12: -1.0}  # position of a token to keep: its value


@demo(
    dt_marked=slider(0.0, 5.0, step=0.1, label="dt of a marked token, in its own slot"),
    dt_filler=slider(0.0, 5.0, step=0.05, label="dt of every other token"),
    rate=slider(0.1, 4.0, step=0.1, label="decay rate -A"),
    hold=toggle(label="zero-order hold for what is written"),
)
def show(dt_marked=5.0, dt_filler=0.0, rate=1.0, hold=True):
    """Four slots, each for one of the four marked tokens. Raise the filler's dt a little: slots leak and fill with noise.
    Make both dt equal: no slot can tell its token from the rest. Without the hold a large dt writes too much."""
    rng = np.random.default_rng(0)
    tokens = rng.uniform(-0.6, 0.6, 20)
    tokens[list(MARKED)] = list(MARKED.values())
    dt = np.full((20, 4), dt_filler)
    for slot, position in enumerate(MARKED):
        dt[position, slot] = dt_marked
    A, ones = np.full((4, 1), -rate), np.ones((20, 1))
    # B = rate gives a slot that is written for long the value of its token, no more and no less.
    y, states = selective_scan(np.repeat(tokens[:, None], 4, 1), dt, A, rate * ones, ones, hold)

    kept = np.exp(-rate * dt[:, 0])
    first = min(MARKED)
    left = np.concatenate([[1.0], np.cumprod(kept[first + 1 :])])
    wanted = list(MARKED.values())
    times = [f"•{list(MARKED).index(t) + 1}" if t in MARKED else str(t + 1) for t in range(20)]
    names = [f"slot {i + 1}" for i in range(4)]
    worst = np.abs(y[-1] - wanted).max()
    verdict = "Both dt are equal, so all four slots hold the same number. " if dt_marked == dt_filler else ""
    return (
        heatmap(np.vstack([tokens, states[:, :, 0].T]), rows=["token", *names], columns=times, range=(-1, 1),
                value="value", x="time (•: marked for a slot)", y="token and slots",
                caption="The tokens, and what each slot holds after each of them."),
        line({"kept at this step": (np.arange(1, 21), kept), "left of its mark": (np.arange(first + 1, 21), left)},
             x="time (tokens)", y="share of slot 1", steps=True, range_y=(0, 1.05),
             caption="exp(dt·A) in slot 1: near 0 it clears the slot for what arrives, near 1 it keeps what is there."),
        bars({"marked": dict(zip(names, wanted)), "read at the end": dict(zip(names, y[-1]))}, y="value",
             caption="What should be in the slots, and what is."),
        verdict + f"The largest error is {worst:.2f}.",
    )
