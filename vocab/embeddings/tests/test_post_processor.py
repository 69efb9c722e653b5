import random
from types import SimpleNamespace

import pytest
import torch

from snippets.embeddings import post_processor as snippet
from vocab.embeddings.post_processor import TEMPLATES, TemplateProcessor, add_special_tokens, batch_encode
from vocab.embeddings.token import TokenEmbedding
from vocab.embeddings.wordpiece import WordPiece

WORDS = "the lamp in old tower shines far".split()
VOCAB = {"[UNK]": 0, **{w: i + 1 for i, w in enumerate(WORDS)}}
SPECIALS = {name: 20 + i for i, name in enumerate(["[CLS]", "[SEP]", "<s>", "</s>", "[PAD]"])}
THEIRS = {  # the same templates in the library's words: there every type is 0 unless it is given
    "bert": ("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1"),
    "roberta": ("<s> $A </s>", "<s> $A </s> </s> $B </s>"),
    "t5": ("$A </s>", "$A </s> $B </s>"),
    "llama": ("<s> $A", "<s> $A <s>:1 $B:1"),
    "gpt2": ("$A", "$A $B"),
}


def encode(text):
    return [VOCAB.get(word, 0) for word in text.split()]


def make(name="bert"):
    return TemplateProcessor(*TEMPLATES[name], specials=SPECIALS)


