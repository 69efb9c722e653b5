"""Sparse weights in NumPy: which to keep, and what storing them takes."""

import numpy as np


def largest(score, n):
    """True for the n largest of the last axis."""
    order = np.argsort(-score, axis=-1, kind="stable")
    mask = np.zeros(score.shape, bool)
    np.put_along_axis(mask, order[..., :n], True, -1)
    return mask


def magnitude_mask(w, sparsity, pattern="unstructured", block=4):
    """Of all masks with this pattern the one that loses the smallest sum of squares."""
    rows, columns = w.shape
    if pattern == "2:4":  # the two larger ones of every four neighbours, whatever the sparsity
        return largest(np.abs(w).reshape(rows, -1, 4), 2).reshape(w.shape)
    if pattern == "block":
        score = (w**2).reshape(rows // block, block, columns // block, block).sum((1, 3))
        kept = largest(score.ravel(), round((1 - sparsity) * score.size)).reshape(score.shape)
        return kept.repeat(block, 0).repeat(block, 1)
    return largest(np.abs(w).ravel(), round((1 - sparsity) * w.size)).reshape(w.shape)


def stored_bytes(mask, layout, value=2, index=4, block=4):
    """Bytes for 16-bit values and 32-bit indices."""
    rows, columns = mask.shape
    if layout == "dense":
        return mask.size * value
    if layout == "COO":  # row and column of each value
        return mask.sum() * (value + 2 * index)
    if layout == "CSR":  # column of each value, and where each row begins
        return mask.sum() * (value + index) + (rows + 1) * index
    if layout == "BSR":  # the same for blocks, each stored whole
        blocks = mask.reshape(rows // block, block, columns // block, block).any((1, 3)).sum()
        return blocks * (block**2 * value + index) + (rows // block + 1) * index
    return mask.size // 2 * value + mask.size // 8  # 2:4, two bits of position per value


# %% demo
from snippets.live import bars, choice, demo, heatmap, line, slider, toggle


@demo(
    sparsity=slider(0.0, 0.95, step=0.05, label="share of weights that are zero"),
    pattern=choice("unstructured", "block", "2:4", label="pattern"),
    low_rank=toggle(label="a weight with structure (rank 2 and noise)"),
)
def show(sparsity=0.7, pattern="unstructured", low_rank=False):
    """Compare the patterns at the same sparsity: the stricter the pattern, the larger the error and the cheaper the storage.
    Below two thirds of zeros CSR takes more room than the dense matrix."""
    rng = np.random.default_rng(0)
    w = rng.normal(size=(16, 16))
    if low_rank:
        w = rng.normal(size=(16, 2)) @ rng.normal(size=(2, 16)) / np.sqrt(2) + 0.2 * w
    x = rng.normal(size=(200, 16))

    def error(mask):
        return np.linalg.norm(x @ (w * ~mask).T) / np.linalg.norm(x @ w.T)

    grid = np.arange(0, 0.96, 0.05)
    errors = {p: (grid, [error(magnitude_mask(w, s, p)) for s in grid]) for p in ("unstructured", "block")}
    shuffled = [error(rng.permutation(magnitude_mask(w, s).ravel()).reshape(w.shape)) for s in grid]
    mask = magnitude_mask(w, sparsity, pattern)
    zeros = 1 - mask.mean()
    half = error(magnitude_mask(w, 0.5, "2:4"))
    sizes = {name: int(stored_bytes(mask, name)) for name in ("dense", "COO", "CSR", "BSR")}
    if pattern == "2:4":
        sizes["2:4"] = int(stored_bytes(mask, "2:4"))
    best = min(sizes, key=sizes.get)
    return (
        heatmap(np.where(mask, w, np.nan), x="input", y="output", value="weight", signed=True, range=(-3, 3),
                caption=f"What is left: {mask.sum()} of 256 weights."),
        line({**errors, "random": (grid, shuffled), "2:4": ([0.5], [half])}, markers=["2:4"], dashed=["random"],
             marks={"now": zeros}, x="share of zeros", y="relative error of the output", range_y=(0, 1.05),
             caption="What the output loses. Dropping the smallest weights is much better than dropping any."),
        bars(sizes, y="bytes", range_y=(0, 2600),
             caption="Storage with 16-bit values and 32-bit indices. For short rows the indices outweigh the values."),
        f"{zeros:.0%} zeros, relative error {error(mask):.2f}. Smallest to store: {best} with {sizes[best]} bytes, against 512 dense."
        + (" In pattern 2:4 the share of zeros is always one half." if pattern == "2:4" else ""),
    )
