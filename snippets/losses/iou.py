"""IoU losses of boxes in NumPy."""

import numpy as np


def overlap(p, t):
    """Intersection, union and enclosing box (its two sides) of boxes x1, y1, x2, y2."""
    shared = np.clip(np.minimum(p[..., 2:], t[..., 2:]) - np.maximum(p[..., :2], t[..., :2]), 0, None).prod(-1)
    union = (p[..., 2:] - p[..., :2]).prod(-1) + (t[..., 2:] - t[..., :2]).prod(-1) - shared
    return shared, union, np.maximum(p[..., 2:], t[..., 2:]) - np.minimum(p[..., :2], t[..., :2])


def aspect(p, t):
    """How different the shapes are, from 0 to 1: angles of the diagonals, compared with a right angle, squared."""
    angle_p, angle_t = (np.arctan2(b[..., 2] - b[..., 0], b[..., 3] - b[..., 1]) for b in (p, t))
    return (2 / np.pi * (angle_p - angle_t)) ** 2


def box_iou_loss(p, t, kind="iou", alpha=None):
    """1 - IoU, plus what the kind adds. alpha: weight of the shape in CIoU, for a gradient that does not see how it came about."""
    shared, union, enclosing = overlap(p, t)
    loss = 1 - shared / union
    if kind == "giou":
        loss = loss + 1 - union / enclosing.prod(-1)
    if kind in ("diou", "ciou"):
        between = (p[..., :2] + p[..., 2:] - t[..., :2] - t[..., 2:]) / 2
        loss = loss + (between**2).sum(-1) / (enclosing**2).sum(-1)
    if kind == "ciou":
        v = aspect(p, t)
        loss = loss + (shape_weight(p, t) if alpha is None else alpha) * v
    return loss


def shape_weight(p, t):
    shared, union, _ = overlap(p, t)
    v = aspect(p, t)
    return v / np.maximum(1 - shared / union + v, 1e-12)


NEIGHBORS = np.concatenate([np.eye(4), -np.eye(4)])


def box_push(p, t, kind="iou", h=1e-4):
    """Gradient by the four numbers of one box, from the values of its eight neighbors."""
    near = p + h * NEIGHBORS
    loss = box_iou_loss(near, t, kind, shape_weight(p, t) if kind == "ciou" else None)
    return (loss[:4] - loss[4:]) / (2 * h)


# %% demo
from snippets.live import choice, demo, line, scatter, slider

KINDS = {"IoU": "iou", "GIoU": "giou", "DIoU": "diou", "CIoU": "ciou"}
TARGET = np.array([-20.0, -15.0, 20.0, 15.0])
STEPS = 120


def descend(start, kind):
    """Gradient descent on center and sides, as detectors predict them, in pixels. Steps shrink with what is missing."""
    path, center, sides = [start], (start[:2] + start[2:]) / 2, start[2:] - start[:2]
    for _ in range(STEPS):
        push, rate = box_push(path[-1], TARGET, kind), 120 * box_iou_loss(path[-1], TARGET)
        center = center - rate * (push[:2] + push[2:])
        sides = np.maximum(1, sides - rate * (push[2:] - push[:2]) / 2)
        path.append(np.concatenate([center - sides / 2, center + sides / 2]))
    return np.array(path)


def outline(box):
    x1, y1, x2, y2 = box
    return np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2], [x1, y1]])


@demo(
    kind=choice(*KINDS, label="loss that is descended"),
    distance=slider(0, 60, label="distance of the start", unit="px"),
    ratio=slider(0.3, 3.0, step=0.1, label="width / height at the start"),
)
def show(kind="GIoU", distance=50, ratio=0.5):
    """Boxes of equal area go to the target by gradient descent. Try all four losses, then start closer."""
    center = np.array([distance, 0.0])
    sides = 30 * np.array([ratio**0.5, ratio**-0.5])
    start = np.r_[center - sides / 2, center + sides / 2]
    paths = {name: descend(start, word) for name, word in KINDS.items()}
    missed = {name: box_iou_loss(path, TARGET) for name, path in paths.items()}
    shown = [0, 8, 16, 40, STEPS]
    path = paths[kind]
    return (
        scatter({word: [(path[i, :2] + path[i, 2:]) / 2] for word, i in (("start", 0), ("end", STEPS))}, x="x (px)", y="y (px)", equal=True,
                range_x=(-40, 90), range_y=(-40, 40), lines={f"box by {kind}": [outline(path[i]) for i in shown], "target": [outline(TARGET)]},
                caption=f"The box at the start and after {', '.join(map(str, shown[1:-1]))} and {STEPS} steps of {kind}. Does it move, or grow first?"),
        line(missed, x="step", y="1 − IoU", range_y=(0, 1), dashed=[name for name in KINDS if name != kind],
             caption="What is missing, for the same start and the same rates. At 1 the boxes do not touch: there plain IoU has no gradient."),
        f"After {STEPS} steps of {kind} the overlap is {1 - missed[kind][-1]:.2f}. The boxes touch first: "
        + ", ".join(f"{name} after {int(np.argmax(row < 1))} steps" if (row < 1).any() else f"{name} never" for name, row in missed.items()) + ".",
    )
