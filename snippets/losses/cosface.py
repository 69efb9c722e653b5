"""CosFace in NumPy, and a circle on which margins can be seen."""

import numpy as np


def unit(v):
    return v / np.linalg.norm(v, axis=-1, keepdims=True)


def cosines(x, classes):
    """Of the angles between every feature and every class direction. Lengths do not count."""
    return unit(x) @ unit(classes).T


def margin_logits(x, classes, label, harder, s=64.0):
    """s times the cosines; that of the truth is made smaller by the function ``harder``."""
    logits = cosines(x, classes)
    rows = np.arange(len(x))
    logits[rows, label] = harder(logits[rows, label])
    return s * logits


def cosface(x, classes, label, s=64.0, m=0.35):
    return margin_logits(x, classes, label, lambda cosine: cosine - m, s)


def least_loss(n_classes, s, m=0.0):
    """What remains when the classes are as far apart as can be (cosines of -1/(C - 1)) and every feature lies on its class."""
    gap = n_classes / (n_classes - 1) - m
    return np.log1p((n_classes - 1) * np.exp(-s * gap))


# %% demo
from snippets.live import choice, demo, line, scatter, slider

CENTERS = np.array([50.0, 110.0, 260.0])  # degrees: two neighbors, and a third class far off
NAMES = ("A", "B", "C")
SPREAD = np.array([-27.0, -17, -9, -3, 2, 7, 13, 22])


def at(degrees, radius=1.0):
    turn = np.radians(degrees)
    return radius * np.stack([np.cos(turn), np.sin(turn)], -1)


def margins_met(degrees, own, harder):
    """Whether the truth still wins with its handicap; and without any."""
    c = cosines(at(np.asarray(degrees, float)), at(CENTERS))
    rival = np.delete(c, own, 1).max(1)
    return harder(c[:, own]) >= rival, c[:, own] >= rival


def circle(harder, name):
    """The directions in which each class is content, eight examples of each, and how many of them are not there yet."""
    ring = np.arange(-179.75, 180, 0.5)
    groups, lines, short = {}, {"border in use": []}, 0
    for own, (center, label) in enumerate(zip(CENTERS, NAMES)):
        content, won = (center + ring[met] for met in margins_met(center + ring, own, harder))
        examples = center + SPREAD * (1.6 if label == "C" else 1.0)
        short += int((~margins_met(examples, own, harder)[0]).sum())
        groups[label] = at(examples)
        lines[label] = [np.concatenate([[(0, 0)], at(content, 1.12), [(0, 0)]])] if len(content) else []
        lines["border in use"].append(np.stack([(0, 0), at(won.max() + 0.25, 1.3)]))
    return scatter(groups, lines=lines, x="first number of a feature", y="second number", range_x=(-1.4, 1.4), range_y=(-1.4, 1.4), equal=True,
                   caption=f"Features of length 1 and three classes, the centers of A and B 60° apart. {name} is content with a feature in its "
                           "class's sector. Between the sectors the loss still pushes, although beside the border the right class wins already."), short


@demo(m=slider(0.0, 0.5, step=0.01, label="m, margin in cosine"), s=slider(1.0, 64.0, step=0.5, label="s, scale"),
      axes=choice("angles", "cosines", label="axes of the second figure"))
def show(m=0.35, s=16.0, axes="angles"):
    """Raise m and watch the gaps: the one between near neighbors opens most. Then see in cosines what was crooked in angles."""
    figure, short = circle(lambda cosine: cosine - m, "CosFace")
    own = np.linspace(0, np.pi, 181)
    like_arcface = 2 * np.arcsin(m / np.sqrt(2))  # the margin in angle that opens the same gap between classes 90 degrees apart

    def inverse(cosine):
        return np.arccos(np.where(np.abs(cosine) <= 1, cosine, np.nan))

    other = {"no margin": own, "content with 1": inverse(np.cos(own) - m), "content with 2": inverse(np.cos(own) + m),
             "ArcFace": np.where(own + like_arcface <= np.pi, own + like_arcface, np.nan)}
    scaled = (np.degrees if axes == "angles" else np.cos)
    plane = line({name: (scaled(own), scaled(y)) for name, y in other.items()}, dashed=["no margin", "ArcFace"],
                 x="angle to class 1 (°)" if axes == "angles" else "cosine to class 1",
                 y="angle to class 2 (°)" if axes == "angles" else "cosine to class 2", range_y=(0, 180) if axes == "angles" else (-1, 1),
                 caption="Two classes. Without a margin one border serves both; with it each has its own, and between them neither is content. "
                         "CosFace's are parallel lines in cosines. ArcFace's, here for class 1, is parallel in angles.")
    scales = np.geomspace(1, 100, 60)
    floor = line({f"{C:,} classes": (scales, least_loss(C, scales, m)) for C in (10, 1000, 100_000)}, x="scale s", y="smallest possible loss",
                 log_x=True, range_y=(0, 15), marks={"s": s},
                 caption="What even a perfect network pays: all features on their class, all classes as far apart as can be. The more classes, "
                         "the larger s has to be.")
    gap = 2 * np.degrees(np.arcsin(m / (2 * np.sin(np.radians(30)))))
    return (figure, plane, floor,
            f"Between A and B the gap is {gap:.0f}°; between classes 90° apart it would be {np.degrees(like_arcface):.0f}°. {short} of 24 examples are "
            f"pushed on. With s = {s:g} a thousand classes pay at least {least_loss(1000, s, m):.2g}.")
