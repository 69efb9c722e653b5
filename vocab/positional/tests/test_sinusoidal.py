import math

import numpy as np
import pytest
import torch

from snippets.positional.sinusoidal import sinusoidal_table as numpy_table
from vocab.positional.sinusoidal import SinusoidalPositionalEncoding, sinusoidal_table


def example():
    """For the contract suite: the module and its input."""
    return SinusoidalPositionalEncoding(6), (torch.randn(2, 5, 6, dtype=torch.float64),)


@pytest.mark.oracle("the paper's formula, number by number")
def test_every_number_is_the_papers():
    T, D, base = 40, 12, 500.0
    table = sinusoidal_table(T, D, base)
    for p in range(T):
        for i in range(D // 2):
            angle = p / base ** (2 * i / D)
            assert table[p, 2 * i].item() == pytest.approx(math.sin(angle), abs=1e-14)
            assert table[p, 2 * i + 1].item() == pytest.approx(math.cos(angle), abs=1e-14)


@pytest.mark.oracle("transformers RoFormerSinusoidalPositionalEmbedding")
def test_equals_roformers_table_in_the_concatenated_layout():
    roformer = pytest.importorskip("transformers.models.roformer.modeling_roformer")
    theirs = roformer.RoFormerSinusoidalPositionalEmbedding(64, 32)
    made = theirs._init_weight() if hasattr(theirs, "_init_weight") else theirs.create_weight()
    weight = made if isinstance(made, torch.Tensor) else theirs.weight
    torch.testing.assert_close(sinusoidal_table(64, 32, layout="concat").float(), weight.detach(), rtol=0, atol=1e-6)


def test_adds_the_table_and_counts_on_from_an_offset():
    x = torch.randn(2, 7, 8, dtype=torch.float64)
    encode = SinusoidalPositionalEncoding(8, base=100.0)
    torch.testing.assert_close(encode(x), x + sinusoidal_table(7, 8, 100.0), rtol=0, atol=0)
    pieces = torch.cat((encode(x[:, :3]), encode(x[:, 3:], offset=3)), 1)
    torch.testing.assert_close(pieces, encode(x), rtol=0, atol=0)
    assert encode(x.bfloat16()).dtype == torch.bfloat16


@pytest.mark.oracle("one rotation matrix for all positions")
def test_a_step_of_k_is_the_same_rotation_from_every_position():
    D, k, base = 8, 5, 50.0
    table = sinusoidal_table(60, D, base)
    rotation = torch.zeros(D, D, dtype=torch.float64)
    for i in range(D // 2):
        angle = k / base ** (2 * i / D)
        c, s = math.cos(angle), math.sin(angle)
        rotation[2 * i : 2 * i + 2, 2 * i : 2 * i + 2] = torch.tensor([[c, s], [-s, c]])
    torch.testing.assert_close(table[:-k] @ rotation.T, table[k:])


@pytest.mark.oracle("closed form of the product, a sum of cosines")
def test_the_product_of_two_rows_depends_on_their_distance_only():
    D = 16
    table = sinusoidal_table(50, D, 200.0)
    p, q = torch.meshgrid(torch.arange(50), torch.arange(50), indexing="ij")
    rates = 200.0 ** (-2 * np.arange(D // 2) / D)
    expected = np.cos((p - q).numpy()[..., None] * rates).sum(-1)
    np.testing.assert_allclose((table @ table.T).numpy(), expected, atol=1e-12)


def test_every_row_is_equally_long_and_row_zero_is_0_1_0_1():
    table = sinusoidal_table(1000, 20)
    torch.testing.assert_close(table.norm(dim=1), torch.full((1000,), math.sqrt(20 / 2), dtype=torch.float64))
    assert table[0].tolist() == [0.0, 1.0] * 10


def test_wavelengths_run_from_2_pi_to_just_under_2_pi_times_base():
    D, base = 128, 10000.0
    wavelength = 2 * math.pi * base ** ((D - 2) / D)
    assert wavelength == pytest.approx(54_410, rel=1e-4)
    half_a_turn = sinusoidal_table(1, D, base, start=round(wavelength / 2))[0]
    assert half_a_turn[-1].item() == pytest.approx(-1, abs=1e-6)


def test_the_two_layouts_hold_the_same_numbers_in_another_order():
    interleaved, concat = (sinusoidal_table(9, 6, layout=name) for name in ("interleaved", "concat"))
    assert torch.equal(interleaved[:, [0, 2, 4, 1, 3, 5]], concat)
    assert not torch.allclose(interleaved, concat)


def test_rates_in_half_precision_lose_a_radian_within_two_thousand_positions():
    exact = sinusoidal_table(1, 64, start=2000)[0, 0::2]
    rate = 10000.0 ** (-torch.arange(0, 64, 2, dtype=torch.float64) / 64)
    half = (2000 * rate.half().double()).sin()
    assert (2000 * (rate.half().double() - rate)).abs().max() > 0.3
    assert (half - exact).abs().max() > 0.3
    encoded = SinusoidalPositionalEncoding(64)(torch.zeros(1, 1, 64, dtype=torch.float16), offset=2000)
    torch.testing.assert_close(encoded[0, 0, 0::2].double(), exact, rtol=0, atol=5e-4)


def test_the_sines_alone_do_not_know_a_distance():
    """Erratum: the sine half alone is sometimes given as the encoding."""
    table = sinusoidal_table(100, 16)
    products = table[:, 0::2] @ table[:, 0::2].T
    same_distance = products.diagonal(3)
    assert same_distance.max() - same_distance.min() > 1
    assert (table @ table.T).diagonal(3).std() < 1e-12


def test_t5_has_relative_biases_and_no_position_vectors():
    """Erratum: T5 is often listed among the users."""
    transformers = pytest.importorskip("transformers")
    config = transformers.T5Config(d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, vocab_size=32)
    names = [name for name, _ in transformers.T5EncoderModel(config).named_parameters()]
    assert any("relative_attention_bias" in name for name in names) and not any("position_emb" in name for name in names)


@pytest.mark.parametrize(("change", "message"), [
    (dict(d_model=7), "d_model=7 is not an even number"),
    (dict(d_model=0), "d_model=0 is not an even number"),
    (dict(base=0.0), "base=0.0 is not positive"),
    (dict(layout="sincos"), "layout='sincos' is not 'interleaved' or 'concat'"),
])
def test_settings_that_cannot_be_say_why(change, message):
    with pytest.raises(ValueError, match=message):
        SinusoidalPositionalEncoding(**{"d_model": 8, **change})


def test_positions_beyond_the_limit_are_an_error_and_the_last_one_is_not():
    encode = SinusoidalPositionalEncoding(4, max_len=10)
    x = torch.zeros(1, 4, 4)
    assert encode(x, offset=6).isfinite().all()
    with pytest.raises(ValueError, match=r"positions 7 to 10 are not all from 0 to 9 \(max_len=10\)"):
        encode(x, offset=7)
    with pytest.raises(ValueError, match="positions -1 to 2"):
        encode(x, offset=-1)


def test_the_limit_is_5000_positions_unless_given():
    encode, x = SinusoidalPositionalEncoding(2), torch.zeros(1, 1, 2)
    assert encode(x, offset=4999).isfinite().all()
    with pytest.raises(ValueError, match="positions 5000 to 5000 are not all from 0 to 4999"):
        encode(x, offset=5000)


def test_with_a_base_of_one_all_clocks_turn_alike():
    table = sinusoidal_table(5, 6, base=1.0)
    assert torch.equal(table[:, :2], table[:, 2:4]) and torch.equal(table[:, :2], table[:, 4:])


def test_a_wrong_width_is_named():
    with pytest.raises(ValueError, match=r"x has shape \(1, 4, 6\); expected \(batch, time, d_model=4\)"):
        SinusoidalPositionalEncoding(4)(torch.zeros(1, 4, 6))


def test_numpy_variant_agrees(agree):
    agree(numpy_table(np.arange(50), 24, 300.0), sinusoidal_table(50, 24, 300.0))
