"""Unicode normalization in plain Python, from the character database."""

import unicodedata


def decompose(c, compatible):
    """What a character is made of, all the way down; with compatible=True also what it merely looks like."""
    kind, *parts = unicodedata.decomposition(c).split() or [""]
    if not kind or kind.startswith("<") and not compatible:
        number = ord(c) - 0xAC00  # Korean syllables are numbered: first consonant, vowel, last consonant
        if not 0 <= number < 11172:
            return c
        return chr(0x1100 + number // 588) + chr(0x1161 + number % 588 // 28) + (chr(0x11A7 + number % 28) if number % 28 else "")
    codes = parts if kind.startswith("<") else [kind, *parts]
    return "".join(decompose(chr(int(code, 16)), compatible) for code in codes)


def normal_form(text, form):
    """NFD and NFKD: decompose and sort the marks. NFC and NFKC: then join each mark to the letter it stands on.

    Returns the text, and for each of its characters the place in the old text that it comes from."""
    parts = [(p, place) for place, c in enumerate(text) for p in decompose(c, "K" in form)]
    for i in range(1, len(parts)):  # marks above and below do not touch: their order is fixed by their class
        while i and 0 < unicodedata.combining(parts[i][0]) < unicodedata.combining(parts[i - 1][0]):
            parts[i - 1], parts[i], i = parts[i], parts[i - 1], i - 1
    return in_order(parts if form.endswith("D") else compose(parts))


def compose(parts):
    out, letter = [], None
    for c, place in parts:
        between = [unicodedata.combining(o) for o, _ in out[letter + 1 :]] if letter is not None else []
        if letter is not None and all(0 < b < unicodedata.combining(c) for b in between):  # nothing stands in the way
            joined = unicodedata.normalize("NFC", out[letter][0] + c)  # serves as the table of pairs
            if len(joined) == 1:
                out[letter] = joined, out[letter][1]
                continue
        if unicodedata.combining(c) == 0:
            letter = len(out)
        out.append((c, place))
    return out


def in_order(parts):
    """Marks that have changed places share the first of them."""
    places = [place for _, place in parts]
    for i in reversed(range(len(places) - 1)):
        places[i] = min(places[i], places[i + 1])
    return "".join(c for c, _ in parts), places


def clean(text, form="NFC", lowercase=False, strip_accents=False):
    places = list(range(len(text)))
    for f in [form] * (form != "none") + ["NFD"] * strip_accents:
        text, found = normal_form(text, f)
        places = [places[i] for i in found]
    kept = [(c, i) for c, i in zip(text, places) if not (strip_accents and unicodedata.category(c) == "Mn")]
    small = [(s, i) for c, i in kept for s in (c.lower() if lowercase else c)]
    return "".join(c for c, _ in small), [i for _, i in small]


# %% demo
from snippets.live import bars, choice, demo, table, toggle, typed

FORMS = ("none", "NFC", "NFD", "NFKC", "NFKD")
SAMPLES = {
    "two spellings": "caf\u00e9 cafe\u0301",
    "ligature and powers": "ﬁn x² + 10⁻³",
    "full width": "ＡＢ　１２ ﾊﾟﾝ",
    "German and Turkish": "ÜBER STRAẞE İST",
    "Korean": "한국 \u1112\u1161\u11ab",
}


def shown(c):
    return "␣" if c in " \u3000" else "◌" + c if unicodedata.combining(c) else c


@demo(
    form=choice(*FORMS, label="form"),
    sample=choice(*SAMPLES, label="text"),
    own=typed(label="or text of your own", most=16),
    lowercase=toggle(label="small letters"),
    strip_accents=toggle(label="strip accents"),
)
def show(form="NFC", sample="two spellings", own="", lowercase=False, strip_accents=False):
    """The text holds café twice, in two spellings that look the same. See which forms make them equal, and what the forms with a K do to
    powers and ligatures."""
    text = own or SAMPLES[sample]
    after, places = clean(text, form, lowercase, strip_accents)
    rows = []
    for i, c in enumerate(text):
        made = [k for k, place in enumerate(places) if place == i]
        rows.append([f"{i}: {shown(c)}", f"U+{ord(c):04X}", " ".join(shown(after[k]) for k in made) or "joined or dropped",
                     " ".join(f"U+{ord(after[k]):04X}" for k in made)])
    lengths = {f: clean(text, f, lowercase, strip_accents)[0] for f in FORMS}
    words = after.split()
    equal = "The two words are now equal, and get equal tokens." if words[0] == words[-1] else "The two words are still different."
    return (
        table(rows, columns=["from", "code point", "becomes", "code points"],
              caption="Each character of the text, and the characters that come from it. ◌ carries a mark that has no room of its own."),
        bars({"characters": {f: len(t) for f, t in lengths.items()}, "bytes": {f: len(t.encode()) for f, t in lengths.items()}},
             x="form", y="length", range_y=(0, 32), caption="Length after each form. Decomposed text is longer, and so are its tokens."),
        f"{len(text)} characters become {len(after)}, {len(text.encode())} bytes become {len(after.encode())}. "
        + (equal if sample in ("two spellings", "Korean") else "The text is " + ("as it was." if after == text else "another one: the old spelling is gone.")),
    )
