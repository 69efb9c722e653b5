import math

import numpy as np
import pytest
import torch

from snippets.positional.yarn import llama3 as numpy_llama3
from snippets.positional.yarn import ntk as numpy_ntk
from snippets.positional.yarn import yarn as numpy_yarn
from vocab.positional.rope import RotaryEmbedding
from vocab.positional.yarn import llama3_frequencies, ntk_base, rotary_frequencies, yarn_frequencies

D = torch.float64


def example():
    """For the contract suite: a rotary embedding with YaRN's rates, and its input."""
    rates, _ = yarn_frequencies(8, 100.0, 4.0, 64)
    q, k = torch.randn(1, 2, 3, 8, dtype=D), torch.randn(1, 1, 3, 8, dtype=D)
    return RotaryEmbedding(8, scaling=lambda rate: rates.to(rate)), (q, k, torch.tensor([3, 9, 100]))


def theirs(kind, head_dim, base, longest, **settings):
    """Rates and attention factor of transformers."""
    llama = pytest.importorskip("transformers.models.llama.modeling_llama")
    utils = pytest.importorskip("transformers.modeling_rope_utils")
    parameters = {"rope_type": kind, "rope_theta": base, **settings}
    config = llama.LlamaConfig(hidden_size=2 * head_dim, num_attention_heads=2, max_position_embeddings=longest, rope_parameters=parameters)
    return utils.ROPE_INIT_FUNCTIONS[kind](config, None)


@pytest.mark.oracle("transformers ROPE_INIT_FUNCTIONS['yarn']")
@pytest.mark.parametrize(("head_dim", "base", "factor", "length"), [(128, 1e4, 16.0, 4096), (64, 1e6, 4.0, 32768), (32, 500.0, 1.5, 256), (16, 1e4, 32.0, 100)])
def test_yarn_is_that_of_transformers(head_dim, base, factor, length):
    rates, attention = yarn_frequencies(head_dim, base, factor, length)
    expected, scale = theirs("yarn", head_dim, base, int(factor * length), factor=factor, original_max_position_embeddings=length)
    torch.testing.assert_close(rates.float(), expected)
    assert attention == pytest.approx(scale, rel=1e-12)


@pytest.mark.oracle("transformers ROPE_INIT_FUNCTIONS['yarn'] with other cut-offs")
def test_cut_offs_can_be_set():
    rates, _ = yarn_frequencies(64, 1e4, 8.0, 2048, beta_fast=16.0, beta_slow=2.0)
    expected, _ = theirs("yarn", 64, 1e4, 16384, factor=8.0, original_max_position_embeddings=2048, beta_fast=16.0, beta_slow=2.0)
    torch.testing.assert_close(rates.float(), expected)


@pytest.mark.oracle("transformers ROPE_INIT_FUNCTIONS['llama3']")
@pytest.mark.parametrize(("head_dim", "factor", "low", "high"), [(128, 8.0, 1.0, 4.0), (64, 32.0, 1.0, 4.0), (64, 4.0, 2.0, 16.0)])
def test_llama3_is_that_of_transformers(head_dim, factor, low, high):
    expected, _ = theirs("llama3", head_dim, 5e5, 131072, factor=factor, low_freq_factor=low, high_freq_factor=high, original_max_position_embeddings=8192)
    found = llama3_frequencies(head_dim, factor=factor, low_freq_factor=low, high_freq_factor=high)
    torch.testing.assert_close(found.float(), expected)


@pytest.mark.oracle("transformers ROPE_INIT_FUNCTIONS['dynamic']")
def test_dynamic_scaling_is_ntk_with_a_factor_that_follows_the_length():
    utils = pytest.importorskip("transformers.modeling_rope_utils")
    llama = pytest.importorskip("transformers.models.llama.modeling_llama")
    config = llama.LlamaConfig(hidden_size=128, num_attention_heads=2, max_position_embeddings=2048, rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0})
    for length in (1000, 2048, 5000, 8192):
        expected, _ = utils.ROPE_INIT_FUNCTIONS["dynamic"](config, None, seq_len=length)
        s = max(1.0, 2.0 * length / 2048 - (2.0 - 1))
        torch.testing.assert_close(rotary_frequencies(64, ntk_base(1e4, s, 64)).float(), expected)


def test_plain_rates_are_those_of_the_rotary_embedding():
    x = torch.randn(1, 1, 4, 16, dtype=D)
    rates = rotary_frequencies(16, 300.0)
    with_ours = RotaryEmbedding(16, scaling=lambda rate: rates.to(rate))
    torch.testing.assert_close(with_ours.rotate(x), RotaryEmbedding(16, base=300.0).rotate(x))


def test_ntk_slows_the_slowest_pair_by_the_factor_and_leaves_the_fastest():
    d, base, s = 64, 1e4, 5.0
    ratio = rotary_frequencies(d, base) / rotary_frequencies(d, ntk_base(base, s, d))
    assert ratio[0] == 1 and ratio[-1].item() == pytest.approx(s)
    steps = ratio[1:] / ratio[:-1]
    torch.testing.assert_close(steps, torch.full_like(steps, s ** (1 / (d / 2 - 1))))


