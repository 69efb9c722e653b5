"""RMSprop in NumPy."""

import numpy as np


def rmsprop_step(w, g, state, t, lr=0.01, alpha=0.99, eps=1e-8, momentum=0.0, centered=False):
    """One step. Returns the new weights."""
    v = state["v"] = alpha * state.get("v", 0) + (1 - alpha) * g * g
    if centered:  # the mean square less the squared mean: a variance
        mean = state["mean"] = alpha * state.get("mean", 0) + (1 - alpha) * g
        v = v - mean * mean
    b = state["velocity"] = momentum * state.get("velocity", 0) + g / (np.sqrt(v) + eps)
    return w - lr * b


# %% demo
from snippets.live import choice, demo, line, slider
from snippets.optimizers.adagrad import adagrad_step
from snippets.optimizers.arena import NAMES, best_rate, descend, race, surface


def jump(step, before, after, steps=300, start=4.0):
    """The weight on a bowl whose curvature changes at step 100, and the gradients it saw; a little noise."""
    rng = np.random.default_rng(0)
    w, state, path, seen, roots = start, {}, [start], [], []
    for t in range(1, steps + 1):
        h = before if t <= 100 else after
        g = h * (w + 0.1 * rng.standard_normal())
        w = step(w, g, state, t)
        path.append(w)
        seen.append(abs(g))
        roots.append(np.sqrt(state["v"] if "v" in state else state["s"]))
    return np.array(path), np.array(seen), np.array(roots)


@demo(
    alpha=slider(0.5, 0.999, step=0.001, label="memory α"),
    lr=slider(0.001, 1.0, step=0.001, label="learning rate", log=True),
    after=slider(0.1, 100.0, label="curvature after step 100 (10 before)", log=True),
    ground=choice(*NAMES, label="surface of the race"),
)
def show(alpha=0.95, lr=0.02, after=0.5, ground="bowl"):
    """At step 100 the ground changes. RMSprop forgets the old gradients in 1/(1 − α) steps; Adagrad never does."""
    first = lr / np.sqrt(1 - alpha)
    ours, seen, roots = jump(lambda w, g, s, t: rmsprop_step(w, g, s, t, lr, alpha), 10.0, after)
    others, _, sums = jump(lambda w, g, s, t: adagrad_step(w, g, s, t, first), 10.0, after)
    place = surface(ground)
    step = lambda w, g, s, t, lr: rmsprop_step(w, g, s, t, lr, alpha)  # noqa: E731
    tuned = best_rate(step, place)
    return (
        line({"|g|": np.maximum(seen, 1e-3), "√v": roots, "Adagrad's √s": sums}, at=range(1, 301), x="step", y="size of the gradient", log_y=True,
             dashed=["Adagrad's √s"], marks={"jump": 100},
             caption="What divides the gradient. √v follows it, up and down; the root of Adagrad's sum can only rise."),
        line({"RMSprop": ours, "Adagrad": others}, x="step", y="weight", dashed=["Adagrad"], marks={"jump": 100}, levels={"lowest": 0.0},
             caption=f"Both begin with a step of {first:.3g}. On the flat ground RMSprop still moves by about its rate."),
        *race({"RMSprop": descend(lambda w, g, s, t: step(w, g, s, t, tuned), place)}, place,
              caption=f"RMSprop too has the best of ten rates, {tuned:.2g}."),
        f"The first step was {first / lr:.3g} times the learning rate, as the mean of squares begins at 0. At the end the weight is {ours[-1]:.3g} "
        f"with RMSprop and {others[-1]:.3g} with Adagrad.",
    )
