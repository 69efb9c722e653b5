import json
import random
from collections import Counter

import pytest

from snippets.embeddings.byte_pair_encoding import TEXT
from snippets.embeddings.tokenizer_pipeline import SAMPLES, encode, prepare, show, train
from vocab.embeddings.byte_level import ByteFallback, ByteLevelBPE
from vocab.embeddings.byte_pair_encoding import BPE
from vocab.embeddings.post_processor import TemplateProcessor, add_special_tokens
from vocab.embeddings.pre_tokenizer import PreTokenizer
from vocab.embeddings.tokenizer_pipeline import Tokenizer
from vocab.embeddings.unigram import Unigram
from vocab.embeddings.wordpiece import WordPiece

CORPUS = TEXT.split("\n")


def byte_level(normalizer=None, size=400):
    tokenizer = Tokenizer(normalizer, PreTokenizer("gpt2"), decoder={"kind": "byte-level"})
    return tokenizer.train([*CORPUS, "grüße café 日本 😀"], lambda counts: ByteLevelBPE.train(counts, size, min_frequency=1))


def bert():
    tokenizer = Tokenizer({"forms": (), "lowercase": True, "strip_accents": True}, PreTokenizer("bert"), decoder={"kind": "wordpiece"})
    tokenizer.train(CORPUS, lambda counts: WordPiece.train(counts, 150))
    tokenizer.post_processor = TemplateProcessor(specials=add_special_tokens(tokenizer.model, ["[CLS]", "[SEP]"]))
    return tokenizer


def sentencepiece(prefix=False):
    tokenizer = Tokenizer({"forms": ["NFKC"]}, PreTokenizer("metaspace", prefix=prefix), decoder={"kind": "metaspace"})
    return tokenizer.train(CORPUS, lambda counts: Unigram.train(counts, 120))


def llama():
    def trainer(counts):
        bpe = BPE.train(counts, 150)
        return ByteFallback(bpe.vocab, bpe.merges)

    return Tokenizer(None, PreTokenizer("metaspace"), decoder={"kind": "byte-fallback", "marker": "▁"}).train(CORPUS, trainer)


def plain():
    return Tokenizer(None, PreTokenizer("whitespace")).train(CORPUS, lambda counts: BPE.train(counts, 150, end_of_word="</w>"))


ALL = {"byte-level": byte_level(), "bert": bert(), "sentencepiece": sentencepiece(), "llama": llama()}


def texts(n=150, letters="  the lampTHE'.,120\n\tékrß日😀ﬁ²e\u0301\u0323"):
    generator = random.Random(0)
    return ["", " ", "low lamp", *SAMPLES.values(), *("".join(generator.choice(letters) for _ in range(generator.randint(1, 18))) for _ in range(n))]


def test_what_is_encoded_on_bytes_is_decoded_again():
    hypothesis = pytest.importorskip("hypothesis")

    @hypothesis.settings(deadline=None, max_examples=80)
    @hypothesis.given(hypothesis.strategies.text())
    def holds(text):
        tokenizer = ALL["byte-level"]
        encoding = tokenizer.encode(text)
        assert tokenizer.decode(encoding.ids) == text
        assert [tokenizer.model.vocab[t] for t in encoding.tokens] == encoding.ids and len(encoding.offsets) == len(encoding.ids)

    holds()


@pytest.mark.oracle("tokenizers with the same parts: NFC, ByteLevel, BPE")
@pytest.mark.parametrize("form", [None, "NFC", "NFKC", "NFD"])
def test_a_byte_level_pipeline_is_that_of_tokenizers(form):
    hf = pytest.importorskip("tokenizers")
    ours = ALL["byte-level"] if form is None else byte_level({"forms": [form]})
    theirs = hf.Tokenizer(hf.models.BPE(ours.model.vocab, ours.model.merges))
    theirs.pre_tokenizer, theirs.decoder = hf.pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False), hf.decoders.ByteLevel()
    if form:
        theirs.normalizer = getattr(hf.normalizers, form)()
    for text in texts():
        a, b = ours.encode(text), theirs.encode(text)
        assert a.ids == b.ids and a.tokens == b.tokens and ours.decode(a.ids) == theirs.decode(b.ids)
        if form is None:
            assert a.offsets == b.offsets, text


