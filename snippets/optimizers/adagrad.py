"""Adagrad in NumPy."""

import numpy as np


def adagrad_step(w, g, state, t, lr=0.01, eps=1e-10):
    """One step. Returns the new weights."""
    s = state["s"] = state.get("s", 0) + g * g  # only grows
    return w - lr * g / (np.sqrt(s) + eps)


# %% demo
from snippets.live import choice, demo, line, slider
from snippets.optimizers.arena import NAMES, best_rate, descend, race, surface


def reviews(rarity, steps):
    """Texts of one word each, the common or the rare one, and labels: four of five are positive for either word."""
    rng = np.random.default_rng(0)
    x, seen = np.zeros((steps, 2)), np.arange(steps) % rarity == rarity // 2
    x[np.arange(steps), seen.astype(int)] = 1
    y = np.ones(steps)
    for rows in (np.flatnonzero(seen), np.flatnonzero(~seen)):
        y[rows] = rng.permutation(np.arange(len(rows)) % 5 != 4)
    return x, y


def learn(x, y, lr, adapt):
    """Logistic regression, one text a step: the weights (steps + 1, 2), and the rate that each weight had."""
    w, state, path, rates = np.zeros(2), {}, [np.zeros(2)], []
    for t, (x_t, y_t) in enumerate(zip(x, y), 1):
        g = x_t * (1 / (1 + np.exp(-(x_t @ w))) - y_t)
        w = adagrad_step(w, g, state, t, lr) if adapt else w - lr * g
        path.append(w)
        rates.append(lr / np.sqrt(np.maximum(state["s"], 1e-4)) if adapt else np.full(2, lr))
    return np.array(path), np.array(rates)


@demo(
    lr=slider(0.01, 1.0, step=0.01, label="learning rate", log=True),
    rarity=slider(2, 200, label="one text in ... has the rare word"),
    ground=choice(*NAMES, label="surface of the race"),
)
def show(lr=0.5, rarity=20, ground="bowl"):
    """Make the second word rarer: Adagrad keeps a large rate in store for it. SGD has one rate for both, low enough for the common word."""
    x, y = reviews(rarity, 400)
    ours, rates = learn(x, y, lr, True)
    single = rates[-1, 0]  # calm enough for the common word, by Adagrad's own judgement
    sgd, _ = learn(x, y, single, False)
    place = surface(ground)
    tuned = best_rate(adagrad_step, place)
    return (
        line({"common": rates[:, 0], "rare": rates[:, 1], "SGD": np.full(400, single)}, at=range(1, 401), x="text", y="learning rate of the weight",
             log_y=True, dashed=["SGD"], caption="lr/√(sum of squared gradients): it falls only where there are gradients, and never rises. Before a "
             "word's first text its rate has no value; it is drawn at 100 lr. SGD gets the rate at which the common word ends."),
        line({"common": ours[:, 0], "rare": ours[:, 1], "common, SGD": sgd[:, 0], "rare, SGD": sgd[:, 1]}, x="text", y="weight of the word",
             dashed=["common, SGD", "rare, SGD"], levels={"ln 4": float(np.log(4))},
             caption="Both words are positive in four of five texts, so both weights should come to ln 4."),
        *race({"Adagrad": descend(lambda w, g, s, t: adagrad_step(w, g, s, t, tuned), place)}, place,
              caption=f"Adagrad too has the best of ten rates, {tuned:.2g}."),
        f"After {int(x[:, 1].sum())} texts with the rare word its weight is {ours[-1, 1]:.3g} with Adagrad and {sgd[-1, 1]:.3g} with SGD; "
        f"its rate is {rates[-1, 1] / rates[-1, 0]:.3g} times the common word's.",
    )
