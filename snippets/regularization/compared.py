"""The family side by side: what each mask takes away, and what each method leaves of a weight."""

import numpy as np

from snippets.regularization.dropblock import block_mask
from snippets.regularization.dropout import dropout_mask
from snippets.regularization.early_stopping import stopped_shrinkage
from snippets.regularization.l1 import soft_threshold
from snippets.regularization.l2 import shrinkage


def masks(p, shape, rng):
    """For activations (B, C, H, W): 1 where a number is kept."""
    b, c, h, w = shape
    kept = {
        "dropout": dropout_mask(shape, p, rng),
        "spatial dropout": dropout_mask((b, c, 1, 1), p, rng),
        "DropBlock": block_mask(shape, p, 5, rng),
        "stochastic depth": dropout_mask((b, 1, 1, 1), p, rng),
    }
    return {name: np.broadcast_to(m > 0, shape).astype(float) for name, m in kept.items()}


def left(b, lam, p):
    """What is left of a single weight whose least-squares value is b, with one standardized feature."""
    return {
        "L1": soft_threshold(b, lam),
        "L2, decay": b * shrinkage(np.ones(1), lam),
        "stopped": b * stopped_shrinkage(np.ones(1), 0.01, round(100 / lam)),  # lam = 1 / (rate * steps)
        "dropout": b * shrinkage(np.ones(1), p / (1 - p)),
    }


# %% demo
from snippets.live import demo, image, line, slider


@demo(
    p=slider(0.0, 0.8, step=0.05, label="p of the masks"),
    lam=slider(0.05, 3.0, step=0.05, label="lam of the penalties"),
    draw=slider(0, 9, label="which masks"),
)
def show(p=0.3, lam=0.5, draw=7):
    """Above: the same share of numbers is dropped on average, in ever larger pieces. Below: who leaves zeros, and who only makes weights smaller."""
    n, gap = 12, 2
    found = masks(p, (3, 4, n, n), np.random.default_rng(draw))
    rows = []
    for kept in found.values():
        for example in kept:
            cells = [np.pad(0.15 + 0.75 * m, ((0, 1), (0, 1)), constant_values=0.55) for m in example]
            rows.append(np.concatenate(cells, 1))
    panels = [np.concatenate(rows[i : i + 3]) for i in range(0, 12, 3)]
    space = np.ones((panels[0].shape[0], 2 * gap))
    wide = [np.concatenate([panels[i], space, panels[i + 1]], 1) for i in (0, 2)]
    b = np.linspace(-3, 3, 61)
    share = {name: 1 - kept.mean() for name, kept in found.items()}
    return (
        image(np.concatenate([wide[0], np.ones((2 * gap, wide[0].shape[1])), wide[1]]),
              caption="Three examples (rows) with four feature maps each; dark is dropped. Upper left: dropout, upper right: spatial dropout, lower left: DropBlock (5 × 5), lower right: stochastic depth."),
        line({"none": b} | left(b, lam, p), at=b, x="least-squares weight", y="weight that is left", dashed=["none"], range_y=(-3, 3),
             caption="One weight and one feature. L1 takes off the same from all and leaves zeros; the others multiply by a factor below 1."),
        "Dropped in this draw: " + ", ".join(f"{name} {100 * v:.0f} %" for name, v in share.items()) + ".",
    )
