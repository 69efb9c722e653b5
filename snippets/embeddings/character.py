"""Word vectors from spellings, in NumPy: convolutions over characters, and the strongest match of each."""

import numpy as np

from snippets.convolution.conv1d import conv1d
from snippets.pooling.global_max import global_max


def spell(word):
    """a to z are 1 to 26; everything else is 0, as padding is."""
    return np.array([ord(c) - 96 if "a" <= c <= "z" else 0 for c in word])


def embed_word(ids, table, filters):
    """ids (W), table (n_chars, E), filters [(w (O, E, k), bias (O))] -> one number per filter, and where each was found."""
    vector, place = [], []
    for w, bias in filters:
        x = table[ids].T
        x = np.pad(x, ((0, 0), (0, max(0, w.shape[2] - len(ids)))))  # a word shorter than the filter
        y = np.tanh(conv1d(x, w, bias))
        vector.append(global_max(y))
        place.append(y.argmax(1))
    return np.concatenate(vector), np.concatenate(place)


def cosine(x):
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    return x @ x.T


# %% demo
from snippets.live import bars, choice, demo, heatmap, slider

WORDS = ["cat", "cats", "act", "kat", "catalog", "dog", "dogs", "god", "running", "runner"]


def misspell(word, rate, rng):
    """Each letter but the first is, with this probability, swapped with the one before it."""
    letters = list(word)
    for i in range(1, len(letters)):
        if rng.random() < rate:
            letters[i - 1], letters[i] = letters[i], letters[i - 1]
    return "".join(letters)


@demo(
    k=slider(1, 5, label="filter width (characters)"),
    count=slider(4, 64, label="filters"),
    typos=slider(0.0, 0.5, step=0.05, label="share of letters swapped"),
    word=choice(*WORDS, label="word to look into"),
)
def show(k=2, count=32, typos=0.0, word="cats"):
    """Filter width 1: cat and act cannot be told apart. Width 2 sees order. Nothing is trained: the filters are random."""
    rng = np.random.default_rng(0)
    table = rng.normal(size=(27, 8))
    filters = [(rng.normal(size=(64, 8, 5))[:count, :, :k] / (8 * k) ** 0.5, np.zeros(count))]
    typed = [misspell(w, typos, rng) for w in WORDS]
    x = np.stack([embed_word(spell(w), table, filters)[0] for w in typed])
    similar = cosine(x - x.mean(0))

    text = typed[WORDS.index(word)]
    values, places = embed_word(spell(text), table, filters)
    won = {}
    for at in range(max(1, len(text) - k + 1)):
        name = text[at : at + k]
        won[name] = won.get(name, 0) + int((places == at).sum())
    one, two = WORDS.index("cat"), WORDS.index("act")
    right = np.stack([embed_word(spell(w), table, filters)[0] for w in WORDS])
    return (
        heatmap(similar, rows=typed, columns=[w[:5] for w in typed], x="word", y="word as typed", value="cosine similarity", signed=True, range=(-1, 1),
                caption="Which spellings are alike, measured from the mean word. Those that share pieces of the filter's width are."),
        bars(won, x=f"piece of “{text}”", y="filters that found it strongest",
             caption="Each filter keeps its best match and forgets the others, and where it was."),
        f"From “cat” to “act” it is {np.linalg.norm(right[one] - right[two]):.2f}, to “dog” {np.linalg.norm(right[one] - right[WORDS.index('dog')]):.2f} "
        f"(distance of the vectors, without typos). The typos have moved the words by {np.linalg.norm(x - right, axis=1).mean():.2f} on average.",
    )
