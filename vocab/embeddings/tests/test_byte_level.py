import random
import sys
import unicodedata
from collections import Counter

import pytest

from snippets.embeddings.byte_level import SYMBOL, byte_level, byte_level_decode, fallback, show
from snippets.embeddings.byte_pair_encoding import TEXT
from vocab.embeddings.byte_level import ByteFallback, ByteLevelBPE, bytes_to_unicode, to_bytes, to_symbols
from vocab.embeddings.byte_pair_encoding import BPE
from vocab.embeddings.pre_tokenizer import PreTokenizer

OTHERS = "grüße aus Köln, สวัสดีครับ ok 👍🏽 👩‍👩‍👧 \x00\x7f\xad 12½\n\n"
TOKENIZER = ByteLevelBPE.train([TEXT, OTHERS], 420, min_frequency=1)
CHARACTERS = BPE.train(Counter(p for p, _ in PreTokenizer("gpt2").split(TEXT)), 150)
FALLBACK = ByteFallback(CHARACTERS.vocab, CHARACTERS.merges)
ASSIGNED = [chr(c) for c in range(sys.maxunicode + 1) if unicodedata.category(chr(c)) not in ("Cn", "Cs")]


def texts(n=150):
    generator = random.Random(0)
    letters = list("  the lampTHE'.,120\n") + list(OTHERS)
    return [TEXT, OTHERS, "", *("".join(generator.choice(letters if generator.random() < 0.9 else ASSIGNED) for _ in range(generator.randint(1, 20)))
                               for _ in range(n))]


def test_every_text_survives():
    hypothesis = pytest.importorskip("hypothesis")

    @hypothesis.settings(deadline=None, max_examples=60)
    @hypothesis.given(hypothesis.strategies.text())
    def holds(text):
        assert TOKENIZER.decode(TOKENIZER.encode(text)) == text
        assert TOKENIZER.decode([TOKENIZER.vocab[t] for t in TOKENIZER.encode(text)], errors="strict") == text
        assert FALLBACK.decode(FALLBACK.encode(text)) == text
        assert FALLBACK.decode([FALLBACK.vocab[t] for t in FALLBACK.encode(text)], errors="strict") == text

    holds()


def test_every_sequence_of_bytes_survives():
    hypothesis = pytest.importorskip("hypothesis")

    @hypothesis.settings(deadline=None, max_examples=60)
    @hypothesis.given(hypothesis.strategies.binary())
    def holds(data):
        assert TOKENIZER.decode_bytes(TOKENIZER.encode_bytes(data)) == data
        assert to_bytes(to_symbols(data)) == data

    holds()


@pytest.mark.oracle("transformers' bytes_to_unicode, which is GPT-2's")
def test_the_table_is_that_of_gpt2():
    convert = pytest.importorskip("transformers.convert_slow_tokenizer")
    assert bytes_to_unicode() == convert.bytes_to_unicode()
    assert list(bytes_to_unicode()) == list(convert.bytes_to_unicode()), "its order gives the first 256 ids"


