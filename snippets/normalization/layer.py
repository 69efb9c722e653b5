"""Layer normalization in NumPy."""

import numpy as np


def moments(x, axes):
    """Mean and variance over some axes. All norms of activations differ in the axes alone."""
    mean = x.mean(axes, keepdims=True)
    return mean, ((x - mean) ** 2).mean(axes, keepdims=True)


def standardize(x, mean, variance, eps):
    return (x - mean) / np.sqrt(variance + eps)


def layer_norm(x, gamma=1.0, beta=0.0, eps=1e-5):
    """Each row on its own: mean 0, deviation 1, then a gain and a shift per component."""
    return standardize(x, *moments(x, -1), eps) * gamma + beta


# %% demo
from snippets.live import bars, choice, demo, scatter, slider

ONES = np.ones(3) / np.sqrt(3)
PLANE = np.array([[1, -1, 0], [1, 1, -2]]) / np.sqrt([[2], [6]])  # two axes at right angles to (1, 1, 1)


@demo(
    mean=slider(-3.0, 3.0, step=0.1, label="mean of the input"),
    scale=slider(0.1, 5.0, step=0.1, label="scale of the input"),
    eps=slider(1e-6, 1.0, log=True, label="eps"),
    norm=choice("LayerNorm", "RMSNorm", label="norm"),
)
def show(mean=1.5, scale=1.0, eps=1e-5, norm="LayerNorm"):
    """Move the mean: the cloud slides along (1, 1, 1), the circle stays. Shrink the scale with a large eps: the circle is not reached."""
    x = mean + scale * np.random.default_rng(2).normal(size=(60, 3))
    if norm == "LayerNorm":
        y, steps = layer_norm(x, eps=eps), {"input": x, "centred": x - moments(x, -1)[0]}
    else:
        y, steps = standardize(x, 0.0, (x**2).mean(-1, keepdims=True), eps), {"input": x}
    steps["output"] = y
    turn = np.linspace(0, 2 * np.pi, 73)
    circle = np.sqrt(3) * np.stack([np.cos(turn), np.sin(turn)], 1)
    onto_plane = {name: points @ PLANE.T for name, points in steps.items()}
    from_side = {name: np.stack([points @ PLANE[0], points @ ONES], 1) for name, points in steps.items()}
    spread = np.linalg.norm(onto_plane["output"], axis=1)
    where = {"LayerNorm": "All outputs lie in one plane, on one circle", "RMSNorm": "The outputs fill a sphere"}[norm]
    return (
        scatter(from_side, lines={"sphere": [circle]}, equal=True, range_x=(-6, 6), range_y=(-6, 6),
                x="along (1, −1, 0)", y="along (1, 1, 1)",
                caption=f"Sixty vectors of three numbers, from the side. {where}, "
                        + ("seen edge-on: the height was the mean, and it is gone." if norm == "LayerNorm" else "the height, their mean, is still there.")),
        scatter(onto_plane, lines={"circle": [circle]}, equal=True, range_x=(-6, 6), range_y=(-6, 6),
                x="along (1, −1, 0)", y="along (1, 1, −2)",
                caption="The same, looking down along (1, 1, 1). The circle has radius √3."),
        bars({name: {f"x{i + 1}": points[0, i] for i in range(3)} for name, points in steps.items()}, y="value",
             caption="The three components of one of the vectors, step by step."),
        f"{norm}: the outputs are {spread.min():.3f} to {spread.max():.3f} away from the axis (1, 1, 1). The mean of an output is at "
        f"most {abs(y.mean(-1)).max():.2f} in size, that of an input {abs(x.mean(-1)).max():.2f}.",
    )
