"""Contrastive loss in NumPy: points on springs."""

import numpy as np


def contrastive(d, same, margin=1.0):
    """Loss of pairs at distance d; same may be one truth value or one for each pair."""
    return np.where(same, d**2 / 2, np.maximum(0, margin - d) ** 2 / 2)


def contrastive_slope(d, same, margin=1.0):
    """Its derivative by the distance: a pull in proportion to the distance, a push in proportion to what is missing."""
    return np.where(same, d, -np.maximum(0, margin - d))


def settle(x, same, margin, step, times, repel=True):
    """Gradient descent on all pairs. Every position of every point, and the energy after every step."""
    path, energy = [x], []
    others = len(x) - 1
    for time in range(times + 1):
        gap = x[:, None] - x
        d = np.sqrt((gap**2).sum(-1))
        count = repel | same
        energy.append(np.where(count, contrastive(d, same, margin), 0).sum() / (len(x) * others))
        direction = gap / np.maximum(d, 1e-9)[..., None]
        x = x - step * (np.where(count, contrastive_slope(d, same, margin), 0)[..., None] * direction).sum(1) / others
        if time < times:
            path.append(x)
    return np.array(path), np.array(energy)


# %% demo
from snippets.live import demo, line, scatter, slider, toggle
from snippets.losses.arena import value_and_gradient

LABEL = np.repeat(np.arange(3), 5)


@demo(
    margin=slider(0.1, 3.0, step=0.1, label="margin"),
    step=slider(0.01, 0.5, step=0.01, label="step size"),
    repel=toggle(label="unlike pairs push"),
)
def show(margin=2.0, step=0.3, repel=True):
    """Three classes on springs, 60 steps. Shrink the margin until they stay in touch; then switch the push off."""
    x = 0.8 * np.random.default_rng(3).standard_normal((15, 2))
    same = LABEL[:, None] == LABEL
    path, energy = settle(x, same, margin, float(step), 60, repel)
    end = path[-1]
    d = np.sqrt(((end[:, None] - end) ** 2).sum(-1))
    within, between = d[same & ~np.eye(15, dtype=bool)].mean(), d[~same].mean()
    return (
        scatter({f"class {c + 1}": end[LABEL == c] for c in range(3)}, x="x", y="y", range_x=(-2.5, 2.5), range_y=(-2.5, 2.5), equal=True,
                lines={"way": [path[:, i] for i in range(15)]}, caption="The ways of the points to where they are after 60 steps."),
        line({"energy": energy}, x="step", y="mean loss of a pair", range_y=(0, 1.6),
             caption="The loss of all pairs. It ends above 0 where classes still push each other."),
        value_and_gradient({"like": lambda d: contrastive(d, True, margin), "unlike": lambda d: contrastive(d, False, margin)},
                           np.linspace(0.01, 3.5, 70), "distance of a pair", range_gradient=(-3.2, 3.7))[1],
        f"Mean distance within a class {within:.2f}, between classes {between:.2f}; the margin is {margin:g}.",
    )
