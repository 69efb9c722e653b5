"""Decoding tokens in plain Python: the bytes of each token, and a stream that waits for whole characters."""

from snippets.embeddings.byte_level import BYTE


def as_bytes(token, kind, first):
    """What a token stands for, as UTF-8 or a part of it."""
    if kind == "byte-level":
        return bytes(BYTE[symbol] for symbol in token)
    if kind == "wordpiece":
        return (token if first else token[2:] if token[:2] == "##" else " " + token).encode()
    if kind == "byte-fallback":
        return bytes([int(token[1:-1], 16)]) if token[:3] == "<0x" else token.encode()
    text = token.replace("▁", " ")  # metaspace
    return text[first and text[:1] == " " :].encode()


def naive(chunks):
    """Each token by itself: a character that is cut is lost twice."""
    return [chunk.decode(errors="replace") for chunk in chunks]


def stream(chunks):
    """For each token the characters that are complete now, and the bytes that wait."""
    waiting, out = b"", []
    for chunk in chunks:
        waiting += chunk
        done = len(waiting) - unfinished(waiting)
        out.append((waiting[:done].decode(errors="replace"), waiting[done:]))
        waiting = waiting[done:]
    return out


def unfinished(data):
    """How many bytes at the end begin a character that goes on. Its first byte says how long it is."""
    for back in range(1, min(4, len(data) + 1)):
        first = data[-back]
        if first >= 0b11000000:
            length = 2 if first < 0b11100000 else 3 if first < 0b11110000 else 4
            return back if back < length else 0
        if first < 0b10000000:  # a character of one byte
            return 0
    return 0


# %% demo
import re

from snippets.embeddings.byte_level import byte_level, fallback, learned
from snippets.embeddings.wordpiece import greedy
from snippets.embeddings.wordpiece import learned as learned_pieces
from snippets.live import choice, demo, line, slider, table, typed

TEXTS = {"emoji": "the lamp 👍🏽 shines 🌊", "accents": "façade, grüße, naïve", "Thai": "the สวัสดี", "English": "the newest lamp shines"}
END = 26


def tokens_of(text, kind):
    over_bytes, over_characters, known = learned()
    if kind == "byte-level":
        return byte_level(text, over_bytes[:120])
    if kind == "byte-fallback":
        return fallback(text, known, over_characters[:120])
    words = re.findall(r"[^\W\d_]+|[^\w\s]", text)
    if kind == "wordpiece":
        vocab = set(learned_pieces("count", 2)) | {w for w in ",."}
        return [piece for word in words for piece in greedy(word, vocab)[0]]
    return [("▁" if i == 0 else "") + piece for word in text.split() for i, piece in enumerate(re.findall(r".{1,4}", word))]


def show_bytes(data):
    return " ".join(f"{b:02X}" for b in data)


@demo(
    text=choice(*TEXTS, label="text"),
    own=typed(label="or text of your own", most=24),
    kind=choice("byte-level", "byte-fallback", "wordpiece", "metaspace", label="kind of token"),
    steps=slider(1, END, label="tokens pushed"),
    way=choice("stream", "naive", label="decoding"),
)
def show(text="emoji", own="", kind="byte-level", steps=END, way="stream"):
    """Push the tokens one by one: the buffer fills with the bytes of an emoji and empties when it is whole. Then decode naively."""
    tokens = tokens_of(own or TEXTS[text], kind)
    if not tokens:
        raise ValueError("No word is left of this text: type a letter or a mark.")
    chunks = [as_bytes(token, kind, i == 0) for i, token in enumerate(tokens)]
    pushed = min(int(steps), len(tokens))
    streamed, alone = stream(chunks), naive(chunks)
    out = [s for s, _ in streamed] if way == "stream" else alone
    first = max(0, pushed - 8)
    rows = [[i + 1, tokens[i].replace(" ", "␣"), show_bytes(chunks[i]), show_bytes(streamed[i][1]) if way == "stream" else "none kept", out[i].replace(" ", "␣")]
            for i in range(first, pushed)]
    count = lambda parts: [sum(len(p) for p in parts[: i + 1]) for i in range(pushed)]  # noqa: E731
    broken = sum(p.count("\ufffd") for p in alone[:pushed])
    return (
        table(rows, columns=["number", "token", "its bytes", "waiting after it", "shown"],
              caption=f"Tokens {first + 1} to {pushed} of {len(tokens)}. " + ("A character is shown when its last byte has come." if way == "stream" else
                      "Each token is decoded by itself: a part of a character becomes �.")),
        line({"stream": count([s for s, _ in streamed]), "naive": count(alone)}, at=range(1, pushed + 1), x="tokens pushed", y="characters shown", steps=True,
             dashed=["naive"], range_y=(0, 40),
             caption="A flat step is waiting. The naive curve runs ahead where it shows pieces of characters as if they were characters."),
        f"Shown so far: “{''.join(out[:pushed])}”. Naive decoding has shown {broken} replacement characters, the stream "
        f"{sum(s.count(chr(0xFFFD)) for s, _ in streamed[:pushed])}; {len(streamed[pushed - 1][1])} bytes wait.",
    )
