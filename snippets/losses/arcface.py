"""ArcFace in NumPy."""

import numpy as np

from snippets.losses.cosface import margin_logits


def turned(cosine, m):
    """The cosine of an angle that is larger by m, without taking an arc cosine.

    Beyond 180 degrees it would rise again: there the handicap is a constant.
    """
    sine = np.sqrt(np.maximum(0, 1 - cosine**2))
    return np.where(cosine > -np.cos(m), cosine * np.cos(m) - sine * np.sin(m), cosine - m * np.sin(m))


def arcface(x, classes, label, s=64.0, m=0.5):
    """Logits: s times the cosines, with the angle to the truth made larger by m radians."""
    return margin_logits(x, classes, label, lambda cosine: turned(cosine, m), s)


# %% demo
from snippets.live import choice, demo, line, slider
from snippets.losses.cosface import at, circle

WAYS = ("softmax", "CosFace", "ArcFace")


@demo(m=slider(0.0, 1.0, step=0.05, label="m, margin", unit="rad"), s=slider(1.0, 64.0, step=0.5, label="s, scale"),
      way=choice(*WAYS, label="margin"))
def show(m=0.5, s=16.0, way="ArcFace"):
    """Change the margin's kind and watch the gaps between the sectors: which is as wide for near classes as for far ones?"""
    in_cosine = np.sqrt(2) * np.sin(m / 2)  # the margin of CosFace that is equal to m between classes 90 degrees apart
    harder = {"softmax": lambda c: c, "CosFace": lambda c: c - in_cosine, "ArcFace": lambda c: turned(c, m)}
    figure, short = circle(harder[way], way)
    angle = np.linspace(0, np.pi, 361)
    beyond = np.where(angle > np.pi - m, np.cos(angle + m), np.nan)
    curves = {name: harder[name](np.cos(angle)) for name in WAYS}
    others = [name for name in WAYS if name != way]

    # A feature on its way from the center of A to that of B, 60 degrees off.
    way_over = np.linspace(0, 60, 121)
    features, classes = at(50 + way_over), at(np.array([50.0, 110.0, 260.0]))
    push = {}
    for name in WAYS:
        z = margin_logits(features, classes, np.zeros(121, int), harder[name], s)
        e = np.exp(z - z.max(1, keepdims=True))
        push[name] = 1 - e[:, 0] / e.sum(1)
    border = {"ArcFace": 30 - np.degrees(m) / 2, "softmax": 30.0, "CosFace": 30 - np.degrees(np.arcsin(in_cosine))}[way]
    room = f"up to {border:.0f}° from its center" if border > 0 else "nowhere: the margin is wider than its neighbor is away"
    return (
        figure,
        line({**{name: (np.degrees(angle), y) for name, y in curves.items()}, "unmended": (np.degrees(angle), beyond)}, dashed=[*others, "unmended"],
             x="angle to the own class (°)", y="logit of the truth / s", range_y=(-2, 1), marks={"180° − m": 180 - np.degrees(m)},
             caption=f"What the truth is given. CosFace shifts the curve down (by {in_cosine:.2f}, equal to {m:g} rad between classes at right "
                     "angles), ArcFace to the left. Beyond 180° − m the shifted cosine would rise again, "
                     "and reward the worst features; the mended curve drops there instead."),
        line(push, at=way_over, x="angle from the center of A toward B (°)", y="push on the truth, 1 − p", dashed=others, range_y=(0, 1),
             caption="How hard a feature of A is pushed. The margin moves the step to the left, s makes it steep. With a small s even a feature on its "
                     "center is pushed."),
        f"{way}: class A is content {room}. {short} of 24 examples are pushed on.",
    )
