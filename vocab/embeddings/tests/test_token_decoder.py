import itertools
import random

import pytest

from snippets.embeddings import token_decoder as snippet
from vocab.embeddings.byte_level import ByteFallback, ByteLevelBPE, to_symbols
from vocab.embeddings.token_decoder import StreamDecoder, decode, decode_tokens
from vocab.embeddings.wordpiece import WordPiece

TEXT = "Grüße 👍🏽 — 世界 👩‍👩‍👧 ok\n\n  ß"


def random_text(rng):
    ranges = ((32, 127), (0xA0, 0x2FF), (0x4E00, 0x4E40), (0x1F600, 0x1F640), (0x0, 0x20), (0x10FFF0, 0x110000))
    return "".join(chr(rng.randrange(*rng.choice(ranges))) for _ in range(rng.randint(0, 15)))


def random_tokens(rng, text):
    """The bytes of a text cut anywhere, as a tokenizer might, and a vocabulary for it."""
    symbols, tokens = to_symbols(text.encode()), []
    while symbols:
        n = rng.randint(1, 5)
        tokens.append(symbols[:n])
        symbols = symbols[n:]
    vocab = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    return tokens, vocab


def streamed(ids, *args, **settings):
    stream = StreamDecoder(*args, **settings)
    parts = [stream.push(i) for i in ids]
    return parts, stream.flush()


@pytest.mark.oracle("Python's own UTF-8 decoder, over random Unicode cut anywhere")
def test_the_stream_joined_is_the_whole_text_and_never_shows_half_a_character():
    rng = random.Random(0)
    for _ in range(300):
        text = random_text(rng)
        tokens, vocab = random_tokens(rng, text)
        ids = [vocab[t] for t in tokens]
        parts, rest = streamed(ids, vocab)
        assert "".join(parts) == text == decode(ids, vocab) == decode_tokens(tokens) and rest == ""
        for i in range(len(parts)):  # as much as is complete, and at once
            complete = b"".join(snippet.as_bytes(t, "byte-level", False) for t in tokens[: i + 1])
            assert "".join(parts[: i + 1]) == complete.decode(errors="ignore") and "\ufffd" not in parts[i]


@pytest.mark.parametrize("merges", [0, 40])
def test_decoding_what_a_byte_level_model_encoded_gives_the_text_back(merges):
    model = ByteLevelBPE.train([TEXT] * 3, 256 + merges)
    rng = random.Random(1)
    for text in [TEXT, "", *(random_text(rng) for _ in range(50))]:
        ids = [model.vocab[t] for t in model.encode(text)]
        assert decode(ids, model.vocab) == text == "".join(streamed(ids, model.vocab)[0])


def test_every_way_to_cut_a_short_text_streams_to_the_same_text():
    symbols = to_symbols("aé👍".encode())
    for cuts in itertools.product((False, True), repeat=len(symbols) - 1):
        ends = [i + 1 for i, cut in enumerate(cuts) if cut] + [len(symbols)]
        tokens = [symbols[a:b] for a, b in zip([0, *ends], ends)]
        vocab = {token: i for i, token in enumerate(tokens)}
        parts, rest = streamed(range(len(tokens)), vocab)
        assert "".join(parts) == "aé👍" and rest == ""


@pytest.mark.oracle("tokenizers.decoders: ByteLevel, WordPiece, Metaspace, ByteFallback")
def test_equals_the_decoders_of_tokenizers():
    decoders = pytest.importorskip("tokenizers.decoders")
    rng = random.Random(2)
    for _ in range(60):
        tokens, _ = random_tokens(rng, random_text(rng))
        assert decode_tokens(tokens) == decoders.ByteLevel().decode(tokens)
        pieces = [("##" if rng.random() < 0.5 else "") + rng.choice(["un", "able", "é", ".", "'s"]) for _ in range(rng.randint(1, 8))]
        assert decode_tokens(pieces, "wordpiece") == decoders.WordPiece(prefix="##", cleanup=False).decode(pieces)
        marked = ["▁" * rng.randint(0, 1) + rng.choice(["un", "able", "é", "a▁b"]) for _ in range(rng.randint(1, 8))]
        marked[0] = "▁a"
        assert decode_tokens(marked, "metaspace") == decoders.Metaspace().decode(marked)
        model = ByteFallback(["a", "b", " ", "é"])
        tokens = model.encode("".join(rng.choices("ab é世👍", k=9)))
        assert decode_tokens(tokens, "byte-fallback") == decoders.ByteFallback().decode(tokens)
        marked = ["▁", *(t.replace(" ", "▁") for t in tokens)]
        llama = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
        assert decode_tokens(marked, "byte-fallback", marker="▁") == llama.decode(marked)


