"""Weight normalization in NumPy."""

import numpy as np


def weight(g, v):
    """Rows of length g in the direction of v: w = g v / |v|."""
    return g * v / np.linalg.norm(v, axis=-1, keepdims=True)


def gradients(g, v, grad_w):
    """What reaches g and v of the gradient of w: its part along v, and its part across v."""
    length = np.linalg.norm(v, axis=-1, keepdims=True)
    along = (grad_w * v).sum(-1, keepdims=True) / length
    return along, g / length * (grad_w - along * v / length)


# %% demo
from snippets.live import demo, line, scatter, slider

STEPS, TARGET, START = 40, np.array([[2.0, 1.0]]), np.array([[-0.8, 1.6]])


@demo(
    lr=slider(0.01, 1.0, log=True, label="learning rate"),
    length=slider(0.2, 5.0, log=True, label="initial |v|"),
    condition=slider(1.0, 20.0, step=0.5, label="condition number"),
)
def show(lr=0.6, length=0.5, condition=9.0):
    """Make the initial |v| small: the first step turns far, |v| jumps up, and the steps get smaller by themselves. Make it large: nothing turns."""
    turn = np.array([[np.cos(0.5), -np.sin(0.5)], [np.sin(0.5), np.cos(0.5)]])
    A = turn @ np.diag([1.0, condition]) @ turn.T / np.sqrt(condition)  # the loss is ½ (w − target)ᵀ A (w − target)
    grad = lambda w: (w - TARGET) @ A
    loss = lambda w: 0.5 * ((w - TARGET) @ A @ (w - TARGET).T).item()

    w, plain = START.copy(), [START[0]]
    g, v = np.linalg.norm(START, keepdims=True), START / np.linalg.norm(START) * length
    normed, lengths = [START[0]], [length]
    for _ in range(STEPS):
        if np.abs(w).max() < 50:  # beyond that it has diverged, and numbers would overflow
            w = w - lr * grad(w)
            plain.append(w[0])
        along, across = gradients(g, v, grad(weight(g, v)))
        g, v = g - lr * along, v - lr * across
        normed.append(weight(g, v)[0])
        lengths.append(np.linalg.norm(v))
    angle = np.linspace(0, 2 * np.pi, 61)
    ring = np.stack([np.cos(angle), np.sin(angle)], 1) @ np.diag(condition**0.25 / np.array([1.0, np.sqrt(condition)])) @ turn.T
    shown = lambda path: np.array([p for p in path if np.abs(p).max() < 4.2])
    end = "diverges" if len(plain) <= STEPS else f"ends at a loss of {loss(w):.2g}"
    return (
        scatter({"steps on g and v": shown(normed), "steps on w": shown(plain), "minimum": TARGET},
                lines={"path of g·v/|v|": [shown(normed)], "path of w": [shown(plain)], "equal loss": [TARGET + r * ring for r in (0.6, 1.4, 2.4)]},
                x="first weight", y="second weight", equal=True, range_x=(-2.5, 4.2), range_y=(-2.5, 4.2),
                caption="Forty steps of gradient descent from the same point, at the same learning rate."),
        line({"|v|": lengths}, x="step", y="|v|", levels={"start": length},
             caption="Every step is at right angles to v, so |v| can only grow: longest where the first steps were too large."),
        line({"on g and v": [loss(p[None]) for p in normed], "on w": [max(loss(p[None]), 1e-12) for p in plain]}, x="step", y="loss", log_y=True,
             caption="The loss along both paths."),
        f"|v| grew from {length:.2g} to {lengths[-1]:.2g}: one unit of gradient turned the weight by {float(normed[0] @ normed[0]) ** 0.5 * lr / length**2:.2g} "
        f"radians at first and by {abs(g.item()) * lr / lengths[-1] ** 2:.2g} at the end. Plain descent {end}, this one at {loss(weight(g, v)):.2g}.",
    )
