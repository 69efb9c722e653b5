"""Where the optimizers meet: surfaces over two weights, the paths on them, and the figures of a race."""

from functools import lru_cache
from typing import Callable, NamedTuple

import numpy as np

from snippets.live import line, scatter

NAMES = ("bowl", "turned bowl", "noisy bowl", "Rosenbrock", "Beale", "saddle")


class Surface(NamedTuple):
    """A loss of two weights."""

    name: str
    value: Callable  # of an array (..., 2)
    gradient: Callable  # of one point
    start: tuple
    goal: tuple  # a lowest point
    box: tuple  # what is drawn: (x from, x to), (y from, y to)
    noise: float = 0.0  # standard deviation of what is added to each component of a gradient


@lru_cache
def surface(name, condition=20.0, noise=0.5):
    """One of NAMES. Bowls have curvature 1 along one direction and ``condition`` across; ``noise`` is for the noisy one."""
    if name in ("bowl", "turned bowl", "noisy bowl"):
        c, s = (0.8, 0.6) if name == "turned bowl" else (1.0, 0.0)
        a, b, ab = c * c + condition * s * s, s * s + condition * c * c, (1 - condition) * c * s
        start = (-2.0, 1.0) if name != "turned bowl" else (-2.2, -0.4)
        return Surface(name, lambda w: (a * w[..., 0] ** 2 + 2 * ab * w[..., 0] * w[..., 1] + b * w[..., 1] ** 2) / 2,
                       lambda w: np.array([a * w[0] + ab * w[1], ab * w[0] + b * w[1]]),
                       start, (0.0, 0.0), ((-2.5, 2.5), (-1.5, 1.5)), noise if name == "noisy bowl" else 0.0)
    if name == "Rosenbrock":
        return Surface(name, lambda w: (1 - w[..., 0]) ** 2 + 100 * (w[..., 1] - w[..., 0] ** 2) ** 2, _rosenbrock,
                       (-1.2, 1.0), (1.0, 1.0), ((-1.8, 1.8), (-0.6, 2.0)))
    if name == "Beale":
        return Surface(name, lambda w: sum((r - w[..., 0] * (1 - p)) ** 2 for r, p in _beale(w[..., 1])), _beale_gradient,
                       (0.5, -1.5), (3.0, 0.5), ((-0.5, 4.0), (-2.0, 1.2)))
    if name == "saddle":
        return Surface(name, lambda w: w[..., 0] ** 2 / 2 - w[..., 1] ** 2 / 2 + w[..., 1] ** 4 / 4,
                       lambda w: np.array([w[0], w[1] * (w[1] * w[1] - 1)]), (-1.8, 0.01), (0.0, 1.0), ((-2.2, 1.4), (-1.5, 1.5)))
    raise ValueError(f"surface name={name!r} is not one of {NAMES}")


def _rosenbrock(w):
    bend = w[1] - w[0] * w[0]
    return np.array([-2 * (1 - w[0]) - 400 * w[0] * bend, 200 * bend])


def _beale(y):
    return (1.5, y), (2.25, y * y), (2.625, y * y * y)


def _beale_gradient(w):
    x, y = w
    errors = [(r - x * (1 - p), p - 1, slope * x) for (r, p), slope in zip(_beale(y), (1, 2 * y, 3 * y * y))]
    return np.array([sum(2 * e * dx for e, dx, _ in errors), sum(2 * e * dy for e, _, dy in errors)])


def descend(step, ground, steps=60):
    """The path (steps + 1, 2) of ``step(w, g, state, t) -> w`` from the start; NaN from where it has left all bounds."""
    rng, state = np.random.default_rng(1), {}
    path = np.full((steps + 1, 2), np.nan)
    w = path[0] = np.array(ground.start)
    for t in range(1, steps + 1):
        w = step(w, ground.gradient(w) + ground.noise * rng.standard_normal(2), state, t)
        if not np.abs(w).max() < 1e3:
            break
        path[t] = w
    return path


def loss(path, ground):
    """How far above the lowest point each step of a path is."""
    return ground.value(path) - ground.value(np.array(ground.goal))


RATES = np.geomspace(1e-3, 1, 10)


def best_rate(step, ground, steps=60):
    """The one of RATES whose path ends lowest (mean of its last tenth), for ``step(w, g, state, t, lr=...) -> w``."""
    ends = [loss(descend(lambda *a: step(*a, lr=lr), ground, steps), ground)[-max(steps // 10, 1):].mean() for lr in RATES]
    return float(RATES[np.nanargmin(ends)])


@lru_cache(maxsize=64)
def rivals(ground, steps=60):
    """Paths of SGD and AdamW, each with the best of RATES for this surface and number of steps."""
    from snippets.optimizers.adamw import adamw_step  # here, as the demos of these two import this file
    from snippets.optimizers.sgd import sgd_step

    found = {}
    for name, step in (("SGD", sgd_step), ("AdamW", adamw_step)):
        lr = best_rate(step, ground, steps)
        found[name] = (lr, descend(lambda *a: step(*a, lr=lr), ground, steps))
    return found


def race(paths, ground, caption="", beside=True):
    """Figures of ``{name: path}`` beside SGD and AdamW: the paths over the surface, and the loss at each step.

    SGD and AdamW have the best of ten rates for this surface; a name that is already in ``paths`` is not added again, nor any without ``beside``.
    """
    steps = len(next(iter(paths.values()))) - 1
    others = {name: found for name, found in rivals(ground, steps).items() if name not in paths} if beside else {}
    every = {**paths, **{name: path for name, (_, path) in others.items()}}
    (x0, x1), (y0, y1) = ground.box
    grid = np.stack(np.meshgrid(np.linspace(x0, x1, 40), np.linspace(y0, y1, 32)), -1)
    height = loss(grid, ground)
    inside = {name: path[np.isfinite(path[:, 0])] for name, path in every.items()}
    tuned = " and ".join(f"{name} at its best rate, {lr:.2g}" for name, (lr, _) in others.items())
    return (
        scatter({name: [path[-1]] for name, path in inside.items()} | {"start": [ground.start], "lowest": [ground.goal]},
                lines={name: [path] for name, path in inside.items()}, field=np.log10(height + 0.02 * np.median(height)),
                x="weight 1", y="weight 2", range_x=(x0, x1), range_y=(y0, y1),
                caption=f"{steps} steps; surface: {ground.name}, darker where it is lower. {caption}".strip()),
        line({name: np.clip(loss(path, ground), 1e-8, 1e4) for name, path in every.items()}, x="step", y="loss above the lowest", log_y=True,
             dashed=list(others), caption=f"The loss at each step, drawn between 1e-8 and 1e4{f'; {tuned}' if tuned else ''}."),
    )
