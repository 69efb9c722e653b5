"""Gradient clipping in NumPy, at the cliff of a recurrent network."""

import numpy as np


def clip_by_norm(gradients, max_norm):
    """One factor for all gradients: shorter, in the same direction. Returns the norm before, too."""
    norm = np.sqrt(sum((g**2).sum() for g in gradients))
    factor = min(1.0, max_norm / (norm + 1e-6))
    return [g * factor for g in gradients], norm


def clip_by_value(gradients, limit):
    """Each number on its own: the direction changes."""
    return [np.clip(g, -limit, limit) for g in gradients]


def loss(w, c, length):
    """A recurrent network of one linear unit: it starts at 1, is multiplied by w at each step, and read with c. The target is 1."""
    return (c * w**length - 1) ** 2


def gradient(w, c, length):
    error = 2 * (c * w**length - 1)
    return np.array([error * c * length * w ** (length - 1), error * w**length])


def descend(length, lr, max_norm, start, steps=100):
    """The path, and the norm of the gradient at each of its points, until it leaves the picture."""
    p, path, norms = np.array(start), [np.array(start)], []
    for _ in range(steps):
        (g,), norm = clip_by_norm([gradient(*p, length)], max_norm)
        p = p - lr * g
        norms.append(norm)
        path.append(p)
        if np.abs(p).max() > 3:
            break
    return np.array(path), np.array(norms)


# %% demo
from snippets.live import bars, choice, demo, scatter, slider

BINS = {"below 0.1": (0, 0.1), "0.1 to 1": (0.1, 1), "1 to 10": (1, 10), "10 to 100": (10, 100), "100 to 1,000": (100, 1e3), "above": (1e3, np.inf)}


@demo(
    max_norm=slider(0.01, 10.0, label="max_norm", log=True),
    lr=slider(0.001, 1.0, label="learning rate", log=True),
    length=choice(3, 10, 20, 40, label="steps of the recurrent network"),
)
def show(max_norm=5.0, lr=0.002, length=20):
    """The start lies above a cliff. Without clipping the first step is thrown far away. Make the network shorter: the cliff becomes a slope."""
    start, width, height = (1.12, 1.3), (0.4, 1.4), (-0.2, 1.6)
    runs = {"clipped": descend(length, lr, max_norm, start), "not clipped": descend(length, lr, np.inf, start)}
    grid = np.meshgrid(np.linspace(*width, 40), np.linspace(*height, 32))
    share = {name: {label: 100 * ((norms >= low) & (norms < high)).mean() for label, (low, high) in BINS.items()} for name, (_, norms) in runs.items()}
    path, norms = runs["clipped"]
    thrown = runs["not clipped"][0]
    ends = {name: np.abs(p[-1]).max() > 3 for name, (p, _) in runs.items()}
    last = {name: loss(*p[-1], length) for name, (p, _) in runs.items() if not ends[name]}
    told = {name: "left the picture" if out else "ends with a loss " + (f"of {last[name]:.2g}" if last[name] > 1e-4 else "below 0.0001") for name, out in ends.items()}
    return (
        scatter({name: p[np.abs(p).max(1) < 3] for name, (p, _) in runs.items()} | {"start": [start]},
                lines={"clipped": [path], "not clipped": [np.clip(thrown, -4, 4)]}, field=np.log10(loss(*grid, length) + 0.01),
                x="recurrent weight w", y="output weight c", range_x=width, range_y=height,
                caption=f"Loss of a network that multiplies {length} times, darker where it is lower. On the right it rises like w^{2 * length}."),
        bars(share, x="norm of the gradient before clipping", y="share of the steps (%)", range_y=(0, 100),
             caption=f"Norms met on the way. The clipped run was shortened in {100 * (norms > max_norm).mean():.0f} % of its {len(norms)} steps."),
        f"Clipped at {max_norm:g}: {told['clipped']}. Not clipped: {told['not clipped']}, after {len(thrown) - 1} step{'s' if len(thrown) > 2 else ''}.",
    )
