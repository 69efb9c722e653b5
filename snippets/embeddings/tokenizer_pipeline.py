"""A tokenizer pipeline in plain Python: each step hands over strings and the places in the text that they come from."""

from collections import Counter

from snippets.embeddings import byte_pair_encoding, unigram, wordpiece
from snippets.embeddings.byte_pair_encoding import TEXT
from snippets.embeddings.normalizer import clean
from snippets.embeddings.pre_tokenizer import split


def prepare(text, normalizer, pre_tokenizer):
    """Normalize, then cut: pieces, and for each of their characters the (start, end) in the old text."""
    form = normalizer if normalizer.startswith("NF") else "none"
    normal, starts = clean(text, form, lowercase=normalizer == "lowercase")
    ends = [next((s for s in starts[i:] if s > starts[i]), len(text)) for i in range(len(starts))]  # where the next one begins
    pieces = split(normal, "gpt4", 1) if pre_tokenizer == "digits" else split(normal, pre_tokenizer)
    return [(piece, list(zip(starts[a:b], ends[a:b]))) for piece, (a, b) in pieces]


def train(counts, kind, size):
    """The model: a vocabulary, how a piece becomes tokens, and the mark of those that continue a word."""
    letters = ["[UNK]", *sorted({c for piece in counts for c in piece})]
    if kind == "BPE":
        merges = byte_pair_encoding.train(counts, max(size - len(letters), 0), min_count=1)
        return [*letters, *map("".join, merges)], lambda piece: byte_pair_encoding.encode(piece, merges), ""
    if kind == "WordPiece":
        vocab = wordpiece.train(counts, size)
        return vocab, lambda piece: wordpiece.greedy(piece, vocab)[0], "##"
    if kind == "unigram":
        p, _ = unigram.train(counts, size)
        return ["[UNK]", *p], lambda piece: unigram.best_split(piece, {**dict.fromkeys(piece, 1e-9), **p}), ""
    return letters, list, ""


def encode(text, normalizer, pre_tokenizer, model):
    """(token, id, (start, end)) for each token."""
    vocab, tokens_of, mark = model
    ids, encoded = {token: i for i, token in enumerate(vocab)}, []
    for piece, places in prepare(text, normalizer, pre_tokenizer):
        at = 0
        for token in tokens_of(piece):
            length = len(piece) if token == "[UNK]" else len(token.removeprefix(mark) if at else token)
            name = token if token in ids else "[UNK]"
            encoded.append((name, ids[name], (places[at][0], places[at + length - 1][1])))
            at += length
    return encoded


# %% demo
from functools import lru_cache

from snippets.live import bars, choice, demo, slider, table, typed

SAMPLES = {
    "sentence": "A newer lamp, 1987!",
    "accents": "old cafe\u0301, ﬁne tower²",
    "code": "if lamp:\n    n += 12",
}


@lru_cache
def trained(kind, normalizer, pre_tokenizer, size):
    return train(Counter(piece for piece, _ in prepare(TEXT, normalizer, pre_tokenizer)), kind, size)


def visible(text):
    return text.replace(" ", "␣").replace("\n", "↵").replace("\u0301", "◌\u0301")


@demo(
    sample=choice(*SAMPLES, label="text"),
    own=typed(label="or text of your own", most=40),
    normalizer=choice("none", "NFC", "NFKC", "lowercase", label="normalizer"),
    pre_tokenizer=choice("whitespace", "gpt2", "digits", label="pre-tokenizer"),
    kind=choice("characters", "BPE", "WordPiece", "unigram", label="model"),
    size=slider(50, 1000, step=50, label="vocabulary"),
)
def show(sample="sentence", own="", normalizer="none", pre_tokenizer="gpt2", kind="BPE", size=150):
    """One text through the steps. Change a step: all after it changes, the vocabulary is learned anew from a paragraph, and
    the same word gets other ids."""
    text = own or SAMPLES[sample]
    model = trained(kind, normalizer, pre_tokenizer, size)
    pieces = prepare(text, normalizer, pre_tokenizer)
    encoded = encode(text, normalizer, pre_tokenizer, model)
    normal = clean(text, normalizer if normalizer.startswith("NF") else "none", lowercase=normalizer == "lowercase")[0]
    unknown = sum(i == 0 for _, i, _ in encoded)
    covered = {i for _, _, (start, end) in encoded for i in range(start, end)}
    return (
        table([["text", visible(text)], ["normalized", visible(normal)], ["pieces", " | ".join(visible(p) for p, _ in pieces)],
               ["tokens", " | ".join(visible(t) for t, _, _ in encoded)], ["ids", " ".join(str(i) for _, i, _ in encoded)]],
              columns=["step", "result"], caption="The text after each step. ␣ is a space, ↵ the end of a line, id 0 the unknown token."),
        table([[visible(t), i, f"{start} to {end}", visible(text[start:end])] for t, i, (start, end) in encoded],
              columns=["token", "id", "place", "in the text"], caption="Each token and the part of the original text that it stands for."),
        bars({"characters": len(text), "normalized": len(normal), "pieces": len(pieces), "tokens": len(encoded)}, x="step", y="units",
             range_y=(0, 30), caption="How many units each step leaves. The network pays for the last bar."),
        f"{len(encoded)} tokens of {len(model[0])} in the vocabulary, {unknown} unknown; "
        f"{len(text) - len(covered)} characters are in no token.",
    )