@pytest.mark.oracle("tokenizers with the same parts: BertNormalizer, BertPreTokenizer, WordPiece, TemplateProcessing")
def test_a_bert_pipeline_is_that_of_tokenizers():
    hf = pytest.importorskip("tokenizers")
    ours = ALL["bert"]
    specials = ours.post_processor.specials
    theirs = hf.Tokenizer(hf.models.WordPiece({**ours.model.vocab, **specials}, unk_token="[UNK]"))
    theirs.normalizer = hf.normalizers.BertNormalizer(clean_text=False, handle_chinese_chars=False, strip_accents=True, lowercase=True)
    theirs.pre_tokenizer, theirs.decoder = hf.pre_tokenizers.BertPreTokenizer(), hf.decoders.WordPiece(cleanup=False)
    theirs.post_processor = hf.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=list(specials.items()))
    theirs.add_special_tokens([])
    for text, other in zip(texts(), reversed(texts())):
        a, b = ours.encode(text), theirs.encode(text)
        assert (a.ids, a.tokens) == (b.ids, b.tokens), text
        if not set(text) & set("\u0301\u0323"):  # where marks are dropped the two attribute them differently
            assert a.offsets == b.offsets, text
        pair = ours.encode(text, other)
        assert (pair.ids, pair.tokens) == ((t := theirs.encode(text, other)).ids, t.tokens)
        plain = ours.encode(text, add_special=False)
        assert ours.decode(a.ids) == theirs.decode(plain.ids) and a.ids[1:-1] == plain.ids


@pytest.mark.oracle("tokenizers with the same parts: NFKC, Metaspace, Unigram")
@pytest.mark.parametrize("prefix", [False, True])
def test_a_sentencepiece_pipeline_is_that_of_tokenizers(prefix):
    hf = pytest.importorskip("tokenizers")
    ours = sentencepiece(prefix)
    pieces = [(t, ours.model.pieces.get(t, 0.0)) for t in ours.model.vocab]
    theirs = hf.Tokenizer(hf.models.Unigram(pieces, unk_id=0, byte_fallback=False))
    theirs.normalizer = hf.normalizers.NFKC()
    theirs.pre_tokenizer = hf.pre_tokenizers.Metaspace(prepend_scheme="always" if prefix else "never")
    for text in texts():
        a, b = ours.encode(text), theirs.encode(text)
        assert a.ids == b.ids, text
        if not prefix and not set(text) & set("\u0301\u0323ﬁ"):
            assert a.offsets == b.offsets, text


@pytest.mark.oracle("tokenizers with the same parts: Metaspace, BPE(byte_fallback=True)")
def test_a_llama_pipeline_is_that_of_tokenizers():
    hf = pytest.importorskip("tokenizers")
    ours = ALL["llama"]
    theirs = hf.Tokenizer(hf.models.BPE(ours.model.vocab, ours.model.merges, byte_fallback=True))
    theirs.pre_tokenizer = hf.pre_tokenizers.Metaspace()
    for text in texts():
        assert ours.encode(text).ids == theirs.encode(text).ids, text
        assert ours.decode(ours.encode(text).ids) == (text[1:] if text.startswith(" ") else text)


@pytest.mark.oracle("the text itself, put together from the slices")
@pytest.mark.parametrize("name", ["byte-level", "llama", "sentencepiece"])
def test_offsets_cover_the_text_without_gaps_and_overlap_only_within_a_character(name):
    for text in texts():
        if name == "sentencepiece":  # its normalizer must not split a character, or two tokens may share it
            text = text.replace("ﬁ", "")
        at = 0
        for start, end in ALL[name].encode(text).offsets:
            if (start, end) == (at - 1, at) or start == end:
                continue
            assert start == at and end > start, text
            at = end
        assert at == len(text)


def test_offsets_slice_the_surface_of_each_token():
    for text in filter(str.isascii, texts(letters="  the lampTHE'.,120k")):
        encoding = ALL["byte-level"].encode(text)
        assert [text[a:b].replace(" ", "Ġ").replace("\n", "Ċ") for a, b in encoding.offsets] == encoding.tokens
        encoding = ALL["bert"].encode(text, add_special=False)
        assert all(text[a:b].lower() == t.removeprefix("##") for t, (a, b) in zip(*encoding[1:]) if t != "[UNK]")
    tokenizer = plain()
    encoding = tokenizer.encode("lower  tower")
    assert ["lower  tower"[a:b] + "</w>" * t.endswith("</w>") for t, (a, b) in zip(*encoding[1:])] == encoding.tokens
    assert [t for t in tokenizer.encode("at").tokens][-1].endswith("</w>") and tokenizer.decode(encoding.ids) == "lower tower"


