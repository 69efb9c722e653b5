"""A bigram language model whose input and output may share one matrix, in NumPy."""

import numpy as np

from snippets.ops import softmax


def gradients(counts, table, mixer, head=None):
    """counts (V, V): how often word j follows word i. Without a head the scores use the table: tied."""
    out = table if head is None else head
    h = table @ mixer  # a lookup of every word; the mixer (D, D) is the network between both ends
    p = softmax(h @ out.T)
    n = counts.sum()
    loss = -(counts * np.log(p)).sum() / n
    g = (counts.sum(1, keepdims=True) * p - counts) / n
    d_h, d_out = g @ out, g.T @ h
    d_table, d_mixer = d_h @ mixer.T, table.T @ d_h
    if head is None:
        return loss, d_table + d_out, d_mixer  # one matrix, two demands
    return loss, d_table, d_mixer, d_out


def train(counts, rate, tied, steps=200, width=2):
    """Gradient descent; returns table, mixer, head (None if tied) and the losses."""
    rng = np.random.default_rng(1)
    weights = [0.5 * rng.normal(size=(len(counts), width)), np.eye(width), 0.5 * rng.normal(size=(len(counts), width))]
    weights, losses = weights[: 2 if tied else 3], []
    for _ in range(steps):
        loss, *slopes = gradients(counts, *weights)
        weights = [w - rate * s for w, s in zip(weights, slopes)]
        losses.append(loss)
    return (*weights, None)[:3] + (losses,)


# %% demo
from snippets.live import bars, choice, demo, line, scatter, slider, toggle

WORDS = {"articles": "the a".split(), "stop": ["."], "nouns": "cat dog bird fox child man".split(),
         "verbs": "sees hears likes chases finds".split(), "adjectives": "big small old red quick".split()}
CLASS = {word: kind for kind, words in WORDS.items() for word in words}


def corpus(size):
    """300 sentences of a tiny grammar; the size - 1 most frequent words, and … for all the others."""
    rng = np.random.default_rng(0)
    text = ["."]
    for _ in range(300):
        for part in ("articles", "adjectives", "nouns", "verbs", "articles", "adjectives", "nouns", "stop"):
            if part != "adjectives" or rng.random() < 0.4:
                text.append(WORDS[part][int(len(WORDS[part]) * rng.random() ** 1.5)])
    names, found = np.unique(text, return_counts=True)
    words = [str(w) for w in names[np.argsort(-found, kind="stable")][: size - 1]] + ["…"]
    number = {w: i for i, w in enumerate(words)}
    ids = np.array([number.get(w, size - 1) for w in text])
    counts = np.zeros((size, size))
    np.add.at(counts, (ids[:-1], ids[1:]), 1)
    return words, counts


def readable(points, names):
    """The names of the points that do not lie on one that is named already."""
    shown = []
    for i, point in enumerate(points):
        if all(np.abs(point - points[j]).max() > 0.08 * np.ptp(points) for j in shown):
            shown.append(i)
    return [name if i in shown else "" for i, name in enumerate(names)]


@demo(
    rate=slider(0.01, 2.0, step=0.01, label="learning rate"),
    size=slider(5, 20, label="vocabulary (words)"),
    tied=toggle(label="one matrix for both ends"),
    word=choice("the", "a", ".", label="word before"),
)
def show(rate=1.0, size=16, tied=True, word="the"):
    """Words that are used alike drift together, though nobody named the classes. Untie: the input rows then sort words by what
    FOLLOWS them, so that stop and verbs may meet; tied rows must also tell what goes BEFORE."""
    words, counts = corpus(size)
    table, mixer, head, losses = train(counts, rate, tied)
    other = train(counts, rate, not tied)[3]
    floor = -(counts * np.log(np.where(counts > 0, counts, 1) / np.maximum(counts.sum(1, keepdims=True), 1))).sum() / counts.sum()
    groups = {kind: [i for i, w in enumerate(words) if CLASS.get(w, "other") == kind] for kind in (*WORDS, "other")}
    groups = {kind: rows for kind, rows in groups.items() if rows}
    names = readable(table, words)
    at = words.index(word)
    p = softmax((table[at : at + 1] @ mixer @ (table if tied else head).T))[0]
    share = counts[at] / counts[at].sum()
    top = np.argsort(-np.maximum(p, share), kind="stable")[:8]
    return (
        scatter({kind: table[rows] for kind, rows in groups.items()}, labels={kind: [names[i] for i in rows] for kind, rows in groups.items()},
                x="first number of a row", y="second", equal=True,
                caption=f"The {size} rows of the input matrix after 200 steps" + (", which is the output matrix too." if tied else ". The output has rows of its own.")),
        line({"tied" if tied else "untied": losses, "untied" if tied else "tied": other}, dashed=["untied" if tied else "tied"],
             x="step", y="loss (nats per word)", levels={"bigram frequencies": floor, "fair guess": np.log(size)}, range_y=(0.5, 3.5),
             caption="The lower line is the best that any table of word pairs can reach. Tied, one matrix has to serve both ends, and is slower to find out how."),
        bars({"model": {words[i]: p[i] for i in top}, "text": {words[i]: share[i] for i in top}}, x=f"word after “{word}”", y="probability",
             range_y=(0, 1), caption="What the model says, and what the text holds."),
        f"{'Tied' if tied else 'Untied'}: {size * 2 * (1 if tied else 2) + 4} weights, loss {losses[-1]:.2f}; the other way {other[-1]:.2f} with "
        f"{size * 2 * (2 if tied else 1) + 4}. Nobody can be below {floor:.2f}.",
    )
