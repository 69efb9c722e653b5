"""SAM in NumPy: the gradient from where the loss is worst nearby."""

import numpy as np


def sam_gradient(gradient, w, rho=0.05, adaptive=False):
    """The gradient at the top of a ball around w, to first order; adaptive: of an ellipsoid that follows the size of the weights."""
    g = gradient(w)
    size = np.abs(w) if adaptive else 1.0
    climb = rho * size**2 * g / (np.linalg.norm(size * g) + 1e-12)
    return gradient(w + climb)


# %% demo
from snippets.live import choice, demo, line, slider
from snippets.optimizers.arena import NAMES, best_rate, descend, race, surface

HOLES = ((-1.0, 0.15, 0.6), (1.2, 1.0, 0.9))  # where, how wide, how deep


def value(w):
    """A sharp hole and a wide one, in a shallow bowl."""
    return 1.2 + 0.02 * w**2 - sum(d * np.exp(-((w - c) ** 2) / (2 * s * s)) for c, s, d in HOLES)


def slope(w):
    """Its derivative."""
    return 0.04 * w + sum(d * (w - c) / s**2 * np.exp(-((w - c) ** 2) / (2 * s * s)) for c, s, d in HOLES)


@demo(
    rho=slider(0.0, 1.0, step=0.01, label="rho: radius of the neighborhood"),
    start=slider(-3.0, 3.0, step=0.05, label="start"),
    lr=slider(0.001, 1.0, step=0.001, label="learning rate", log=True),
    ground=choice(*NAMES, label="surface of the race"),
)
def show(rho=0.1, start=-1.5, lr=0.05, ground="bowl"):
    """A small radius frees more walkers from the sharp hole. A larger one catches them at its rim: a single weight sees two ends of the ball only."""
    grid = np.linspace(-3, 3, 241)
    around = np.linspace(-rho, rho, 41)
    worst = value(grid[:, None] + around).max(1)
    noise = np.random.default_rng(0).normal(0, 2, (250, 200))
    ends, share = {}, {}
    for name, radius in (("SGD", 0.0), ("SAM", rho)):
        w, wide = np.full(200, start), []
        for n in noise:
            wide.append(100 * np.mean(w > 0))
            climb = radius * np.sign(slope(w) + n)  # sam_gradient for many walkers, of one weight each
            w = np.clip(w - lr * (slope(w + climb) + n), -3, 3)
        ends[name], share[name] = float(np.median(w)), wide
    place = surface(ground)
    rate = best_rate(lambda w, g, state, t, lr: w - lr * g, place)
    # The race's gradient is noisy on one surface: SAM takes the same noise at both points, as it takes the same batch.
    race_path = descend(lambda w, g, state, t: w - rate * (sam_gradient(place.gradient, w, 0.2 * rho) + g - place.gradient(w)), place)
    return (
        line({"loss L(w)": value(grid), "worst within rho": worst, "end of SGD": ([ends["SGD"]], [value(ends["SGD"])]),
              "end of SAM": ([ends["SAM"]], [value(ends["SAM"])])}, at=grid, x="weight", y="loss", range_y=(0, 1.6), dashed=["worst within rho"],
             markers=["end of SGD", "end of SAM"], caption="The sharp hole is gone from the dashed curve where the ball is wider than the hole. "
             "Ends: the median of 200 walkers after 250 steps."),
        line(share, x="step", y="walkers in the wide valley (%)", range_y=(0, 100),
             caption="200 walkers with the same start and rate, and noisy gradients (standard deviation 2), the same noise for both. Noise alone frees some."),
        *race({"SAM": race_path}, place, caption=f"SAM around SGD, with SGD's best rate and a radius of {0.2 * rho:.2g}."),
        f"In the wide valley after 250 steps: {share['SGD'][-1]:.0f} % with SGD, {share['SAM'][-1]:.0f} % with SAM.",
    )
