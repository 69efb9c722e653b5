from collections import Counter

import numpy as np
import pytest
import torch

from snippets.embeddings import vocabulary_size as numpy_variant
from snippets.embeddings.byte_level import SYMBOL
from snippets.embeddings.byte_pair_encoding import TEXT
from snippets.embeddings.pre_tokenizer import split
from vocab.embeddings.byte_level import ByteLevelBPE
from vocab.embeddings.vocabulary_size import padded_size, sequence_length_curve, vocabulary_cost


@pytest.mark.oracle("transformers GPT2LMHeadModel, counted")
def test_gpt2_small_has_38_6_of_124_million_in_its_table():
    transformers = pytest.importorskip("transformers")
    with torch.device("meta"):
        model = transformers.GPT2LMHeadModel(transformers.GPT2Config())
    found = vocabulary_cost(50257, 768, 12)
    assert found["embedding_params"] == model.transformer.wte.weight.numel() == 38_597_376
    matrices = sum(p.numel() for block in model.transformer.h for name, p in block.named_parameters() if p.ndim == 2)
    assert found["layer_params"] == matrices == 84_934_656
    assert found["share"] == pytest.approx(38_597_376 / 123_532_032, rel=1e-12)
    whole = sum(p.numel() for p in model.parameters())
    assert whole == 124_439_808 and found["embedding_params"] / whole == pytest.approx(0.31, abs=0.001)


@pytest.mark.oracle("published configurations")
def test_published_vocabularies_times_their_widths():
    assert vocabulary_cost(256_000, 2048, 18)["embedding_params"] == 524_288_000  # Gemma 2B
    untied = vocabulary_cost(128_256, 4096, 32, tied=False)  # Llama 3 8B
    assert untied["embedding_params"] == 2 * 128_256 * 4096 == 1_050_673_152
    assert untied["share"] > vocabulary_cost(128_256, 16384, 126, tied=False)["share"]  # its sibling with 405 billion


def test_vocabulary_does_not_follow_from_the_size_of_the_model():
    """A widely copied table has 50k for 1B to 7B, 200k for 30B to 70B and 300k above 400B. Published: tokens, weights in billions."""
    models = {"Gemma 2B": (256_000, 2), "Llama 3 8B": (128_256, 8), "Llama 2 70B": (32_000, 70), "Llama 3.1 405B": (128_256, 405), "DeepSeek-V3": (129_280, 671)}
    wrong = {"Gemma 2B": 50_000, "Llama 3 8B": 50_000, "Llama 2 70B": 200_000, "Llama 3.1 405B": 300_000, "DeepSeek-V3": 300_000}
    vocabulary, size = np.array(list(models.values()), float).T
    assert np.corrcoef(np.log(size), vocabulary)[0, 1] < 0, "in these five, larger models do not have more tokens"
    assert all(abs(models[name][0] - claimed) > 0.5 * min(models[name][0], claimed) for name, claimed in wrong.items())


@pytest.mark.oracle("B·T·V numbers, and a tensor of that shape")
def test_logits_take_a_number_per_token_and_entry():
    assert vocabulary_cost(128_256, 4096, 32, seq_len=4096)["logits_bytes"] == 4096 * 128_256 * 4 == 2_101_346_304
    logits = torch.zeros(3, 7, 11, dtype=torch.bfloat16)
    assert vocabulary_cost(11, 5, 1, seq_len=7, batch=3, bytes_per_number=2)["logits_bytes"] == logits.nbytes
    assert vocabulary_cost(11, 5, 1)["logits_bytes"] == 2048 * 11 * 4


@pytest.mark.oracle("torch.utils.flop_counter")
def test_the_work_is_what_a_flop_counter_counts():
    from torch.utils.flop_counter import FlopCounterMode

    d, V, L = 8, 20, 3
    with FlopCounterMode(display=False) as head:
        torch.nn.Linear(d, V, bias=False)(torch.zeros(1, d))
    with FlopCounterMode(display=False) as layers:
        for _ in range(L):
            for wide, narrow in ((3 * d, d), (d, d), (4 * d, d), (d, 4 * d)):  # queries, keys, values; output; up; down
                torch.nn.Linear(narrow, wide)(torch.zeros(1, narrow))
    found = vocabulary_cost(V, d, L)
    assert found["softmax_flops"] == head.get_total_flops() == 2 * d * V
    assert found["layer_flops"] == layers.get_total_flops() == 24 * d * d * L


