"""All losses of one error, logit, distance, angle, shift or score, and their gradients."""

import numpy as np

from snippets.losses.adversarial import COSTS
from snippets.losses.arcface import turned
from snippets.losses.binary_cross_entropy import bce
from snippets.losses.contrastive import contrastive
from snippets.losses.focal import focal
from snippets.losses.huber import huber
from snippets.losses.iou import box_iou_loss
from snippets.losses.wasserstein import wasserstein_1d


def of_error(delta, quantile=0.8):
    """Prediction minus target."""
    return {
        "squared": lambda e: e**2,
        "absolute": np.abs,
        "Huber": lambda e: huber(e, delta),
        "pinball": lambda e: np.maximum((1 - quantile) * e, -quantile * e),
    }


def of_logit(gamma, epsilon=0.1):
    """Logit of the truth; of two classes, the other has the logit 0."""
    return {
        "cross-entropy": lambda z: bce(z, 1.0),
        "smoothed": lambda z: bce(z, 1 - epsilon / 2),  # half of epsilon goes to the other class
        "focal": lambda z: focal(z, 1.0, gamma),
        "squared, of p": lambda z: 1 / (1 + np.exp(z)) ** 2,
    }


def of_distance(margin, other=1.0):
    """Distance of a pair. For the triplet loss the other of its two distances is fixed."""
    return {
        "like pair": lambda d: contrastive(d, True, margin),
        "unlike pair": lambda d: contrastive(d, False, margin),
        "to positive": lambda d: np.maximum(0, d - other + margin),
        "to negative": lambda d: np.maximum(0, other - d + margin),
    }


def of_angle(s=16.0, cosine=0.35, radians=0.5):
    """Angle between a feature and its class; its one rival is at a right angle to the feature."""
    return {
        "no margin": lambda a: bce(s * np.cos(a), 1.0),
        "CosFace": lambda a: bce(s * (np.cos(a) - cosine), 1.0),
        "ArcFace": lambda a: bce(s * turned(np.cos(a), radians), 1.0),
    }


def of_shift():
    """How far a square of side 1 lies beside its target, an equal one."""
    target = np.array([0.0, 0.0, 1.0, 1.0])

    def box(kind):
        return lambda d: box_iou_loss(target + np.multiply.outer(d, [1.0, 0, 1, 0]), target, kind)

    def dice(d):
        iou = 1 - box("iou")(d)
        return 1 - 2 * iou / (1 + iou)

    columns = np.array([0.125, 0.375, 0.625, 0.875])
    return {"IoU": box("iou"), "GIoU": box("giou"), "DIoU": box("diou"), "Dice": dice,
            "Wasserstein": lambda d: np.array([wasserstein_1d(columns + shift, columns) for shift in d])}


def of_score():
    """What a discriminator answers to a generated sample; the loss of the generator."""
    return {name: COSTS[mode][2] for name, mode in
            {"non-saturating": "nonsaturating", "minimax": "minimax", "hinge, WGAN": "wgan", "least squares": "lsgan"}.items()}


# %% demo
from snippets.live import choice, demo, slider
from snippets.losses.arena import slope, value_and_gradient


@demo(
    of=choice("an error", "a logit", "a distance", "an angle", "a shift", "a score", label="losses of"),
    bend=slider(0.2, 3.0, step=0.1, label="δ of Huber, or margin of distances"),
    gamma=slider(0.0, 5.0, step=0.5, label="γ of focal loss"),
)
def show(of="an error", bend=1.0, gamma=2.0):
    """Look at the gradients first: who is pushed, how hard, and who is left alone? Then at logits, distances, and the others."""

    def pushes(at, sign=1, digits=1):
        return ", ".join(f"{sign * slope(loss, np.array([at]))[0]:.{digits}f} ({name})" for name, loss in losses.items())

    marks = None
    if of == "an error":
        losses, at, ranges, x = of_error(bend), np.linspace(-2.8, 2.8, 141), ((0, 8), (-6, 6)), "error"
        dashed, what = ("squared",), "An error of 2.5 is pushed back with " + pushes(2.5)
        caption = "Prediction minus target. The pinball loss is that of the quantile 0.8."
    elif of == "a logit":
        losses, at, ranges, x = of_logit(gamma), np.linspace(-8, 8, 161), ((0, 8), (-1.3, 0.3)), "logit of the truth"
        dashed, what = ("squared, of p",), "At the logit −6, certain and wrong, the truth is pushed up with " + pushes(-6.0, -1, 2)
        caption = ("Logit of the truth, with two classes; smoothing has ε = 0.1. Dashed: the squared error of the probability, which is flat where it "
                   "is most wrong.")
    elif of == "a distance":
        losses, at, ranges, x = of_distance(bend), np.linspace(0.013, 4, 160), ((0, 6), (-3.2, 4)), "distance"
        dashed, what = ("to positive", "to negative"), (f"With the margin {bend:g} an unlike pair is left alone from the distance {bend:g} on, "
                                                        f"a negative from {1 + bend:g} on")
        caption = "Solid: contrastive loss of a pair. Dashed: triplet loss over one of its distances, the other being 1."
    elif of == "an angle":
        losses, at, ranges, x = of_angle(), np.linspace(0.01, 3.13, 160), ((0, 24), (0, 18)), "angle to the own class (rad)"
        dashed, what = ("no margin",), "1.2 rad (69°) from its class a feature is pulled back with " + pushes(1.2)
        caption = ("A feature turns away from its class; a rival stays at a right angle to it. Scale 16, margins 0.35 in cosine and 0.5 rad. "
                   "Beyond 2.64 rad ArcFace's handicap is a constant.")
    elif of == "a shift":
        losses, at, ranges, x = of_shift(), np.linspace(0.013, 3, 90), ((0, 3), (0, 2.2)), "shift (sides of the square)"
        dashed, what = ("Wasserstein",), "Two sides away, without any overlap, the square is pulled back with " + pushes(2.0, 1, 2)
        marks = {"no overlap": 1.0}
        caption = "A square beside its target. From a shift of 1 on they have nothing in common. IoU and Dice stay at 1 then, however far it is."
    else:
        losses, at, ranges, x = of_score(), np.linspace(-6, 6, 121), ((-6, 10), (-3, 3)), "score of a generated sample"
        dashed, what = ("minimax",), "A sample that is seen through, score −5, is pushed up with " + pushes(-5.0, -1, 2)
        caption = "Left: the discriminator is sure that the sample is not real. Minimax is flat there, where the generator has most to learn."
    return *value_and_gradient(losses, at, x, dashed=dashed, range_value=ranges[0], range_gradient=ranges[1], marks=marks, caption=caption), what + "."
