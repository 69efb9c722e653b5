"""K-FAC in NumPy: a layer's natural gradient from two small matrices."""

import numpy as np


def kfac_direction(gradient, A, G, damping=1e-3):
    """inverse(G) gradient inverse(A), with A = mean of a aᵀ (inputs), G = mean of g gᵀ (gradients at the outputs)."""
    ratio = np.sqrt((np.trace(A) / len(A)) / (np.trace(G) / len(G)))  # the larger factor gets more of the damping
    A = A + ratio * np.sqrt(damping) * np.eye(len(A))
    G = G + np.sqrt(damping) / ratio * np.eye(len(G))
    return np.linalg.solve(G, gradient) @ np.linalg.inv(A)


# %% demo
from snippets.live import demo, heatmap, line, slider
from snippets.optimizers.adam import adam_step
from snippets.optimizers.sgd import sgd_step


def softmax(z):
    """Of rows."""
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def data(correlation, n=200):
    """Three inputs that are alike, and three classes."""
    rng = np.random.default_rng(0)
    x = np.sqrt(1 - correlation) * rng.standard_normal((n, 3)) + np.sqrt(correlation) * rng.standard_normal((n, 1))
    truth = 1.5 / np.sqrt(1 - correlation) * np.array([[1, -1, 0], [0, 1, -1], [-1, 0, 1]])  # what counts is how the inputs differ
    return x, (softmax(x @ truth.T).cumsum(1) > rng.random((n, 1))).argmax(1)


def mean_loss(w, x, y):
    """Cross-entropy."""
    return -np.log(softmax(x @ w.T)[np.arange(len(x)), y] + 1e-12).mean()


def descend_on(step, x, y, steps=30):
    """Losses along ``step(w, gradient, state, t) -> w``."""
    w, state, losses = np.zeros((3, 3)), {}, []
    for t in range(1, steps + 1):
        losses.append(mean_loss(w, x, y))
        w = step(w, (softmax(x @ w.T) - np.eye(3)[y]).T @ x / len(x), state, t)
    return losses


def factors(w, x):
    """A, and the exact expectation of G over targets drawn from the model."""
    p = softmax(x @ w.T)
    return x.T @ x / len(x), np.diag(p.mean(0)) - p.T @ p / len(x)


@demo(
    correlation=slider(0.0, 0.99, step=0.01, label="correlation of the inputs"),
    damping=slider(1e-4, 1.0, step=1e-4, label="damping", log=True),
)
def show(correlation=0.95, damping=0.001):
    """Correlate the inputs: SGD and Adam slow down, K-FAC does not notice. Then raise the damping until it becomes SGD."""
    x, y = data(correlation)
    best = {}
    for name, step in (("SGD", sgd_step), ("Adam", adam_step)):
        runs = [descend_on(lambda *a: step(*a, lr=lr), x, y) for lr in (np.geomspace(0.1, 10, 7) if name == "SGD" else np.geomspace(0.03, 1, 7))]
        best[name] = min(runs, key=lambda losses: losses[-1])
    best["K-FAC"] = descend_on(lambda w, g, state, t: w - 0.5 * kfac_direction(g, *factors(w, x), damping), x, y)
    w = np.linspace(-0.5, 0.5, 9).reshape(3, 3)  # a point on the way, to look at the curvature
    p = softmax(x @ w.T)
    blocks = np.einsum("ni,nab,nj->aibj", x, np.stack([np.diag(q) - np.outer(q, q) for q in p]), x).reshape(9, 9) / len(x)
    kron = np.kron(*factors(w, x)[::-1])
    names = [f"{o}←{i}" for o in "abc" for i in range(1, 4)]
    top = max(np.abs(blocks).max(), np.abs(kron).max())
    return (
        line(best, x="step", y="mean cross-entropy (nats)", range_y=(0.4, 1.15),
             caption="Softmax regression with three correlated inputs. SGD and Adam at their best of seven rates, K-FAC at 0.5."),
        heatmap(blocks, x="weight", y="weight", value="entry", rows=names, columns=names, range=(-top, top), signed=True,
                caption="The true Fisher matrix of the nine weights (class ← input)."),
        heatmap(kron, x="weight", y="weight", value="entry", rows=names, columns=names, range=(-top, top), signed=True,
                caption="G ⊗ A, from two 3 × 3 matrices: the same pattern of blocks; what ties inputs to errors is lost."),
        f"The Kronecker product is off by {100 * np.linalg.norm(kron - blocks) / np.linalg.norm(blocks):.0f} % in norm. Loss after 30 steps: "
        f"SGD {best['SGD'][-1]:.3f}, Adam {best['Adam'][-1]:.3f}, K-FAC {best['K-FAC'][-1]:.3f}.",
    )
