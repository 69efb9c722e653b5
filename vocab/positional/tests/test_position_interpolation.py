import numpy as np
import pytest
import torch

from snippets.positional.position_interpolation import fit, score, waves
from vocab.positional.position_interpolation import LinearScaling, interpolate_positions
from vocab.positional.rope import RotaryEmbedding

D = torch.float64


def example():
    """For the contract suite: a rotary embedding with divided rates, and its input."""
    q, k = torch.randn(1, 2, 3, 8, dtype=D), torch.randn(1, 1, 3, 8, dtype=D)
    return RotaryEmbedding(8, base=50.0, scaling=LinearScaling(4.0)), (q, k, torch.tensor([3, 9, 11]))


@pytest.mark.oracle("transformers ROPE_INIT_FUNCTIONS['linear']")
@pytest.mark.parametrize("factor", [1.0, 2.5, 16.0])
def test_rates_are_those_of_linear_scaling(factor):
    llama = pytest.importorskip("transformers.models.llama.modeling_llama")
    utils = pytest.importorskip("transformers.modeling_rope_utils")
    config = llama.LlamaConfig(hidden_size=64, num_attention_heads=4, rope_parameters={"rope_type": "linear", "rope_theta": 500.0, "factor": factor})
    theirs, attention = utils.ROPE_INIT_FUNCTIONS["linear"](config, None)
    rate = 500.0 ** (-torch.arange(0, 16, 2) / 16)
    torch.testing.assert_close(LinearScaling(factor)(rate), theirs)
    assert attention == 1.0


@pytest.mark.oracle("multiplication by exp(i·m·θ) as complex numbers, at fractional positions")
def test_divided_rates_are_divided_positions():
    x, positions = torch.randn(1, 1, 4, 6, dtype=D), torch.tensor([0, 1, 700, 4095])
    found = RotaryEmbedding(6, base=100.0, layout="interleaved", scaling=LinearScaling(2.0)).rotate(x, positions)
    theta = torch.tensor([100.0 ** (-2 * i / 6) for i in range(3)], dtype=D)
    inside = interpolate_positions(positions, trained_len=2048, target_len=4096).to(D)
    turn = torch.polar(torch.ones((), dtype=D), inside[:, None] * theta)
    expected = torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous()) * turn).flatten(-2)
    torch.testing.assert_close(found, expected)


def test_a_score_at_s_times_the_distance_is_the_old_score():
    q, k = torch.randn(1, 1, 1, 16, dtype=D), torch.randn(1, 1, 1, 16, dtype=D)
    plain, denser = RotaryEmbedding(16), RotaryEmbedding(16, scaling=LinearScaling(8.0))
    for m, n in ((5, 0), (1000, 37), (2047, 2000)):
        old = (plain.rotate(q, torch.tensor([m])) * plain.rotate(k, torch.tensor([n]))).sum()
        new = (denser.rotate(q, torch.tensor([8 * m])) * denser.rotate(k, torch.tensor([8 * n]))).sum()
        torch.testing.assert_close(new, old)


def test_factor_one_and_a_target_that_is_not_longer_change_nothing():
    x, positions = torch.randn(1, 1, 3, 8, dtype=D), torch.tensor([0, 5, 99])
    torch.testing.assert_close(RotaryEmbedding(8, scaling=LinearScaling(1.0)).rotate(x, positions), RotaryEmbedding(8).rotate(x, positions))
    assert interpolate_positions(positions, 2048, 1024).tolist() == [0.0, 5.0, 99.0]


def test_no_position_leaves_the_trained_range():
    inside = interpolate_positions(torch.arange(32768), trained_len=2048, target_len=32768)
    assert inside.min() == 0 and inside.max() < 2048
    assert inside[16] == 1 and (inside.diff() > 0).all()
    rate = 10000.0 ** (-torch.arange(0, 128, 2, dtype=D) / 128)
    assert (32767 * LinearScaling(16.0)(rate) < 2048 * rate).all()


def test_neighbours_become_harder_to_tell_apart():
    x = torch.randn(1, 1, 1, 64, dtype=D)
    apart = []
    for factor in (1.0, 4.0, 16.0):
        rotary = RotaryEmbedding(64, scaling=LinearScaling(factor))
        apart.append((rotary.rotate(x, torch.tensor([11])) - rotary.rotate(x, torch.tensor([10]))).norm().item())
    assert apart[0] > 3 * apart[1] > 9 * apart[2]


def test_a_cache_must_not_mix_factors():
    q, k = torch.randn(1, 1, 1, 16, dtype=D), torch.randn(1, 1, 1, 16, dtype=D)
    old, new = RotaryEmbedding(16), RotaryEmbedding(16, scaling=LinearScaling(2.0))
    right = (new.rotate(q, torch.tensor([60])) * new.rotate(k, torch.tensor([40]))).sum()
    mixed = (new.rotate(q, torch.tensor([60])) * old.rotate(k, torch.tensor([40]))).sum()
    assert (right - mixed).abs() > 0.1


@pytest.mark.oracle("the remainder of linear interpolation, |a''|/8, summed over the pairs")
def test_between_integers_a_score_stays_near_the_straight_line():
    """Theorem 2.1: the bound is about max|h| d / (32 ln b); with equal weights it is nearly reached near distance 0."""
    d, base = 128, 10000.0
    amplitude = np.ones(d // 2)
    theta = base ** (-2 * np.arange(d // 2) / d)
    middle = np.arange(200) + 0.5
    a = lambda x: np.cos(np.asarray(x)[:, None] * theta) @ amplitude  # noqa: E731
    gap = np.abs(a(middle) - (a(middle - 0.5) + a(middle + 0.5)) / 2)
    assert gap.max() < (theta**2).sum() / 8
    assert (theta**2).sum() / 8 == pytest.approx(d / (32 * np.log(base)), rel=0.2)
    assert gap.max() > 0.8 * d / (32 * np.log(base))


def test_a_score_that_is_tame_in_the_trained_range_is_wild_behind_it_and_tame_between():
    trained, factor = 2048, 4
    weights = fit(trained, seed=0)
    inside, behind = np.arange(trained), np.arange(trained, factor * trained)
    largest = np.abs(score(weights, inside)).max()
    assert largest < 1
    assert np.abs(score(weights, behind)).max() > 20 * largest
    assert np.abs(score(weights, np.arange(factor * trained) / factor)).max() < 1.1 * largest


@pytest.mark.parametrize(("call", "message"), [
    (lambda: LinearScaling(0.5), "factor=0.5 is below 1"),
    (lambda: LinearScaling(float("nan")), "factor=nan is below 1"),
    (lambda: interpolate_positions(torch.arange(3), 0, 8), "trained_len=0 is below 1"),
    (lambda: interpolate_positions(torch.arange(3), 8, 0), "target_len=0 is below 1"),
])
def test_bad_settings_say_why(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_positions_are_integers():
    with pytest.raises(TypeError, match="position_ids has dtype torch.float32"):
        interpolate_positions(torch.zeros(3), 4, 8)
    assert interpolate_positions(torch.arange(3), 1, 1).tolist() == [0.0, 1.0, 2.0]


def test_numpy_variant_agrees(agree):
    positions = torch.arange(40)
    rotary = RotaryEmbedding(8, base=10000.0, scaling=LinearScaling(4.0))
    x = torch.zeros(1, 1, 40, 8, dtype=D)
    x[..., :4] = 1  # (1, 0) in each pair: turned, it is cosine and sine of the angle
    turned = rotary.rotate(x, positions)[0, 0]
    agree(waves(positions.numpy() / 4, 8), turned)
