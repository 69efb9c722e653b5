"""(IA)³ in NumPy: factors on keys and values."""

import numpy as np

from snippets.ops import softmax


def attention(q, k, v, key_scale, value_scale):
    """q, k, v (tokens, d); the trained factors (d,) multiply the coordinates of keys and values."""
    k, v = k * key_scale, v * value_scale
    weights = softmax(q @ k.T / np.sqrt(q.shape[-1]))
    return weights @ v, weights


# %% demo
from snippets.live import bars, demo, heatmap, slider


@demo(
    first=slider(0.0, 3.0, step=0.1, label="factor of key coordinate 1: colour"),
    second=slider(0.0, 3.0, step=0.1, label="factor of key coordinate 2: shape"),
    third=slider(0.0, 3.0, step=0.1, label="factor of key coordinate 3: size"),
    value=slider(0.0, 3.0, step=0.1, label="factor of value coordinate 1"),
)
def show(first=3.0, second=0.5, third=1.0, value=1.0):
    """Turn up what the match is made by: colour, shape or size. The value factor changes what is carried over, not who is read."""
    names = ["red ball", "red box", "blue ball", "blue box", "big red box"]
    k = 1.1 * np.array([[1, 1, -1], [1, -1, -1], [-1, 1, -1], [-1, -1, -1], [1, -1, 1]], float)
    rng = np.random.default_rng(0)
    v = rng.normal(size=(5, 3))
    ones = np.ones(3)
    plain, before = attention(k, k, v, ones, ones)
    out, after = attention(k, k, v, np.array([first, second, third]), np.array([value, 1.0, 1.0]))
    return (
        heatmap(before, x="reads", y="asks", value="weight", rows=names, columns=names, range=(0, 1), signed=False,
                caption="The frozen layer. Each object reads mostly itself, and others by how many properties they share."),
        heatmap(after, x="reads", y="asks", value="weight", rows=names, columns=names, range=(0, 1), signed=False,
                caption="With the factors. A coordinate with a large factor decides, one with 0 is no longer looked at."),
        bars({"frozen": dict(zip(("1", "2", "3"), plain[0])), "scaled": dict(zip(("1", "2", "3"), out[0]))}, x="coordinate of the output",
             y="output for the red ball", range_y=(-3, 3),
             caption="What comes out for the red ball. The value factor stretches the first coordinate alone."),
        f"The red ball reads the red box with {after[0, 1]:.0%} (before: {before[0, 1]:.0%}) and the blue ball with {after[0, 2]:.0%} "
        f"(before: {before[0, 2]:.0%}). Six trained numbers do that.",
    )
