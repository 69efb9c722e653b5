"""Skip-gram with negative sampling, in NumPy."""

import numpy as np


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def pairs(corpus, window):
    """Every (center, neighbour) at most `window` words apart within a sentence."""
    return np.array([(s[i], s[j]) for s in corpus for i in range(len(s))
                     for j in range(max(i - window, 0), min(i + window + 1, len(s))) if i != j])


def gradients(u, v, center, context, negative):
    """u, v (V, D): input and output table. center, context (B,), negative (B, K): ids. Mean loss of a pair, and its slopes."""
    words = np.concatenate([context[:, None], negative], 1)
    truth = np.zeros(words.shape)
    truth[:, 0] = 1  # the first of each line is the real neighbour
    score = np.einsum("bd,bkd->bk", u[center], v[words])
    loss = np.logaddexp(0, np.where(truth, -score, score)).sum() / len(center)
    error = (sigmoid(score) - truth) / len(center)
    d_u, d_v = np.zeros_like(u), np.zeros_like(v)
    np.add.at(d_u, center, np.einsum("bk,bkd->bd", error, v[words]))
    np.add.at(d_v, words, error[:, :, None] * u[center][:, None])
    return loss, d_u, d_v


def train(seen, V, dim, negatives, rate, steps=500, batch=32):
    """Each step: `batch` pairs of the text, `negatives` random words for each. A row moves by the mean of what its pairs ask."""
    rng = np.random.default_rng(0)
    u, v, losses = rng.uniform(-0.5, 0.5, (V, dim)) / dim, np.zeros((V, dim)), []
    noise = np.bincount(seen[:, 1], minlength=V) ** 0.75  # rare words oftener than they occur
    drawn = seen[rng.integers(len(seen), size=(steps, batch))]
    false = rng.choice(V, size=(steps, batch, negatives), p=noise / noise.sum()).astype(np.intp)  # 32 bits in the browser, as bincount wants
    for pair, wrong in zip(drawn, false):
        loss, d_u, d_v = gradients(u, v, pair[:, 0], pair[:, 1], wrong)
        asked = [np.bincount(ids, minlength=V)[:, None] for ids in (pair[:, 0], np.append(wrong, pair[:, 1]))]
        u = u - rate * batch * d_u / np.maximum(asked[0], 1)
        v = v - rate * batch * d_v / np.maximum(asked[1], 1)
        losses.append(loss)
    return u, v, np.array(losses)


# %% demo
from snippets.live import choice, demo, heatmap, line, scatter, slider, table

PEOPLE = {"man": "he work", "woman": "she work", "king": "he throne", "queen": "she throne"}
PLACES = {"Paris": "city French", "France": "land French", "Rome": "city Italian", "Italy": "land Italian",
          "Cairo": "city Egyptian", "Egypt": "land Egyptian"}
WORDS = [*PEOPLE, *PLACES, "he", "she", "city", "land", "work", "throne", "French", "Italian", "Egyptian", "the"]
ID = {word: i for i, word in enumerate(WORDS)}


def corpus():
    """300 sentences of six words: two of what a word is about, in any order, around it."""
    rng = np.random.default_rng(1)
    about, names = {**PEOPLE, **PLACES}, [*PEOPLE, *PLACES]
    text = []
    for _ in range(300):
        word = names[rng.integers(len(names))]
        first, second = rng.permutation(about[word].split())
        text.append([ID[w] for w in ("the", first, word, second, "the", first)])
    return text


def plane(x):
    """The two main directions of the rows, the largest number of each positive, so that no run mirrors the picture."""
    x = x - x.mean(0)
    axes = np.linalg.svd(x, full_matrices=False)[2][:2]
    return x @ (axes * np.sign(axes[np.arange(2), np.abs(axes).argmax(1)])[:, None]).T


def cosines(u, a, b, c):
    unit = u / np.linalg.norm(u, axis=1, keepdims=True)
    target = unit[b] - unit[a] + unit[c]
    return unit @ target / np.linalg.norm(target)


