"""WordPiece in plain Python: the longest piece that matches, again and again; and how its vocabulary can be grown."""

from collections import Counter

from snippets.embeddings.byte_pair_encoding import TEXT, count_pairs, join


def greedy(word, vocab):
    """From the left, always the longest piece. Also returns what was tried at each step."""
    pieces, tried, start = [], [], 0
    while start < len(word):
        mark, step = "##" if start else "", []
        for end in range(len(word), start, -1):
            step.append(mark + word[start:end])
            if step[-1] in vocab:
                break
        tried.append(step)
        if step[-1] not in vocab:
            return ["[UNK]"], tried  # the whole word, whatever was found before
        pieces.append(step[-1])
        start = end
    return pieces, tried


def fewest(word, vocab):
    """The split into the fewest pieces, if there is any: best[i] is that of the first i characters."""
    best = [[]] + [None] * len(word)
    for end in range(1, len(word) + 1):
        for start in range(end):
            piece = ("##" if start else "") + word[start:end]
            if best[start] is not None and piece in vocab and (best[end] is None or len(best[start]) + 1 < len(best[end])):
                best[end] = best[start] + [piece]
    return (["[UNK]"] if best[-1] is None else best[-1]), best


def train(word_counts, size, min_frequency=2, rule="surprise"):
    """Characters, the frequent first, then joined pairs: the highest count(ab) / (count(a) count(b)), or count(ab) alone."""
    splits = {word: (word[0], *("##" + char for char in word[1:])) for word in word_counts}
    single = count_pieces(splits, word_counts)
    vocab = ["[UNK]", *sorted(single, key=lambda piece: (-single[piece], piece))]
    while len(vocab) < size:
        single, pairs = count_pieces(splits, word_counts), count_pairs(splits, word_counts)
        scores = {(a, b): n / (single[a] * single[b] if rule == "surprise" else 1) for (a, b), n in pairs.items() if n >= min_frequency}
        if not scores:
            break
        best = min(scores, key=lambda pair: (-scores[pair], pair))
        splits = {word: tuple(map(one_mark, join(split, best))) if best[1] in split else split for word, split in splits.items()}
        if one_mark("".join(best)) not in vocab:  # two pairs can spell the same piece
            vocab.append(one_mark("".join(best)))
    return vocab[:size]


def count_pieces(splits, word_counts):
    single = Counter()
    for word, split in splits.items():
        for piece in split:
            single[piece] += word_counts[word]
    return single


def one_mark(piece):
    """u##n is un, ##u##n is ##un."""
    return "##" * piece.startswith("##") + piece.replace("##", "")


# %% demo
import re
from functools import lru_cache

from snippets.live import bars, choice, demo, line, slider, table, typed

COUNTS = Counter(re.findall("[a-z]+", TEXT.lower()))
BY_HAND = ["[UNK]", "un", "una", "##aff", "##able", "low", "lowe", "##est", "##s", "##t", "the", "them", "##mes", "##e", "light", "##house", "keep", "##ers"]
WORDS = ["unaffable", "lowest", "themes", "keepers", "lighthouse", "thankfulness", "unhappiest", "quizzes"]


@lru_cache(maxsize=None)
def learned(rule, min_frequency):
    """The largest vocabulary; every smaller one is its beginning."""
    return train(COUNTS, 500, min_frequency, rule)


@lru_cache(maxsize=None)
def curve(rule, min_frequency):
    """Pieces per word of the text, for beginnings of the vocabulary."""
    whole = learned(rule, min_frequency)
    sizes = [n for n in (40, 60, 80, 100, 120, 140, 160) if n < len(whole)] + [len(whole)]
    return sizes, [sum(len(greedy(w, set(whole[:n]))[0]) * k for w, k in COUNTS.items()) / sum(COUNTS.values()) for n in sizes]


@demo(
    word=typed(label="word", most=20),
    source=choice("learned by surprise", "learned by count", "by hand", label="vocabulary"),
    size=slider(20, 500, label="largest size", unit="pieces"),
    at_least=slider(2, 6, label="joined if seen at least", unit="times"),
    cut=choice("greedy", "fewest", label="how to cut"),
)
def show(word="unhappiest", source="learned by surprise", size=120, at_least=2, cut="greedy"):
    """Type unaffable, take the vocabulary by hand, and compare greedy with fewest: it becomes [UNK] although its pieces are there."""
    if not word:
        raise ValueError("Type a word of one character or more.")
    vocab = BY_HAND if source == "by hand" else learned(source.split()[-1], at_least)[:size]
    pieces, tried = greedy(word, set(vocab))
    short, best = fewest(word, set(vocab))
    if cut == "greedy":
        rows = [[i + 1, step[-1] if step[-1] in vocab else "none: [UNK]", " ".join(step[:-1][:2]) + (f" … {len(step) - 3} more" if len(step) > 3 else "") or "nothing"]
                for i, step in enumerate(tried)]
        steps = table(rows, columns=["step", "taken", "before it, tried in vain"],
                      caption=f"“{word}” from the left: each step takes the longest piece that matches and never goes back.")
    else:
        rows = [[word[:i], "none" if best[i] is None else len(best[i]), "" if best[i] is None else " ".join(best[i])] for i in range(1, len(word) + 1)]
        steps = table(rows, columns=["up to", "fewest pieces", "which"],
                      caption="The best split of every beginning, each made from an earlier one: all are tried, so a split is found where there is one.")
    counts = {}
    for name, split in (("greedy", lambda w: greedy(w, set(vocab))[0]), ("fewest", lambda w: fewest(w, set(vocab))[0])):
        counts[name] = {w: None if split(w) == ["[UNK]"] else len(split(w)) for w in WORDS}
    return (
        steps,
        bars(counts, x="word", y="pieces (no bar: [UNK])", range_y=(0, 12),
             caption="Greedy and the fewest pieces possible. With learned vocabularies the two hardly ever differ; with the one by hand they do."),
        line({rule: curve(rule, at_least) for rule in ("surprise", "count")}, x="vocabulary (pieces)", y="pieces per word of the text", range_y=(0, 4.5), marks={"largest size": size},
             caption="The text it was learned from. Joining by count shortens it faster: surprise spends its first pieces on rare pairs. "
                     "The curves end where no pair is left."),
        f"“{word}” is {' '.join(pieces)} by greedy matching" + (". No split is shorter." if len(pieces) == len(short) and pieces != ["[UNK]"] else
           ". No split of it exists." if short == ["[UNK]"] else f"; the fewest pieces are {' '.join(short)}."),
    )
