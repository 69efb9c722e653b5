import random
import re
import sys
import unicodedata
from collections import Counter

import pytest

from snippets.embeddings.byte_pair_encoding import TEXT
from snippets.embeddings.pre_tokenizer import KINDS, SAMPLES, show, split
from vocab.embeddings.byte_pair_encoding import BPE
from vocab.embeddings.pre_tokenizer import MARKER, PreTokenizer, character_class

# The patterns as published; the possessive marks of later versions change speed, not results.
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
GPT4 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"

ASSIGNED = [chr(c) for c in range(sys.maxunicode + 1) if unicodedata.category(chr(c)) not in ("Cn", "Cs")]
TRICKY = list("   \n\t\r''''sStTrevml dLD12½Ⅷ.,!?-$+_éß日ـ😀\u0301\u200d\u00a0\u3000\x85")
FIXED = ["", " ", "\n", "a", "It's 12345  ok", "I'LL we'Ve", "def f(x):\n        return x\n\n\n", "  \r\n  \n  x", "1234567", "$5,000.00 = 5000€", *SAMPLES.values()]


def texts(seed=0, n=700):
    generator = random.Random(seed)
    drawn = ["".join(generator.choice(TRICKY if generator.random() < 0.8 else ASSIGNED) for _ in range(generator.randint(1, 16))) for _ in range(n)]
    return [*FIXED, *drawn]


def hugging_face(kind):
    pre = pytest.importorskip("tokenizers").pre_tokenizers
    return {"whitespace": pre.WhitespaceSplit, "bert": pre.BertPreTokenizer, "gpt2": lambda: pre.ByteLevel(add_prefix_space=False),
            "metaspace": pre.Metaspace, "digits": lambda: pre.Digits(individual_digits=True)}[kind]()


@pytest.mark.oracle("tokenizers' WhitespaceSplit, BertPreTokenizer, ByteLevel, Metaspace and Digits")
@pytest.mark.parametrize("kind", ["whitespace", "bert", "gpt2", "metaspace", "digits"])
def test_cuts_as_tokenizers_does(kind):
    theirs, ours = hugging_face(kind), PreTokenizer(kind)
    for text in texts():
        if kind == "bert":  # the library's punctuation is that of an older Unicode
            text = "".join(c for c in text if unicodedata.ucd_3_2_0.category(c) != "Cn")
        expected = theirs.pre_tokenize_str(text)
        assert [place for _, place in ours.split(text)] == [place for _, place in expected], text
        if kind != "gpt2":  # there, tokenizers also writes bytes as other characters
            assert ours.split(text) == expected


@pytest.mark.oracle("the package regex with the published patterns")
@pytest.mark.parametrize("kind, pattern", [("gpt2", GPT2), ("gpt4", GPT4)])
def test_is_the_published_pattern(kind, pattern):
    regex = pytest.importorskip("regex")
    theirs, ours = regex.compile(pattern), PreTokenizer(kind)
    for text in [*texts(1), "'ſ", "x'ſ"]:
        text = text.translate(dict.fromkeys(range(0x1C, 0x20)))  # control characters that the package takes for spaces
        assert ours.split(text) == [(m[0], m.span()) for m in theirs.finditer(text)], text


@pytest.mark.oracle("tokenizers' Split with GPT-4's pattern")
def test_gpt4_is_what_tokenizers_makes_of_its_pattern():
    tokenizers = pytest.importorskip("tokenizers")
    theirs = tokenizers.pre_tokenizers.Split(tokenizers.Regex(GPT4), "isolated")
    ours = PreTokenizer("gpt4")
    for text in texts(2):
        assert ours.split(text) == theirs.pre_tokenize_str(text), text


@pytest.mark.oracle("the package regex: \\p{L}, \\p{N} and \\p{P}")
@pytest.mark.parametrize("letter", ["L", "N", "P"])
def test_character_classes_hold_the_characters_of_their_category(letter):
    regex = pytest.importorskip("regex")
    everything = "".join(ASSIGNED)
    assert re.findall(f"[{character_class(letter)}]", everything) == regex.findall(rf"\p{{{letter}}}", everything)
    assert "½" in re.findall(f"[{character_class('N')}]", "1½") and "½" not in re.findall(r"\d", "1½")


@pytest.mark.parametrize("kind", ["gpt2", "gpt4", "digits", "metaspace"])
def test_pieces_join_to_the_text(kind):
    cutter = PreTokenizer(kind, prefix=False)
    for text in texts(3):
        pieces = cutter.split(text)
        assert "".join(p for p, _ in pieces) == (text.replace(" ", MARKER) if kind == "metaspace" else text)
        assert [start for _, (start, _) in pieces] == [0, *(end for _, (_, end) in pieces)][: len(pieces)]
        assert all(text[start:end] == p.replace(MARKER, " ") if kind == "metaspace" else text[start:end] == p for p, (start, end) in pieces)


