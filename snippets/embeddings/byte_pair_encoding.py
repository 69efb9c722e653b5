"""Byte-pair encoding in plain Python: learn merges from word counts, then split words with them."""

import random
from collections import Counter

TEXT = """The new lamp in the old tower shines farther than the lamp before it. On a low and windy coast the
keeper opens the widest window, cleans the lenses and waits for the boats to return. When the wind is at its
strongest, the waves run higher than the lower wall, and the keeper counts them: 12 in a minute, then 120 in ten
minutes. The newest boats have lights of their own; the older ones are thankful for every warm and steady beam.

A careful keeper is seldom unhappy. She reads in the warmer room, she writes in the oldest book of the house, and
she walks along the lowest path when the weather is kind. In 1987 a storm was wilder than any storm in the book. The
tower was shaken, the wider window was broken, and the lamp went out for 3 hours. Still no boat was lost, because
the keeper rang the heaviest bell, louder and louder, until the wind was quieter.

Today a small machine is watching the light. It counts, it warms the glass, it is never tired. But the keeper is
still walking the low path, still writing in the book, and still happier in the stormiest weather than in the town."""


def train(word_counts, n_merges, min_count=2):
    """The n_merges most frequent pairs, one after the other, each counted in what the earlier merges left."""
    splits = {word: tuple(word) for word in word_counts}
    merges = []
    while len(merges) < n_merges:
        pairs = count_pairs(splits, word_counts)
        if not pairs or max(pairs.values()) < min_count:  # a pair seen once tells nothing about other words
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))  # of equal counts the first in the alphabet
        merges.append(best)
        splits = {word: join(split, best) for word, split in splits.items()}
    return merges


def encode(word, merges):
    """Replay the merges in the order in which they were learned."""
    split = tuple(word)
    for pair in merges:
        split = join(split, pair)
    return list(split)


def encode_with_dropout(word, merges, dropout, draw):
    """At each step every merge that is possible is passed over with this probability; the earliest of the others happens."""
    split = list(word)
    while True:
        found = [(merges.index(pair), i) for i, pair in enumerate(zip(split, split[1:])) if pair in merges]
        found = [(rank, i) for rank, i in found if draw.random() >= dropout]
        if not found:
            return split
        i = min(found)[1]
        split[i : i + 2] = [split[i] + split[i + 1]]


def join(split, pair):
    """Every neighbouring (a, b) becomes ab, from the left."""
    if len(split) < 2 or pair[0] not in split:
        return split
    out = []
    for symbol in split:
        if out and (out[-1], symbol) == pair:
            out[-1] += symbol
        else:
            out.append(symbol)
    return tuple(out)


def count_pairs(splits, word_counts):
    """How often each pair of neighbours stands in the text."""
    pairs = Counter()
    for word, split in splits.items():
        for pair in zip(split, split[1:]):
            pairs[pair] += word_counts[word]
    return pairs


# %% demo
import re
from functools import lru_cache

from snippets.live import bars, demo, line, slider, table, toggle, typed

END = "·"  # the end of a word: so that est at the end of a word and est within one are different tokens


@lru_cache
def history():
    """Merges of the text's words; before each, the words' splits and the counts of their pairs."""
    words = Counter(word + END for word in re.findall("[a-z]+", TEXT.lower()))
    merges = train(words, 201, min_count=1)
    splits, seen = {word: tuple(word) for word in words}, []
    for pair in merges:
        seen.append((splits, count_pairs(splits, words)))
        splits = {word: join(split, pair) for word, split in splits.items()}
    return words, merges, seen


@demo(
    merges=slider(0, 200, label="merges"),
    word=typed(label="word", most=24),
    dropout=slider(0.0, 1.0, step=0.05, label="dropout"),
    step=toggle(label="one merge a line"),
)
def show(merges=25, word="unhappiest", dropout=0.0, step=True):
    """Move the merges up from 0: endings and frequent words come first, and the text gets shorter by less and less. The dot marks
    the end of a word. Type a word of your own. Add dropout: the same word is cut in many ways."""
    words, learned, seen = history()
    splits, counts = seen[merges]
    length = [sum(len(split) * words[w] for w, split in s.items()) for s, _ in seen]
    first = max(0, merges - 8)
    once = next(i for i, (_, c) in enumerate(seen) if max(c.values()) == 1)

    lines, split = [["characters", " | ".join(word + END)]], tuple(word + END)
    for number, pair in enumerate(learned[:merges], 1):
        before, split = split, join(split, pair)
        if step and split != before:
            lines.append([f"merge {number}", " | ".join(split)])
    draw = random.Random(0)
    lines += [[f"draw {k} with dropout", " | ".join(encode_with_dropout(word + END, learned[:merges], dropout, draw))]
              for k in range(1, 6) if dropout]
    lines.append(["without dropout", " | ".join(split)])
    top = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:10]
    return (
        table([[i + 1, " + ".join(learned[i]), seen[i][1][learned[i]]] for i in range(first, merges)] or [[0, "none yet", 0]],
              columns=["number", "merge", "count"], caption="The last eight merges, and how often each pair stood in the text when it was chosen."),
        table(lines, columns=["step", "tokens"], caption=f"How “{word}” is cut, a word that the text " + (
            "has." if word + END in words else "does not have: it is made of pieces of others.")),
        line({"text": length}, x="merges", y="length of the text (tokens)", range_y=(0, 1100),
             marks={"chosen": merges, "pairs seen once": once},
             caption="Each merge saves as many tokens as its pair has occurrences: much at first, then 2, then 1. Pairs seen once are the words "
                     "themselves, learned by heart."),
        bars({" + ".join(pair): count for pair, count in top}, x="pair", y="count in the text now",
             caption="The pairs that stand in the text now. The first one is the next merge; with equal counts the alphabet decides."),
        f"{merges} merges: {length[merges]} tokens instead of {length[0]}, {length[0] / length[merges]:.2f} characters and dots each, and a vocabulary of "
        f"{len({c for w in words for c in w}) + merges}.",
    )
