"""Shampoo in NumPy: a small preconditioner for the rows and one for the columns."""

import numpy as np


def inverse_root(matrix, power):
    """matrix ** (-1 / power); directions without any gradient so far stay zero."""
    values, vectors = np.linalg.eigh(matrix)
    floor = values.max() * len(values) * np.finfo(float).eps
    return (vectors * np.where(values > floor, np.maximum(values, 1e-300) ** (-1 / power), 0)) @ vectors.T


def shampoo_step(w, g, state, t, lr=0.03, eps=1e-4, every=10, graft=True):
    """One step of a matrix or a vector, number t counted from 1. Returns the new weights."""
    G = g if g.ndim == 2 else g[:, None]
    L = state["L"] = state.get("L", eps * np.eye(len(G))) + G @ G.T  # what rows have in common
    R = state["R"] = state.get("R", eps * np.eye(G.shape[1])) + G.T @ G  # and columns
    if (t - 1) % every == 0:
        state["roots"] = (inverse_root(L, 4), inverse_root(R, 4)) if g.ndim == 2 else (inverse_root(L, 2), np.eye(1))
    left, right = state["roots"]
    u = left @ G @ right
    if graft:  # the length of SGD's step
        u = u * np.linalg.norm(G) / max(np.linalg.norm(u), 1e-300)
    return w - lr * u.reshape(w.shape)


# %% demo
from functools import lru_cache

from snippets.live import bars, choice, demo, line, slider
from snippets.optimizers.arena import NAMES, best_rate, descend, race, surface


@lru_cache
def raced(ground):
    """The best rate on a surface, and the path at it."""
    lr = best_rate(lambda *a, lr: shampoo_step(*a, lr=lr, graft=False, every=1), surface(ground))
    return lr, descend(lambda *a: shampoo_step(*a, lr=lr, graft=False, every=1), surface(ground))


def cosine(a, b):
    """Of the angle between two arrays."""
    return float((a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b))


@demo(
    m=slider(2, 16, label="rows"),
    n=slider(2, 16, label="columns"),
    seen=slider(1, 50, label="gradients seen so far"),
    ground=choice(*NAMES, label="surface of the race"),
)
def show(m=6, n=8, seen=20, ground="turned bowl"):
    """With one gradient every direction becomes equal. With more, what has been large so far is held back."""
    rng = np.random.default_rng(0)
    mix_rows, mix_columns = rng.standard_normal((m, m)), rng.standard_normal((n, n))
    gradients = [mix_rows @ rng.standard_normal((m, n)) @ mix_columns for _ in range(seen)]
    last, eps, state = gradients[-1], 1e-4, {}
    for g in gradients:
        u = -shampoo_step(np.zeros((m, n)), g, state, 1, 1.0, eps, 1, graft=False)
    before, after = (np.linalg.svd(x, compute_uv=False) for x in (last, u))
    # Full-matrix Adagrad without its mn x mn matrix: its eigenvectors are the left singular vectors of all gradients side by side.
    every = np.stack([g.ravel() for g in gradients], 1)
    vectors, values, _ = np.linalg.svd(every, full_matrices=False)
    full = (vectors * (values**2 + eps) ** -0.5) @ (vectors.T @ last.ravel())
    diagonal = last / np.sqrt(sum(g * g for g in gradients) + eps)
    near = {name: cosine(x.ravel(), full) for name, x in {"gradient": last, "Adagrad": diagonal, "Shampoo": u}.items()}
    lr, path = raced(ground)
    return (
        line({"gradient": before / before[0], "Shampoo": after / after[0]}, at=range(1, len(before) + 1), x="number of the singular value",
             y="share of the largest", log_y=True, range_y=(1e-3, 2),
             caption="Singular values of the last gradient, before and after: the flatter, the more equal the directions."),
        bars(near, y="cosine with full-matrix Adagrad", range_y=(0, 1),
             caption=f"How near the step's direction comes to that of full-matrix Adagrad, whose preconditioner has {(m * n) ** 2:,} entries; "
             f"Shampoo's two have {m * m + n * n:,}."),
        *race({"Shampoo": path}, surface(ground),
              caption=f"Two weights are a vector, and Shampoo is full-matrix Adagrad, at its best rate, {lr:.2g}: "
              "turning the bowl changes nothing for it."),
        f"After {seen} gradients the step of Shampoo has a cosine of {near['Shampoo']:.2f} with that of full-matrix Adagrad, "
        f"that of Adagrad {near['Adagrad']:.2f}.",
    )
