"""Global average pooling in NumPy."""

import numpy as np


def global_average(x):
    """x (C, H, W) -> (C,)"""
    return x.mean((-2, -1))


def masked_mean(x, mask):
    """x (T, D), mask (T,): the mean of the tokens that count."""
    return np.where(mask[:, None], x, 0).sum(0) / max(mask.sum(), 1)


def class_activation_map(features, weights):
    """features (C, H, W), weights (C,) of one class: the evidence at every position."""
    return np.tensordot(weights, features, 1)


# %% demo
from snippets.live import bars, demo, heatmap, slider

SIZE = 16


def maps(blob, position):
    """Three feature maps: a blob that moves, a fixed one, and a faint texture. The map closes at its edges."""
    y, x = np.mgrid[:SIZE, :SIZE]
    around = lambda a, b: np.minimum(abs(a - b), SIZE - abs(a - b))
    moving = np.exp(-(around(x, position) ** 2 + around(y, 8) ** 2) / (2 * blob**2))
    fixed = np.exp(-((x - 12) ** 2 + (y - 3) ** 2) / 8)
    return np.stack([moving, fixed, 0.3 * np.random.default_rng(0).random((SIZE, SIZE))])


@demo(
    blob=slider(1.0, 6.0, step=0.5, label="size of the blob", unit="px"),
    position=slider(0, SIZE - 1, label="column of the blob", unit="px"),
    weight=slider(-2.0, 2.0, step=0.1, label="weight of the blob for class A"),
)
def show(blob=4.0, position=5, weight=1.5):
    """Move the blob: the map follows, the logits do not. Make it larger, or turn its weight negative."""
    features = maps(blob, position)
    W = np.array([[weight, -0.5, 0.2], [-0.3, 1.2, 0.2], [0.1, 0.1, 1.0]])
    logits = W @ global_average(features)
    cam = class_activation_map(features, W[0])
    side = np.concatenate([features[0], np.full((SIZE, 1), np.nan), cam], 1)
    return (
        heatmap(side, x="column: blob's map, then activation map", y="row", value="activation", signed=True, range=(-2, 2),
                columns=[*range(SIZE), "", *range(SIZE)],
                caption="Left the feature map with the blob. Right the class activation map: where the evidence for class A is, and with which sign."),
        bars({"A": logits[0], "B": logits[1], "C": logits[2]}, x="class", y="logit", range_y=(-1, 1.2),
             caption="The logits depend on how much of each feature there is, not on where. The bias is 0."),
        f"The activation map of class A averages to {cam.mean():.4f}; the logit is {logits[0]:.4f}. They are the same number, computed in another order.",
    )