@pytest.mark.parametrize("kind", KINDS)
def test_the_scanner_in_plain_python_finds_the_same_places(kind, agree):
    digits = 2 if kind in ("gpt4", "digits") else None
    cutter = PreTokenizer(kind, digits=digits, prefix=False)
    ours = [place for text in texts(4) for _, place in cutter.split(text)]
    theirs = [place for text in texts(4) for _, place in split(text, kind, digits)]
    agree(theirs, ours)


def test_gpt4_groups_digits_by_three_from_the_left():
    assert [p for p, _ in PreTokenizer("gpt4").split("1234567")] == ["123", "456", "7"]
    assert [p for p, _ in PreTokenizer("gpt4", digits=1).split("x12")] == ["x", "1", "2"]
    assert [p for p, _ in PreTokenizer("gpt2").split("1234567")] == ["1234567"]
    assert [p for p, _ in PreTokenizer("digits").split("a12b")] == ["a", "1", "2", "b"]
    assert PreTokenizer("digits", digits=2).split("a123") == [("a", (0, 1)), ("12", (1, 3)), ("3", (3, 4))]


def test_spaces_before_code_are_one_piece_and_newlines_are_apart_in_gpt4_only():
    code = "x:\n        return"
    assert [p for p, _ in PreTokenizer("gpt2").split(code)] == ["x", ":", "\n       ", " return"]
    assert [p for p, _ in PreTokenizer("gpt4").split(code)] == ["x", ":\n", "       ", " return"]
    assert [p for p, _ in PreTokenizer("bert").split(code)] == ["x", ":", "return"]


def test_a_space_put_before_makes_the_first_word_like_all_others():
    assert PreTokenizer("metaspace").split("ab ab") == [(MARKER + "ab", (0, 2)), (MARKER + "ab", (2, 5))]
    assert PreTokenizer("metaspace", prefix=False).split("ab ab") == [("ab", (0, 2)), (MARKER + "ab", (2, 5))]
    assert PreTokenizer("gpt2", prefix=True).split("ab ab") == [(" ab", (0, 2)), (" ab", (2, 5))]
    assert PreTokenizer("gpt2").split("ab ab")[0] == ("ab", (0, 2))
    assert PreTokenizer("gpt4", prefix=True).split(" ab") == [(" ab", (0, 3))] and PreTokenizer("metaspace").split("") == []


@pytest.mark.oracle("the tokens of a trained vocabulary, each cut again")
@pytest.mark.parametrize("kind", ["gpt2", "gpt4"])
def test_no_token_crosses_the_border_of_a_piece(kind):
    cutter = PreTokenizer(kind)
    bpe = BPE.train(Counter(piece for piece, _ in cutter.split(TEXT)), 400, min_frequency=1)
    assert all(len(cutter.split(token)) == 1 for token in bpe.vocab)
    whole = BPE.train({TEXT: 1}, 120)
    assert any(len(cutter.split(token)) > 1 for token in whole.vocab), "without pieces, tokens run across words"


def test_another_cut_than_in_training_gives_other_tokens():
    words = Counter(piece for piece, _ in PreTokenizer("gpt2").split(TEXT))
    bpe = BPE.train(words, 150)
    with_space = [t for p, _ in PreTokenizer("gpt2").split("in the lamp") for t in bpe.encode_word(p)]
    without = [t for p, _ in PreTokenizer("whitespace").split("in the lamp") for t in bpe.encode_word(p)]
    assert " the" in with_space and " the" not in without and len(without) > len(with_space) - 2


def test_an_accent_that_is_a_character_of_its_own_cuts_the_word():
    assert [p for p, _ in PreTokenizer("gpt2").split("cafe\u0301s")] == ["cafe", "\u0301", "s"]
    assert [p for p, _ in PreTokenizer("gpt2").split("caf\u00e9s")] == ["caf\u00e9s"]


def test_settings_that_cannot_be():
    with pytest.raises(ValueError, match="kind='gpt5' is none of whitespace, bert, gpt2, gpt4, metaspace, digits"):
        PreTokenizer("gpt5")
    with pytest.raises(ValueError, match="digits=3 is given, but kind='gpt2' does not group digits"):
        PreTokenizer("gpt2", digits=3)
    with pytest.raises(ValueError, match="digits=0 is not above 0"):
        PreTokenizer("gpt4", digits=0)


def test_the_demo_shows_the_borders():
    cells, pieces, counts, _ = show(kind="gpt4", sample="numbers", digits=3)
    assert [row[1] for row in pieces["rows"]][:3] == ["123", "456", "7"]
    assert counts["series"][""][KINDS.index("gpt4")] == len(PreTokenizer("gpt4").split(SAMPLES["numbers"]))
    assert [row[KINDS.index("gpt4")] for row in cells["values"]][:8] == [0, 0, 0, 1, 1, 1, 0, 1]
