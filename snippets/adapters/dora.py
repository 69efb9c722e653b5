"""DoRA in NumPy: rows of a weight as arrows, with length and direction trained apart."""

import numpy as np


def compose(weight, change, lengths):
    """Rows that point where weight + change points, and are as long as they are told."""
    moved = weight + change
    return lengths[:, None] * moved / np.linalg.norm(moved, axis=1, keepdims=True)


def gradients(weight, A, B, lengths, scaling, target):
    """Of half the squared distance from the target, for A, B and the lengths."""
    moved = weight + scaling * B @ A
    size = np.linalg.norm(moved, axis=1, keepdims=True)
    direction = moved / size
    missing = lengths[:, None] * direction - target
    along = (missing * direction).sum(1, keepdims=True)
    turning = lengths[:, None] / size * (missing - along * direction)  # only what is across the arrow turns it
    return scaling * B.T @ turning, scaling * turning @ A.T, along[:, 0]


def train(weight, target, rank, rate, steps, dora):
    """Arrows after training, and for every step how far lengths and directions have moved (mean over rows)."""
    A = np.random.default_rng(0).normal(size=(rank, weight.shape[1])) * 0.7
    B, lengths = np.zeros((len(weight), rank)), np.linalg.norm(weight, axis=1)
    before, path = lengths.copy(), []
    for _ in range(steps + 1):
        now = compose(weight, B @ A, lengths) if dora else weight + B @ A
        size = np.linalg.norm(now, axis=1)
        turned = np.arccos(np.clip((now * weight).sum(1) / (size * before), -1, 1))
        path.append((np.degrees(turned).mean(), np.abs(size - before).mean()))
        if dora:
            dA, dB, d_lengths = gradients(weight, A, B, lengths, 1.0, target)
            lengths = lengths - rate * d_lengths
        else:
            dA, dB = B.T @ (now - target), (now - target) @ A.T
        A, B = A - rate * dA, B - rate * dB
    return now, np.array(path)


# %% demo
from snippets.live import choice, demo, scatter, slider


@demo(
    needed=choice("direction", "length", "both", label="what the new task needs to change"),
    rank=slider(1, 2, label="rank r"),
    rate=slider(0.01, 0.5, step=0.01, label="learning rate"),
    steps=slider(0, 200, step=5, label="steps"),
)
def show(needed="length", rank=1, rate=0.1, steps=60):
    """Six rows of a weight as arrows. If only lengths must change, rank 1 is not enough for LoRA. Then choose direction."""
    angle = np.radians([10, 70, 130, 190, 250, 310])
    weight = np.stack([np.cos(angle), np.sin(angle)], 1) * np.array([[1.0], [0.8], [1.2], [0.9], [1.1], [1.0]])
    grow = np.array([1.6, 0.6, 1.4, 0.7, 1.5, 0.6]) if needed != "direction" else np.ones(6)
    turn = np.radians(35) if needed != "length" else 0.0
    rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    target = grow[:, None] * weight @ rotation
    lora, path = train(weight, target, rank, rate, steps, dora=False)
    dora, path_d = train(weight, target, rank, rate, steps, dora=True)
    error = {name: np.linalg.norm(x - target) for name, x in (("LoRA", lora), ("DoRA", dora))}
    arrows = [np.array([[0, 0], w]) for w in weight]
    return (
        scatter({"frozen": weight, "needed": target, "LoRA": lora, "DoRA": dora}, lines={"frozen": arrows}, equal=True,
                x="first input", y="second input", range_x=(-2.1, 2.1), range_y=(-2.1, 2.1),
                caption="Tips of the six rows. Each should come to lie on its 'needed' one."),
        scatter({"LoRA": path[-1:], "DoRA": path_d[-1:], "needed": [[np.degrees(turn), (np.abs(grow - 1) * np.linalg.norm(weight, axis=1)).mean()]]},
                lines={"LoRA": [path], "DoRA": [path_d]}, x="turned (degrees, mean)", y="change of length (mean)",
                range_x=(-2, 60), range_y=(-0.02, 0.8),
                caption="The way of training. LoRA's length and direction move together, as both come from one product; DoRA's can go "
                        "separate ways."),
        f"After {steps} steps LoRA is {error['LoRA']:.2f} and DoRA {error['DoRA']:.2f} from what is needed. DoRA has 6 numbers more.",
    )
