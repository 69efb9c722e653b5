"""All losses of one error, of one logit and of one distance, and their gradients."""

import numpy as np

from snippets.losses.binary_cross_entropy import bce
from snippets.losses.contrastive import contrastive
from snippets.losses.focal import focal
from snippets.losses.huber import huber


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


# %% demo
from snippets.live import choice, demo, slider
from snippets.losses.arena import slope, value_and_gradient


@demo(
    of=choice("an error", "a logit", "a distance", label="losses of"),
    bend=slider(0.2, 3.0, step=0.1, label="δ of Huber, or margin of distances"),
    gamma=slider(0.0, 5.0, step=0.5, label="γ of focal loss"),
)
def show(of="an error", bend=1.0, gamma=2.0):
    """Look at the gradients first: who is pushed, how hard, and who is left alone? Then at logits and at distances."""
    if of == "an error":
        losses, at, ranges = of_error(bend), np.linspace(-2.8, 2.8, 141), ((0, 8), (-6, 6))
        push = {name: slope(loss, np.array([2.5]))[0] for name, loss in losses.items()}
        dashed, what = ("squared",), "An error of 2.5 is pushed back with " + ", ".join(f"{p:.1f} ({name})" for name, p in push.items())
    elif of == "a logit":
        losses, at, ranges = of_logit(gamma), np.linspace(-8, 8, 161), ((0, 8), (-1.3, 0.3))
        push = {name: -slope(loss, np.array([-6.0]))[0] for name, loss in losses.items()}
        dashed, what = ("squared, of p",), "At the logit −6, certain and wrong, the truth is pushed up with " + ", ".join(f"{p:.2f} ({name})" for name, p in push.items())
    else:
        losses, at, ranges = of_distance(bend), np.linspace(0.013, 4, 160), ((0, 6), (-3.2, 4))
        dashed, what = ("to positive", "to negative"), f"With the margin {bend:g} an unlike pair is left alone from the distance {bend:g} on, a negative from {1 + bend:g} on"
    caption = {"an error": "Prediction minus target. The pinball loss is that of the quantile 0.8.",
               "a logit": "Logit of the truth, with two classes; smoothing has ε = 0.1. Dashed: the squared error of the probability, which is flat where it is most wrong.",
               "a distance": "Solid: contrastive loss of a pair. Dashed: triplet loss over one of its distances, the other being 1."}[of]
    return *value_and_gradient(losses, at, {"an error": "error", "a logit": "logit of the truth", "a distance": "distance"}[of], dashed=dashed,
                               range_value=ranges[0], range_gradient=ranges[1], caption=caption), what + "."