QUESTIONS = [("man", "woman", "king", "queen"), ("Paris", "France", "Rome", "Italy"), ("Rome", "Italy", "Cairo", "Egypt")]


@demo(
    window=slider(1, 5, label="window (words to each side)"),
    negatives=slider(1, 10, label="negatives per pair"),
    dim=slider(2, 8, label="dimensions"),
    rate=slider(0.01, 0.5, step=0.01, label="learning rate"),
    group=choice("people", "places", label="words in the picture"),
)
def show(window=2, negatives=5, dim=8, rate=0.2, group="people"):
    """Nobody told the model who is royal or what is a capital. Take 2 dimensions: there is no room for all differences, and the steps
    turn away from each other."""
    V, seen = len(WORDS), pairs(corpus(), window)
    u, v, losses = train(seen, V, dim, negatives, rate)
    counts = np.zeros((V, V))
    np.add.at(counts, tuple(seen.T), 1)
    noise = counts.sum(0) ** 0.75 / (counts.sum(0) ** 0.75).sum()
    with np.errstate(divide="ignore"):
        ideal = np.log(counts / counts.sum(1, keepdims=True) / noise) - np.log(negatives)
    product = u @ v.T
    met = counts > 0
    names, lines = (list(PEOPLE), [("man", "woman"), ("king", "queen")]) if group == "people" else (
        list(PLACES), [("Paris", "France"), ("Rome", "Italy"), ("Cairo", "Egypt")])
    ids, near = [ID[w] for w in names], [ID[w] for w in dict.fromkeys(" ".join((PEOPLE | PLACES)[w] for w in names).split())]
    at = dict(zip(names, plane(u[ids])))
    ends, starts = [b for _, b in lines], [a for a, _ in lines]
    both = np.stack([np.where(met, ideal, np.nan), product], 1)[ids][:, :, near].reshape(-1, len(near))
    rows, right, open_right = [], 0, 0
    for a, b, c, d in QUESTIONS:
        order = [WORDS[i] for i in np.argsort(-cosines(u, ID[a], ID[b], ID[c]), kind="stable")]
        answer = next(w for w in order if w not in (a, b, c))
        right, open_right = right + (answer == d), open_right + (order[0] == d)
        rows.append((f"{b} − {a} + {c}", d, answer, order[0]))
    agreement = np.corrcoef(ideal[met], product[met])[0, 1]
    blocks = losses.reshape(50, 10).mean(1)
    return (
        scatter({"from": np.array([at[w] for w in starts]), "to": np.array([at[w] for w in ends])}, labels={"from": starts, "to": ends},
                lines={"step": [np.array([at[a], at[b]]) for a, b in lines]}, x="first principal direction", y="second", equal=True,
                caption=f"Input vectors of {dim} numbers, in the plane where these words differ most. The analogy holds where the steps are parallel and of one length."),
        heatmap(both, rows=[f"{w}{kind}" for w in names for kind in (" PMI", " u·v")], columns=[WORDS[i] for i in near], x="neighbour", y="centre", value="score",
                range=(-4, 4), caption=f"For each word PMI − log {negatives} from the counts, and under it u·v as trained. Empty: the two never meet, which asks for minus infinity; "
                "training stops on the way there."),
        table(rows, columns=("question", "expected", "best other word", "best of all words"),
              caption="The usual test does not allow the three words of the question as answers; the last column does."),
        line({"loss": (10 * np.arange(50) + 5, blocks)}, x="step (32 pairs each)", y="loss (nats per pair)", range_y=(0, 8), levels={"start": (negatives + 1) * np.log(2)},
             caption=f"Mean of ten steps. At the start every one of {negatives + 1} words is a coin toss."),
        f"{right} of 3 analogies are right, {open_right} if the words of the question may be answers. Over pairs that meet, trained products and "
        f"PMI − log {negatives} correlate with {agreement:.2f}.",
    )
