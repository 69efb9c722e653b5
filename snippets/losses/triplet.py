"""Triplet loss in NumPy, and three ways to choose the triplets of a batch."""

import numpy as np


def distance(x, y):
    return np.sqrt(((x - y) ** 2).sum(-1) + 1e-18)  # the constant keeps a pair that coincides from dividing by 0


def triplet(anchor, positive, negative, margin=1.0):
    return np.maximum(0, distance(anchor, positive) - distance(anchor, negative) + margin)


def choose(x, label, mining, rng):
    """One positive and one negative for every anchor that has both: three arrays of positions."""
    apart = distance(x[:, None], x)
    rows = []
    for a in range(len(x)):
        positive = np.flatnonzero((label == label[a]) & (np.arange(len(x)) != a))
        negative = np.flatnonzero(label != label[a])
        if not len(positive) or not len(negative):
            continue
        if mining == "hard":  # the farthest positive, the nearest negative
            rows.append((a, positive[apart[a, positive].argmax()], negative[apart[a, negative].argmin()]))
            continue
        p = rng.choice(positive)
        beyond = negative[apart[a, negative] > apart[a, p]]
        if mining == "semi-hard":  # the nearest negative that is farther than the positive
            n = beyond[apart[a, beyond].argmin()] if len(beyond) else negative[apart[a, negative].argmax()]
        else:
            n = rng.choice(negative)
        rows.append((a, p, n))
    return np.array(rows).T


def triplet_push(x, chosen, margin=1.0):
    """Gradient of the summed loss: unit vectors along the two legs of every triplet that is not solved yet."""
    a, p, n = chosen[:, triplet(*x[chosen], margin) > 0]
    to_positive = (x[a] - x[p]) / distance(x[a], x[p])[:, None]
    to_negative = (x[a] - x[n]) / distance(x[a], x[n])[:, None]
    gradient = np.zeros_like(x)
    for index, part in ((a, to_positive - to_negative), (p, -to_positive), (n, to_negative)):
        np.add.at(gradient, index, part)
    return gradient


# %% demo
from snippets.live import choice, demo, line, scatter, slider

LABEL = np.repeat(np.arange(3), 6)
WAYS = ("random", "semi-hard", "hard")


def solved(x, margin):
    """Share of all triplets that cost nothing, in %."""
    apart = distance(x[:, None], x)
    real = ((LABEL[:, None] == LABEL) & ~np.eye(len(x), dtype=bool))[:, :, None] & (LABEL[:, None] != LABEL)[:, None]
    return 100 * (apart[:, None] - apart[:, :, None] >= margin)[real].mean()


def train(mining, margin, lr, steps=30):
    x, rng = np.random.default_rng(4).standard_normal((18, 2)), np.random.default_rng(5)
    shares, start = [solved(x, margin)], x
    for _ in range(steps):
        x = x - lr * triplet_push(x, choose(x, LABEL, mining, rng), margin)
        shares.append(solved(x, margin))
    return start, x, np.array(shares)


@demo(
    margin=slider(0.0, 2.0, step=0.1, label="margin"),
    mining=choice(*WAYS, label="choice of triplets"),
    lr=slider(0.001, 1.0, label="learning rate", log=True),
)
def show(margin=1.0, mining="semi-hard", lr=0.05):
    """Three classes start mixed up and are pulled apart, 30 steps. Which choice of triplets gets there first, and which with a large rate?"""
    runs = {way: train(way, margin, float(lr)) for way in WAYS}
    start, end, shares = runs[mining]
    reach = max(4.0, float(np.ceil(np.abs(end).max())))
    return (
        scatter({f"class {c + 1}": end[LABEL == c] for c in range(3)}, x="x", y="y", range_x=(-reach, reach), range_y=(-reach, reach), equal=True,
                lines={"way": [np.stack(pair) for pair in zip(start, end)]},
                caption="Where the points end, and a straight line from where they began."),
        line({way: run[2] for way, run in runs.items()}, x="step", y="triplets that cost nothing (%)", range_y=(0, 100), dashed=[w for w in WAYS if w != mining],
             caption="Share of all triplets that are solved. The more there are, the more seldom a random one teaches anything."),
        f"With {mining} triplets {shares[0]:.0f} % were solved at the start and {shares[-1]:.0f} % are after 30 steps.",
    )
