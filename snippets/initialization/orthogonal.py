"""Orthogonal matrices in NumPy, and what a product of many does beside one of Gaussian matrices."""

import numpy as np


def orthogonal(n, rng):
    """A uniformly random orthogonal matrix: QR of a Gaussian one, with the signs that make R's diagonal positive."""
    q, r = np.linalg.qr(rng.normal(size=(n, n)))
    return q * np.sign(np.diag(r))


def gaussian(n, rng):
    """Independent numbers of variance 1/n: keeps the mean square of a vector on average."""
    return rng.normal(size=(n, n)) / np.sqrt(n)


def products(make, n, depth, gain=1.0, seed=0):
    """W1, then W2 W1, and so on: the Jacobian of a linear net from its input to each layer."""
    rng = np.random.default_rng(seed)
    p, found = np.eye(n), []
    for _ in range(depth):
        p = gain * make(n, rng) @ p
        found.append(p)
    return found


# %% demo
from snippets.live import choice, demo, line, slider

KINDS = {"Gaussian": gaussian, "orthogonal": orthogonal}


@demo(
    kind=choice(*KINDS, label="matrices"),
    depth=slider(1, 50, label="layers"),
    gain=slider(0.8, 1.2, step=0.01, label="gain"),
    n=choice(8, 16, 32, label="width"),
)
def show(kind="Gaussian", depth=8, gain=1.0, n=16):
    """Add layers: Gaussian products stretch one direction and flatten the rest. Then take orthogonal ones, and move the gain."""
    found = products(KINDS[kind], n, depth, gain)
    values = np.array([np.linalg.svd(p, compute_uv=False) for p in found])
    one = np.linalg.svd(products(gaussian, n, 1)[0], compute_uv=False)
    cut = lambda v: np.clip(v, 1e-8 * max(values[-1][0], 1.0), 1e4)  # noqa: E731
    rank, at = np.arange(1, n + 1), np.arange(1, depth + 1)
    alive = int((values[-1] > 0.01 * values[-1][0]).sum())
    return (
        line({f"{depth} layers": (rank, cut(values[-1])), "one Gaussian": (rank, cut(one))}, x="singular value, from the largest", y="stretch", log_y=True,
             range_y=(1e-8, 1e4), dashed=["one Gaussian"], levels={"1": 1.0},
             caption="By what the product stretches each of its own directions, cut off where arithmetic ends. All equal: it only turns."),
        line({"largest": cut(values[:, 0]), "median": cut(np.median(values, 1)), "smallest": cut(values[:, -1])}, at=at, x="layers", y="singular value",
             log_y=True, range_y=(1e-8, 1e4), levels={"1": 1.0},
             caption="The same, layer by layer. A gradient is multiplied by these numbers too: what is flattened forward is never learned."),
        f"After {depth} {kind} layers {alive} of {n} directions are within a factor of 100 of the most stretched one, "
        f"whose stretch is {values[-1][0]:.3g}.",
    )