@pytest.mark.oracle("tokenizers' ByteLevel alphabet")
def test_the_table_is_a_bijection_onto_visible_characters(agree):
    tokenizers = pytest.importorskip("tokenizers")
    table = bytes_to_unicode()
    assert sorted(table) == list(range(256)) and set(table.values()) == set(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    assert table[ord(" ")] == "Ġ" == chr(0x120) and table[ord("\n")] == "Ċ"
    assert not any(c.isspace() or unicodedata.category(c) in ("Cc", "Cf") for c in table.values())
    agree([ord(SYMBOL[b]) for b in range(256)], [ord(table[b]) for b in range(256)])


@pytest.mark.oracle("tokenizers' ByteLevel and BPE")
def test_tokens_are_those_of_tokenizers():
    tokenizers = pytest.importorskip("tokenizers")
    theirs = tokenizers.Tokenizer(tokenizers.models.BPE(TOKENIZER.vocab, TOKENIZER.merges))
    theirs.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    theirs.decoder = tokenizers.decoders.ByteLevel()
    for text in texts():
        ids = theirs.encode(text).ids
        assert [TOKENIZER.vocab[t] for t in TOKENIZER.encode(text)] == ids
        assert TOKENIZER.decode(ids) == theirs.decode(ids) == text


@pytest.mark.oracle("tokenizers' BPE(byte_fallback=True)")
def test_fallback_is_that_of_tokenizers():
    tokenizers = pytest.importorskip("tokenizers")
    theirs = tokenizers.Tokenizer(tokenizers.models.BPE(FALLBACK.vocab, FALLBACK.merges, byte_fallback=True))
    theirs.decoder = tokenizers.decoders.Sequence([tokenizers.decoders.ByteFallback(), tokenizers.decoders.Fuse()])
    for text in texts():
        encoded = theirs.encode(text)
        assert FALLBACK.encode(text) == encoded.tokens and FALLBACK.decode(encoded.ids) == theirs.decode(encoded.ids) == text


@pytest.mark.oracle("the length of a code point in UTF-8, by its number")
def test_an_unknown_character_costs_its_length_in_utf8_and_nothing_is_unknown():
    bare = ByteLevelBPE([])
    generator = random.Random(1)
    for c in ["é", "€", "日", "😀", "\x80", "\u07ff", "\u0800", "\uffff", "\U00010000", *generator.sample(ASSIGNED, 500)]:
        if c in TEXT:
            continue
        length = 1 + (ord(c) > 0x7F) + (ord(c) > 0x7FF) + (ord(c) > 0xFFFF)
        assert len(bare.encode(c)) == len(FALLBACK.encode(c)) == length
        assert len(TOKENIZER.encode(c)) <= length
    assert "<unk>" not in TOKENIZER.vocab and set(FALLBACK.vocab) - set(CHARACTERS.vocab) <= {f"<0x{b:02X}>" for b in range(256)}


def test_ids_are_the_bytes_first_then_the_merges():
    assert list(TOKENIZER.vocab)[:256] == list(bytes_to_unicode().values()) and list(TOKENIZER.vocab.values()) == list(range(420))
    assert list(TOKENIZER.vocab)[256:] == [a + b for a, b in TOKENIZER.merges]
    assert TOKENIZER.vocab["!"] == 0 and ByteLevelBPE([]).vocab["Ā"] == 188
    assert ByteLevelBPE.train(["ab ab"], 300).merges == [("a", "b")], "the second one has its space, but ab occurs twice"
    assert ByteLevelBPE.train(["ab ab"], 300, min_frequency=1).merges == [("a", "b"), ("Ġ", "ab")]


def test_a_pre_tokenizer_can_be_given():
    by_digit = ByteLevelBPE.train(["1987 1987"], 300, pre_tokenizer=PreTokenizer("gpt4", digits=1))
    assert by_digit.encode("1987") == list("1987")
    assert ByteLevelBPE.train(["1987 1987"], 300).encode("1987") == ["1987"]
    assert by_digit.encode("ab") == list("ab")


def test_decoding_token_by_token_breaks_characters():
    tokens = ByteLevelBPE([]).encode("é")
    assert tokens == ["Ã", "©"] and ByteLevelBPE([]).decode(tokens) == "é"
    assert "".join(ByteLevelBPE([]).decode([t]) for t in tokens) == "\ufffd\ufffd"
    assert ByteLevelBPE([]).decode(tokens[:1], errors="ignore") == ""
    with pytest.raises(UnicodeDecodeError):
        ByteLevelBPE([]).decode(tokens[:1], errors="strict")
    with pytest.raises(UnicodeDecodeError):
        FALLBACK.decode(["<0xC3>"], errors="strict")


def test_a_line_end_may_be_a_byte_token():
    plain = ByteFallback(["a", "b"])
    assert plain.encode("a\nb") == ["a", "<0x0A>", "b"] and plain.vocab["<0x0A>"] == 2 + 10
    assert ByteFallback({"a": 7, "<0x00>": 3}).vocab["<0x01>"] == 8
    assert ByteFallback([]).encode("a") == ["<0x61>"] and ByteFallback([]).vocab["<0x00>"] == 0


def test_what_looks_like_a_byte_token_is_text():
    typed = ByteFallback([*"<0x1A>"])
    assert typed.encode("<0xA1>") == list("<0xA1>") and typed.decode(typed.encode("<0xA1>")) == "<0xA1>"


def test_one_picture_can_be_more_than_four_bytes():
    family = "👩‍👩‍👧"
    assert len(family) == 5 and len(family.encode()) == 18
    assert len(ByteLevelBPE([]).encode(family)) == 18
    assert max(len(ByteLevelBPE([]).encode(c)) for c in family) == 4


def test_all_of_ascii_is_there_and_numbers_are_as_the_pieces_allow():
    assert all(to_symbols(bytes([b])) in ByteLevelBPE([]).vocab for b in range(128))
    numbers = [str(n) for n in range(1000)]
    for digits, longest in ((1, 1), (3, 3)):
        learned = ByteLevelBPE.train(numbers, 2000, min_frequency=1, pre_tokenizer=PreTokenizer("gpt4", digits=digits))
        assert max(len(t) for t in learned.vocab if t.isdecimal() and t.isascii()) == longest


def test_bad_input():
    with pytest.raises(ValueError, match="vocab has no '!', the symbol of byte 33; expected all 256"):
        ByteLevelBPE([], {"a": 0})
    with pytest.raises(ValueError, match="tokens has 999, which is none of the 420 tokens or their ids"):
        TOKENIZER.decode([0, 999])
    with pytest.raises(ValueError, match="tokens has 'zzz'"):
        FALLBACK.decode(["zzz"])
    with pytest.raises(ValueError, match="symbols has ' ', which stands for no byte"):
        to_bytes("a b")
    with pytest.raises(ValueError, match="vocab_size=200 is below the 256"):
        ByteLevelBPE.train(["a"], 200)
    with pytest.raises(ValueError, match="surrogates not allowed"):
        TOKENIZER.encode("\ud800")


def test_the_snippet_makes_the_same_tokens(agree):
    known = {t for t in CHARACTERS.vocab if len(t) == 1}
    for text in texts(60):
        ours = byte_level(text, TOKENIZER.merges)
        agree([TOKENIZER.vocab[t] for t in ours], [TOKENIZER.vocab[t] for t in TOKENIZER.encode(text)])
        assert byte_level_decode(ours) == text
        text = text.replace("\0", "")
        pieces = [t for p, _ in PreTokenizer("gpt2").split(text) for t in FALLBACK.encode(p)]
        agree([FALLBACK.vocab[t] for t in fallback(text, known, FALLBACK.merges)], [FALLBACK.vocab[t] for t in pieces])


def test_the_demo_counts_bytes_and_what_is_lost():
    *_, costs, sentence = show(merges=0, sample="Thai")
    assert costs["series"][""][2] == 3 and "30 bytes" in sentence["caption"] and "Every character can be decoded" in sentence["caption"]
    assert "14 code points, 17 bytes" in show(sample="German")[-1]["caption"]
    assert "4 characters cannot be decoded" in show(mode="characters", sample="German")[-1]["caption"]
