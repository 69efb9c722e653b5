"""Bytes per token, tokens per word and bits per byte, in plain Python."""

from math import log


def bytes_per_token(encode, text):
    """encode: a function from text to tokens."""
    return len(text.encode("utf-8")) / len(encode(text))


def fertility(encode, text):
    """Tokens per word, each word with the space before it."""
    words = [" " + word for word in text.split()]
    return sum(len(encode(word)) for word in words) / len(words)


def bits_per_byte(loss, bytes_per_token):
    """loss: nats per token. However a text is cut, its bits per byte stay."""
    return loss / (log(2) * bytes_per_token)


# %% demo
from collections import Counter
from functools import lru_cache

from snippets.embeddings.byte_level import SYMBOL, byte_level
from snippets.embeddings.byte_pair_encoding import TEXT, train
from snippets.embeddings.pre_tokenizer import split
from snippets.live import bars, choice, demo, slider

LEARN = {
    "English": TEXT,
    "German": "Die Lampe im Turm leuchtet weit. Der Wärter putzt das Fenster und wartet auf die Boote. Wenn der Wind am stärksten ist, "
              "schlagen die Wellen gegen die Mauer, und der Wärter zählt die Wellen. Die Boote warten auf den Wärter und auf die Lampe.",
    "Russian": "Лампа в башне светит далеко. Смотритель моет окно и ждёт лодки. Когда ветер самый сильный, волны бьют о стену, и "
               "смотритель считает волны. Лодки ждут смотрителя и ждут лампу.",
    "Thai": "โคมไฟในหอคอยส่องไกล คนเฝ้าล้างหน้าต่างและรอเรือ เมื่อลมแรงที่สุด คลื่นซัดกำแพง และคนเฝ้านับคลื่น เรือรอคนเฝ้าและรอโคมไฟ",
}
SAMPLES = {
    "English": "The keeper waits for the boats and cleans the lamp.",
    "German": "Der Wärter wartet auf die Boote und putzt die Lampe.",
    "Russian": "Смотритель ждёт лодки и моет лампу.",
    "Thai": "คนเฝ้ารอเรือและล้างโคมไฟ",
    "Python": "for boat in boats:\n    if lamp.is_on():\n        boat.wait(3)\n",
    "numbers": "12 + 120 = 132; 1987 - 1987 = 0",
}


@lru_cache
def learned(language):
    """400 merges of bytes from one language's text, or from the four together."""
    text = " ".join(LEARN.values()) if language == "all four" else LEARN[language]
    counts = Counter("".join(SYMBOL[b] for b in piece.encode()) for piece, _ in split(text, "gpt2"))
    return train(counts, 400, min_count=1)


@demo(
    merges=slider(0, 400, step=10, label="merges"),
    language=choice(*LEARN, "all four", label="text that the vocabulary was learned from"),
    loss=slider(0.0, 6.0, step=0.1, label="loss per token", unit="nats"),
)
def show(merges=200, language="English", loss=3.0):
    """Who was in the training text is cheap, all others pay. Learn from another language: the bars change places. The last figure has the same loss per token for all:
    it means something else for each."""
    rules = learned(language)[:merges]

    def encode(text):
        return byte_level(text, rules)

    size = {name: bytes_per_token(encode, text) for name, text in SAMPLES.items()}
    words = {name: fertility(encode, text) for name, text in SAMPLES.items() if name not in ("Thai", "numbers")}
    count = {name: len(encode(text)) for name, text in SAMPLES.items()}
    same = [count[name] / count["English"] for name in ("German", "Russian", "Thai")]
    return (
        bars(size, y="bytes per token", range_y=(0, 9),
             caption=f"{256 + len(rules)} tokens, learned from {language}. The sentences are new, most of their words are not; the first four say the same. Plain bytes would have 1 everywhere. A Thai letter has three bytes in UTF-8, a Russian one two."),
        bars(words, y="tokens per word", range_y=(0, 12), caption="Fertility: how many tokens a word takes. Thai is missing, because it writes no spaces between words."),
        bars({name: bits_per_byte(loss, b) for name, b in size.items()}, y="bits per byte", range_y=(0, 9), levels={"fair guess": 8},
             caption=f"What a loss of {loss:.1f} nats per token is per byte. Fewer bytes in a token: the same loss is worse."),
        f"For one sentence {count['English']} tokens in English, {count['German']} in German, {count['Russian']} in Russian, {count['Thai']} in Thai: up to {max(same):.1f} times the price and "
        "the room in the context for the same content.",
    )
