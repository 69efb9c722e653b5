"""Weight decay in NumPy."""

import numpy as np


def decayed_step(w, g, lr, wd):
    """A step of SGD with decay: each weight loses the share lr * wd, whatever its gradient."""
    return w * (1 - lr * wd) - lr * g


def equilibrium_norm(lr, wd, grad_norm):
    """Where growth and decay balance for a weight that is normalized away; grad_norm is measured at norm 1."""
    return (lr * grad_norm**2 / (wd * (2 - lr * wd))) ** 0.25


def logistic_gradient(w, x, sign):
    """Of the mean of log(1 + exp(-margin)), with margin = sign * (w @ x.T)."""
    margin = sign * (w @ x.T)
    return -(sign / (1 + np.exp(margin))) @ x / len(x)


def descend(x, sign, lr, wd, steps):
    """Weights (steps + 1, runs, 2) of runs that differ in their decay, wd (runs, 1)."""
    w = np.zeros((len(wd), x.shape[1]))
    path = [w]
    for _ in range(steps):
        w = decayed_step(w, logistic_gradient(w, x, sign), lr, wd)
        path.append(w)
    return np.array(path)


# %% demo
from snippets.live import demo, line, slider


@demo(
    wd=slider(0.0, 0.1, step=0.005, label="weight decay"),
    lr=slider(0.001, 1.0, label="learning rate", log=True),
)
def show(wd=0.02, lr=0.5):
    """The two classes can be told apart without error, so larger weights always lower the loss. Set the decay to 0: the norm never stops."""
    rng, steps = np.random.default_rng(0), 1000
    sign = np.repeat([-1.0, 1.0], 20)
    x = rng.normal(size=(40, 2)) * 0.5 + sign[:, None] * np.array([1.6, 0.9])
    at = np.unique(np.round(np.geomspace(1, steps, 60))).astype(int)
    both = descend(x, sign, lr, np.array([[0.0], [wd]]), steps)
    paths = {"no decay": both[:, 0]} | ({f"decay {wd:g}": both[:, 1]} if wd else {})
    norms = {name: (at, np.linalg.norm(path[at], axis=1)) for name, path in paths.items()}
    margins = {name: sign * (path[at] @ x.T) for name, path in paths.items()}
    gaps = {name: (at, m.min(1)) for name, m in margins.items()}
    losses = {name: (at, np.logaddexp(0, -m).mean(1)) for name, m in margins.items()}
    last, path = list(paths)[-1], list(paths.values())[-1]
    rate = np.linalg.norm(path[-1]) / np.linalg.norm(path[steps // 2])
    still = "still grows" if rate > 1.01 else "has settled"
    return (
        line(norms, x="step", y="norm of the weights", log_x=True, range_y=(0, 6), dashed=["no decay"],
             caption="Without decay the norm grows like the logarithm of the steps: no end. Decay stops it where the pull of the loss has become as weak."),
        line(gaps, x="step", y="smallest margin (logits)", log_x=True, range_y=(-0.5, 5), dashed=["no decay"], levels={"0": 0.0},
             caption="The example nearest to the border. All are classified correctly above 0; what comes after is confidence only."),
        line(losses, x="step", y="loss on the data", log_x=True, log_y=True, dashed=["no decay"], range_y=(1e-3, 1),
             caption="The price: the loss on the data stays above 0."),
        f"After {steps:,} steps the norm is {np.linalg.norm(path[-1]):.2f} ({last}) and {still}: over the last half it changed by the factor {rate:.3f}.",
    )
