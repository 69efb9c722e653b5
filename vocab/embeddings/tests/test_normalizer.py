import random
import sys
import unicodedata

import pytest

from snippets.embeddings.byte_pair_encoding import TEXT
from snippets.embeddings.normalizer import clean, show
from vocab.embeddings.byte_level import ByteLevelBPE
from vocab.embeddings.normalizer import normalize

FORMS = ("NFC", "NFD", "NFKC", "NFKD")
ASSIGNED = [chr(c) for c in range(sys.maxunicode + 1) if unicodedata.category(chr(c)) not in ("Cn", "Cs")]
MARKS = [c for c in ASSIGNED if unicodedata.combining(c)]
# Letters, marks of several classes, Korean, vowel signs that join the letter before, singletons, and what only a K changes.
TRICKY = list("aeofs A\u0301\u0308\u0323\u0315\u0300\u0327éñÅﬁ²½ﾊﾟ한가\u1100\u1161\u11a8\u09c7\u09be\u0f71\u0f72\u0f73\u0344\u2126Ǆ\u1e9bſΣİẞ")


def texts(n=1500, seed=0):
    generator = random.Random(seed)
    pools = [TRICKY, TRICKY, TRICKY, MARKS, ASSIGNED]
    return ["", "a", *("".join(generator.choice(generator.choice(pools)) for _ in range(generator.randint(1, 10))) for _ in range(n))]


@pytest.mark.oracle("unicodedata.normalize on the whole text")
@pytest.mark.parametrize("form", FORMS)
def test_is_unicodes_form(form):
    for text in texts():
        assert normalize(text, [form])[0] == unicodedata.normalize(form, text), ascii(text)
    every_tenth = ASSIGNED[::10]
    assert [normalize(c, [form])[0] for c in every_tenth] == [unicodedata.normalize(form, c) for c in every_tenth]


def test_once_is_enough():
    hypothesis = pytest.importorskip("hypothesis")

    @hypothesis.settings(deadline=None, max_examples=60)
    @hypothesis.given(hypothesis.strategies.text(), hypothesis.strategies.sampled_from(["NFC", "NFKC"]))
    def holds(text, form):
        once, _ = normalize(text, [form])
        twice, alignment = normalize(once, [form])
        assert twice == once and alignment == list(range(len(once)))

    holds()


@pytest.mark.oracle("the parts of each character, by the database")
@pytest.mark.parametrize("form", FORMS)
def test_each_character_comes_from_one_that_has_its_first_part(form):
    kind = "NFKD" if "K" in form else "NFD"
    for text in texts():
        new, alignment = normalize(text, [form])
        assert len(alignment) == len(new) and alignment == sorted(alignment) and all(0 <= i < len(text) for i in alignment)
        if unicodedata.normalize(kind, text) == "".join(unicodedata.normalize(kind, c) for c in text):  # no marks change places
            assert all(unicodedata.normalize("NFD", c)[0] in unicodedata.normalize(kind, text[i]) for c, i in zip(new, alignment))


@pytest.mark.parametrize("form", FORMS)
def test_the_slice_that_a_character_comes_from_has_its_form(form):
    generator = random.Random(3)
    units = ["a", "é", "e\u0301", "ﬁ", "²", "한", "\u1112\u1161\u11ab", "\u09c7\u09be", "o\u0323\u0302", "ﾊﾟ", " ", "日", "😀"]
    for _ in range(200):
        chosen = [generator.choice(units) for _ in range(6)]
        text, starts = "".join(chosen), [sum(map(len, chosen[:k])) for k in range(7)]
        new, alignment = normalize(text, [form])
        for unit, start, end in zip(chosen, starts, starts[1:]):
            mine = [c for c, i in zip(new, alignment) if start <= i < end]
            assert "".join(mine) == unicodedata.normalize(form, unit)
        slices = [*sorted(set(alignment)), len(text)]
        for first, following in zip(slices, slices[1:]):
            made = "".join(c for c, i in zip(new, alignment) if i == first)
            assert unicodedata.normalize(form, text[first:following]) == unicodedata.normalize(form, made)


