"""One sentence under all ways of cutting text, with vocabularies learned from the same words."""

from collections import Counter
from functools import lru_cache

from snippets.embeddings import byte_pair_encoding as bpe
from snippets.embeddings import unigram, wordpiece
from snippets.embeddings.byte_level import byte_level
from snippets.embeddings.pre_tokenizer import split

COUNTS = Counter(piece for piece, _ in split(bpe.TEXT.lower(), "bert"))
LETTERS = sorted(set("".join(COUNTS)))


def known(word, alphabet, tokens):
    """What a tokenizer without bytes can do: a character that it never saw makes the word unknown."""
    return tokens(word) if all(c in alphabet for c in word) else ["[UNK]"]


@lru_cache
def tokenizers(learned):
    """name: (function from word to tokens, entries of the vocabulary). Each has its alphabet and `learned` pieces more."""
    frequent = {word for word, _ in sorted(COUNTS.items(), key=lambda item: (-item[1], item[0]))[:learned]}
    merges = bpe.train(COUNTS, learned, min_count=1)  # the text is ASCII: over its bytes the merges are the same
    first = {word[0] for word in COUNTS} | {"##" + c for word in COUNTS for c in word[1:]}
    pieces = set(wordpiece.train(COUNTS, 1 + len(first) + learned, 1, "count"))
    p, _ = unigram.train(COUNTS, 1 + len(LETTERS) + learned)
    return {
        "words": (lambda w: [w if w in frequent else "[UNK]"], 1 + len(frequent)),
        "characters": (lambda w: [c if c in LETTERS else "[UNK]" for c in w], 1 + len(LETTERS)),
        "bytes": (lambda w: byte_level(w, []), 256),
        "BPE": (lambda w: known(w, LETTERS, lambda w: bpe.encode(w, merges)), 1 + len(LETTERS) + len(merges)),
        "byte-level BPE": (lambda w: byte_level(w, merges), 256 + len(merges)),
        "WordPiece": (lambda w: wordpiece.greedy(w, pieces)[0], len(pieces)),
        "unigram": (lambda w: known(w, p, lambda w: unigram.best_split(w, p)), 1 + len(p)),
    }


# %% demo
from snippets.live import bars, choice, demo, slider, table, typed

SENTENCES = {
    "plain": ("The keeper waits for the warm light.", "keeper"),
    "a rare word": ("An unhappiest of lampkeepers waits.", "lampkeepers"),
    "a foreign word": ("A naïve keeper drinks café.", "naïve"),
    "numbers": ("In 1987 the waves ran 1290 times.", "1290"),
    "an emoji": ("The keeper is happy 🙂.", "🙂"),
}


@demo(
    sentence=choice(*SENTENCES, label="sentence"),
    own=typed(label="or your own"),
    learned=choice(25, 50, 100, 200, label="pieces learned beside the alphabet"),
    width=slider(64, 4096, log=True, label="width of a row"),
)
def show(sentence="a rare word", own="", learned=100, width=768):
    """Change the sentence: who has no token for it says [UNK], and what stood there is lost. Then learn more pieces: fewer tokens, more rows."""
    text, rare = SENTENCES[sentence]
    words = [piece for piece, _ in split((own or text).lower(), "bert")]
    if own and words:
        text, rare = own, max(words, key=len)
    ways = tokenizers(learned)
    cut = {name: [token for word in words for token in way(word)] for name, (way, _) in ways.items()}
    rows = [(name, " ".join(way(rare)), len(way(rare))) for name, (way, _) in ways.items()]
    lost = [name for name, tokens in cut.items() if "[UNK]" in tokens]
    size = {name: float(n) for name, (_, n) in ways.items()}
    d = float(round(width))
    return (
        bars({name: len(tokens) for name, tokens in cut.items()}, y="tokens",
             caption=f"“{text}”: what each way makes of it, lowercased and cut into words first. Few tokens can mean that much was lost: see the table."),
        table(rows, columns=("tokenizer", f"“{rare}” becomes", "tokens"),
              caption="One word. Two bytes of UTF-8 show as two strange letters; ## marks a piece that does not begin a word."),
        bars(size, y="rows of the token table", caption=f"What the vocabulary costs: each row has {d:,.0f} trained numbers."),
        f"{'Nothing is lost.' if not lost else 'Something is [UNK] for ' + ', '.join(lost) + '.'} Byte-level BPE: {len(cut['byte-level BPE'])} tokens, {size['byte-level BPE'] * d / 1e6:.2f} million numbers; "
        f"plain bytes: {len(cut['bytes'])} tokens, {size['bytes'] * d / 1e6:.2f} million.",
    )