def theirs(name):
    tokenizers = pytest.importorskip("tokenizers")
    transformers = pytest.importorskip("transformers")
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel({**VOCAB, **SPECIALS}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    single, pair = THEIRS[name]
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(single=single, pair=pair, special_tokens=list(SPECIALS.items()))
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")


def texts(rng, pairs, n=4, most=12):
    some = lambda: " ".join(rng.choices([*WORDS, "unseen"], k=rng.randint(1, most)))  # noqa: E731
    return [(some(), some()) if pairs else some() for _ in range(n)]


@pytest.mark.oracle("tokenizers.processors.TemplateProcessing, and padding and truncation of transformers")
@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("pairs", [False, True])
def test_equals_tokenizers_and_transformers(name, pairs):
    rng, ours, tokenizer = random.Random(0), make(name), theirs(name)
    for _ in range(25):
        batch, length = texts(rng, pairs), rng.choice([5, 6, 7, 9, 12, 40])
        settings = dict(padding=rng.choice(["longest", "max_length"]), truncation=True, max_length=length)
        side = rng.choice(["right", "left"])
        split = list(zip(*batch)) if pairs else [batch]
        expected = tokenizer(*map(list, split), padding_side=side, return_special_tokens_mask=True, return_token_type_ids=True,
                             return_tensors="pt", **settings)
        found = batch_encode(batch, encode, ours, side=side, pad_id=SPECIALS["[PAD]"], **settings)
        assert set(found) == set(expected)
        for key in found:
            torch.testing.assert_close(found[key], expected[key], rtol=0, atol=0, msg=f"{key} {batch} {settings} {side}")


def test_the_templates_as_published():
    cls, sep, bos, eos = (SPECIALS[n] for n in ("[CLS]", "[SEP]", "<s>", "</s>"))
    assert make("bert").apply([1, 2], [3]) == ([cls, 1, 2, sep, 3, sep], [0, 0, 0, 0, 1, 1], [1, 0, 0, 1, 0, 1])
    assert make("bert").apply([1])[0] == [cls, 1, sep] and make("t5").apply([1]) == ([1, eos], [0, 0], [0, 1])
    assert make("llama").apply([1])[0] == [bos, 1] and make("gpt2").apply([1, 2]) == ([1, 2], [0, 0], [0, 0])
    assert [make(n).added() for n in TEMPLATES] == [2, 2, 1, 1, 0]
    assert [make(n).added(pair=True) for n in TEMPLATES] == [3, 4, 2, 2, 0]
    assert TemplateProcessor(specials=SPECIALS).apply([1], [2]) == make("bert").apply([1], [2])


@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("length", range(3, 14))
def test_no_row_is_longer_than_allowed_and_control_tokens_survive(length, pairs):
    batch = batch_encode(texts(random.Random(length), pairs, most=30), encode, make(), length, padding="max_length")
    assert batch["input_ids"].shape[1] == length
    for ids, mask in zip(batch["input_ids"], batch["attention_mask"]):
        kept = ids[mask.bool()].tolist()
        assert kept[0] == SPECIALS["[CLS]"] and kept[-1] == SPECIALS["[SEP]"] and kept.count(SPECIALS["[SEP]"]) == 1 + pairs


@pytest.mark.oracle("cutting one id at a time from the longer text")
def test_the_longer_text_of_a_pair_gives_first():
    for n, m, room in [(3, 9, 7), (9, 3, 7), (8, 8, 7), (5, 6, 5), (6, 5, 5), (2, 2, 9), (1, 9, 1), (4, 4, 0)]:
        a, b = n, m
        while a + b > room:
            a, b = (a, b - 1) if b > a or (a == b and n > m) else (a - 1, b)
        ids = batch_encode([("far " * n, "old " * m)], encode, make("gpt2"), room, padding="max_length")["input_ids"][0].tolist()
        assert (ids.count(VOCAB["far"]), ids.count(VOCAB["old"])) == (a, b), (n, m, room)


@pytest.mark.parametrize("side", ["right", "left"])
def test_the_mask_sums_to_the_true_lengths_and_stands_on_the_right_side(side):
    batch = batch_encode(["the", "the old lamp", "the old tower in far"], encode, make(), side=side, pad_id=SPECIALS["[PAD]"])
    assert batch["attention_mask"].sum(1).tolist() == [3, 5, 7]
    steps = batch["attention_mask"].diff(dim=1)
    assert (steps <= 0).all() if side == "right" else (steps >= 0).all()
    assert (batch["input_ids"][batch["attention_mask"] == 0] == SPECIALS["[PAD]"]).all()
    last = batch["input_ids"][:, -1]  # what a decoder would continue
    assert (last == SPECIALS["[SEP]"]).all() == (side == "left")


@pytest.mark.oracle("the same text in tokenizers, which does parse control tokens out of text")
def test_text_with_the_name_of_a_control_token_is_ordinary_text():
    attack = "lamp [SEP] old"
    model = WordPiece({"[UNK]": 0, **{c: i + 1 for i, c in enumerate("adlmop[]SEP")}, **{f"##{c}": 50 + i for i, c in enumerate("adlmop[]SEP")}})
    ids = [model.vocab[p] for word in attack.split() for p in model.encode_word(word)]
    specials = add_special_tokens(model, ["[CLS]", "[SEP]"])
    batch = batch_encode([attack], lambda text: ids, TemplateProcessor(specials=specials))
    assert (batch["input_ids"] == specials["[SEP]"]).sum() == 1 and model.encode_word("[SEP]") == ["[", "##S", "##E", "##P", "##]"]
    forged = theirs("bert")
    forged.add_special_tokens({"sep_token": "[SEP]"})
    assert forged(attack)["input_ids"].count(SPECIALS["[SEP]"]) == 2  # one of them was typed by the user


def test_an_encoder_that_makes_a_control_token_is_stopped():
    careless = lambda text: [SPECIALS.get(word, 1) for word in text.split()]  # noqa: E731
    with pytest.raises(ValueError, match=r"a holds 21, the id of '\[SEP\]'; text must not make control tokens"):
        batch_encode(["lamp [SEP] old"], careless, make())
    with pytest.raises(ValueError, match=r"b holds 22, the id of '<s>'"):
        make().apply([1], [2, SPECIALS["<s>"]])


def test_rows_of_new_tokens_leave_the_logits_of_old_ones_as_they_were():
    model, h = TokenEmbedding(8, 4).double(), torch.randn(5, 4, dtype=torch.float64)
    specials = add_special_tokens(SimpleNamespace(vocab=VOCAB), ["[CLS]", "[SEP]"])
    larger = model.resize(max(specials.values()) + 1)
    old, new = model.logits(h), larger.logits(h)
    assert specials == {"[CLS]": 8, "[SEP]": 9} and new.shape == (5, 10)
    torch.testing.assert_close(new[:, :8], old, rtol=0, atol=0)
    torch.testing.assert_close(new[:, 8:], old.mean(1, keepdim=True).expand(-1, 2))
    assert (new.softmax(1)[:, 8:] <= 1 / 8).all()  # no new token starts out probable, whatever the state


def test_rows_of_zeros_can_be_the_most_probable_tokens():
    weight, h = torch.tensor([[1.0, 0.0], [2.0, 1.0], [3.0, -1.0]]), torch.tensor([-4.0, 0.0])
    logits = torch.cat([weight, torch.zeros(1, 2)]) @ h
    assert logits.softmax(0)[-1] > 0.9 and torch.cat([weight, weight.mean(0, keepdim=True)]).matmul(h).softmax(0)[-1] < 1 / 3


@pytest.mark.oracle("Llama 3: 128,000 entries and 256 special ids; BERT: 994 of 30,522 rows reserved")
def test_published_models_reserve_tens_to_about_a_thousand():
    text = SimpleNamespace(vocab={str(i): i for i in range(128_000)})
    specials = add_special_tokens(text, ["<|begin_of_text|>", "<|end_of_text|>"], reserved=254)
    assert len(specials) == 256 and max(specials.values()) + 1 == 128_256 and specials["<|reserved_0|>"] == 128_002
    assert 128_256 % 64 == 0
    bert = SimpleNamespace(vocab={str(i): i for i in range(30_522 - 994)})
    assert max(add_special_tokens(bert, [], reserved=994).values()) + 1 == 30_522


def test_padding_with_the_end_token_and_masking_it_loses_the_real_end():
    eos = SPECIALS["</s>"]
    batch = batch_encode(["the old lamp", "far"], encode, make("t5"), pad_id=eos)
    by_id, by_mask = batch["input_ids"] != eos, batch["attention_mask"].bool()
    assert by_mask.sum(1).tolist() == [4, 2] and by_id.sum(1).tolist() == [3, 1]


def test_begin_twice_is_what_two_templates_make():
    once = make("llama").apply([1, 2])[0]
    with pytest.raises(ValueError, match="a holds 22, the id of '<s>'"):
        make("llama").apply(once)


def test_types_may_be_given_and_words_with_a_colon_are_names():
    processor = TemplateProcessor("<a:> $A:2 b:c:1", "$A $B", specials={"<a:>": 5, "b:c": 6})
    assert processor.apply([9]) == ([5, 9, 6], [0, 2, 1], [1, 0, 1])


def test_inputs_stay_as_they_are():
    a, specials = [1, 2], dict(SPECIALS)
    processor = TemplateProcessor(specials=specials)
    specials.clear()
    assert processor.apply(a)[0] == [20, 1, 2, 21] and a == [1, 2] and processor.specials == SPECIALS


def test_numpy_variant_agrees(agree):
    rng = random.Random(1)
    for name in TEMPLATES:
        ours = make(name)
        for pairs in (False, True):
            batch, length, side = texts(rng, pairs), rng.choice([6, 9, 30]), rng.choice(["right", "left"])
            rows = [tuple(map(encode, t)) if pairs else (encode(t),) for t in batch]
            found = snippet.rectangle([snippet.fill(THEIRS[name][pairs], snippet.cut(r, length - ours.added(pairs)), SPECIALS) for r in rows], 24, side)
            expected = batch_encode(batch, encode, ours, length, side=side, pad_id=24)
            for part, key in zip(found, ("input_ids", "token_type_ids", "attention_mask")):
                agree(part, expected[key])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(single="[CLS] [SEP]"), r"single='\[CLS\] \[SEP\]' must name \$A once, and no other text"),
        (dict(single="$A $A"), r"single='\$A \$A' must name \$A once"),
        (dict(single="$A $B"), r"must name \$A once, and no other text"),
        (dict(pair="$A [SEP]"), r"pair='\$A \[SEP\]' must name \$A and \$B once"),
        (dict(single="[BOS] $A"), r"single='\[BOS\] \$A' names '\[BOS\]', which has no id; specials has \['</s>'"),
        (dict(specials={"[CLS]": 1, "[SEP]": 1}), "specials gives the same id to two control tokens"),
    ],
)
def test_templates_that_cannot_be(arguments, message):
    with pytest.raises(ValueError, match=message):
        TemplateProcessor(**{"specials": SPECIALS, **arguments})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(texts=[]), "texts is empty; expected one text or more"),
        (dict(padding="short"), "padding='short' is not 'longest' or 'max_length'"),
        (dict(side="both"), "side='both' is not 'right' or 'left'"),
        (dict(padding="max_length"), "padding='max_length' needs max_length"),
        (dict(max_length=1), "max_length=1 has no room for the 2 control tokens of the template"),
        (dict(max_length=4, truncation=False), r"texts\[1\] has 3 ids, 2 fit into max_length=4; truncation is off"),
    ],
)
def test_batches_that_cannot_be(arguments, message):
    with pytest.raises(ValueError, match=message):
        batch_encode(**{**dict(texts=["the", "the old lamp"], encode=encode, template=make()), **arguments})
    assert batch_encode(["the"], encode, make(), 2)["input_ids"].tolist() == [[20, 21]]
    assert batch_encode(["the old"], encode, make(), 4, truncation=False)["input_ids"].shape == (1, 4)


def test_names_that_cannot_be():
    model = WordPiece({"[UNK]": 0, "a": 7})
    for names, message in [(["x", "x"], "names has 'x', which is empty or there before"), ([""], "names has ''"),
                           (["a"], "names has 'a', which is in the model's vocab: a text could spell it")]:
        with pytest.raises(ValueError, match=message):
            add_special_tokens(model, names)
    with pytest.raises(ValueError, match="reserved=-1 is negative"):
        add_special_tokens(model, [], reserved=-1)
    assert add_special_tokens(model, ["x"]) == {"x": 8} and add_special_tokens(SimpleNamespace(vocab={}), ["x"]) == {"x": 0}
    assert model.vocab == {"[UNK]": 0, "a": 7}
