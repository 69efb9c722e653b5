"""Inverted residual in NumPy, without its normalizations; and why nothing follows the last layer."""

import numpy as np

from snippets.convolution.depthwise import depthwise
from snippets.convolution.pointwise import pointwise


def inverted_residual(x, expand, spatial, project):
    """x (C, H, W), expand (tC, C), spatial (tC, 3, 3), project (O, tC) -> (O, H, W): narrow, wide, narrow."""
    relu6 = lambda y: np.clip(y, 0, 6)  # noqa: E731
    y = relu6(pointwise(x, expand))
    y = relu6(depthwise(y, spatial))
    y = pointwise(y, project)  # and no activation
    return x + y if y.shape == x.shape else y


def through_relu(points, matrix, relu=True):
    """points (N, 2), matrix (n, 2): out into n numbers, a ReLU, and back with the pseudo-inverse.

    Also which points could be computed back exactly: those of which at least two numbers are left.
    """
    wide = points @ matrix.T
    kept = (wide > 0).sum(1) >= 2 if relu else np.full(len(points), len(matrix) >= 2)
    return (np.maximum(wide, 0) if relu else wide) @ np.linalg.pinv(matrix).T, kept


# %% demo
from snippets.live import demo, line, scatter, slider, toggle


@demo(
    n=slider(2, 30, label="numbers that the point is spread over"),
    draw=slider(0, 9, label="which random matrix"),
    relu=toggle(label="ReLU before the way back"),
)
def show(n=3, draw=0, relu=True):
    """A spiral in the plane is spread over n numbers, passes a ReLU and comes back. Raise n until the spiral survives."""
    t = np.linspace(0, 1, 120)
    spiral = np.stack([t * np.cos(12 * t), t * np.sin(12 * t)], 1)
    matrices = [np.random.default_rng(100 * draw + m).normal(size=(m, 2)) for m in range(2, 31)]
    back, kept = through_relu(spiral, matrices[n - 2], relu)
    if relu and n > 4:
        back = back * 2  # a ReLU keeps about half of each number
    shares = [through_relu(spiral, matrix, relu)[1].mean() for matrix in matrices]
    groups = {"came back, could be recovered": back[kept], "lost": back[~kept]}
    return (
        scatter({name: points for name, points in groups.items() if len(points)}, lines={"the spiral": [spiral]}, equal=True,
                range_x=(-1.5, 1.5), range_y=(-1.5, 1.5), x="first coordinate", y="second coordinate",
                caption="The spiral and what comes back of its 120 points." + (" Twice as large, as a ReLU keeps about half." if relu and n > 4 else "")),
        line({"recoverable": (np.arange(2, 31), shares)}, x="numbers that a point is spread over", y="share of the points", range_y=(0, 1.05),
             marks={"chosen": n}, caption="A point of the plane can be computed back if at least two of its numbers are not cut to zero."),
        (f"With {n} numbers, {1 - kept.mean():.0%} of the points are lost for good." if relu else "Without a ReLU nothing is lost, however few the numbers.")
        + (" So the block puts its ReLUs where channels are many, and none at its narrow end." if relu else ""),
    )
