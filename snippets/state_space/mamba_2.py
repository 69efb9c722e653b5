"""Mamba-2's state space duality in NumPy, one head: a matrix, chunks of it, or a recurrence."""

import numpy as np

from snippets.ops import scan


def segment_sum(x):
    """Entry (t, s): x[s+1] + ... + x[t]; -inf above the diagonal."""
    later = np.tri(len(x), dtype=bool)
    terms = np.where(np.tri(len(x), k=-1, dtype=bool), x[:, None], 0.0)
    return np.where(later, terms.cumsum(0), -np.inf)


def mixing_matrix(log_a, B, C):
    """All weights at once, (T, T): L * (C B^T). Attention without a softmax, under a mask that decays."""
    return np.exp(segment_sum(log_a)) * (C @ B.T)


def recurrence(x, log_a, B, C):
    """The same map with a state S (N, P): S = a S + B x^T, y = C S."""
    writes = B[:, :, None] * x[:, None, :]
    states = scan(np.exp(log_a)[:, None, None] * np.ones_like(writes), writes)
    return np.einsum("tn,tnp->tp", C, states)


def decay_chunk(q, k, v, log_decay, S):
    """A chunk: its own tokens through the matrix, all earlier ones through the state."""
    kept = np.exp(segment_sum(log_decay))
    since = np.exp(log_decay.cumsum())[:, None]
    out = (q @ k.T * kept) @ v + since * (q @ S)
    return out, since[-1] * S + (k * kept[-1][:, None]).T @ v


def ssd(x, log_a, B, C, chunk):
    S, out = np.zeros((B.shape[1], x.shape[1])), []
    for start in range(0, len(x), chunk):
        now = slice(start, start + chunk)
        y, S = decay_chunk(C[now], B[now], x[now], log_a[now], S)
        out.append(y)
    return np.concatenate(out)


# %% demo
from snippets.live import bars, demo, heatmap, line, slider

T, P = 16, 64


def apart(matrix, chunk):
    """The matrix with an empty row and column between chunks."""
    place = np.arange(T) + np.arange(T) // chunk
    wide = np.full((place[-1] + 1, place[-1] + 1), np.nan)
    wide[np.ix_(place, place)] = np.where(np.tri(T, dtype=bool), matrix, np.nan)
    names = [""] * len(wide)
    for t, i in enumerate(place):
        names[i] = str(t + 1)
    return wide, names


def products(T, chunk, N):
    """Multiplications of one head of width P for each way, without those of the mask."""
    inside = T * chunk * (N + P)
    return {"matrix": T * T * (N + P), "chunks": inside + 2 * T * N * P, "steps": 3 * T * N * P}


@demo(
    decay=slider(0.5, 1.0, step=0.01, label="mean decay a"),
    chunk=slider(1, 16, label="chunk size"),
    d_state=slider(1, 8, label="d_state N"),
)
def show(decay=0.85, chunk=4, d_state=2):
    """Move the chunk size: the numbers never change, only who computes them. Blocks on the diagonal are done as a matrix; each block below is
    handed over as one state. Lower the decay: those blocks fade, and with them the past."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(T, 1))
    B, C = rng.normal(size=(2, T, d_state)) / d_state**0.25
    # Tokens differ in how much they forget; at 1 none forgets.
    log_a = np.log(decay) * rng.uniform(0.2, 1.8, T)
    M = mixing_matrix(log_a, B, C)
    wide, names = apart(M, chunk)
    y = recurrence(x, log_a, B, C)[:, 0]
    chunked = ssd(x, log_a, B, C, chunk)[:, 0]
    if not np.allclose(M @ x[:, 0], y) or not np.allclose(chunked, y):
        raise ValueError("the three ways differ: something in the code above has changed")
    length, part, N = 4096, 16 * chunk, 16 * d_state  # the same picture at the size of a real layer
    cost = products(length, part, N)
    blocks = -(-T // chunk)
    return (
        heatmap(wide, x="token that was written", y="token that reads", value="weight", rows=names, columns=names, signed=True,
                range=(-1, 1), caption=f"The matrix that mixes the tokens, cut into chunks of {chunk}. Every block below the diagonal blocks "
                f"is a product of two factors of {d_state} column{'s' if d_state > 1 else ''}: that is why a state of {d_state} × 1 is enough."),
        line({"recurrence": (np.arange(1, T + 1), y), "chunks": (np.arange(1, T + 1), chunked)}, markers=["chunks"], range_y=(-6, 6),
             x="token", y="output", caption="One output, computed step by step (line) and chunk by chunk (dots)."),
        bars({k: v / 1e6 for k, v in cost.items()}, y="multiplications (millions)", log_y=True,
             caption=f"A real head: {length:,} tokens, P = {P}, N = {N}, chunks of {part}. Those of the matrix and of the chunks are matrix "
             "products, which a GPU does many times faster than the single multiplications of the steps."),
        f"{blocks} chunk{'s' if blocks > 1 else ''}: {blocks} small matri{'ces' if blocks > 1 else 'x'} of {chunk} × {chunk} and {blocks - 1} "
        f"states handed on, instead of one of {T} × {T}, or {T - 1} states.",
    )
