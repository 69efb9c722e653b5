"""Sentence vectors from word vectors: mean, maximum or SIF, in NumPy."""

import numpy as np


def sentence_vectors(sentences, vectors, p, pooling="SIF", a=1e-3):
    """sentences: word ids of each. vectors (V, D). p (V,): how frequent each word is. Returns (sentences, D)."""
    weight = a / (a + p) if pooling == "SIF" else np.ones(len(p))
    rows = [weight[ids, None] * vectors[ids] for ids in sentences]
    return np.array([row.max(0) if pooling == "max" else row.mean(0) for row in rows])


def remove_common(x, n):
    """Projects out the n directions in which the rows point most: what all sentences share says nothing."""
    common = np.linalg.svd(x, full_matrices=False)[2][:n]
    return x - x @ common.T @ common


def unit(x):
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def multiple_negatives_loss(a, b, scale=20.0):
    """Row i of b is the partner of row i of a; all others are negatives."""
    score = scale * unit(a) @ unit(b).T
    top = score.max(1, keepdims=True)
    log_sum = top[:, 0] + np.log(np.exp(score - top).sum(1))
    return (log_sum - np.diag(score)).mean()


# %% demo
from snippets.live import choice, demo, heatmap, scatter, slider, table

SENTENCES = ["the dog bites the man", "the man bites the dog", "a cat sleeps on the sofa", "a kitten naps on the couch",
             "the bank raises the interest", "the lender increases the rate", "prices rise in the market", "inflation grows in the economy",
             "the train leaves from the station", "the bus departs from the stop", "we fly to the island", "a plane takes us to an island"]
TOPICS = {"animals": range(4), "money": range(4, 8), "travel": range(8, 12)}
FREQUENT = {"the": 0.05, "a": 0.02, "an": 0.004, "on": 0.007, "in": 0.02, "to": 0.025, "from": 0.004, "we": 0.004, "us": 0.001}
SYNONYMS = "cat kitten|sleeps naps|sofa couch|bank lender|raises increases|interest rate|prices inflation|rise grows|market economy|train bus|leaves departs|station stop|fly plane"
WORDS = list(dict.fromkeys(" ".join(SENTENCES).split()))
P = np.array([FREQUENT.get(w, 1e-4) for w in WORDS])


def word_vectors(D=16):
    """Made, not trained: topic + meaning + noise, a direction that all share and frequent words most; the first numbers count most."""
    rng = np.random.default_rng(0)
    topic = {w: t for t, which in TOPICS.items() for i in which for w in SENTENCES[i].split()}
    meaning = {w: group for group in SYNONYMS.split("|") for w in group.split()}
    drawn = {name: rng.normal(size=D) for name in [*TOPICS, *dict.fromkeys(meaning.get(w, w) for w in WORDS)]}
    shared = rng.normal(size=D)
    rows = [(1.2 * shared if w in FREQUENT else 0.5 * shared + drawn[topic[w]]) + drawn[meaning.get(w, w)] + 0.3 * rng.normal(size=D) for w in WORDS]
    return np.array(rows) * 0.85 ** np.arange(D)


def plane(x):
    axes = np.linalg.svd(x - x.mean(0), full_matrices=False)[2][:2]
    return (x - x.mean(0)) @ (axes * np.sign(axes[np.arange(2), np.abs(axes).argmax(1)])[:, None]).T


@demo(
    pooling=choice("mean", "SIF", "max", label="pooling"),
    a=slider(1e-4, 1.0, log=True, label="a of SIF (a word this frequent counts half)"),
    remove=slider(0, 2, label="common directions removed"),
    kept=slider(2, 16, label="dimensions kept"),
    query=choice("dog", "cat", "bank", "prices", "train", "fly", label="query: the sentence with"),
)
def show(pooling="mean", a=1e-3, remove=0, kept=16, query="bank"):
    """Begin with the mean: everything is like everything, because of 'the' and 'a'. Change to SIF, then remove one direction. Then keep fewer dimensions."""
    ids = [[WORDS.index(w) for w in s.split()] for s in SENTENCES]
    x = sentence_vectors(ids, word_vectors(), P, pooling, a)[:, :kept]  # cut first: a prefix is a vector of its own
    x = unit(remove_common(x, remove))
    cosine = x @ x.T
    others = np.where(np.eye(12, dtype=bool), -2, cosine)
    near = np.argsort(-others.round(9), 1, kind="stable")[:, :3]
    right = int((near // 4 == np.arange(12)[:, None] // 4).sum())
    partner = int((others.round(9).argmax(1) == np.arange(12) ^ 1).sum())
    which = next(i for i, s in enumerate(SENTENCES) if query in s.split())
    ranked = [i for i in np.argsort(-cosine[which].round(9), kind="stable") if i != which][:5]
    at, off = plane(x), cosine[~np.eye(12, dtype=bool)]
    short = [str(i + 1) for i in range(12)]
    return (
        heatmap(cosine, rows=[f"{i + 1} {s.split()[1]}" for i, s in enumerate(SENTENCES)], columns=short, x="sentence", y="sentence", value="cosine", range=(-1, 1),
                caption="Four sentences each on animals, money and travel; neighbours 1–2, 3–4 and so on are paraphrases. Three clear blocks are wanted. 1 and 2 (dog bites man, man bites dog) "
                "are one bag of words: no pooling of word vectors can tell them apart."),
        scatter({topic: at[list(which_)] for topic, which_ in TOPICS.items()}, labels={topic: [short[i] for i in which_] for topic, which_ in TOPICS.items()},
                x="first principal direction", y="second", caption="The same vectors in the plane where they differ most; the numbers are those of the heatmap."),
        table([(f"{cosine[which, i]:.2f}", SENTENCES[i], next(t for t, r in TOPICS.items() if i in r)) for i in ranked], columns=("cosine", "sentence", "topic"),
              caption=f"The five nearest to “{SENTENCES[which]}”."),
        f"Of the three nearest to each sentence {right} of 36 are on its topic; the paraphrase is nearest for {partner} of 12. The mean cosine of two sentences is {off.mean():.2f}.",
    )
