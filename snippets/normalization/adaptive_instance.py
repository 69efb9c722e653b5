"""Adaptive instance normalization in NumPy."""

import numpy as np

from snippets.normalization.layer import moments, standardize


def adain(content, style, alpha=1.0, eps=1e-5):
    """content (C, H, W) with the channel means and deviations of style (C, Hs, Ws)."""
    mean, variance = moments(style, (1, 2))
    transferred = standardize(content, *moments(content, (1, 2)), eps) * np.sqrt(variance + eps) + mean
    return alpha * transferred + (1 - alpha) * content


# %% demo
from snippets.live import choice, demo, image, slider, table, toggle
from snippets.normalization.instance import shapes


def styles(name, size=36):
    """Pictures whose colours have other means and deviations."""
    y, x = np.mgrid[:size, :size] / size
    wave = np.sin(14 * x + 3 * np.sin(9 * y))
    return np.clip({
        "sunset": np.stack([0.85 - 0.25 * y, 0.45 - 0.3 * y + 0.05 * wave, 0.25 + 0.15 * y]),
        "deep sea": np.stack([0.05 + 0.03 * wave, 0.25 + 0.1 * wave, 0.45 + 0.25 * wave]),
        "snow": np.stack([0.88 + 0.03 * wave, 0.9 + 0.03 * wave, 0.95 + 0.02 * wave]),
        "neon": np.stack([0.5 + 0.45 * np.sign(wave), 0.2 + 0.1 * y, 0.5 - 0.45 * np.sign(wave)]),
    }[name], 0, 1)


@demo(
    alpha=slider(0.0, 1.0, step=0.05, label="alpha"),
    style=choice("sunset", "deep sea", "snow", "neon", label="style image"),
    shuffle=toggle(label="shuffle the pixels of the style"),
)
def show(alpha=1.0, style="sunset", shuffle=False):
    """Shuffle the style's pixels: the result does not change at all. Six numbers of the style are all that is used."""
    content, source = shapes()[:3], styles(style)
    if shuffle:
        flat = source.reshape(3, -1)
        source = flat[:, np.random.default_rng(0).permutation(flat.shape[1])].reshape(source.shape)
    result = adain(content, source, alpha)
    gap = np.ones((3, content.shape[1], 3))
    side_by_side = np.concatenate([content, gap, source, gap, result], 2).transpose(1, 2, 0)
    numbers = {"content": content, "style": source, "result": result}
    rows = [[name, *(f"{p[c].mean():.2f} ±{p[c].std():.2f}" for c in range(3))] for name, p in numbers.items()]
    off = max(np.abs(result.mean((1, 2)) - source.mean((1, 2))).max(), np.abs(result.std((1, 2)) - source.std((1, 2))).max())
    out = np.mean((result < 0) | (result > 1))
    return (
        image(side_by_side, caption="Content, style and result. Shapes come from the first, colour statistics from the second."),
        table(rows, columns=["image", "red", "green", "blue"],
              caption="Mean ± deviation: what is transferred. In a style network the channels are features of a deep layer, and a decoder paints the picture."),
        f"The result's means and deviations are within {off:.3f} of the style's. {out:.1%} of its numbers lie outside 0 to 1 and are clipped in the picture.",
    )