def test_factor_one_is_the_plain_embedding():
    plain = rotary_frequencies(64)
    rates, attention = yarn_frequencies(64, 1e4, 1.0, 2048)
    torch.testing.assert_close(rates, plain)
    torch.testing.assert_close(llama3_frequencies(64, 1e4, factor=1.0), plain)
    assert attention == 1.0 and ntk_base(1e4, 1.0, 64) == 1e4


def test_yarn_keeps_fast_pairs_divides_slow_ones_and_ramps_between():
    d, base, s, length = 128, 1e4, 16.0, 4096
    plain = rotary_frequencies(d, base)
    rates, _ = yarn_frequencies(d, base, s, length)
    share = ((plain - rates) / (plain - plain / s)).numpy()  # 0 kept, 1 divided
    turns = (length * plain / (2 * math.pi)).numpy()
    assert (np.abs(share[turns > 36]) < 1e-12).all() and (np.abs(share[turns < 0.9] - 1) < 1e-12).all()
    ramp = share[(share > 1e-9) & (share < 1 - 1e-9)]
    np.testing.assert_allclose(np.diff(ramp), np.diff(ramp).mean(), rtol=1e-9)
    assert len(ramp) > 10 and np.diff(ramp).mean() > 0


def test_llama3_ramps_between_four_turns_and_one():
    d = 128
    plain, rates = rotary_frequencies(d, 5e5), llama3_frequencies(d)
    turns = 8192 * plain / (2 * math.pi)
    torch.testing.assert_close(rates[turns >= 4], plain[turns >= 4])
    torch.testing.assert_close(rates[turns <= 1], plain[turns <= 1] / 8)
    between = (turns > 1) & (turns < 4)
    torch.testing.assert_close((rates / plain)[between], 1 / 8 + 7 / 8 * (turns[between] - 1) / 3)
    assert between.sum() > 3


def test_the_attention_factor_on_query_and_key_multiplies_scores_by_its_square():
    rates, attention = yarn_frequencies(16, 1e4, 32.0, 1024)
    assert attention == pytest.approx(0.1 * math.log(32) + 1)
    assert attention**2 == pytest.approx(1.813, abs=1e-3)
    assert yarn_frequencies(16, 1e4, math.e, 1024)[1] == pytest.approx(1.1)


def test_rates_that_follow_the_length_do_not_fit_the_keys_in_a_cache():
    q, k = torch.randn(1, 1, 1, 16, dtype=D), torch.randn(1, 1, 1, 16, dtype=D)
    short, long = (RotaryEmbedding(16, base=ntk_base(1e4, s, 16)) for s in (1.0, 2.0))
    right = (long.rotate(q, torch.tensor([900])) * long.rotate(k, torch.tensor([100]))).sum()
    stale = (long.rotate(q, torch.tensor([900])) * short.rotate(k, torch.tensor([100]))).sum()
    assert (right - stale).abs() > 0.1


@pytest.mark.parametrize(("call", "message"), [
    (lambda: rotary_frequencies(7), "head_dim=7 is not an even number from 4 on"),
    (lambda: rotary_frequencies(2), "head_dim=2 is not an even number from 4 on"),
    (lambda: rotary_frequencies(8, 1.0), "base=1.0 is not above 1"),
    (lambda: ntk_base(1e4, 0.5, 8), "factor=0.5 is below 1"),
    (lambda: ntk_base(1e4, 2.0, 7), "head_dim=7"),
    (lambda: yarn_frequencies(8, 1e4, 0.9, 64), "factor=0.9 is below 1"),
    (lambda: yarn_frequencies(8, 1e4, 2.0, 0), "original_max_len=0 is below 1"),
    (lambda: yarn_frequencies(8, 1e4, 2.0, 64, 1.0, 1.0), "beta_fast=1.0 and beta_slow=1.0: expected beta_fast > beta_slow > 0"),
    (lambda: yarn_frequencies(8, 1e4, 2.0, 64, 1.0, 0.0), "beta_slow=0.0"),
    (lambda: llama3_frequencies(8, factor=0.0), "factor=0.0 is below 1"),
    (lambda: llama3_frequencies(8, original_max_len=0), "original_max_len=0 is below 1"),
    (lambda: llama3_frequencies(8, low_freq_factor=4.0), "high_freq_factor=4.0 and low_freq_factor=4.0: expected high > low > 0"),
    (lambda: llama3_frequencies(8, low_freq_factor=0.0), "low_freq_factor=0.0"),
])
def test_bad_settings_say_why(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_smallest_settings_are_fine():
    assert rotary_frequencies(4, 1.5).shape == (2,)
    assert yarn_frequencies(4, 1e4, 1.0, 1)[0].isfinite().all() and llama3_frequencies(4, original_max_len=1).isfinite().all()
    assert yarn_frequencies(8, 1e4, 2.0, 10_000_000)[0].isfinite().all()


def test_numpy_variants_agree(agree):
    rates, attention = yarn_frequencies(64, 1e4, 6.0, 2048)
    found, scale = numpy_yarn(64, 1e4, 6.0, 2048)
    agree(found, rates)
    agree(scale, torch.tensor(attention, dtype=D))
    agree(numpy_llama3(64, 5e5, 8.0, 8192), llama3_frequencies(64))
    agree(numpy_ntk(64, 1e4, 6.0), rotary_frequencies(64, ntk_base(1e4, 6.0, 64)))
