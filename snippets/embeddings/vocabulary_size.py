"""What a vocabulary costs and what it saves, in plain Python."""

from snippets.embeddings.byte_pair_encoding import join, train


def cost(V, d, L, tied=True):
    """Weights of the table(s), of the layers, and multiply-adds of the scores and of the layers for one token."""
    return {"embedding": V * d, "head": 0.0 if tied else V * d, "layers": 12.0 * d * d * L, "score work": V * d, "layer work": 12.0 * d * d * L}


def curve(word_counts, n_merges, min_count=2):
    """Tokens of the text after 0, 1 ... merges: the vocabularies are nested, each has one token more than the one before."""
    splits = {word: tuple(word) for word in word_counts}
    tokens = [sum(len(s) * word_counts[w] for w, s in splits.items())]
    for pair in train(word_counts, n_merges, min_count):
        saved = 0
        for word, old in splits.items():
            splits[word] = join(old, pair)
            saved += (len(old) - len(splits[word])) * word_counts[word]
        tokens.append(tokens[-1] - saved)
    return tokens


# %% demo
from collections import Counter
from functools import lru_cache

from snippets.embeddings.byte_level import SYMBOL
from snippets.embeddings.byte_pair_encoding import TEXT
from snippets.embeddings.pre_tokenizer import split
from snippets.live import bars, demo, line, slider, toggle


@lru_cache
def text_curve():
    return curve(Counter("".join(SYMBOL[b] for b in piece.encode()) for piece, _ in split(TEXT, "gpt2")), 400, min_count=1)


@demo(
    vocabulary=slider(1000, 512000, log=True, label="vocabulary V"),
    d_model=slider(256, 16384, log=True, label="width d"),
    layers=slider(6, 96, label="layers"),
    tokens=slider(1000, 64000, log=True, label="tokens in a batch"),
    tied=toggle(label="one table for input and output"),
)
def show(vocabulary=50300, d_model=768, layers=12, tokens=4000, tied=True):
    """The start is GPT-2 small: the table is a third of it. Raise the width: layers grow with its square, tables do not. Then raise the tokens and look at the logits."""
    V, d = float(round(vocabulary)), float(round(d_model))
    widths = {"d / 2": d / 2, "d": d, "2 d": 2 * d, "4 d": 4 * d}
    share = {part: {} for part in ("embedding", "layers", "head")}
    for name, width in widths.items():
        c = cost(V, width, layers, tied)
        for part in share:
            share[part][name] = 100 * c[part] / (c["embedding"] + c["layers"] + c["head"])
    mine = cost(V, d, layers, tied)
    logits = 4 * V * float(round(tokens)) / 1e9
    kept = 2 * d * float(round(tokens)) * layers / 1e9
    per_text = text_curve()
    sizes = [256 + i for i in range(len(per_text))]
    total = mine["embedding"] + mine["head"] + mine["layers"]
    work = 100 * mine["score work"] / (mine["score work"] + mine["layer work"])
    return (
        bars(share, stacked=True, x="width", y="share of the weights (%)", range_y=(0, 100),
             caption=f"Where the weights are, with {layers} layers and {V:,.0f} tokens: at the width chosen, at half of it and at more."),
        bars({"logits": logits, "layers": kept}, y="GB for the batch",
             caption=f"What {float(round(tokens)):,.0f} tokens need in training: logits, a score in 32 bits for each entry of the vocabulary; and for comparison the d numbers in 16 bits that enter each of the {layers} layers."),
        line({"text of the demo": (sizes, per_text)}, x="vocabulary (bytes + merges)", y="tokens in the text", range_y=(0, per_text[0] * 1.05),
             caption=f"A real curve at toy size: byte-level merges of {per_text[0]} bytes. The first hundred merges save {per_text[0] - per_text[100]} tokens, the next hundred {per_text[100] - per_text[200]}. "
             "Soon a merge is a pair that was seen once: learned by heart, useless in another text."),
        f"{total / 1e6:,.0f} million weights, {100 * (mine['embedding'] + mine['head']) / total:.0f} % of them in the vocabulary. The scores take {work:.0f} % of the work per token, and {logits:.2g} GB for the batch.",
    )
