"""Pre-tokenization in plain Python: a scanner that goes from piece to piece."""

import unicodedata

ENDINGS = ("'s", "'t", "'re", "'ve", "'m", "'ll", "'d")


def group(c):
    """What a character is: letter, number, space or sign."""
    return "space" if c.isspace() else {"L": "letter", "N": "number"}.get(unicodedata.category(c)[0], "sign")


def split(text, kind="gpt2", digits=3):
    """Pieces of the text with their places; joined they are the text, but for "whitespace" and "bert", which drop spaces."""
    pieces, start = [], 0
    while start < len(text):
        end = gpt(text, start, kind, digits) if kind in ("gpt2", "gpt4") else other(text, start, kind, digits)
        if kind not in ("whitespace", "bert") or group(text[start]) != "space":
            pieces.append((text[start:end], (start, end)))
        start = end
    return pieces


def run(text, start, *groups, most=10**9):
    """The first place from start on whose character is of another group."""
    end = start
    while end < len(text) and end - start < most and group(text[end]) in groups:
        end += 1
    return end


def gpt(text, start, kind, digits):
    old = kind == "gpt2"
    found = next((e for e in ENDINGS if (text if old else text.lower()).startswith(e, start)), "")
    if found:
        return start + len(found)
    here, space = group(text[start]), text[start] == " "
    if not old and here == "number":
        return run(text, start, "number", most=digits)
    before_word = here != "letter" and (space if old else text[start] not in "\r\n")  # one character goes with the word after it
    if run(text, start + before_word, "letter") > start + before_word:
        return run(text, start + before_word, "letter")
    if old and run(text, start + space, "number") > start + space:
        return run(text, start + space, "number")
    end = run(text, start + space, "sign")
    if end > start + space:
        while not old and end < len(text) and text[end] in "\r\n":
            end += 1
        return end
    end = run(text, start, "space")
    last_line = max(text.rfind(c, start, end) for c in "\r\n")
    if not old and last_line >= 0:
        return last_line + 1
    return end - 1 if end < len(text) and end - start > 1 else end  # the last space belongs to the word after it


def other(text, start, kind, digits):
    if kind == "metaspace":
        return text.find(" ", start + 1) if " " in text[start + 1 :] else len(text)
    if kind == "digits":
        return run(text, start, "number", most=digits) if group(text[start]) == "number" else run(text, start, "letter", "space", "sign")
    if group(text[start]) == "space":
        return run(text, start, "space")
    end = start
    while end < len(text) and group(text[end]) != "space" and not (kind == "bert" and is_mark(text[end])):
        end += 1
    return max(end, start + 1)


def is_mark(c):
    return unicodedata.category(c)[0] == "P" or c in "$+<=>^`|~"


# %% demo
import numpy as np

from snippets.live import bars, choice, demo, heatmap, slider, table, typed

KINDS = ("whitespace", "bert", "gpt2", "gpt4", "metaspace", "digits")
SAMPLES = {  # short, so that each character has its name under the picture
    "prose": "It's 7,  isn't it?",
    "code": "if x:\n    y+=100\n\n#",
    "numbers": "1234567 + 3.14",
    "other scripts": "naïve_x ½ 東京2024年。",
}


def visible(text):
    return text.replace(" ", "␣").replace("\n", "↵")


@demo(
    kind=choice(*KINDS, label="kind"),
    sample=choice(*SAMPLES, label="text"),
    own=typed(label="or text of your own", most=28),
    digits=slider(1, 3, label="digits in a group"),
)
def show(kind="gpt2", sample="code", own="", digits=3):
    """Each change of colour is a border that no token will cross. Compare gpt2 with gpt4 on code and on numbers, and look where the
    spaces go. Digits in a group concern gpt4 and digits."""
    text = own or SAMPLES[sample]
    found = {k: split(text, k, digits) for k in KINDS}
    shade = np.full((len(KINDS), len(text)), np.nan)
    for row, k in enumerate(KINDS):
        for number, (_, (start, end)) in enumerate(found[k]):
            shade[row, start:end] = number % 2
    pieces = [p.replace(" ", "▁") if kind == "metaspace" else visible(p) for p, _ in found[kind]]
    kept = sum(end - start for _, (start, end) in found[kind])
    return (
        heatmap(shade.T, x="kind", y="character", value="piece: odd or even", rows=list(visible(text)), columns=["words", "bert", "gpt2", "gpt4", "meta", "digits"], range=(0, 1),
                caption="Read downwards: where the colour changes, a piece ends. Empty cells are spaces that are dropped."),
        table([[number + 1, piece, f"{start} to {end}"] for number, (piece, (_, (start, end))) in enumerate(zip(pieces, found[kind]))],
              columns=["piece", "text", "place"], caption=f"The pieces of {kind}. ␣ is a space, ↵ the end of a line."),
        bars({k: len(p) for k, p in found.items()}, x="kind", y="pieces", range_y=(0, 28 if own else 16),
             caption="Pieces of this text. More pieces are shorter ones: fewer merges can happen within them."),
        f"{kind} cuts {len(text)} characters into {len(pieces)} pieces" + (" and keeps all of them." if kept == len(text) else
                                                                         f" and drops {len(text) - kept}: they cannot be decoded."),
    )
