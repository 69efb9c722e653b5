"""Byte-level tokens and byte fallback in plain Python."""

from snippets.embeddings.byte_pair_encoding import TEXT, encode, train
from snippets.embeddings.pre_tokenizer import split


def byte_symbols():
    """A visible character for each byte: itself, or for the 68 that cannot be seen the next one from U+0100 on."""
    seen = [chr(b) if 33 <= b < 127 or b > 160 and b != 173 else "" for b in range(256)]
    return {b: c or chr(256 + seen[:b].count("")) for b, c in enumerate(seen)}


SYMBOL = byte_symbols()
BYTE = {symbol: byte for byte, symbol in SYMBOL.items()}


def byte_level(text, merges):
    """Every character becomes bytes, then merges join them, within the pieces of GPT-2's rule."""
    pieces = ["".join(SYMBOL[b] for b in piece.encode()) for piece, _ in split(text, "gpt2")]
    return [token for piece in pieces for token in encode(piece, merges)]


def byte_level_decode(tokens):
    return bytes(BYTE[symbol] for symbol in "".join(tokens)).decode(errors="replace")


def fallback(text, known, merges, unknown=lambda c: [f"<0x{b:02X}>" for b in c.encode()]):
    """Known characters are joined as usual; an unknown one becomes its bytes, <0xC3><0xA9> for é."""
    tokens = []
    for piece, _ in split(text, "gpt2"):
        strangers = (c for c in piece if c not in known)
        for token in encode("".join(c if c in known else "\0" for c in piece), merges):  # no merge has the \0
            tokens += unknown(next(strangers)) if token == "\0" else [token]
    return tokens


# %% demo
from collections import Counter
from functools import lru_cache

from snippets.live import bars, choice, demo, slider, table, typed

SAMPLES = {
    "English": "the newest lamp",
    "German": "grüße aus Köln",
    "Thai": "สวัสดีครับ",
    "emoji": "ok 👍🏽 👩‍👩‍👧",
}


@lru_cache
def learned():
    """200 merges of the English text over bytes, 200 over characters, and the characters."""
    pieces = Counter(piece for piece, _ in split(TEXT, "gpt2"))
    over_bytes = Counter({"".join(SYMBOL[b] for b in piece.encode()): count for piece, count in pieces.items()})
    return train(over_bytes, 200, min_count=1), train(pieces, 200, min_count=1), set(TEXT)


def visible(token):
    return token.replace(" ", "␣")


@demo(
    mode=choice("byte-level", "fallback", "characters", label="alphabet"),
    sample=choice(*SAMPLES, label="text"),
    own=typed(label="or text of your own", most=24),
    merges=slider(0, 200, step=10, label="merges"),
)
def show(mode="byte-level", sample="German", own="", merges=100):
    """The merges were learned on English. Raise them: English gets cheap, Thai stays at three tokens a character. Then look at the
    families of emoji: one picture, several code points."""
    over_bytes, over_characters, known = learned()

    def tokens(text):
        if mode == "byte-level":
            return byte_level(text, over_bytes[:merges])
        settings = {"unknown": lambda c: ["<unk>"]} if mode == "characters" else {}
        return fallback(text, known, over_characters[:merges], **settings)

    text = own or SAMPLES[sample]
    rows = [[visible(c), f"U+{ord(c):04X}", " ".join(f"{b:02X}" for b in c.encode())] for c in text]
    per_character = {name: len(tokens(t)) / len(t) for name, t in {**SAMPLES, **({"yours": own} if own else {})}.items()}
    made = tokens(text)
    lost = sum(c not in known for c in text) if mode == "characters" else 0
    return (
        table(rows, columns=["character", "code point", "bytes of UTF-8"],
              caption="What the text is made of. What looks like one picture may be several code points: U+200D joins them."),
        table([[i + 1, visible(t)] for i, t in enumerate(made)], columns=["number", "token"],
              caption={"byte-level": "Each symbol is a byte; Ġ is the space. A token may end within a character.",
                       "fallback": "Characters of the English text are themselves, all others their bytes.",
                       "characters": "Characters that the English text does not have are gone."}[mode]),
        bars(per_character, x="text", y="tokens per code point", range_y=(0, 4), levels={"longest code point": 4},
             caption="What each text costs with this alphabet and these merges."),
        f"{len(text)} code points, {len(text.encode())} bytes, {len(made)} tokens. " + (
            f"{lost} characters cannot be decoded." if lost else "Every character can be decoded."),
    )
