"""A bilinear layer in NumPy."""

import numpy as np


def bilinear(x1, x2, w, b=0.0):
    """x1 (..., M), x2 (..., N), w (K, M, N) -> (..., K): all products of a number of x1 and one of x2, weighed."""
    return np.einsum("...m, kmn, ...n -> ...k", x1, w, x2) + b


def low_rank(x1, x2, u, v, p):
    """u (R, M), v (R, N), p (K, R): the same with w_k = u.T @ diag(p_k) @ v, which is never formed."""
    return ((x1 @ u.T) * (x2 @ v.T)) @ p.T


def additive(x1, x2, a1, a2):
    """For comparison: each input adds its part, whatever the other one is."""
    return (x1 @ a1)[..., None] + (x2 @ a2)[..., None]


def unit(degrees):
    a = np.deg2rad(degrees)
    return np.stack([np.cos(a), np.sin(a)], -1)


# %% demo
from snippets.live import demo, heatmap, scatter, slider


@demo(
    angle1=slider(0, 360, step=15, label="angle of x₁", unit="°"),
    angle2=slider(0, 360, step=15, label="angle of x₂", unit="°"),
    w12=slider(-2.0, 2.0, step=0.1, label="W₁₂"),
    w21=slider(-2.0, 2.0, step=0.1, label="W₂₁"),
)
def show(angle1=60, angle2=45, w12=0.0, w21=0.0):
    """W starts as the identity: y says how well two directions agree, whatever they are. Set W₁₂ = −1 and W₂₁ = 1: now
    it is largest where x₁ is 45° ahead of x₂. The layer beside it adds, and cannot do either."""
    w = np.array([[[1.0, w12], [w21, 1.0]]])
    ticks = np.arange(0, 360, 15)
    a1, a2 = np.meshgrid(ticks, ticks, indexing="ij")
    y = bilinear(unit(a1), unit(a2), w)[..., 0]
    # The additive layer that comes closest: least squares on the same grid.
    design = np.hstack([unit(a1.ravel()), unit(a2.ravel())])
    best = np.linalg.lstsq(design, y.ravel(), rcond=None)[0]
    sums = additive(unit(a1), unit(a2), best[:2], best[2:])[..., 0]
    x1, x2 = unit(angle1), unit(angle2)
    turned = w[0] @ x2
    value = bilinear(x1, x2, w)[0]
    limit = max(1.0, np.abs(y).max())
    names = [str(t) for t in ticks]
    scene = dict(rows=names, columns=names, x="angle of x₂ (°)", y="angle of x₁ (°)", value="y", range=(-limit, limit), signed=True)
    return (
        heatmap(y, caption="Bilinear: with W = identity the bands run along equal angles. What counts is the pair.", **scene),
        heatmap(sums, caption="Additive, fitted to the map above as well as it can: a direction of x₁ is good or bad whatever x₂ is.",
                **scene),
        scatter({"x₁": [x1], "W x₂": [turned], "x₂": [x2]}, equal=True, range_x=(-3, 3), range_y=(-3, 3), x="first number", y="second",
                lines={"from 0": [[(0, 0), x1], [(0, 0), turned], [(0, 0), x2]]},
                caption="y is the dot product of x₁ and W x₂: x₂ decides which direction of x₁ is asked for."),
        f"y = {value:.2f}. The additive layer misses the map by {np.sqrt(np.mean((sums - y) ** 2)):.2f} on average (root mean square); "
        f"y itself has {np.sqrt(np.mean(y**2)):.2f}.",
    )