@pytest.mark.oracle("tokenizers.decoders.DecodeStream")
def test_equals_the_stream_of_tokenizers():
    tokenizers = pytest.importorskip("tokenizers")
    model = ByteLevelBPE.train([TEXT] * 3, 290)
    theirs = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=model.vocab, merges=model.merges))
    theirs.decoder = tokenizers.decoders.ByteLevel()
    ids = [model.vocab[t] for t in model.encode(TEXT)]
    stream = tokenizers.decoders.DecodeStream(skip_special_tokens=True)
    assert [stream.step(theirs, i) or "" for i in ids] == streamed(ids, model.vocab)[0]


@pytest.mark.oracle("PreTrainedTokenizerBase.clean_up_tokenization of transformers")
def test_clean_up_equals_transformers_and_corrupts_code():
    base = pytest.importorskip("transformers").PreTrainedTokenizerBase
    rng, words = random.Random(3), ["it", "'s", "n't", "do", "not", ".", ",", "?", "!", "'m", "'ve", "'re", "'", "a"]
    for _ in range(200):
        tokens = rng.choices(words, k=8)
        assert decode_tokens(tokens, "wordpiece", clean_up=True) == base.clean_up_tokenization(None, " ".join(tokens))
    code = "print(a , ' . ' , b)"
    ids, vocab = [0], {to_symbols(code.encode()): 0}
    assert decode(ids, vocab) == code and decode(ids, vocab, clean_up=True) == "print(a, '. ', b)"  # another string is printed


def test_wordpiece_drops_the_joins_and_keeps_a_first_one():
    assert decode_tokens(["un", "##aff", "##able", "!"], "wordpiece") == "unaffable !"
    assert decode_tokens(["##able", "to"], "wordpiece") == "##able to" and decode_tokens([], "wordpiece") == ""
    assert decode_tokens(["a", "@@b", "##c"], "wordpiece", prefix="@@") == "ab ##c"
    model = WordPiece({"[UNK]": 0, "un": 1, "##able": 2})
    assert decode([model.vocab[t] for t in model.encode_word("unable")], model.vocab, "wordpiece") == "unable"


def test_metaspace_drops_the_first_space_only():
    assert decode_tokens(["▁a", "▁b", "▁▁c"], "metaspace") == "a b  c" and decode_tokens(["a", "▁b"], "metaspace") == "a b"
    assert decode_tokens(["▁", "▁b"], "metaspace") == " b" and decode_tokens(["▁▁x"], "metaspace") == " x"
    assert decode_tokens(["_a", "_b▁"], "metaspace", marker="_") == "a b▁"
    assert decode_tokens(["<0xZZ>", "<0x4>", "x<0x41>", "<0x41>"], "byte-fallback") == "<0xZZ><0x4>x<0x41>A"
    assert decode_tokens([" a"], "byte-fallback") == " a" and decode_tokens(["▁a"], "byte-fallback") == "▁a"


@pytest.mark.parametrize("kind", ["wordpiece", "metaspace", "byte-fallback"])
def test_streams_of_all_kinds_join_to_the_whole(kind):
    tokens = ["▁a", "##b", "c", "<0xC3>", "<0xA9>", "▁", "##d", "<0x0A>", "<0x0>", "<0xC3>!", "x<0xA9>"]
    vocab = {token: i for i, token in enumerate(tokens)}
    rng = random.Random(4)
    for _ in range(40):
        ids = rng.choices(range(len(tokens)), k=9)
        for settings in (dict(), dict(marker="▁")):
            parts, rest = streamed(ids, vocab, kind, **settings)
            assert "".join(parts) + rest == decode(ids, vocab, kind, **settings)
            assert decode(ids, vocab, kind, **settings) == decode_tokens([tokens[i] for i in ids], kind, **settings)


def test_control_tokens_are_skipped_or_named():
    specials = {"[CLS]": 10, "<é>": 11}
    vocab = {"Ġa": 0, "b": 1}
    assert decode([10, 0, 11, 1], vocab, specials=specials) == " ab"
    assert decode([10, 0, 11, 1], vocab, specials=specials, skip_special=False) == "[CLS] a<é>b"
    words = {"a": 0, "##b": 1}
    assert decode([10, 0, 1, 11, 0], words, "wordpiece", specials=specials, skip_special=False) == "[CLS] ab <é> a"
    assert decode([10, 0, 1, 11, 0], words, "wordpiece", specials=specials) == "ab a"
    parts, _ = streamed([10, 0, 1, 11, 0], words, "wordpiece", specials=specials, skip_special=False)
    assert parts == ["[CLS]", " a", "b", " <é>", " a"]
    assert streamed([10, 0, 1], words, "wordpiece", specials=specials)[0] == ["", "a", "b"]
    # The first space is that of the first token of text, not of a control token before it.
    assert decode([10, 0], {"▁a": 0}, "metaspace", specials=specials) == "a"


