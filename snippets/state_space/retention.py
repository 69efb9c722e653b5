"""Retention in NumPy, one head: all at once, step by step, or in chunks."""

import numpy as np

from snippets.state_space.mamba_2 import decay_chunk


def head_decay(h):
    """What head h keeps of its memory at a step."""
    return 1 - 2.0 ** (-5 - np.asarray(h, float))


def decay_mask(T, gamma):
    """D: gamma^(t - s) for s <= t, 0 above the diagonal."""
    gap = np.arange(T)[:, None] - np.arange(T)
    return np.where(gap >= 0, gamma ** np.maximum(gap, 0.0), 0.0)


def parallel(q, k, v, gamma):
    return (q @ k.T * decay_mask(len(q), gamma)) @ v


def recurrent(q, k, v, gamma):
    """The memory S (d, e) fades and takes in k v^T; a query reads it."""
    S, out, seen = np.zeros((k.shape[1], v.shape[1])), [], []
    for q_t, k_t, v_t in zip(q, k, v):
        S = gamma * S + np.outer(k_t, v_t)
        out.append(q_t @ S)
        seen.append(S)
    return np.stack(out), np.stack(seen)


def chunkwise(q, k, v, gamma, chunk):
    S, out = np.zeros((k.shape[1], v.shape[1])), []
    for start in range(0, len(q), chunk):
        now = slice(start, start + chunk)
        o, S = decay_chunk(q[now], k[now], v[now], np.full(len(q[now]), np.log(gamma)), S)
        out.append(o)
    return np.concatenate(out)


# %% demo
from snippets.live import bars, choice, demo, heatmap, line, slider, toggle
from snippets.positional.rope import rope

T = 24


@demo(
    decay=choice("of the head", "by hand", label="decay"),
    head=slider(0, 7, label="head h"),
    gamma=slider(0.5, 1.0, step=0.01, label="gamma by hand"),
    chunk=slider(1, 24, label="chunk size"),
    rotate=toggle(label="rotate queries and keys"),
)
def show(decay="by hand", head=0, gamma=0.85, chunk=6, rotate=True):
    """Lower gamma: the mask shrinks to its diagonal. Choose the decay of a head: over 24 tokens even the most forgetful one hardly fades.
    The chunk size changes nothing in the output, only what is handed on."""
    gamma = float(head_decay(head)) if decay == "of the head" else float(gamma)
    rng = np.random.default_rng(0)
    q, k = rng.normal(size=(2, T, 8)) / 8**0.25
    v = rng.normal(size=(T, 1))
    if rotate:
        q, k = rope(q, np.arange(T)), rope(k, np.arange(T))
    whole, (steps, _), parts = parallel(q, k, v, gamma), recurrent(q, k, v, gamma), chunkwise(q, k, v, gamma, chunk)
    if not (np.allclose(whole, steps) and np.allclose(parts, steps)):
        raise ValueError("the three forms differ: something in the code above has changed")
    t = np.arange(1, T + 1)
    blocks = -(-T // chunk)
    memory = "nothing is ever forgotten" if gamma == 1 else f"the memory lasts about {1 / (1 - gamma):.0f} tokens"
    names = [str(i) for i in t]
    return (
        heatmap(decay_mask(T, gamma), x="token that was written", y="token that reads", value="weight", range=(0, 1), rows=names,
                columns=names, caption=f"The decay mask D for gamma = {gamma:.4g}: what is left of each earlier token, before queries "
                "and keys have a say."),
        line({"parallel": (t, whole[:, 0]), "recurrent": (t, steps[:, 0])}, markers=["recurrent"], range_y=(-8, 8), x="token",
             y="output", caption="The output before norm and gate: from the whole matrix (line) and from a memory of 8 numbers (dots)."),
        bars({str(h): float(1 / (1 - head_decay(h))) for h in range(8)} | {"shown": 1 / (1 - gamma) if gamma < 1 else None}, x="head h",
             y="tokens", log_y=True, caption="Effective memory 1/(1 - gamma) of the eight heads, and of the decay shown (no bar: without end)."),
        f"With gamma = {gamma:.4g}, {memory}; of the first token {100 * gamma ** (T - 1):.1f} % is left at the last. "
        f"{blocks} chunk{'s' if blocks > 1 else ''} hand{'s' if blocks == 1 else ''} on {blocks - 1} memories.",
    )
