"""Sparse mixture of experts in NumPy."""

import numpy as np

from snippets.ops import softmax


def route(p, top_k, normalize=True):
    """Probabilities p (N, E) -> which experts each token uses (N, K), best first, and with which weights (N, K)."""
    chosen = np.argsort(-p, axis=1, kind="stable")[:, :top_k]
    gates = np.take_along_axis(p, chosen, 1)
    return chosen, gates / gates.sum(1, keepdims=True) if normalize else gates


def mixture_of_experts(x, router, experts, top_k=2, capacity=None, normalize=True):
    """x (N, D), router (E, D), E functions of rows -> (N, D') and how many tokens asked for each expert."""
    chosen, gates = route(softmax(x @ router.T), top_k, normalize)
    y, asked = np.zeros((len(x), experts[0](x[:1]).shape[1])), []
    for e, expert in enumerate(experts):
        rank, token = np.nonzero(chosen.T == e)  # first choices before second ones, early tokens before late ones
        asked.append(len(token))
        rank, token = rank[:capacity], token[:capacity]  # the others do without this expert
        y[token] += gates[token, rank, None] * expert(x[token])
    return y, asked


# %% demo
import math

from snippets.live import bars, choice, demo, line, scatter, slider, toggle
from snippets.losses.load_balancing import balance_push

BLOBS = np.array([[-1.2, -1.2], [-1.2, 1.2], [1.2, -1.2], [1.2, 1.2]])
SLOPES = np.array([[2.0, 1.0, 1.0], [-2.0, 1.0, -1.0], [1.0, -2.0, -1.0], [-1.0, -1.0, 1.0]])


def train(x, target, n_experts, top_k, coef, capacity, normalize, steps=200, rate=0.3):
    """Gradient descent by hand on linear experts w (E, 3) and a linear router r (E, 3); x (N, 3) ends in a one."""
    rng = np.random.default_rng(6)
    w, r = rng.normal(size=(2, n_experts, 3)) * 0.3
    n, rows, losses = len(x), np.arange(len(x))[:, None], []
    for _ in range(steps):
        p = softmax(x @ r.T)
        chosen, gates = route(p, top_k, normalize)
        g = np.zeros_like(p)
        g[rows, chosen] = gates
        picked = chosen.T.ravel()  # all first choices, then all second ones
        onehot = picked[:, None] == np.arange(n_experts)
        late = np.cumsum(onehot, 0)[np.arange(len(picked)), picked] > capacity
        kept = np.zeros_like(p)
        kept[rows, chosen] = ~late.reshape(top_k, n).T
        out = x @ w.T
        error = (g * kept * out).sum(1) - target
        losses.append((error**2).mean())

        d_y = 2 * error[:, None] / n
        d_gate = d_y * kept * out
        inner = g if normalize else p
        d_logits = inner * ((d_gate * (g > 0)) - (g * d_gate).sum(1, keepdims=True))
        d_logits += balance_push(p, onehot.mean(0), coef)
        w -= rate * (d_y * g * kept).T @ x
        r -= rate * d_logits.T @ x
    return w, r, losses


@demo(
    n_experts=slider(2, 8, label="experts"),
    top_k=slider(1, 3, label="experts per point"),
    coef=slider(0.0, 0.1, step=0.01, label="balance coefficient"),
    capacity_factor=slider(0.5, 2.0, step=0.25, label="capacity factor"),
    normalize=toggle(label="a point's weights sum to 1"),
)
def show(n_experts=4, top_k=1, coef=0.0, capacity_factor=2.0, normalize=False):
    """Four clouds, each with its own linear rule, and two experts that do all the work. Raise the balance to 0.05; then
    lower the capacity. Back at balance 0, let the weights sum to 1: with one expert per point the router stops learning."""
    if top_k > n_experts:
        raise ValueError(f"A point cannot use {top_k} experts when there are {n_experts}.")
    rng = np.random.default_rng(0)
    cloud = np.arange(160) % 4
    x = np.column_stack([BLOBS[cloud] + 0.4 * rng.normal(size=(160, 2)), np.ones(160)])
    target = (SLOPES[cloud] * x).sum(1)
    capacity = math.ceil(capacity_factor * 160 * top_k / n_experts)
    w, r, losses = train(x, target, n_experts, top_k, coef, capacity, normalize)

    experts = [lambda rows, we=we: rows @ we[:, None] for we in w]
    y, asked = mixture_of_experts(x, r, experts, top_k, capacity, normalize)
    first = (x @ r.T).argmax(1)
    dropped = sum(max(0, a - capacity) for a in asked)
    return (
        scatter({f"expert {e + 1}": x[first == e, :2] for e in range(n_experts) if (first == e).any()}, x="x₁", y="x₂",
                caption="Each point in the colour of its first choice.", equal=True),
        bars({f"{e + 1}": a for e, a in enumerate(asked)}, x="expert", y="points that ask for it",
             levels={"capacity": capacity}, caption="Work per expert. What stands above the line is left out."),
        line({"squared error": losses}, x="step", y="mean squared error", log_y=True,
             caption="Training, capacity included: a point that finds no room gets no answer from that expert."),
        f"Final error {np.mean((y[:, 0] - target) ** 2):.3f}. The busiest expert has {max(asked) / sum(asked):.0%} of "
        f"the work, {sum(a == 0 for a in asked)} of {n_experts} none; {dropped} of {160 * top_k} assignments were dropped.",
    )
