"""minGRU in NumPy: gates that look at the input only, and the scan that needs no loop over time."""

import numpy as np

from snippets.activations.sigmoid import sigmoid
from snippets.state_space.parallel_scan import hillis_steele


def gates(x, w_z, w_h, bias=0.0):
    """x (T, I), w_z and w_h (H, I) -> what is kept and what is added, (T, H) each."""
    z = sigmoid(x @ w_z.T + bias)  # looks at the input only, never at the state
    return 1 - z, z * (x @ w_h.T)


def scan(a, b):
    """h = a h + b for all steps in log2(T) rounds; gives b after every round, at last h."""
    return [b for _, b in hillis_steele(a, b)]


# %% demo
from snippets import ops
from snippets.live import choice, demo, heatmap, line, slider


@demo(
    bias=slider(-4.0, 4.0, step=0.25, label="gate bias"),
    length=choice(8, 16, 32, 64, label="steps"),
    stage=slider(0, 6, label="round of the scan shown below"),
)
def show(bias=-2.0, length=32, stage=2):
    """Step through the rounds: after round k every position has gathered 2^k steps. At the last round the dots lie on the loop. A
    low gate bias remembers long, and only then later rounds still change anything."""
    rng = np.random.default_rng(0)
    x = ((rng.random(length) < 0.25) * rng.choice([-1.0, 1.0], length))[:, None]  # now and then a pulse
    a, b = gates(np.hstack([x, np.abs(x)]), np.array([[0.0, 2.0]]), np.array([[1.5, 0.0]]), bias)  # a pulse opens the gate
    rounds = scan(a, b)
    last = len(rounds) - 1
    shown = min(stage, last)
    h = ops.scan(a, b)[:, 0]
    t = np.arange(1, length + 1)
    table = np.stack([r[:, 0] for r in rounds])
    size = np.ceil(10 * max(0.1, np.abs(table).max())) / 10
    missing = np.abs(rounds[shown][:, 0] - h).max()
    steps = [int((np.abs(r[:, 0] - h) < 1e-9).sum()) for r in rounds]
    return (
        heatmap(table, x="time (steps)", y="round", value="partial result", signed=True, range=(-size, size),
                rows=[str(i) for i in range(last + 1)], columns=[str(i) for i in t],
                caption="Row 0 is what each step adds by itself; every round reaches back twice as far. The last row is h."),
        line({"loop": (t, h), f"after round {shown}": (t, rounds[shown][:, 0])}, markers=[f"after round {shown}"], range_y=(-size, size),
             x="time (steps)", y="state h", caption=f"Dots that have gathered their whole past lie on the line; round {shown} reaches "
             f"{2**shown} steps."),
        f"{length} steps one after the other, or {last} rounds. After round {shown} {steps[shown]} of {length} states are final"
        f"{'' if missing < 1e-12 else f', the worst is off by {missing:.2g}'}.",
    )
