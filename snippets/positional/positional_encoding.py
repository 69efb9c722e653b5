"""What attention knows of order, in NumPy."""

import numpy as np

from snippets.ops import softmax
from snippets.positional.rope import rope
from snippets.positional.sinusoidal import sinusoidal_table


def attend(x, bias=0.0, turn=None, causal=False):
    """Attention of tokens (T, d) among themselves: output and weights. Without the options it sees a set."""
    q = k = x if turn is None else rope(x, turn)  # rotary: queries and keys are turned, values are not
    scores = q @ k.T / np.sqrt(x.shape[-1]) + bias
    if causal:
        scores = np.where(np.tri(len(x), dtype=bool), scores, -np.inf)
    weights = softmax(scores)
    return weights @ x, weights


def read(words, way, strength=1.0, shift=0):
    """The same attention with one of five ways to give it order, or none. The text begins at position shift."""
    at = shift + np.arange(len(words))
    d = words.shape[-1]
    if way == "sinusoidal":
        return attend(words + strength * sinusoidal_table(at, d))
    if way == "learned":
        return attend(words + strength * np.random.default_rng(5).normal(size=(64, d))[at])
    if way == "rotary":
        return attend(words, turn=strength * at)
    if way == "ALiBi":
        return attend(words, bias=-strength * np.abs(at[:, None] - at))
    return attend(words, causal=way == "causal mask")


# %% demo
from snippets.live import bars, choice, demo, heatmap, slider

NAMES = ("cat", "ate", "mouse")


@demo(
    way=choice("none", "sinusoidal", "learned", "rotary", "ALiBi", "causal mask", label="order is given by"),
    strength=slider(0.0, 2.0, step=0.1, label="strength"),
    shift=slider(0, 50, label="position of the first word"),
)
def show(way="none", strength=1.0, shift=10):
    """Without order both sentences are one. Try the others, and see which notice that the whole text was moved."""
    words = np.random.default_rng(3).normal(size=(3, 8))
    order = [2, 1, 0]
    names = [NAMES[i] for i in order]
    out, weights = read(words, way, strength)
    other, turned = read(words[order], way, strength)
    difference, moved = {}, {}
    for each in ("none", "sinusoidal", "learned", "rotary", "ALiBi", "causal mask"):
        plain = read(words, each, strength)
        difference[each] = np.abs(read(words[order], each, strength)[1] - plain[1][np.ix_(order, order)]).max()
        moved[each] = np.abs(read(words, each, strength, shift)[1] - plain[1]).max()
    return (
        heatmap(weights, x="reads", y="word", value="weight", rows=NAMES, columns=NAMES, range=(0, 1), signed=False,
                caption="“cat ate mouse”: how much each word reads of each."),
        heatmap(turned, x="reads", y="word", value="weight", rows=names, columns=names, range=(0, 1), signed=False,
                caption="“mouse ate cat”. Without order these are the same numbers in other places."),
        bars({"other order": difference, "moved text": moved}, y="change of a weight", range_y=(0, 1),
             caption="Largest change of a weight, for all six. Order should make the first bar large. The second bar is 0 for relative "
                     "methods: they do not mind where the text begins."),
        f"With {way if way != 'none' else 'nothing'} the mean over the words differs by {np.abs(out.mean(0) - other.mean(0)).max():.2f} between the two sentences, "
        f"and weights by {moved[way]:.2f} if the text starts at {shift}.",
    )
