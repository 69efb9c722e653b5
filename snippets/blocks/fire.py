"""Fire module in NumPy."""

import numpy as np

from snippets.convolution.conv2d import conv2d
from snippets.convolution.pointwise import pointwise


def fire(x, squeeze, expand1, expand3):
    """x (C, H, W), squeeze (s, C), expand1 (e1, s), expand3 (e3, s, 3, 3) -> (e1 + e3, H, W)."""
    narrow = np.maximum(pointwise(x, squeeze), 0)
    return np.maximum(np.concatenate([pointwise(narrow, expand1), conv2d(narrow, expand3, padding=1)]), 0)


def weights(C, s, e1, e3):
    """Of the squeeze layer, the 1×1 and the 3×3 half."""
    return C * s, s * e1, 9 * s * e3


# %% demo
from snippets.live import bars, demo, line, slider


@demo(
    channels=slider(16, 512, step=16, label="channels in and out"),
    ratio=slider(0.05, 1.0, step=0.05, label="squeeze ratio"),
    share=slider(0.0, 1.0, step=0.1, label="share of 3×3 filters"),
)
def show(channels=256, ratio=0.15, share=0.5):
    """Lower the squeeze ratio: everything behind it gets cheaper at once. Then take 3×3 filters away."""
    def parts(r):
        s, e3 = max(1, round(r * channels)), round(share * channels)
        return weights(channels, s, channels - e3, e3)

    squeeze, one, three = parts(ratio)
    total, plain = squeeze + one + three, 9 * channels**2
    ratios = np.linspace(0.05, 1, 39)
    curve = [sum(parts(r)) / plain for r in ratios]
    return (
        bars({"squeeze 1×1": {"fire": squeeze, "plain 3×3": 0}, "expand 1×1": {"fire": one, "plain 3×3": 0},
              "expand 3×3": {"fire": three, "plain 3×3": 0}, "plain": {"fire": 0, "plain 3×3": plain}},
             y="weights", stacked=True, caption="Weights; multiply-adds per pixel are the same numbers."),
        line({"fire": (ratios, curve)}, x="squeeze ratio", y="weights, relative to a plain 3×3 layer", marks={"chosen": ratio}, levels={"plain": 1}, range_y=(0, 1.3),
             caption="A straight line: each squeezed channel costs the same. SqueezeNet takes 0.125."),
        f"{max(1, round(ratio * channels))} channels in between; {total:,} weights instead of {plain:,}: {plain / total:.1f} times fewer.",
    )
