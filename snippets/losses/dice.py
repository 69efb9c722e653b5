"""Dice loss in NumPy."""

import numpy as np


def dice_loss(p, t, smooth=1.0, square=False):
    """One minus twice the overlap over the sum of the areas. p: soft prediction, t: truth, arrays of one shape."""
    areas = (p**2 + t**2).sum() if square else (p + t).sum()
    return 1 - (2 * (p * t).sum() + smooth) / (areas + smooth)


def dice_push(p, t, smooth=1.0):
    """Derivative by p: one number for all pixels of the object, another one for all of the background."""
    dice, areas = 1 - dice_loss(p, t, smooth), (p + t).sum()
    return (dice - 2 * t) / (areas + smooth)


# %% demo
from snippets.live import demo, image, line, slider

SIDE = 96  # pixels of the picture; the losses are computed for a photograph of 512 x 512
PIXELS = 512 * 512
RADII = np.unique(np.round(np.geomspace(1, 40, 16)))


def discs(radius, offset, softness):
    """Truth and prediction around two centers, on as many pixels as they need; all others are 0 in both."""
    half = int(np.ceil(radius * (1 + softness) + offset / 2)) + 1
    y, x = np.mgrid[-half:half + 1, -half:half + 1]
    truth = (np.hypot(x + offset / 2, y) <= radius) * 1.0
    distance = np.hypot(x - offset / 2, y)
    if softness == 0:
        return truth, (distance <= radius) * 1.0
    return truth, np.clip(0.5 + (radius - distance) / (2 * softness * radius), 0, 1)


def losses(radius, offset, softness):
    t, p = discs(radius, offset, softness)
    dice = dice_loss(p, t, 0.0)
    sure = np.clip(p, 1e-4, 1 - 1e-4)
    cross_entropy = -(t * np.log(sure) + (1 - t) * np.log(1 - sure)).sum() / PIXELS
    return dice, 2 * dice / (1 + dice), cross_entropy  # 1 - IoU follows from Dice


@demo(
    radius=slider(1, 40, label="radius of the object", unit="px"),
    offset=slider(0, 20, label="prediction is off by", unit="px"),
    softness=slider(0.0, 1.0, step=0.05, label="softness of its edge"),
)
def show(radius=6, offset=4, softness=0.05):
    """Shrink the object until the prediction misses it. Which of the losses notices?"""
    curves = np.array([losses(r, offset, softness) for r in RADII])
    dice, iou, cross_entropy = losses(radius, offset, softness)
    t, p = discs(radius, offset, softness)
    object_push, background_push = (-dice_push(p, t, 0.0)[t == value].mean() for value in (1, 0))
    picture = np.full((SIDE, SIDE, 3), 0.93)
    lost = len(t) // 2 - SIDE // 2  # how much of the discs' own square lies outside the picture, or inside
    cut = slice(max(lost, 0), max(lost, 0) + SIDE)
    t, p = t[cut, cut], p[cut, cut]
    at = slice(max(-lost, 0), max(-lost, 0) + len(t))
    for channel, (missed, false, both) in enumerate(((0.0, 0.90, 0.15), (0.45, 0.62, 0.15), (0.70, 0.0, 0.15))):
        picture[at, at, channel] = t * (1 - p) * missed + (1 - t) * p * false + t * p * both + (1 - t) * (1 - p) * 0.93
    return (
        image(picture, caption="Dark: found. Blue: missed. Orange: predicted, but not there. The rest of the photograph, 512 × 512 pixels, is background "
                               "and recognized as such."),
        line({"Dice": (RADII, curves[:, 0]), "IoU": (RADII, curves[:, 1])}, x="radius of the object (px)", y="loss",
             log_x=True, range_y=(0, 1), marks={"now": float(radius)},
             caption=f"Objects of every size, with a prediction that is off by {offset} px. To Dice and IoU it matters how far that is "
                     "beside the object."),
        line({"cross-entropy": (RADII, curves[:, 2])}, x="radius of the object (px)", y="loss", log_x=True, marks={"now": float(radius)},
             caption="Cross-entropy of the same predictions, a mean over the photograph. A small object can be missed altogether, and it hardly moves."),
        f"Dice loss {dice:.3f}, IoU loss {iou:.3f}, cross-entropy {cross_entropy:.5f}. Dice pulls every pixel of the object up with {object_push:.2g} "
        f"and pushes every other one down with {-background_push:.2g}.",
    )
