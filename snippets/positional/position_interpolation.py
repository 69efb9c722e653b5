"""Position interpolation in NumPy: a score as a function of distance, inside and outside of what was trained."""

import numpy as np

from snippets.positional.rope import rates

WIDTH = 64  # of a head


def waves(distance, width=WIDTH):
    """Cosine and sine of the angle by which each pair of a rotary embedding is turned at a distance."""
    angle = np.asarray(distance)[..., None] * rates(width)
    return np.concatenate([np.cos(angle), np.sin(angle)], -1)


def score(weights, distance):
    """Product of a rotated query and key: a sum of waves. The weights hold their content."""
    return waves(distance, len(weights)) @ weights


def fit(trained, seed, points=400):
    """A query and a key whose scores stay between −1 and 1 on the trained distances, as training would see to.

    Least squares to random targets; the small penalty only keeps the weights finite.
    """
    at = np.linspace(0, trained - 1, points)
    target = np.random.default_rng(seed).uniform(-1, 1, points)
    rows = np.concatenate([waves(at), 1e-4 * np.eye(WIDTH)])
    return np.linalg.lstsq(rows, np.concatenate([target, np.zeros(WIDTH)]), rcond=None)[0]


# %% demo
from snippets.live import demo, line, slider


@demo(
    factor=slider(1.0, 16.0, step=0.5, label="how many times longer"),
    trained=slider(256, 4096, step=256, label="trained length", unit="tokens"),
    seed=slider(0, 9, label="which query and key"),
)
def show(factor=4.0, trained=2048, seed=0):
    """Both curves are one query and one key. Lengthen the text: beyond the training one explodes, the other is only stretched."""
    weights = fit(trained, seed)
    target = factor * trained
    at = np.linspace(0, target, 400)
    plain, dense = score(weights, at), score(weights, at / factor)
    near = np.arange(17)
    inside, all_of_it = np.abs(plain[at <= trained]).max(), np.abs(plain).max()
    turns = rates(WIDTH) * trained / (2 * np.pi)
    return (
        line({"extrapolated": (at, plain)}, x="distance (tokens)", y="score", marks={"trained": trained},
             caption=f"Left as it is. Up to {trained:,} tokens the score was kept small by training; behind that nothing holds it, and "
                     f"it reaches {all_of_it:,.0f}."),
        line({"interpolated": (at, dense)}, x="distance (tokens)", y="score", marks={"trained": trained}, range_y=(-1.5, 1.5),
             caption="With positions divided by the factor. The same curve, stretched: no value that training did not see."),
        line({"plain": (near, score(weights, near)), "interpolated": (near, score(weights, near / factor))},
             x="distance (tokens)", y="score", markers=["plain", "interpolated"],
             caption="The price is paid nearby: neighbouring distances differ less than they did in training."),
        f"Over {target:,.0f} tokens the largest score is {all_of_it:,.1f} without and {np.abs(dense).max():.1f} with interpolation "
        f"({inside:.1f} in training). {(turns < 1).sum()} of 32 pairs had not finished one turn in training.",
    )
