"""AdamW in NumPy: the decay does not pass through Adam's denominator."""

import numpy as np

from snippets.optimizers.adam import adam_step


def adamw_step(w, g, state, t, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01):
    """One step, number t counted from 1. Returns the new weights."""
    return adam_step(w * (1 - lr * weight_decay), g, state, t, lr, betas, eps)


# %% demo
from snippets.live import choice, demo, line, slider, toggle
from snippets.optimizers.arena import NAMES, descend, race, surface


def shrink(decoupled, lr, weight_decay, steps=300, many=200):
    """Means (steps + 1, 2) of weights that start at 1 and whose gradients are noise, of size 1 and of size 100."""
    rng, state = np.random.default_rng(0), {}
    w, size = np.ones((2, many)), np.array([[1.0], [100.0]])
    step = adamw_step if decoupled else adam_step
    means = [w.mean(1)]
    for t in range(1, steps + 1):
        w = step(w, size * rng.standard_normal(w.shape), state, t, lr, weight_decay=weight_decay)
        means.append(w.mean(1))
    return np.array(means)


@demo(
    weight_decay=slider(0.0, 1.0, step=0.01, label="weight decay λ"),
    lr=slider(0.001, 1.0, step=0.001, label="learning rate", log=True),
    decoupled=toggle(label="decoupled (AdamW); off: Adam with λ·w in the gradient"),
    ground=choice(*NAMES, label="surface of the race"),
)
def show(weight_decay=0.6, lr=0.01, decoupled=True, ground="bowl"):
    """Two groups of weights, nothing left to learn. Switch to Adam: the decay stops working where gradients are large."""
    means, other = (shrink(d, lr, weight_decay) for d in (decoupled, not decoupled))
    rule = (1 - lr * weight_decay) ** np.arange(301)
    place = surface(ground)
    name, rival = ("AdamW", "Adam + L2") if decoupled else ("Adam + L2", "AdamW")
    step = adamw_step if decoupled else adam_step
    return (
        line({"size 1": means[:, 0], "size 100": means[:, 1], "(1 − lr·λ)ᵗ": rule, f"100, {rival}": other[:, 1]}, x="step",
             y="mean weight", dashed=["(1 − lr·λ)ᵗ", f"100, {rival}"],
             caption=f"{name}. Means of 200 weights each, all from 1, whose gradients are pure noise of size 1 or 100: what moves the means is the decay. "
             + ("Both groups follow the rule; with Adam the second would not." if decoupled else
                "Divided by the size of the gradients, it hardly touches the second group.")),
        *race({name: descend(lambda w, g, s, t: step(w, g, s, t, lr=0.1, weight_decay=weight_decay), place)}, place,
              caption=f"Learning rate 0.1 and weight decay {weight_decay:g}, which pulls toward the origin."),
        f"After 300 steps {name} left {100 * means[-1, 0]:.3g} % of the weights with small gradients and {100 * means[-1, 1]:.3g} % of those with "
        f"large ones; (1 − lr·λ)³⁰⁰ is {100 * rule[-1]:.3g} %.",
    )
