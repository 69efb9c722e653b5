"""A unigram tokenizer in plain Python: probabilities of pieces, all splits of a word, and training by EM and pruning."""

import math
from collections import Counter

from snippets.embeddings.byte_pair_encoding import TEXT


def pieces_of(word, p):
    """Where each piece that is in the word starts and ends: the edges of a lattice over the word."""
    return [(a, b) for b in range(1, len(word) + 1) for a in range(b) if word[a:b] in p]


def best_split(word, p):
    """Viterbi: the best split of the first b letters ends with a piece after the best split of the letters before it."""
    best = {0: (1.0, [])}
    for a, b in pieces_of(word, p):
        if a in best and best[a][0] * p[word[a:b]] > best.get(b, (0.0,))[0]:
            best[b] = best[a][0] * p[word[a:b]], best[a][1] + [word[a:b]]
    return best[len(word)][1]


def expected_counts(word, p):
    """Forward and backward sums over all splits -> how often each piece occurs on average; the word's probability."""
    n, edges = len(word), pieces_of(word, p)
    before, after = [1.0] + [0.0] * n, [0.0] * n + [1.0]
    for a, b in edges:
        before[b] += before[a] * p[word[a:b]]
    for a, b in reversed(edges):
        after[a] += p[word[a:b]] * after[b]
    counts = Counter()
    for a, b in edges:
        counts[word[a:b]] += before[a] * p[word[a:b]] * after[b] / before[n]
    return counts, before[n]


def train(word_counts, size, shrink=0.75, em_steps=2, longest=8):
    """From all substrings seen twice down to size (with an unknown token); also the log-likelihood before each step."""
    seen, likelihoods = Counter(), []
    for word, times in word_counts.items():
        for a in range(len(word)):
            for b in range(a + 1, min(a + longest, len(word)) + 1):
                seen[word[a:b]] += times
    counts = {piece: n for piece, n in seen.items() if n > 1 or len(piece) == 1}
    p = {piece: n / sum(counts.values()) for piece, n in counts.items()}
    while True:
        for step in range(em_steps + 1):  # the last time only for the counts
            counts, likelihood = Counter(), 0.0
            for word, times in word_counts.items():
                expected, total = expected_counts(word, p)
                likelihood += times * math.log(total)
                for piece, n in expected.items():
                    counts[piece] += times * n
            if step < em_steps:
                likelihoods.append(likelihood)
                p = {piece: counts[piece] / sum(counts.values()) for piece in p}
        if len(p) < size:
            return p, likelihoods + [likelihood]
        loss = {}
        for piece in p:
            if len(piece) > 1:  # what it would cost to write it as the best of its own splits; single letters stay
                rest = best_split(piece, {q: p[q] for a, b in pieces_of(piece, p) if (q := piece[a:b]) != piece})
                loss[piece] = round(counts[piece] * (math.log(p[piece]) - sum(math.log(p[q]) for q in rest)), 6)
        drop = len(p) - max(size - 1, int(shrink * len(p)))
        for piece in sorted(loss, key=lambda piece: (loss[piece], piece))[:drop]:
            del p[piece]


def all_splits(word, p, alpha=1.0):
    """Every split with its share of the probability, each probability to the power of alpha."""
    ways = {0: {(): 1.0}}
    for a, b in pieces_of(word, p):
        for split, weight in ways.get(a, {}).items():
            ways.setdefault(b, {})[(*split, word[a:b])] = weight * p[word[a:b]] ** alpha
    total = sum(ways[len(word)].values())
    return {split: weight / total for split, weight in ways[len(word)].items()}


# %% demo
import random
import re
from functools import lru_cache

from snippets.live import bars, choice, demo, graph, line, slider, typed

COUNTS = Counter(re.findall("[a-z]+", TEXT.lower()))
LETTERS = len(set("".join(COUNTS)))
trained = lru_cache(maxsize=None)(lambda size: train(COUNTS, size))


@demo(
    word=typed(label="word", most=10),
    alpha=slider(0.01, 5.0, log=True, label="alpha"),
    size=slider(20, 300, label="vocabulary", unit="pieces"),
    samples=slider(1, 200, label="samples"),
)
def show(word="lowest", alpha=0.5, size=90, samples=50):
    """Small alpha: all splits are drawn about equally often. Large alpha: only the best. Then take a smaller vocabulary."""
    if size < LETTERS + 1:
        raise ValueError(f"The text has {LETTERS} letters, which may never be dropped, and one entry is for the unknown: take {LETTERS + 1} or more.")
    if not word or set(word) - set("".join(COUNTS)):
        raise ValueError("Type a word of small letters, a to z: the text that it was learned from has no others.")
    p, likelihoods = trained(size)
    shares = all_splits(word, p, float(alpha))
    best = best_split(word, p)
    top = sorted(shares, key=lambda split: (-round(shares[split], 9), split))[:6]
    rng = random.Random(0)
    drawn = Counter(rng.choices(list(shares), list(shares.values()), k=int(samples)))

    use = Counter()  # how probable each piece at its place is, and each pair of neighbours
    for split, share in shares.items():
        start, last = 0, "start"
        for piece in split:
            here = (start, start + len(piece))
            use[here] += share
            use[last, here] += share
            start, last = here[1], here
        use[last, "end"] += share
    at, onpath = 0, []
    for piece in best:
        onpath.append((at, at + len(piece)))
        at += len(piece)
    places = [k for k in use if isinstance(k[0], int)]
    shown = sorted(places, key=lambda k: (k not in onpath, -round(use[k], 9), k))[:16]
    name = {k: word[k[0] : k[1]] + ("" if sum(word[j[0] : j[1]] == word[k[0] : k[1]] for j in shown) == 1 else f" {k[0] + 1}") for k in shown}
    name.update(start="▸", end="▪")
    spot = {name[k]: ((k[0] + k[1]) / 2, -1.0 * (k[1] - k[0])) for k in shown}
    spot.update({"▸": (-0.6, -1.0), "▪": (len(word) + 0.6, -1.0)})
    edges = [(name[a], name[b], min(1.0, share)) for (a, b), share in use.items() if not isinstance(a, int) and a in name and b in name]
    groups = {name[k]: "best split" if k in onpath else "other pieces" for k in shown} | {"▸": "ends", "▪": "ends"}
    return (
        graph(groups, edges, positions=spot, directed=True,
              caption=f"Pieces in “{word}”, longer ones lower, at most 16 shown. A path from left to right is a split; thick arrows are probable ones."),
        bars({"probability": {"|".join(s): shares[s] for s in top}, "share of samples": {"|".join(s): drawn[s] / samples for s in top}},
             x="split", y="share", range_y=(0, 1),
             caption=f"The most probable of {len(shares)} splits, with probabilities to the power of alpha, and how often they were drawn."),
        line({"log-likelihood": [v / sum(COUNTS.values()) for v in likelihoods]}, x="EM step", y="log-likelihood per word (nats)",
             range_y=(-13 if size < 70 else -9, -6),
             caption="Training. Two EM steps raise it, then a quarter of the pieces is dropped, and so on. With few pieces left, each pruning costs."),
        f"Best: {' '.join(best)}. The average split has {sum(s * len(t) for t, s in shares.items()):.2f} pieces; "
        f"{len(drawn)} different ones were drawn.",
    )