def test_untied_costs_twice_the_table_and_the_same_work():
    tied, untied = (vocabulary_cost(1000, 64, 2, tied=t) for t in (True, False))
    assert untied["embedding_params"] == 2 * tied["embedding_params"] == 128_000
    for name in ("logits_bytes", "softmax_flops", "layer_params", "layer_flops"):
        assert tied[name] == untied[name]
    assert untied["share"] == pytest.approx(128_000 / (128_000 + 98_304))


@pytest.mark.oracle("a tokenizer trained anew for each size")
def test_the_curve_of_nested_vocabularies_is_that_of_separate_ones():
    texts = [TEXT[:600], TEXT[600:]]
    curve = sequence_length_curve(texts, [300, 256, 280])
    assert [size for size, _ in curve] == [256, 280, 300]
    for size, tokens in curve:
        tokenizer = ByteLevelBPE.train(texts, size)
        assert len(tokenizer.vocab) == size and tokens == sum(len(tokenizer.encode(text)) for text in texts)
    assert curve[0][1] == len(TEXT.encode())


def test_the_curve_never_rises_and_its_steps_shrink():
    curve = sequence_length_curve(TEXT, range(256, 384, 8))
    saved = -np.diff([tokens for _, tokens in curve])
    assert (saved >= 0).all() and saved[0] > 4 * saved[-1] > 0
    assert (np.diff(saved) <= 8).all(), "a merge never saves much more than the one before"


def test_a_size_that_the_text_cannot_fill_comes_back_as_what_was_reached():
    assert sequence_length_curve("low low", [257, 500])[-1] == (258, 3), "lo and low; the space before the second stays apart"
    assert sequence_length_curve("ab", [400]) == [(256, 2)], "a pair that is seen once is not merged"


def test_padded_sizes_are_multiples_and_never_smaller():
    for size in (1, 63, 64, 65, 50_257, 128_256):
        for multiple in (64, 128):
            padded = padded_size(size, multiple)
            assert padded % multiple == 0 and size <= padded < size + multiple
    assert padded_size(50_257) == 50_304 and padded_size(50_304) == 50_304 and padded_size(77, 1) == 77


def test_numpy_variant_agrees(agree):
    for tied in (True, False):
        ours, theirs = numpy_variant.cost(50257.0, 768.0, 12, tied), vocabulary_cost(50257, 768, 12, tied=tied)
        agree(ours["embedding"] + ours["head"], theirs["embedding_params"])
        agree(2 * ours["score work"], theirs["softmax_flops"])
        agree([ours["layers"], 2 * ours["layer work"]], [theirs["layer_params"], theirs["layer_flops"]])
    counts = Counter("".join(SYMBOL[b] for b in piece.encode()) for piece, _ in split(TEXT, "gpt2"))
    tokens = numpy_variant.curve(counts, 100)
    agree(tokens[::20], [t for _, t in sequence_length_curve(TEXT, range(256, 357, 20))])


def test_the_demo_starts_at_gpt2_and_width_thins_the_share_out():
    shares = numpy_variant.show()[0]["series"]
    assert shares["embedding"][1] == pytest.approx(31.3, abs=0.1) and shares["head"] == [0.0] * 4
    assert shares["embedding"] == sorted(shares["embedding"], reverse=True)
    for column in zip(*numpy_variant.show(tied=False)[0]["series"].values()):
        assert sum(column) == pytest.approx(100)


@pytest.mark.parametrize("name", ["vocab_size", "d_model", "n_layers", "seq_len", "batch", "bytes_per_number"])
def test_numbers_below_one_are_refused_by_name(name):
    settings = dict(vocab_size=100, d_model=8, n_layers=2) | {name: 0}
    with pytest.raises(ValueError, match=f"{name}=0 is below 1"):
        vocabulary_cost(**settings)
    assert vocabulary_cost(**(settings | {name: 1}))["embedding_params"] > 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sequence_length_curve("ab", []), r"sizes=\[\]; expected at least one"),
        (lambda: sequence_length_curve("ab", [300, 255]), r"sizes=\[255, 300\]; .* none below 256"),
        (lambda: padded_size(0), "vocab_size=0, multiple=64"),
        (lambda: padded_size(5, 0), "vocab_size=5, multiple=0"),
    ],
)
def test_what_cannot_be_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
