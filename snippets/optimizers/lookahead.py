"""Lookahead in NumPy: slow weights follow fast ones part of the way."""

import numpy as np


def lookahead(step, w, g, state, t, k=5, alpha=0.5):
    """One step of another optimizer ``step(w, g, state, t) -> w``; after every k of them the weights go back part of the way."""
    slow = state.setdefault("slow", w)
    w = step(w, g, state, t)
    if t % k == 0:
        w = state["slow"] = slow + alpha * (w - slow)
    return w


# %% demo
from snippets.live import choice, demo, line, slider
from snippets.optimizers.arena import NAMES, descend, race, surface
from snippets.optimizers.sgd import sgd_step


def variances(alphas, lr, k):
    """Steady variance of SGD and of the slow weights, for curvature 1 and gradient noise 1."""
    fast, keep = lr**2 / (1 - (1 - lr) ** 2), (1 - lr) ** k
    return fast, alphas**2 * fast * (1 - keep**2) / (1 - (1 - alphas + alphas * keep) ** 2)


@demo(
    k=slider(1, 20, label="fast steps k between synchronizations"),
    alpha=slider(0.1, 1.0, step=0.05, label="alpha: how far the slow weights follow"),
    lr=slider(0.01, 1.0, step=0.01, label="learning rate of SGD inside"),
    ground=choice(*NAMES, label="surface"),
)
def show(k=5, alpha=0.5, lr=0.09, ground="noisy bowl"):
    """Raise the rate near 0.1, where SGD rings in the steep direction: going back half of the way is calm."""
    place, slow = surface(ground, noise=2.0), []

    def step(w, g, state, t):
        w = lookahead(lambda *a: sgd_step(*a, lr=lr), w, g, state, t, k, alpha)
        slow.append(state["slow"])
        return w

    paths = {"fast weights": descend(step, place, 80)}
    slow = np.concatenate([[place.start], slow])
    paths["slow weights"] = np.concatenate([slow, np.full((81 - len(slow), 2), np.nan)])
    alphas = np.linspace(0.1, 1, 19)
    inner = min(lr, 1.0)
    sgd, curve = variances(alphas, inner, k)
    here = variances(np.array([alpha]), inner, k)[1][0]
    return (
        *race(paths, place, caption=f"The fast weights run {k} steps of SGD with rate {lr:.2g}, then both meet at alpha = {alpha:.2g} of the way. "
              "Above a rate of 0.1 SGD leaves a bowl of curvature 20."),
        line({"slow weights": curve}, at=alphas, x="alpha", y="variance at rest", levels={"SGD alone": sgd}, marks={"chosen": alpha},
             range_y=(0, float(f"{1.1 * sgd:.1g}")),
             caption=f"On a noisy quadratic of curvature 1, exactly: the slow weights' variance at rest, for k = {k} and rate {inner:.2g}."),
        f"At rest the slow weights have {100 * here / sgd:.0f} % of the variance of SGD with the same rate.",
    )
