"""Attention pooling in NumPy, with its gradient."""

import numpy as np

from snippets.attention.scaled_dot_product import masked_softmax


def attention_pool(x, V, c, w, mask=None):
    """x (..., T, D): scores w·tanh(V x + c), their softmax as weights, and the weighted mean of x."""
    weights = masked_softmax(np.tanh(x @ V.T + c) @ w, mask)
    return (weights[..., None] * x).sum(-2), weights


def forward(x, theta, pool):
    """A classifier of bags: features, pooled to one vector z, and a logit u·z + b."""
    V, c, w, u, b = theta
    h = np.tanh(x @ V.T + c)  # bags, instances, hidden
    if pool == "attention":
        a = masked_softmax(h @ w)
    elif pool == "mean":
        a = np.full(h.shape[:-1], 1 / h.shape[-2])
    else:  # per feature
        a = h == h.max(-2, keepdims=True)
    z = (a[..., None] * h).sum(-2) if a.ndim == 2 else h.max(-2)
    return h, a, z, z @ u + b


def gradient(x, y, theta, pool):
    """Mean loss -log p(y) of the bags, and its gradient, by hand."""
    V, c, w, u, b = theta
    h, a, z, logit = forward(x, theta, pool)
    loss = np.mean(np.logaddexp(0, logit) - y * logit)
    dlogit = (1 / (1 + np.exp(-logit)) - y) / len(y)
    dz = dlogit[:, None] * u
    if pool == "max":
        dh, dw = a * dz[:, None], np.zeros_like(w)
    else:
        dh, dw = a[..., None] * dz[:, None], np.zeros_like(w)
        if pool == "attention":  # the softmax: an element gains if it is above the mean it is part of
            ds = a * ((h - z[:, None]) @ dz[..., None])[..., 0]
            dh = dh + ds[..., None] * w
            dw = (ds[..., None] * h).sum((0, 1))
    dpre = dh * (1 - h**2)
    return loss, (dpre.reshape(-1, len(c)).T @ x.reshape(-1, x.shape[-1]), dpre.sum((0, 1)), dw, z.T @ dlogit, dlogit.sum())


# %% demo
from snippets.live import choice, demo, line, scatter, slider

BAGS, SIZE, CENTRE, RADIUS = 40, 20, np.array([1.3, 1.3]), 0.6


def data(positives, seed):
    """Half of the bags hold `positives` instances in a disc; no other instance lies in it."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(BAGS, SIZE, 2))
    inside = np.linalg.norm(x - CENTRE, axis=-1) < RADIUS
    x[inside] -= 2.6  # moved away
    y = (np.arange(BAGS) % 2).astype(float)
    angle, r = rng.uniform(0, 2 * np.pi, (BAGS, positives)), RADIUS * np.sqrt(rng.uniform(0, 1, (BAGS, positives)))
    spots = CENTRE + r[..., None] * np.stack([np.cos(angle), np.sin(angle)], -1)
    x[y == 1, :positives] = spots[y == 1]
    return x, y


def train(x, y, hidden, pool, steps=200, lr=0.05):
    """Adam on all bags at once."""
    rng = np.random.default_rng(3)
    theta = [rng.normal(size=(hidden, 2)), rng.normal(size=hidden), 0.3 * rng.normal(size=hidden), 0.3 * rng.normal(size=hidden), np.zeros(())]
    m, v, losses = [0 * t for t in theta], [0 * t for t in theta], []
    for t in range(1, steps + 1):
        loss, grads = gradient(x, y, theta, pool)
        losses.append(loss)
        for i, g in enumerate(grads):
            m[i] = 0.9 * m[i] + 0.1 * g
            v[i] = 0.99 * v[i] + 0.01 * g**2
            theta[i] = theta[i] - lr * (m[i] / (1 - 0.9**t)) / (np.sqrt(v[i] / (1 - 0.99**t)) + 1e-8)
    return theta, losses


@demo(
    positives=slider(1, 5, label="marked instances in a positive bag"),
    hidden=slider(2, 16, label="hidden units"),
    pool=choice("attention", "max", "mean", label="pooling"),
)
def show(positives=1, hidden=8, pool="attention"):
    """Bags are labelled, instances are not. With one marked instance in twenty, the mean drowns it. Watch where attention puts its weight."""
    x, y = data(positives, 0)
    test_x, test_y = data(positives, 9)
    losses, right = {}, {}
    for name in dict.fromkeys((pool, "mean")):
        theta, losses[name] = train(x, y, hidden, name)
        right[name] = np.mean((forward(test_x, theta, name)[3] > 0) == test_y)
        if name == pool:
            weights = forward(x, theta, name)[1]
    if weights.ndim == 3:  # a maximum per feature: how often an instance holds one
        weights = weights.mean(-1)
    instances, w = x[y == 1].reshape(-1, 2), weights[y == 1].ravel()
    groups = {"weight over 0.2": instances[w > 0.2], "0.02 to 0.2": instances[(w > 0.02) & (w <= 0.2)], "less": instances[w <= 0.02]}
    turn = np.linspace(0, 2 * np.pi, 49)
    on_marked = weights[y == 1][:, :positives].sum(1).mean()
    return (
        scatter({n: g for n, g in groups.items() if len(g)}, lines={"region": [CENTRE + RADIUS * np.stack([np.cos(turn), np.sin(turn)], 1)]},
                x="first feature", y="second feature", equal=True, range_x=(-4, 4), range_y=(-4, 4),
                caption="All instances of the positive bags, by the weight they get. A bag is positive if it has an instance in the circle; nobody told the model where it is."),
        line(losses, x="step", y="loss", range_y=(0, 0.8), dashed=[n for n in losses if n != pool], caption="Training loss of the chosen pooling, and of the mean. Level ln 2 = 0.69 is guessing."),
        f"{pool}: {on_marked:.0%} of a positive bag's weight is on its {positives} marked instance{'s' * (positives > 1)} ({positives / SIZE:.0%} of them), "
        f"and {right[pool]:.0%} of unseen bags are classified correctly.",
    )