def test_alignments_by_hand():
    assert normalize("cafe\u0301s") == ("cafés", [0, 1, 2, 3, 5])
    assert normalize("cafés", ["NFD"]) == ("cafe\u0301s", [0, 1, 2, 3, 3, 4])
    assert normalize("ﬁx²", ["NFKC"]) == ("fix2", [0, 0, 1, 2])
    assert normalize("a\u0315\u0300b", ["NFD"]) == ("a\u0300\u0315b", [0, 1, 1, 3]), "the two marks change places"
    assert normalize("a\u0315\u0300b", ["NFC"]) == ("à\u0315b", [0, 1, 3])
    assert normalize("x\u1112\u1161\u11aby") == ("x한y", [0, 1, 4])
    assert normalize("xe\u0301y", ["NFC", "NFD"]) == ("xe\u0301y", [0, 1, 1, 3]), "two forms, one alignment"
    assert normalize("xéİ", [], lowercase=True) == ("xéi\u0307", [0, 1, 2, 2])
    assert normalize("xe\u0301É", ["NFC"], strip_accents=True) == ("xeE", [0, 1, 3])
    assert normalize("Ae\u0301", ()) == ("Ae\u0301", [0, 1, 2]) and normalize("", "NFKC") == ("", [])


@pytest.mark.oracle("tokenizers' BertNormalizer, NFD, StripAccents and Lowercase")
def test_uncased_bert():
    tokenizers = pytest.importorskip("tokenizers")
    agreed = {c for c in ASSIGNED if unicodedata.ucd_3_2_0.category(c) == unicodedata.category(c)}  # the library's Unicode is another
    old = ["".join(c for c in text if c in agreed) for text in texts()]
    bert = tokenizers.normalizers.BertNormalizer(clean_text=False, handle_chinese_chars=False, strip_accents=True, lowercase=True)
    for text in [*old, "Ünïcödé ÇA VA", "ΑΣ"]:
        assert normalize(text, (), lowercase=True, strip_accents=True)[0] == bert.normalize_str(text), ascii(text)
        assert normalize(text, (), lowercase=True)[0] == tokenizers.normalizers.Lowercase().normalize_str(text)
        for form in FORMS:
            assert normalize(text, [form])[0] == getattr(tokenizers.normalizers, form)().normalize_str(text)


def test_canonical_equivalents_get_the_same_ids():
    tokenizer = ByteLevelBPE.train([TEXT, "café " * 9], 400)
    pairs = [("café", "cafe\u0301"), ("Å", "\u212b"), ("한", "\u1112\u1161\u11ab"), ("ṩ", "s\u0307\u0323")]
    for one, other in pairs:
        assert one != other and tokenizer.encode(one) != tokenizer.encode(other)
        for form in FORMS:
            assert tokenizer.encode(normalize(one, [form])[0]) == tokenizer.encode(normalize(other, [form])[0])


def test_what_a_k_destroys_and_no_form_brings_back():
    for before, after in [("x²", "x2"), ("ﬁ", "fi"), ("ＡＢ１", "AB1"), ("½", "1\u20442"), ("10⁻³", "10\u22123"), ("…", "...")]:
        assert normalize(before, ["NFKC"])[0] == after and normalize(before, ["NFC"])[0] == before
        assert all(normalize(after, [form])[0] != before for form in FORMS)


def test_small_letters_know_no_language():
    assert normalize("İI", (), lowercase=True)[0] == "i\u0307i", "in Turkish the small one of I has no dot"
    assert normalize("ΑΣ", (), lowercase=True)[0] == "ασ" != "ΑΣ".lower(), "at the end of a Greek word the small sigma is ς"
    assert normalize("straße", (), lowercase=True)[0] != normalize("STRASSE", (), lowercase=True)[0]


def test_bad_input():
    with pytest.raises(ValueError, match="forms has 'nfc'; expected some of NFC, NFD, NFKC, NFKD"):
        normalize("a", ["nfc"])
    with pytest.raises(TypeError, match="text is a bytes; expected a string"):
        normalize(b"a")


@pytest.mark.parametrize("form", FORMS)
def test_the_snippet_decomposes_and_composes_to_the_same(form, agree):
    for text in texts(400, seed=5):
        for flags in ({}, {"lowercase": True, "strip_accents": True}):
            (ours, places), (theirs, alignment) = clean(text, form, **flags), normalize(text, [form], **flags)
            assert ours == theirs, ascii(text)
            agree([*map(ord, ours), *places], [*map(ord, theirs), *alignment])


def test_the_demo_makes_two_spellings_equal():
    assert "still different" in show(form="none")[-1]["caption"] and "now equal" in show(form="NFD")[-1]["caption"]
    rows = show(form="NFC")[0]["rows"]
    assert rows[8][2] == "é" and rows[9][2] == "joined or dropped"
