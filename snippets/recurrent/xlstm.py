"""mLSTM in NumPy: a memory that is a matrix."""

import numpy as np


def step(state, q, k, v, log_i, log_f):
    """Adds the pair (k, v) and reads with q. C (K, V) and n (K,) are held divided by e^m."""
    C, n, m = state
    new = max(log_f + m, log_i)  # the larger of kept and written gets weight 1
    keep, write = np.exp(log_f + m - new), np.exp(log_i - new)
    C, n = keep * C + write * np.outer(k, v), keep * n + write * k
    return read(C, n, new, q), (C, n, new)


def read(C, n, m, q):
    return q @ C / max(abs(q @ n), np.exp(-m))  # e^-m is 1 in the scale of the state


def mlstm(q, k, v, log_i, log_f):
    """q and k (T, K), v (T, V), gates (T,) -> what is read (T, V), and the last state."""
    K, V, out = k.shape[1], v.shape[1], []
    state = np.zeros((K, V)), np.zeros(K), -np.inf
    for t in range(len(q)):
        h, state = step(state, q[t], k[t], v[t], log_i[t], log_f[t])
        out.append(h)
    return np.stack(out), state


# %% demo
from snippets.live import bars, demo, heatmap, scatter, slider


@demo(
    pairs=slider(1, 8, label="pairs stored"),
    forget=slider(0.5, 1.0, step=0.01, label="forget gate"),
    last=slider(-5.0, 5.0, step=0.25, label="log of the last pair's input gate"),
    angle=slider(10, 90, step=5, label="angle between neighbouring keys", unit="°"),
)
def show(pairs=3, forget=1.0, last=0.0, angle=60):
    """Two pairs at 90° are read back exactly; set that first. A third key must lie between others and reads a mixture. Lower the forget
    gate: old pairs fade. Raise the last pair's input gate: it drowns the others, whatever came before."""
    rng = np.random.default_rng(2)
    a = np.deg2rad(angle) * np.arange(pairs)
    k = np.column_stack([np.cos(a), np.sin(a)])
    v = rng.uniform(-1, 1, (8, 2))[:pairs]
    log_i = np.zeros(pairs)
    log_i[-1] = last
    _, (C, n, m) = mlstm(k, k, v, log_i, np.full(pairs, np.log(forget)))
    found = np.stack([read(C, n, m, key) for key in k])
    error = np.round(np.linalg.norm(found - v, axis=1), 3)
    names = [str(i + 1) for i in range(pairs)]
    scaled = C * np.exp(min(m, 30.0))
    size = max(1.0, np.abs(scaled).max())
    return (
        scatter({"stored": v, "read": found}, lines={"error": [[a, b] for a, b in zip(v, found)]}, x="first number of a value",
                y="second", equal=True, range_x=(-1.6, 1.6), range_y=(-1.6, 1.6), labels={"stored": names, "read": names},
                caption="Values, and what their own keys read after all pairs were stored."),
        bars(dict(zip(names, error)), x="pair", y="distance of what is read", range_y=(0, 2),
             caption="With keys of two numbers there is room for two pairs; every further one disturbs."),
        heatmap(scaled, x="number of the value", y="number of the key", value="C", signed=True, range=(-size, size),
                caption="The memory: four numbers, however many pairs."),
        f"{pairs} pair{'s' * (pairs > 1)} in a 2 × 2 matrix. The last is off by {error[-1]:.2f}, the first by {error[0]:.2f}, all by "
        f"{error.mean():.2f} on average.",
    )
