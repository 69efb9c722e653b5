"""A linear layer in NumPy, with its gradients."""

import numpy as np


def linear(x, w, b=0.0):
    """x (N, I): a vector per row; w (O, I): an output per row -> (N, O)."""
    return x @ w.T + b


def linear_backward(g, x, w):
    """g (N, O), the loss's slope at the outputs -> at inputs, weights, biases."""
    return g @ w, g.T @ x, g.sum(0)


def turn(degrees):
    a = np.deg2rad(degrees)
    return np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]])


# %% demo
from snippets.live import demo, scatter, slider, table


@demo(
    s1=slider(-2.0, 2.0, step=0.1, label="stretch along the first axis"),
    s2=slider(-2.0, 2.0, step=0.1, label="stretch along the second axis"),
    rotation=slider(0, 360, step=5, label="then turn by", unit="°"),
    b1=slider(-1.0, 1.0, step=0.1, label="then move right by b₁"),
    b2=slider(-1.0, 1.0, step=0.1, label="then move up by b₂"),
)
def show(s1=1.9, s2=0.7, rotation=30, b1=0.5, b2=-0.2):
    """Bring one stretch to 0: the plane folds onto a line, and the rank falls to 1. Make it negative: the plane is turned over."""
    w, b = turn(rotation) @ np.diag([s1, s2]), np.array([b1, b2])
    ticks, run = np.linspace(-1, 1, 5), np.linspace(-1, 1, 2)
    grid = [np.column_stack(p) for t in ticks for p in ((np.full(2, t), run), (run, np.full(2, t)))]
    angle = np.linspace(0, 2 * np.pi, 61)
    circle = np.column_stack([np.cos(angle), np.sin(angle)])
    corners = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])

    rank = np.linalg.matrix_rank(w, tol=1e-9)
    det = s1 * s2
    lost = ["Everything lands on one point", "The plane has become a line: what lay across it cannot be told apart any more",
            "Nothing is lost: the map can be undone"][rank]
    return (
        scatter({"where 0, (1,0), (0,1) go": linear(corners, w, b)},
                lines={"grid after": [linear(p, w, b) for p in grid], "circle after": [linear(circle, w, b)],
                       "circle before": [circle]},
                x="y₁", y="y₂", equal=True, range_x=(-3.9, 3.9), range_y=(-3.9, 3.9),
                caption="Straight lines stay straight and parallel lines parallel; a circle becomes an ellipse. "
                "The bias moves everything, the centre too."),
        table([["first output", *(f"{v:.2f}" for v in w[0]), f"{b1:.2f}"],
               ["second output", *(f"{v:.2f}" for v in w[1]), f"{b2:.2f}"]],
              columns=["row of W", "times x₁", "times x₂", "bias"],
              caption="The six numbers of the layer. The columns of W are where (1,0) and (0,1) go before the bias is added."),
        f"det W = {det:.2f}, so areas are multiplied by {abs(det):.2f}{' and are mirrored' if det < 0 else ''}. "
        f"Rank {rank}. {lost}.",
    )
