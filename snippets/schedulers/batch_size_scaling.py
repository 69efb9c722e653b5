"""Learning-rate scaling with batch size in NumPy, and a regression to try it on."""

import numpy as np

from snippets.optimizers.adam import adam_step


def scale_lr(base_lr, base_batch, batch, rule="linear"):
    k = batch / base_batch
    return base_lr * {"none": 1.0, "sqrt": np.sqrt(k), "linear": k}[rule]


def scale_adam(lr, betas, eps, k):
    """Adam's settings for k times the batch: as much noise and as much memory for the same number of examples."""
    return lr * np.sqrt(k), tuple(max(1 - k * (1 - beta), 0.0) for beta in betas), eps / np.sqrt(k)


# %% demo
from snippets.live import choice, demo, line, slider

SCALES = np.geomspace(1.0, 0.25, 6)  # of the inputs: the curvatures are their squares
EXAMPLES, RUNS, BASE = 1024, 16, 4


def data():
    """Each run's own examples: inputs, and targets with noise; all true weights are 1."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(RUNS, EXAMPLES, len(SCALES))) * SCALES
    return x, x.sum(-1) + 4 * rng.normal(size=(RUNS, EXAMPLES))


def train(x, y, batch, lr, optimizer, betas=(0.9, 0.99), eps=1e-8):
    """Examples seen, and the mean excess loss of linear regression over the runs, before each step and after the last."""
    w, state, losses = np.zeros((RUNS, len(SCALES))), {}, []
    for t in range(EXAMPLES // batch):
        now = slice(t * batch, (t + 1) * batch)
        losses.append(((w - 1) ** 2 @ SCALES**2).mean() / 2)
        error = np.matmul(x[:, now], w[:, :, None])[..., 0] - y[:, now]
        g = np.matmul(error[:, None], x[:, now])[:, 0] / batch
        w = adam_step(w, g, state, t + 1, lr, betas, eps) if optimizer == "Adam" else w - lr * g
        w = np.clip(w, -1e3, 1e3)  # a lost run need not overflow
    losses.append(((w - 1) ** 2 @ SCALES**2).mean() / 2)
    return batch * np.arange(len(losses)), np.clip(losses, 0.01, 10)


@demo(
    batch=slider(1, 512, label="batch", log=True),
    rule=choice("none", "sqrt", "linear", label="rule for the rate"),
    optimizer=choice("SGD", "Adam", label="optimizer"),
    memory=choice("betas as they were", "betas scaled too", label="Adam's memory"),
)
def show(batch=32, rule="linear", optimizer="SGD", memory="betas as they were"):
    """The best rule lays both curves on each other. Raise the batch until no rule does: that is the critical batch size."""
    x, y = data()
    base = 0.04 if optimizer == "SGD" else 0.02
    settings = {"betas": (0.9, 0.99), "eps": 1e-8}
    lr = scale_lr(base, BASE, batch, rule)
    if optimizer == "Adam" and memory == "betas scaled too":
        _, settings["betas"], settings["eps"] = scale_adam(base, settings["betas"], settings["eps"], batch / BASE)
    runs = {f"batch {BASE}": train(x, y, BASE, base, optimizer), f"batch {batch}, scaled": train(x, y, batch, lr, optimizer, **settings)}
    if batch == BASE:
        runs = {f"batch {BASE}": runs[f"batch {BASE}"]}
    sizes = np.array([4, 16, 64, 256])
    ends = {name: np.array([train(x, y, int(b), scale_lr(base, BASE, b, name), optimizer)[1][-1] for b in sizes]) for name in ("none", "sqrt", "linear")}
    return (
        line(runs, x="examples seen", y="excess loss", log_y=True, dashed=[f"batch {BASE}"], range_y=(0.01, 10),
             caption=f"Linear regression with noise, mean of {RUNS} runs; rate {base:g} for a batch of {BASE}. Both runs see the same examples."),
        line({name: (sizes, values) for name, values in ends.items()}, x="batch", y="excess loss at the end", log_x=True, log_y=True, range_y=(0.01, 10),
             caption=f"After {EXAMPLES} examples, by rule, memory not scaled. To the right fewer and fewer steps are left; where a curve jumps, the rate has passed "
             "the stability limit. No rule helps beyond the critical batch."),
        f"Rate {lr:.3g} for a batch of {batch}: {EXAMPLES // batch} steps. Excess loss at the end: "
        + ", ".join(f"{name} {values[-1]:.3g}" for name, (_, values) in runs.items()) + ".",
    )