def test_offsets_by_hand():
    assert Tokenizer(None, None, ByteLevelBPE([])).encode("é😀").offsets == [(0, 1)] * 2 + [(1, 2)] * 4
    assert Tokenizer(None, None, ByteFallback(["a"])).encode("aéa").offsets == [(0, 1), (1, 2), (1, 2), (2, 3)]
    composed = Tokenizer({}, None, ByteFallback(["é", "a"]))
    assert composed.encode("ae\u0301a").offsets == [(0, 1), (1, 3), (3, 4)], "one token for two code points"
    folded = Tokenizer({"forms": ["NFKC"]}, None, ByteFallback(["f", "i", "a"]))
    assert folded.encode("ﬁa").offsets == [(0, 1), (0, 1), (1, 2)], "two tokens for one code point"
    stripped = Tokenizer({"forms": [], "strip_accents": True}, None, ByteFallback(["e"]))
    assert stripped.encode("e\u0301e\u0301").offsets == [(0, 2), (2, 4)], "the accent goes with its letter"
    words = Tokenizer(None, PreTokenizer("whitespace"), WordPiece({"[UNK]": 0, "a": 1, "##b": 2}))
    assert words.encode("ab  xyz") == ([1, 2, 0], ["a", "##b", "[UNK]"], [(0, 1), (1, 2), (4, 7)])
    several = Tokenizer(None, None, Unigram({"a": -1.0, "b": -1.0}))
    assert several.encode("axyzb") == ([1, 0, 2], ["a", "<unk>", "b"], [(0, 1), (1, 4), (4, 5)])
    single = Tokenizer(None, None, BPE([], {"?": 0, "a": 1}, unk="?"))
    assert single.encode("axya") == ([1, 0, 0, 1], ["a", "?", "?", "a"], [(0, 1), (1, 2), (2, 3), (3, 4)])
    spaced = Tokenizer(None, PreTokenizer("metaspace"), ByteFallback(["▁", "a", "▁a"], [("▁", "a")]))
    assert spaced.encode("a a").offsets == [(0, 1), (1, 3)]
    assert Tokenizer(None, PreTokenizer("metaspace"), ByteFallback(["▁", "a"])).encode("aa").offsets == [(0, 0), (0, 1), (1, 2)]
    ended = Tokenizer(None, PreTokenizer("whitespace"), BPE([("a", "b")], end_of_word="·"))
    assert ended.encode(" ab ab") == ([3, 2, 3, 2], ["ab", "·", "ab", "·"], [(1, 3), (3, 3), (4, 6), (6, 6)])


@pytest.mark.parametrize("name", ALL)
def test_save_and_load_keep_ids_and_decoding(name, tmp_path):
    tokenizer = ALL[name]
    tokenizer.save(tmp_path / "tokenizer.json")
    other = Tokenizer.load(tmp_path / "tokenizer.json")
    for text in texts(60):
        assert other.encode(text) == tokenizer.encode(text) and other.decode(other.encode(text).ids) == tokenizer.decode(tokenizer.encode(text).ids)
    other.save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_text() == (tmp_path / "tokenizer.json").read_text()


def test_saving_keeps_the_settings_of_all_parts(tmp_path):
    tokenizer = Tokenizer({"lowercase": True}, PreTokenizer("gpt4", digits=2, prefix=True), BPE.train({"ab": 3}, 9, end_of_word="·"), decoder=None)
    tokenizer.save(tmp_path / "t.json")
    other = Tokenizer.load(tmp_path / "t.json")
    assert (other.pre_tokenizer.digits, other.pre_tokenizer.prefix, other.model.end_of_word, other.normalizer) == (2, True, "·", {"lowercase": True})
    Tokenizer(model=ByteFallback(["a"])).save(tmp_path / "u.json")
    assert Tokenizer.load(tmp_path / "u.json").encode("aé").tokens == ["a", "<0xC3>", "<0xA9>"]


def test_control_tokens_are_around_the_text_and_never_in_it():
    encoding = ALL["bert"].encode("[CLS] lamp", "tower")
    assert encoding.tokens[0] == "[CLS]" and encoding.tokens.count("[CLS]") == 1 and encoding.tokens.count("[SEP]") == 2
    assert encoding.offsets[0] == (0, 0) == encoding.offsets[-1]
    assert ALL["bert"].decode(encoding.ids, skip_special=False).startswith("[CLS] ")
    assert "[SEP]" not in ALL["bert"].decode(encoding.ids)
    turned = Tokenizer(None, None, ByteFallback(["a", "b"]))
    turned.post_processor = TemplateProcessor("$A", "$B ! $A", specials={"!": 999})
    assert turned.encode("a", "bb") == ([1, 1, 999, 0], ["b", "b", "!", "a"], [(0, 1), (1, 2), (0, 0), (0, 1)])


def test_two_tokenizers_of_equal_size_are_not_interchangeable():
    one, other = byte_level(size=275), Tokenizer(None, PreTokenizer("gpt2"), decoder={"kind": "byte-level"})
    other.train(["une autre langue, un autre texte, une autre lampe " * 3], lambda counts: ByteLevelBPE.train(counts, 275, min_frequency=1))
    assert sorted(one.model.vocab.values()) == sorted(other.model.vocab.values())
    ids = one.encode("the old lamp").ids
    assert other.decode(ids) != "the old lamp" and one.decode(ids) == "the old lamp"


