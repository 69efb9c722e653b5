"""Bottleneck block in NumPy, without its normalizations."""

import numpy as np

from snippets.convolution.grouped import grouped_conv2d
from snippets.convolution.pointwise import pointwise


def bottleneck(x, reduce, middle, expand, groups=1):
    """x (C, H, W), reduce (M, C), middle (M, M / groups, 3, 3), expand (C, M) -> (C, H, W)."""
    y = np.maximum(pointwise(x, reduce), 0)
    y = np.maximum(grouped_conv2d(y, middle, groups, padding=1), 0)
    return np.maximum(pointwise(y, expand) + x, 0)


def weights(C, M, groups=1):
    return {"1×1 down": C * M, "3×3": 9 * M * M // groups, "1×1 up": M * C}


def rank_of_middle_taps(C, M, groups):
    """Leave out the ReLUs, and the branch is one 3×3 kernel. The rank, over channels, of its middle tap."""
    rng = np.random.default_rng(0)
    middle = np.zeros((M, M))
    for part in np.split(np.arange(M), groups):
        middle[np.ix_(part, part)] = rng.normal(size=(len(part), len(part)))
    return np.linalg.matrix_rank(rng.normal(size=(C, M)) @ middle @ rng.normal(size=(M, C)))


# %% demo
from snippets.live import bars, choice, demo, heatmap, slider


@demo(
    channels=choice(64, 128, 256, 512, label="channels in and out"),
    reduction=choice(1, 2, 4, 8, label="reduction"),
    groups=choice(1, 2, 4, 8, 32, label="groups of the 3×3"),
    side=slider(7, 56, step=7, label="side of the map", unit="pixels"),
)
def show(channels=256, reduction=4, groups=1, side=14):
    """Halve the middle: the 3×3 costs a quarter. With 32 groups it costs almost nothing, so the middle may be wide again."""
    M = channels // reduction
    if M % groups:
        raise ValueError(f"{groups} groups do not divide the {M} channels of the middle; choose a smaller reduction or fewer groups.")
    parts, basic = weights(channels, M, groups), 2 * 9 * channels**2
    pixels = side * side
    series = {name: {"bottleneck": value, "basic block": 0} for name, value in parts.items()}
    series["two full 3×3"] = {"bottleneck": 0, "basic block": basic}

    # The same at a sixteenth of the channels, without ReLUs: what one tap of the branch can do to 16 channels.
    n, m = 16, max(16 // reduction, 1)
    rng = np.random.default_rng(1)
    product = rng.normal(size=(n, m)) @ rng.normal(size=(m, n))
    sizes = np.linalg.svd(product, compute_uv=False)
    total = sum(parts.values())
    return (
        bars(series, y="weights", stacked=True, caption="Weights of the branch. Multiply-adds per pixel are the same numbers."),
        heatmap(product / sizes[0], x="channel in (of 16)", y="channel out", value="weight", signed=True,
                caption=f"One tap of the branch without ReLUs, with 16 channels: rows are mixtures of {m}. Its rank is {int((sizes > 1e-9).sum())}, that of the middle."),
        f"{total:,} weights, {total / basic:.1%} of the basic block's. Multiply-adds on {side}×{side} pixels: {total * pixels / 1e6:,.1f} million and {basic * pixels / 1e6:,.1f} million.",
    )
