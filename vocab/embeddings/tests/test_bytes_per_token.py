import math

import numpy as np
import pytest
import torch

from snippets.embeddings import bytes_per_token as numpy_variant
from snippets.embeddings.byte_level import byte_level
from snippets.embeddings.byte_pair_encoding import TEXT
from vocab.embeddings.byte_level import ByteLevelBPE
from vocab.embeddings.bytes_per_token import bits_per_byte, bytes_per_token, fertility

THAI = "สวัสดีครับ"


def example():
    return bits_per_byte, (torch.rand(4, dtype=torch.float64), 4.2)


@pytest.fixture(scope="module")
def learned():
    return ByteLevelBPE.train([TEXT], 256 + 120)


@pytest.mark.oracle("bytes as tokens: exactly 1")
def test_plain_bytes_have_one_byte_a_token_in_every_script():
    for text in (TEXT, THAI, "naïve 👩‍👩‍👧", "\x00\n\t"):
        assert bytes_per_token(ByteLevelBPE([]), text) == bytes_per_token(str.encode, text) == 1


def test_a_text_that_is_one_token_gives_its_length_in_bytes():
    assert bytes_per_token(lambda text: [0], "lamp") == 4
    assert bytes_per_token(lambda text: [0], THAI) == 30 and len(THAI) == 10, "bytes, not characters"
    merged = ByteLevelBPE([("l", "a"), ("la", "m"), ("lam", "p")])
    assert merged.encode("lamp") == ["lamp"] and bytes_per_token(merged, "lamp") == 4


def test_long_texts_count_more_than_short_ones():
    halves = {"aaaa": 1, "bb": 2}
    assert bytes_per_token(lambda text: [0] * halves[text], ["aaaa", "bb"]) == 2
    assert np.mean([4, 1]) != 2, "the mean of the texts' ratios is another number"


@pytest.mark.oracle("merges that are nested: never fewer bytes with more of them")
def test_more_merges_never_lower_it_on_the_text_they_come_from(learned):
    sizes = [bytes_per_token(ByteLevelBPE(learned.merges[:m]), TEXT) for m in range(0, 121, 10)]
    assert sizes == sorted(sizes) and sizes[0] == 1 and sizes[-1] > 2


def test_merges_learned_on_english_save_nothing_in_thai(learned):
    assert bytes_per_token(learned, THAI) == 1 and bytes_per_token(learned, "the keeper waits") > 2


@pytest.mark.oracle("tokenizers BPE, counted")
def test_it_equals_the_count_of_another_library(learned):
    tokenizers = pytest.importorskip("tokenizers")
    theirs = tokenizers.Tokenizer(tokenizers.models.BPE(learned.vocab, learned.merges))
    theirs.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    for text in (TEXT, "grüße aus Köln, 12 + 3", THAI):
        assert bytes_per_token(theirs, text) == bytes_per_token(learned, text)  # their encode wraps ids


def test_special_tokens_count_and_hold_no_byte():
    marked = lambda text: ["<s>", *text.encode(), "</s>"]  # noqa: E731
    assert bytes_per_token(marked, "abcd") == 4 / 6
    assert bytes_per_token(marked, ["abcd", "abcd"]) == 8 / 12


@pytest.mark.oracle("tokens per word, counted by hand")
def test_fertility_is_the_mean_over_words():
    counts = {"in": 1, "lighthouse": 3, "keepers": 2}
    assert fertility(lambda word: [0] * counts[word], "in lighthouse\nkeepers") == 2
    assert fertility(str.split, ["in", "the tower"]) == 1.5
    assert fertility(list, "no spaces") == fertility(list, ["no", "spaces"]) == 4
    assert fertility(list, "โคมไฟในหอคอย") == 12, "a script without spaces: the whole sentence is one word"


@pytest.mark.oracle("closed form: guessing every byte costs 8 bits, however bytes are grouped")
@pytest.mark.parametrize("group", [1, 2, 5])
def test_a_uniform_model_of_bytes_costs_eight_bits_under_any_grouping(group):
    loss_per_token = group * math.log(256)
    assert math.isclose(bits_per_byte(loss_per_token, group), 8, rel_tol=1e-12)


@pytest.mark.oracle("one distribution over texts, cut in two ways")
def test_bits_per_byte_do_not_depend_on_how_a_text_is_cut_while_perplexity_does(learned):
    """A model of pairs of letters gives the text its probability; tokens only group the same factors."""
    p = torch.rand(256, 256, dtype=torch.float64).softmax(1)
    data = TEXT.encode()
    nats = [-p[a, b].log().item() for a, b in zip(b"\x00" + data, data)]
    found = []
    for tokenizer in (ByteLevelBPE([]), ByteLevelBPE(learned.merges[:50]), learned):
        n_tokens = len(tokenizer.encode(TEXT))
        loss = sum(nats) / n_tokens
        found.append((bits_per_byte(loss, bytes_per_token(tokenizer, TEXT)), math.exp(loss)))
    bits, perplexity = zip(*found)
    np.testing.assert_allclose(bits, sum(nats) / len(data) / math.log(2), rtol=1e-12)
    assert perplexity[2] > 10 * perplexity[0]


def test_bits_per_byte_takes_tensors_and_numbers():
    loss = torch.tensor([[0.0, 2.0], [3.0, 4.0]], dtype=torch.float64)
    expected = [[x / math.log(2) / 4.0 for x in row] for row in loss.tolist()]
    torch.testing.assert_close(bits_per_byte(loss, 4.0), torch.tensor(expected, dtype=torch.float64))
    assert bits_per_byte(2, 4.0) == expected[0][1] and bits_per_byte(0.0, 4.0) == 0


def test_numpy_variant_agrees(agree, learned):
    for m, text in ((0, TEXT), (120, TEXT), (60, "The keeper waits for 120 boats.")):
        mine, module = (lambda t: byte_level(t, learned.merges[:m])), ByteLevelBPE(learned.merges[:m])
        ours = numpy_variant.bytes_per_token(mine, text)
        agree(ours, bytes_per_token(module, text))
        agree(numpy_variant.fertility(mine, text), fertility(module, [" " + word for word in text.split()]))
        agree(numpy_variant.bits_per_byte(3.0, ours), bits_per_byte(3.0, ours))


def test_the_demo_moves_the_price_to_the_language_that_was_not_learned():
    price = {language: dict(zip(f["names"], f["series"][""])) for language in ("English", "Thai") for f in [numpy_variant.show(language=language)[0]]}
    assert price["English"]["English"] > 3 > 1.1 > price["English"]["Thai"]
    assert price["Thai"]["Thai"] > 3 > 1.1 > price["Thai"]["English"]
    assert set(numpy_variant.show(merges=0)[0]["series"][""]) == {1.0}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bytes_per_token(str.split, ["", " "]), "texts: 2 texts hold no token"),
        (lambda: bytes_per_token(str.split, []), "texts: 0 texts hold no token"),
        (lambda: fertility(list, "  "), "words is empty"),
        (lambda: bits_per_byte(1.0, 0.0), "bytes_per_token=0.0 is not above 0"),
        (lambda: bits_per_byte(1.0, math.nan), "bytes_per_token=nan is not above 0"),
    ],
)
def test_what_cannot_be_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_loss_must_be_a_number_or_a_floating_point_tensor():
    with pytest.raises(TypeError, match="loss has dtype torch.int64"):
        bits_per_byte(torch.tensor([1]), 1.0)
    with pytest.raises(TypeError, match="loss is a list"):
        bits_per_byte([1.0], 1.0)