def test_a_whole_is_not_the_sum_of_its_parts():
    tokenizer = ALL["byte-level"]
    ids = [tokenizer.encode(text).ids for text in ("the old tow", "er", "the old tower")]
    assert ids[0] + ids[1] != ids[2]
    assert tokenizer.encode("lamp").ids != tokenizer.encode(" lamp").ids, "the first word has no space before it"


def test_normalization_that_loses_something_is_not_decoded():
    lossy = byte_level({"forms": ["NFKC"], "lowercase": True})
    assert lossy.decode(lossy.encode("The ﬁne Lamp²").ids) == "the fine lamp2"


def test_three_models_follow_three_rules():
    pieces = ["a", "b", "c", "d", "ab", "bc", "cd"]
    bpe = BPE([("b", "c"), ("a", "b"), ("c", "d")])
    wordpiece = WordPiece({p: i for i, p in enumerate(["[UNK]", *pieces, *("##" + p for p in pieces)])})
    unigram = Unigram({p: -1.0 for p in pieces})
    found = [Tokenizer(model=m).encode("abcd").tokens for m in (bpe, wordpiece, unigram)]
    assert found == [["a", "bc", "d"], ["ab", "##cd"], ["ab", "cd"]]
    assert Tokenizer(model=Unigram({**{p: -1.0 for p in pieces}, "ab": -9.0})).encode("abcd").tokens == ["a", "b", "cd"] != found[1]


def test_bad_input(tmp_path):
    with pytest.raises(ValueError, match="the tokenizer has no model; give one or call train"):
        Tokenizer().encode("a")
    with pytest.raises(ValueError, match="model is a dict; expected one with vocab and encode_word"):
        Tokenizer(model={"a": 0})
    with pytest.raises(ValueError, match="model is a Half; expected one with vocab and encode_word"):
        Tokenizer(model=type("Half", (), {"vocab": {}})())
    with pytest.raises(ValueError, match="the tokenizer has no model"):
        Tokenizer(post_processor=TemplateProcessor("$A [SEP]", "$A $B", specials={"[SEP]": 0})).decode([0])
    with pytest.raises(ValueError, match="pair is given, but there is no post-processor"):
        ALL["byte-level"].encode("a", "b")
    with pytest.raises(ValueError, match=r"post_processor gives '\[SEP\]' the id 0, which the model has for a token"):
        Tokenizer(model=ByteFallback(["a"]), post_processor=TemplateProcessor("$A [SEP]", "$A $B", specials={"[SEP]": 0}))
    with pytest.raises(ValueError, match="ids holds 400"):
        ALL["byte-level"].decode([400])
    class Own(BPE):
        pass
    with pytest.raises(ValueError, match="model is a Own; only BPE, ByteLevelBPE, ByteFallback, WordPiece, Unigram can be saved"):
        Tokenizer(model=Own([("a", "b")])).save(tmp_path / "x.json")
    (tmp_path / "x.json").write_text(json.dumps({"normalizer": None, "decoder": None}))
    with pytest.raises(ValueError, match="has no pre_tokenizer, model, post_processor; expected the parts"):
        Tokenizer.load(tmp_path / "x.json")
    (tmp_path / "x.json").write_text(json.dumps(dict.fromkeys(["normalizer", "pre_tokenizer", "post_processor", "decoder"]) | {"model": {"type": "LSTM"}}))
    with pytest.raises(ValueError, match="has a model of type 'LSTM'; expected one of BPE"):
        Tokenizer.load(tmp_path / "x.json")


@pytest.mark.parametrize("normalizer, settings", [("none", None), ("NFKC", {"forms": ["NFKC"]}), ("lowercase", {"forms": [], "lowercase": True})])
def test_the_snippet_gives_the_same_ids_and_places(normalizer, settings, agree):
    cutter = PreTokenizer("gpt2")
    counts = Counter(p for p, _ in prepare(TEXT, normalizer, "gpt2"))
    model = train(counts, "BPE", 150)
    ids = {t: i for i, t in enumerate(model[0])}
    ours = Tokenizer(settings, cutter, BPE(BPE.train(counts, 149, min_frequency=1).merges, ids, unk="[UNK]"))
    for text in texts():
        theirs, encoding = encode(text, normalizer, "gpt2", model), ours.encode(text)
        assert [t for t, _, _ in theirs] == encoding.tokens
        agree([n for _, i, place in theirs for n in (i, *place)], [n for i, _, place in zip(*encoding) for n in (i, *place)])


def test_the_demo_shows_each_step():
    steps, places, lengths, _ = show(sample="accents", normalizer="NFKC")
    assert "café" in steps["rows"][1][1] and "tower2" in steps["rows"][1][1]
    assert lengths["series"][""][3] == len(places["rows"])
