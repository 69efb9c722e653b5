"""Multi-head attention in NumPy."""

import numpy as np

from snippets.attention.scaled_dot_product import scaled_dot_product_attention


def split_heads(x, head_dim):
    """(..., T, H * d) -> (..., H, T, d). Without the swap, heads would attend to heads, and the shapes would still fit."""
    return np.swapaxes(x.reshape(*x.shape[:-1], -1, head_dim), -3, -2)


def merge_heads(x):
    """(..., H, T, d) -> (..., T, H * d)."""
    x = np.swapaxes(x, -3, -2)
    return x.reshape(*x.shape[:-2], -1)


def multi_head_attention(x, wq, wk, wv, wo, head_dim, context=None, mask=None):
    """Queries from x (T, D), keys and values from context (S, C); weights are applied as x @ w.

    Returns the output (T, D) and the weights of every head (H, T, S).
    """
    context = x if context is None else context
    q, k, v = (split_heads(y, head_dim) for y in (x @ wq, context @ wk, context @ wv))
    out, weights = scaled_dot_product_attention(q, k, v, mask)
    return merge_heads(out) @ wo, weights


# %% demo
from snippets.live import bars, choice, demo, heatmap, slider

WORDS = "the cat saw the dog and the bird".split()
T = len(WORDS)
PLACE, WORD = np.eye(T), np.eye(T)[[sorted(set(WORDS)).index(w) for w in WORDS]]


def shifted(by):
    return PLACE[np.clip(np.arange(T) + by, 0, T - 1)]


HEADS = {  # what the query of each token asks for, as a vector of width 8, and what its key offers
    "previous": (shifted(-1), PLACE),
    "same word": (WORD, WORD),
    "first": (PLACE[[0] * T], PLACE),
    "next": (shifted(1), PLACE),
    "itself": (PLACE, PLACE),
    "last": (PLACE[[-1] * T], PLACE),
    "two back": (shifted(-2), PLACE),
    "all": (0 * PLACE, PLACE),
}


def tiles(matrices, per_row=4):
    """Puts matrices of one size side by side, with gaps."""
    rows, columns = matrices[0].shape
    lines = -(-len(matrices) // per_row)
    across = min(per_row, len(matrices))
    out = np.full((lines * (rows + 1) - 1, across * (columns + 1) - 1), np.nan)
    for i, matrix in enumerate(matrices):
        top, left = i // per_row * (rows + 1), i % per_row * (columns + 1)
        out[top : top + rows, left : left + columns] = matrix
    return out


@demo(
    n_heads=choice(1, 2, 4, 8, label="heads"),
    temperature=slider(0.2, 4.0, step=0.1, label="temperature"),
    ablated=choice("none", 1, 2, 3, 4, 5, 6, 7, 8, label="head taken out"),
)
def show(n_heads=4, temperature=1.0, ablated="none"):
    """Each head has its own way of looking. Add heads, blur them with the temperature, take one out."""
    if ablated != "none" and ablated > n_heads:
        raise ValueError(f"there are {n_heads} heads, so head {ablated} cannot be taken out")
    names = list(HEADS)[:n_heads]
    # A token is its word and its place; the projections pick from the two. 12 makes a match stand out at temperature 1.
    x, rng = np.concatenate((WORD, PLACE), 1), np.random.default_rng(0)
    asks = [np.linalg.pinv(x) @ HEADS[name][0] * 12 / temperature for name in names]
    offers = [np.linalg.pinv(x) @ HEADS[name][1] for name in names]
    wv, wo = rng.normal(size=(2 * T, 8 * n_heads)) / 4, rng.normal(size=(8, 8, 2 * T)) / 4
    wo = wo[:n_heads].copy()
    whole, weights = multi_head_attention(x, np.hstack(asks), np.hstack(offers), wv, wo.reshape(-1, 2 * T), 8)
    if ablated != "none":
        wo[ablated - 1] = 0
    left, _ = multi_head_attention(x, np.hstack(asks), np.hstack(offers), wv, wo.reshape(-1, 2 * T), 8)
    values = split_heads(x @ wv, 8)
    size = {f"{i + 1} {name}": round(float(np.linalg.norm(weights[i] @ values[i] @ wo[i], axis=-1).mean()), 3)
            for i, name in enumerate(names)}
    lost = np.linalg.norm(whole - left) / np.linalg.norm(whole)
    return (
        heatmap(
            tiles(list(weights)), x="key, head by head: " + " · ".join(names[:4]) + (" / " if n_heads > 4 else "") + " · ".join(names[4:]),
            y="query", value="weight", range=(0, 1), rows=(WORDS + [""]) * (n_heads // 8) + WORDS,
            columns=[""] * (min(n_heads, 4) * (T + 1) - 1),
            caption=f"Rows are the tokens of “{' '.join(WORDS)}”, and so are the columns of each square. One head alone could "
                    "look in one way only.",
        ),
        bars(
            size, y="mean length of the contribution", range_y=(0, 1.25),
            caption="What each head adds to the output. The output is the sum of these, so a head can be taken out alone.",
        ),
        "All heads take part." if ablated == "none" else
        f"Without head {ablated} ({names[ablated - 1]}) the output changes by {100 * lost:.0f} % of its length.",
    )
