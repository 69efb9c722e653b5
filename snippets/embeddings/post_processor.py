"""Templates, truncation and padding in NumPy: from the ids of texts to one rectangle."""

import numpy as np


def fill(template, texts, specials):
    """A template such as "[CLS] $A [SEP] $B:1 [SEP]:1" with the ids of one text or two -> (id, type, is it a control token)."""
    row = []
    for word in template.split():
        name, kind = (word[:-2], int(word[-1])) if word[-2] == ":" else (word, 0)
        if name in ("$A", "$B"):
            row += [(id_, kind, 0) for id_ in texts["$A$B".index(name) // 2]]
        else:
            row.append((specials[name], kind, 1))  # the only line in which a control token comes into being
    return row


def cut(texts, room):
    """Drops the last id of the longer text until all fit."""
    texts = [list(ids) for ids in texts]
    first_was_longer = len(texts[0]) > len(texts[-1])
    while sum(map(len, texts)) > room:
        lengths = [len(ids) for ids in texts]
        longest = [i for i, n in enumerate(lengths) if n == max(lengths)]
        texts[longest[-1] if first_was_longer else longest[0]].pop()
    return texts


def rectangle(rows, pad, side="right"):
    """Rows of different lengths -> ids, types and attention mask, each (texts, length)."""
    length = max(map(len, rows))
    ids, types, mask = (np.full((len(rows), length), value) for value in (pad, 0, 0))
    for i, row in enumerate(rows):
        here = slice(0, len(row)) if side == "right" else slice(length - len(row), length)
        ids[i, here], types[i, here], mask[i, here] = [r[0] for r in row], [r[1] for r in row], 1
    return ids, types, mask


# %% demo
import re
from collections import Counter
from functools import lru_cache

from snippets.embeddings.byte_pair_encoding import TEXT
from snippets.embeddings.wordpiece import greedy, train
from snippets.live import choice, demo, heatmap, slider, table, typed

TEMPLATES = {
    "BERT": ("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1"),
    "T5": ("$A </s>", "$A </s> $B </s>"),
    "Llama": ("<s> $A", "<s> $A <s>:1 $B:1"),
    "GPT-2": ("$A", "$A $B"),
}
OTHERS = ["The wind was quieter.", "Today a small machine is watching the light, and it counts.", "A storm."]


@lru_cache(maxsize=None)
def vocabulary():
    words = Counter(re.findall(r"[a-z]+", TEXT.lower()))
    words.update({mark: 2 for mark in ".,[]<>/"})  # marks are words of their own
    return {piece: i for i, piece in enumerate(train(words, 200, 2, "count"))}


def pieces(text):
    return [p for word in re.findall(r"[a-z]+|[^a-z\s]", text.lower()) for p in greedy(word, vocabulary())[0]]


@demo(
    template=choice(*TEMPLATES, label="template"),
    first=typed(label="first sentence"),
    second=typed(label="second sentence, or nothing"),
    longest=slider(8, 64, label="max length", unit="tokens"),
    side=choice("right", "left", label="padding side"),
)
def show(template="BERT", first="The lamp is out [SEP] all is well.", second="She walks along the low path.", longest=20, side="right"):
    """The first sentence holds [SEP], typed: it stays text, in pieces. Then cut to 8, and see what is never cut."""
    vocab = vocabulary()
    specials = {name: len(vocab) + i for i, name in enumerate(["[PAD]", "[CLS]", "[SEP]", "<s>", "</s>"])}
    name = {id_: token for token, id_ in [*vocab.items(), *specials.items()]}
    rows, lost = [], []
    for texts in ([first, second] if second else [first], *([t] for t in OTHERS)):
        form = TEMPLATES[template][len(texts) - 1]
        ids = [[vocab[p] for p in pieces(t)] for t in texts]
        room = int(longest) - sum(word[0] != "$" for word in form.split())
        rows.append(fill(form, cut(ids, room), specials))
        lost.append(max(0, sum(map(len, ids)) - room))
    ids, types, mask = rectangle(rows, specials["[PAD]"], side)
    kinds = np.where(mask == 0, 0.0, 1.0 + types)
    kinds[(ids >= len(vocab)) & (mask == 1)] = 3.0
    shown = [[i + 1, name[a], a, t, "template" if s else "text"] for i, (a, t, s) in enumerate(rows[0])]
    if len(shown) > 24:
        shown = shown[:16] + [["…", "…", "…", "…", "…"]] + shown[-7:]
    last = [name[a] for a in ids[:, -1]]
    return (
        heatmap(kinds, rows=["typed", "other 1", "other 2", "other 3"], x="position", y="text", value="0 padding, 1 type 0, 2 type 1, 3 control", range=(0, 3),
                caption="The batch. The attention mask is 0 exactly at padding. "
                        + ("A decoder continues after the last column, which is padding in the shorter rows." if side == "right" and (mask[:, -1] == 0).any()
                           else "The last column holds the last token of every row.")),
        table(shown, columns=["position", "token", "id", "type", "made by"],
              caption=f"The first row. Ids from {len(vocab)} on are control tokens: the template has made {sum(s for _, _, s in rows[0])}, the typed text none."),
        f"{int(mask.sum())} of {mask.size} places hold tokens; {sum(lost)} ids of texts were cut to keep within {longest}. The last column: {', '.join(last)}.",
    )
