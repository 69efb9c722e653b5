"""Dilated convolution in NumPy."""

import numpy as np


def dilated_conv2d(x, w, rate):
    """x (C, H, W), w (O, C, k, k) -> (O, H, W): tap (i, j) looks rate·i down and rate·j to the right."""
    H, W = x.shape[1:]
    k = w.shape[-1]
    reach = rate * (k - 1)
    before = reach // 2
    padded = np.pad(x, ((0, 0), (before, reach - before), (before, reach - before)))
    y = np.zeros((len(w), H, W))
    for i in range(k):
        for j in range(k):
            shifted = padded[:, i * rate : i * rate + H, j * rate : j * rate + W]
            y += np.tensordot(w[:, :, i, j], shifted, 1)
    return y


def paths(k, rates):
    """In how many ways each pixel of the receptive field reaches one output, along one axis."""
    count = np.ones(1)
    for rate in rates:
        taps = np.zeros(rate * (k - 1) + 1)
        taps[::rate] = 1
        count = np.convolve(count, taps)
    return count


# %% demo
from snippets.live import choice, demo, heatmap, scatter, slider


@demo(
    r1=slider(1, 8, label="rate of layer 1"),
    r2=slider(0, 8, label="rate of layer 2 (0: none)"),
    r3=slider(0, 8, label="rate of layer 3 (0: none)"),
    r4=slider(0, 8, label="rate of layer 4 (0: none)"),
    k=choice(2, 3, 5, label="kernel size"),
)
def show(r1=2, r2=2, r3=2, r4=0, k=3):
    """Three layers at rate 2 see only every other pixel. Try 1, 2, 5; then 1, 3, 8 and, one tap spacing less, 1, 2, 8."""
    rates = [r for r in (r1, r2, r3, r4) if r]
    count = paths(k, rates)
    size, seen = len(count), np.count_nonzero(count)
    first = -sum(r * (k - 1) // 2 for r in rates)  # the field's left edge, seen from the output pixel

    # From the output down: which positions of each layer feed it, and through which taps.
    level, segments, nodes = {0}, [], [(0, len(rates))]
    for depth, rate in zip(range(len(rates) - 1, -1, -1), rates[::-1]):
        before = rate * (k - 1) // 2
        taps = [(p, p + i * rate - before) for p in sorted(level) for i in range(k)]
        level = {q for _, q in taps}
        segments += [[(p, depth + 1), (q, depth)] for p, q in taps]
        nodes += [(q, depth) for q in sorted(level) if depth]
    at = np.arange(size) + first
    groups = {"reads": [(p, 0) for p in at[count > 0]], "layers": nodes}
    if seen < size:
        groups["never reads"] = [(p, 0) for p in at[count == 0]]

    window = min(size, 31)
    start = (size - window) // 2
    middle = count[start : start + window]
    field = np.outer(middle, middle)
    names = at[start : start + window]
    cropped = f" The middle {window}×{window} of {size}×{size}." if window < size else ""
    return (
        scatter(groups, lines={"taps": segments}, x="position, seen from the output (pixels)", y="layer (0 is the input)",
                caption="One row of the image: every tap that feeds the output pixel at the top."),
        heatmap(np.where(field > 0, field, np.nan), rows=names, columns=names, value="paths to the output",
                x="column, seen from the output", y="row, seen from the output",
                caption="Which pixels one output depends on. Empty cells are holes: they never count." + cropped),
        f"The receptive field has {size}×{size} = {size**2:,} pixels; {seen**2:,} of them count ({seen**2 / size**2:.0%}). "
        f"It takes {len(rates) * k * k} weights per pair of channels; one dense kernel of this size takes {size**2:,}.",
    )