def test_an_unfinished_character_comes_out_at_the_end_and_nothing_is_lost():
    vocab = {symbol: i for i, symbol in enumerate(to_symbols("é👍".encode()))}
    ids = list(vocab.values())
    parts, rest = streamed(ids[:4], vocab)
    assert parts == ["", "é", "", ""] and rest == "\ufffd" == decode(ids[2:4], vocab)
    assert streamed(ids[:3], vocab, errors="ignore") == (["", "é", ""], "")
    with pytest.raises(UnicodeDecodeError):
        decode(ids[:1], vocab, errors="strict")
    with pytest.raises(UnicodeDecodeError):
        streamed(ids[:1], vocab, errors="strict")


@pytest.mark.oracle("the text up to the first stop string, found in the whole text")
def test_a_stop_string_may_span_tokens_and_its_beginning_is_never_shown():
    rng = random.Random(5)
    for _ in range(400):
        text = "".join(rng.choices("abé", k=rng.randint(0, 12)))
        stop = ["".join(rng.choices("abé", k=rng.randint(1, 4))) for _ in range(rng.randint(0, 2))]
        tokens, vocab = random_tokens(rng, text)
        stream, shown = StreamDecoder(vocab, stop=stop), ""
        for token in tokens:
            shown += stream.push(vocab[token])
            assert text.startswith(shown)
        shown += stream.flush()
        at = [text.find(s) for s in stop if s in text]
        # Of two stop strings the one that is complete first decides.
        ends = [text.find(s) + len(s) for s in stop if s in text]
        if not at:
            assert shown == text and not stream.stopped
        else:
            assert stream.stopped and stream.push(0) == "" and stream.flush() == ""
            assert shown in {text[:a] for a in at} and len(shown) <= min(ends)


def test_what_may_become_a_stop_string_is_held_back_and_given_out_if_it_does_not():
    vocab = {c: i for i, c in enumerate("User:x")}
    parts, rest = streamed([vocab[c] for c in "xUser"], vocab, stop=["User:"])
    assert parts == ["x", "", "", "", ""] and rest == "User"
    assert streamed([vocab[c] for c in "xUsx"], vocab, stop=["User:"]) == (["x", "", "", "Usx"], "")
    assert streamed([vocab[c] for c in "xUser:x"], vocab, stop=["s:", "User:"]) == (["x", "", "", "", "", "", ""], "")


def test_naive_decoding_shows_replacement_characters():
    tokens = [to_symbols(bytes([b])) for b in "👍".encode()]
    assert "".join(decode_tokens([t]) for t in tokens) == "\ufffd" * 4
    assert snippet.naive([snippet.as_bytes(t, "byte-level", False) for t in tokens]) == ["\ufffd"] * 4


def test_numpy_variant_agrees(agree):
    rng = random.Random(6)
    for _ in range(40):
        tokens, vocab = random_tokens(rng, random_text(rng))
        ours, _ = streamed([vocab[t] for t in tokens], vocab)
        theirs = [text for text, _ in snippet.stream([snippet.as_bytes(t, "byte-level", i == 0) for i, t in enumerate(tokens)])]
        agree([len(t) for t in theirs] + [ord(c) for c in "".join(theirs)], [len(t) for t in ours] + [ord(c) for c in "".join(ours)])
    for kind, tokens in (("wordpiece", ["un", "##able", "to"]), ("metaspace", ["▁un", "able", "▁to"]), ("byte-fallback", ["a", "<0xC3>", "<0xA9>", "b"])):
        whole = b"".join(snippet.as_bytes(t, kind, i == 0) for i, t in enumerate(tokens)).decode()
        assert whole == decode_tokens(tokens, kind)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: decode_tokens(["a"], "bpe"), "kind='bpe' is not one of 'byte-level', 'wordpiece', 'metaspace', 'byte-fallback'"),
        (lambda: decode_tokens(["a b"]), "symbols has ' ', which stands for no byte"),
        (lambda: decode([1], {"a": 0}), "ids holds 1, which is neither one of the 1 tokens nor a control token"),
        (lambda: StreamDecoder({"a": 0}).push(7), "ids holds 7"),
        (lambda: StreamDecoder({"a": 0}, stop=[""]), r"stop=\[''\]; expected a list of strings that are not empty"),
        (lambda: StreamDecoder({"a": 0}, stop="ab"), "stop='ab'; expected a list"),
    ],
)
def test_bad_input_says_what_came_and_what_is_allowed(call, message):
    with pytest.raises(ValueError, match=message):
        call()
