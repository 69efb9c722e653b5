"""Random sparse attention (BigBird) in NumPy: the pattern of blocks, and attention over whole blocks."""

import numpy as np

from snippets.attention.scaled_dot_product import scaled_dot_product_attention


def bigbird_blocks(n, n_random, window, n_global, rng):
    """Which block reads which: neighbours up to ``window`` away, random ones, and global ones (rows and columns)."""
    place = np.arange(n)
    read = np.abs(place[:, None] - place) <= window
    read[:, :n_global] = read[:n_global] = True
    for row in read:
        others = np.flatnonzero(~row)
        row[rng.choice(others, min(n_random, len(others)), replace=False)] = True
    return read


def block_sparse_attention(q, k, v, blocks, size):
    """Queries, keys, values (T, d) in blocks of ``size``: each block of queries meets only the blocks that it reads."""
    out = np.empty_like(v)
    for i, row in enumerate(blocks):
        keys = (np.flatnonzero(row)[:, None] * size + np.arange(size)).ravel()
        mine = slice(i * size, (i + 1) * size)
        out[mine], _ = scaled_dot_product_attention(q[mine], k[keys], v[keys])
    return out


def mean_path(read):
    """Mean number of layers that news takes from one token to another."""
    reached, steps, layer = np.eye(len(read), dtype=bool), np.zeros(read.shape), 0
    while not reached.all():
        layer, before = layer + 1, reached
        reached = before.astype(np.float32) @ read.astype(np.float32) > 0
        if (reached == before).all():
            return np.inf
        steps[reached & ~before] = layer
    return steps.sum() / (steps.size - len(steps))


# %% demo
from snippets.live import demo, graph, heatmap, line, slider


@demo(
    n_random=slider(0, 4, label="random links of a token"),
    window=slider(0, 4, label="neighbours on each side"),
    n_global=slider(0, 2, label="global tokens"),
    T=slider(16, 64, step=4, label="tokens"),
)
def show(n_random=1, window=1, n_global=0, T=32):
    """Begin with neighbours only, add one random link a token, then one global token, and watch the paths shrink."""

    def pattern(n):
        return bigbird_blocks(n, n_random, window, n_global, np.random.default_rng(0))

    read, sizes = pattern(T), [16, 24, 32, 48, 64, 96]
    paths = {n: mean_path(pattern(n)) for n in (*sizes, T)}
    steps = paths[T]
    angle = 2 * np.pi * np.arange(T) / T
    links = [(str(i), str(j)) for i in range(T) for j in range(i) if read[i, j] or read[j, i]]
    return (
        graph(
            {str(i): "global" if i < n_global else "token" for i in range(T)}, links if T <= 32 else links[:: 2 + T // 48],
            positions={str(i): (np.sin(angle[i]), np.cos(angle[i])) for i in range(T)},
            caption="Who reads whom, the tokens on a circle. Neighbours make the rim, random links the shortcuts through it"
                    + ("." if T <= 32 else "; a part of the links is drawn."),
        ),
        heatmap(
            read * 1.0, x="key", y="query", value="read", range=(0, 1),
            caption=f"The same as a mask: {int(read.sum())} of {T * T} scores. In a model each cell is a block of 64 × 64 tokens.",
        ),
        line(
            {"this pattern": (sizes, [paths[n] for n in sizes]), "neighbours only": (sizes, [(n + 1) / 3 / max(window, 1) for n in sizes])},
            x="tokens", y="mean path (layers)", range_y=(0, 12), dashed=["neighbours only"],
            caption="With neighbours only, paths grow with the length; a few random links make that a logarithm; a global token "
                    "makes it at most 2.",
        ),
        f"From token to token in {steps:.2f} layers on average, reading {read.mean() * T:.1f} keys a query." if np.isfinite(steps)
        else "Some tokens never hear of each other, in however many layers.",
    )
