"""ConvNeXt block in NumPy."""

from math import erf

import numpy as np

from snippets.convolution.depthwise import depthwise
from snippets.convolution.pointwise import pointwise

gelu = np.vectorize(lambda x: x * (1 + erf(x / 2**0.5)) / 2)


def convnext_block(x, kernels, widen, narrow):
    """x (C, H, W), kernels (C, k, k), widen (e·C, C), narrow (C, e·C): look around, then a small network at every pixel."""
    y = depthwise(x, kernels)
    y = (y - y.mean(0)) / np.sqrt(y.var(0) + 1e-6)  # every pixel over its channels
    y = pointwise(gelu(pointwise(y, widen)), narrow)
    return x + y


def weights(C, k=7, expansion=4):
    """Of the depthwise kernels and of the two matrices."""
    return k * k * C, 2 * expansion * C * C


# %% demo
from snippets.live import bars, choice, demo, heatmap, slider


@demo(
    dim=slider(32, 512, step=32, label="channels"),
    k=choice(3, 5, 7, 9, 11, label="kernel size"),
    side=slider(7, 56, step=7, label="side of the map", unit="pixels"),
)
def show(dim=96, k=7, side=56):
    """Enlarge the kernel: the block sees more, and costs hardly more. Nearly all of it is the two matrices."""
    looks, mixes = weights(dim, k)
    blocks = {
        "ConvNeXt": {"neighbours": looks, "channels": mixes},
        "bottleneck": {"neighbours": 9 * (dim // 4) ** 2, "channels": 2 * dim * (dim // 4)},
        "Swin": {"neighbours": 2 * 49 * dim, "channels": 12 * dim * dim},
    }
    table = {part: {name: round(values[part]) for name, values in blocks.items()} for part in ("neighbours", "channels")}

    rng = np.random.default_rng(0)
    C, n = 4, 15
    arrays = rng.normal(size=(C, k, k)) / k, rng.normal(size=(4 * C, C)), rng.normal(size=(C, 4 * C)) / 4
    x = rng.normal(size=(C, n, n))
    other = x.copy()
    other[0, n // 2, n // 2] += 0.5
    change = np.abs(convnext_block(other, *arrays) - convnext_block(x, *arrays)).sum(0)
    at = np.arange(n) - n // 2
    total = looks + mixes
    return (
        bars(table, y="multiply-adds per pixel", stacked=True,
             caption=f"At {dim} channels. For ConvNeXt and the bottleneck these are also the weights; Swin's attention in 7×7 windows has none for neighbours."),
        heatmap(np.where(change > 1e-12, change, np.nan), rows=at, columns=at, x="column, from the nudged pixel", y="row", value="change of the output",
                caption="One number in the middle is nudged. These outputs notice: a square as large as the kernel."),
        f"{total:,} weights, {looks / total:.1%} of them in the {k}×{k} kernels. On {side}×{side} pixels: {total * side * side / 1e6:,.0f} million multiply-adds.",
    )
