"""The gated delta rule in NumPy: a memory that replaces what it holds for a key."""

import numpy as np

from snippets.state_space.mamba_2 import decay_chunk, segment_sum


def delta_rule(q, k, v, beta, alpha):
    """One step after the other. S (d, e) maps keys to values; all of it fades by alpha first."""
    S, out = np.zeros((k.shape[1], v.shape[1])), []
    for q_t, k_t, v_t, b, a in zip(q, k, v, beta, alpha):
        S = a * S
        S = S + b * np.outer(k_t, v_t - k_t @ S)  # towards v_t, by what is missing
        out.append(q_t @ S)
    return np.stack(out), S


def additive(q, k, v, beta, alpha):
    """Linear attention with decay: what is there already is not looked at."""
    S, out = np.zeros((k.shape[1], v.shape[1])), []
    for q_t, k_t, v_t, b, a in zip(q, k, v, beta, alpha):
        S = a * S + b * np.outer(k_t, v_t)
        out.append(q_t @ S)
    return np.stack(out), S


def in_chunks(q, k, v, beta, alpha, chunk):
    """A triangular system says what each step really adds; the rest is linear attention with decay."""
    S, out = np.zeros((k.shape[1], v.shape[1])), []
    for start in range(0, len(q), chunk):
        now = slice(start, start + chunk)
        log_a, b = np.log(alpha[now]), beta[now][:, None]
        before = np.tril(b * (k[now] @ k[now].T) * np.exp(segment_sum(log_a)), -1)
        target = b * (v[now] - np.exp(log_a.cumsum())[:, None] * (k[now] @ S))
        u = np.linalg.solve(np.eye(len(target)) + before, target)
        o, S = decay_chunk(q[now], k[now], u, log_a, S)
        out.append(o)
    return np.concatenate(out), S


# %% demo
from snippets.live import bars, choice, demo, heatmap, slider


def keys(n, d, overlap):
    """n keys of length 1 in d dimensions: at right angles while there is room, then mixed with a common direction."""
    rng = np.random.default_rng(1)
    raw = np.vstack([np.eye(d), rng.normal(size=(12, d))])[:n]
    raw /= np.linalg.norm(raw, axis=1, keepdims=True)
    mixed = (1 - overlap) * raw + overlap * np.full(d, d**-0.5)
    return mixed / np.linalg.norm(mixed, axis=1, keepdims=True)


@demo(
    rule=choice("delta", "additive", label="memory shown"),
    pairs=slider(1, 12, label="pairs written"),
    d=choice(2, 4, 8, label="width of a key"),
    overlap=slider(0.0, 1.0, step=0.05, label="overlap of the keys"),
    beta=slider(0.0, 1.0, step=0.05, label="beta"),
    alpha=slider(0.8, 1.0, step=0.01, label="alpha"),
)
def show(rule="delta", pairs=6, d=8, overlap=0.15, beta=1.0, alpha=1.0):
    """All pairs are written, then the first key once more with a new value. Raise the overlap: adding mixes everything up. Raise the pairs
    above the width: no memory can hold them all, and the delta rule keeps the latest."""
    rng = np.random.default_rng(0)
    values = rng.choice([-1.0, 1.0], size=(pairs, 6))
    k = keys(pairs, d, overlap)
    written_k, written_v = np.vstack([k, k[:1]]), np.vstack([values, -values[:1]])  # the new value is the opposite
    wanted = np.vstack([-values[:1], values[1:]])
    rates = np.full(pairs + 1, float(beta)), np.full(pairs + 1, float(alpha))
    memories = {"delta": delta_rule(written_k, written_k, written_v, *rates)[1], "additive": additive(written_k, written_k, written_v, *rates)[1]}
    error = {name: np.sqrt(((k @ S - wanted) ** 2).mean(1)) for name, S in memories.items()}
    names = ["1 new"] + [str(i + 1) for i in range(1, pairs)]
    S = memories[rule]
    return (
        bars({name: dict(zip(names, np.round(np.minimum(e, 2.0), 6))) for name, e in error.items()}, x="pair", y="error of what is read", range_y=(0, 2),
             levels={"empty memory": 1.0}, caption="Each key is read once at the end; values are 1 and -1, and the error is a root mean "
             "square (drawn up to 2). The first pair was rewritten: its right answer is the new value."),
        heatmap(np.clip(S, -3, 3), x="number of the value", y="number of the key", value="memory S", signed=True, range=(-3, 3),
                caption=f"The memory of the {rule} rule after the last write: {d} × 6 numbers, whatever is written."),
        f"Rewritten pair: error {error['delta'][0]:.2f} with the delta rule, {error['additive'][0]:.2f} by adding. All {pairs} pairs on "
        f"average: {error['delta'].mean():.2f} and {error['additive'].mean():.2f}.",
    )
