"""The one-cycle policy in NumPy, and a model to try it on."""

import numpy as np


def one_cycle(step, total, max_lr, pct_start=0.3, low=0.85, high=0.95, div=25, final_div=1e4):
    """Learning rate and momentum of one step, counted from 0."""
    top = pct_start * total - 1  # the step of the highest learning rate
    rising = step <= top
    done = step / top if rising else (step - top) / (total - 1 - top)
    done = (1 - np.cos(np.pi * done)) / 2  # half a cosine: level at both ends
    ends = (max_lr / div, max_lr) if rising else (max_lr, max_lr / div / final_div)
    lr = ends[0] + done * (ends[1] - ends[0])
    momentum = high - done * (high - low) if rising else low + done * (high - low)
    return lr, momentum


def train(schedule, z, batch=8):
    """Logistic regression by SGD with momentum, on features times label; the loss over all data after 0, 1, 2 ... steps."""
    chosen = np.random.default_rng(1).integers(0, len(z), (len(schedule), batch))
    w = np.zeros((len(schedule) + 1, z.shape[1]))
    velocity = np.zeros(z.shape[1])
    for t, (lr, momentum) in enumerate(schedule):
        some = z[chosen[t]]
        velocity = momentum * velocity - (1 - np.tanh(some @ w[t] / 2)) / 2 @ some / batch
        w[t + 1] = w[t] - lr * velocity
    return np.logaddexp(0, -w @ z.T).mean(1)


# %% demo
from snippets.live import demo, line, slider


def data(n=300, d=12):
    """Two overlapping classes; the features' scales differ 30 times, so no single rate suits all directions."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, d)) * np.geomspace(1, 1 / 30, d)
    truth = rng.normal(size=d) * np.geomspace(2, 30, d)
    label = np.where(x @ truth + rng.logistic(size=n) > 0, 1.0, -1.0)
    return x * label[:, None]


@demo(
    max_lr=slider(0.01, 3.0, step=0.01, label="highest learning rate", log=True),
    pct_start=slider(0.05, 0.9, step=0.05, label="share of the steps spent rising"),
    total=slider(50, 500, step=10, label="steps"),
)
def show(max_lr=1.0, pct_start=0.3, total=200):
    """Move the highest rate along the range test in the last figure. Then rise too long, and leave no time to settle."""
    z = data()
    cycle = np.array([one_cycle(step, total, max_lr, pct_start) for step in range(total)])
    losses = {"one cycle": train(cycle, z), "constant, highest": train([(max_lr, 0.9)] * total, z),
              "constant, a tenth": train([(max_lr / 10, 0.9)] * total, z)}
    rates = np.geomspace(1e-3, 30, 120)
    test = train([(lr, 0.9) for lr in rates], z)[:-1]
    return (
        line(
            {"learning rate": cycle[:, 0] / max_lr, "momentum": (cycle[:, 1] - 0.85) / 0.1},
            x="step", y="share of its range", range_y=(0, 1.05),
            caption=f"Mirror images: {max_lr:g} is reached with momentum 0.85, both ends have 0.95. "
            "The run ends at a ten-thousandth of its first rate.",
        ),
        line(
            {name: np.minimum(values, 1.2) for name, values in losses.items()}, x="step", y="loss on all data (nats)",
            dashed=["constant, highest", "constant, a tenth"], range_y=(0.2, 1.22),
            caption="The same batches for all three. A constant high rate jumps about to the end, a tenth of it is "
            "slow. With its highest rate well chosen, the cycle crosses fast and then settles below both.",
        ),
        line(
            {"loss": (rates, np.minimum(test, 1.2))}, x="learning rate, growing every step", y="loss on all data (nats)",
            log_x=True, marks={"highest rate": max_lr}, range_y=(0.2, 1.22),
            caption="Range test: one short run from 0.001 to 30. Choose 2 to 10 times below the rate at which the loss "
            "turns up. Losses above 1.2 are drawn at 1.2.",
        ),
        "Final loss: " + ", ".join(f"{name} {values[-1]:.3f}" for name, values in losses.items()) + ".",
    )
