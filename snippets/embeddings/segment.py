"""What BERT's first layer reads, in NumPy: three rows for each token, added and normalized."""

import numpy as np

from snippets.normalization.layer import layer_norm


def segment_ids(ids, sep):
    """1 from behind the first separator to the second, 0 elsewhere."""
    is_end = ids == sep
    ends = np.cumsum(is_end)
    return ((ends - is_end == 1) & (ends[-1] == 2)).astype(int)


def bert_input(ids, segments, token, position, segment, eps=1e-12):
    """ids and segments (T), tables (V, D), (N, D) and (2, D) -> (T, D)."""
    x = token[ids] + position[: len(ids)] + segment[segments]
    return layer_norm(x, eps=eps)


def cosine(x):
    """(T, D) -> (T, T): 1 where two vectors point the same way."""
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    return x @ x.T


# %% demo
from snippets.live import demo, heatmap, line, slider

WORDS = "the dog bit the man the man ran off".split()
NAMES = ["[CLS]", "[SEP]", "the", "dog", "bit", "man", "ran", "off"]
WIDTH = 7


@demo(
    segment=slider(0.0, 3.0, step=0.1, label="strength of the segments"),
    position=slider(0.0, 3.0, step=0.1, label="strength of the positions"),
    split=slider(1, 8, label="words in the first text"),
)
def show(segment=1.0, position=0.5, split=5):
    """Set both strengths to zero: equal words are equal vectors, wherever they stand. Then tell them apart by text, and by place."""
    names = ["[CLS]", *WORDS[:split], "[SEP]", *WORDS[split:], "[SEP]"]
    ids = np.array([NAMES.index(w) for w in names])
    parts = segment_ids(ids, 1)
    rng = np.random.default_rng(3)
    tables = rng.normal(size=(8, WIDTH)), position * rng.normal(size=(len(ids), WIDTH)), rng.normal(size=(2, WIDTH))
    token, place, both = tables
    x = bert_input(ids, parts, token, place, segment * both)

    gap = np.full((len(ids), 1), np.nan)
    panels = np.concatenate([token[ids], gap, place, gap, segment * both[parts], gap, x], 1)
    rows = [f"{n} {'AB'[p]}" for n, p in zip(names, parts)]
    the, man = ([i for i, n in enumerate(names) if n == w] for w in ("the", "man"))
    strengths = np.linspace(0, 3, 31)
    similar = np.stack([cosine(bert_input(ids, parts, token, place, s * both)) for s in strengths])
    curves = {f"{w}: {'same text' if parts[i] == parts[j] else 'two texts'}{tail}": similar[:, i, j]
              for w, i, j, tail in (("the", the[0], the[1], ""), ("the", the[1], the[2], " "), ("man", man[0], man[1], ""))}
    now = cosine(x)
    return (
        heatmap(panels, rows=rows, columns=[""] * panels.shape[1], x="token, place, text, sum: seven numbers each", y="token and its text", value="value", signed=True, range=(-3, 3),
                caption="From left to right: the rows of token, place and text, and their sum after the norm. The text's rows come in two kinds only."),
        heatmap(now, rows=rows, columns=[n[:3].strip("[") for n in names], x="token", y="token and its text", value="cosine similarity", signed=True, range=(-1, 1),
                caption="Which tokens look alike to the first layer. With strong segments the picture falls into blocks, one for each text."),
        line(curves, at=strengths, x="strength of the segments", y="cosine similarity", marks={"now": segment}, range_y=(-1, 1),
             caption="Equal words, compared. Those of two texts move apart as the segments get stronger; those of one text move together."),
        f"The two “man” are {'in one text' if parts[man[0]] == parts[man[1]] else 'in different texts'}; their similarity is "
        f"{now[man[0], man[1]]:.2f}. Words of one text are alike by {now[parts == 0][:, parts == 0].mean():.2f} (A) and "
        f"{now[parts == 1][:, parts == 1].mean():.2f} (B) on average, across both by {now[parts == 0][:, parts == 1].mean():.2f}.",
    )
