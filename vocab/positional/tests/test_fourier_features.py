import math

import numpy as np
import pytest
import torch

from snippets.positional.fourier_features import features as numpy_features
from snippets.positional.fourier_features import ridge
from vocab.positional.fourier_features import FourierFeatures, timestep_embedding
from vocab.positional.sinusoidal import sinusoidal_table

D = torch.float64


def example():
    """For the contract suite: the module and its input."""
    return FourierFeatures(2, 3, mode="gaussian").double(), (torch.randn(4, 2, dtype=D),)


@pytest.mark.oracle("the formula, number by number")
@pytest.mark.parametrize("mode", ["nerf", "linear"])
def test_every_number_is_a_sine_or_cosine_of_one_coordinate(mode):
    x = torch.randn(2, 3, dtype=D)
    found = FourierFeatures(3, 4, mode=mode, include_input=False).double()(x)
    for row, (a, b) in enumerate(zip(x.tolist(), found.tolist())):
        angles = [coordinate * math.pi * (2**k if mode == "nerf" else k + 1) for coordinate in a for k in range(4)]
        expected = [math.sin(v) for v in angles] + [math.cos(v) for v in angles]
        assert b == pytest.approx(expected, abs=1e-12), row


@pytest.mark.oracle("published widths: 60 and 24 in NeRF")
def test_widths_are_nerfs():
    assert FourierFeatures(3, 10, include_input=False).out_dim == 60
    assert FourierFeatures(3, 4, include_input=False).out_dim == 24
    for settings in (dict(), dict(include_input=False), dict(mode="gaussian"), dict(mode="gaussian", include_input=False)):
        layer = FourierFeatures(3, 5, **settings)
        assert layer(torch.zeros(2, 3)).shape[-1] == layer.out_dim
    assert FourierFeatures(3, 5, mode="gaussian").out_dim == 13


def test_without_frequencies_the_coordinates_are_left():
    x = torch.randn(5, 2)
    assert torch.equal(FourierFeatures(2, 0)(x), x)
    assert torch.equal(FourierFeatures(2, 3)(x)[:, :2], x)


@pytest.mark.oracle("kernel identity: a sum of cosines")
def test_products_depend_on_the_difference_only():
    layer = FourierFeatures(2, 50, mode="gaussian", scale=0.7, include_input=False).double()
    x, y = torch.randn(6, 2, dtype=D), torch.randn(6, 2, dtype=D)
    expected = torch.cos(2 * math.pi * (x - y) @ layer.turns.T).sum(-1)
    torch.testing.assert_close((layer(x) * layer(y)).sum(-1), expected)
    shift = torch.tensor([0.3, -2.0], dtype=D)
    torch.testing.assert_close(layer(x + shift) @ layer(y + shift).T, layer(x) @ layer(y).T)


@pytest.mark.oracle("closed form of the limit, a Gaussian of width 1/(2πs)")
@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_with_many_random_directions_the_kernel_is_gaussian(scale):
    layer = FourierFeatures(2, 200_000, mode="gaussian", scale=scale, include_input=False).double()
    origin = layer(torch.zeros(1, 2, dtype=D))
    for distance in (0.0, 0.1, 0.3):
        point = layer(torch.tensor([[distance, 0.0]], dtype=D))
        expected = math.exp(-2 * math.pi**2 * scale**2 * distance**2)
        assert ((origin * point).sum() / 200_000).item() == pytest.approx(expected, abs=0.006)


def test_a_linear_fit_follows_the_top_frequency_which_raw_coordinates_do_not():
    x = np.linspace(-1, 1, 200)[:, None]
    y = np.sin(8 * np.pi * x[:, 0])
    for layer, good in ((FourierFeatures(1, 4), True), (FourierFeatures(1, 3), False), (FourierFeatures(1, 0), False)):
        inputs = layer.double()(torch.from_numpy(x)).numpy()
        error = np.mean((ridge(inputs, y, inputs, 1e-6) - y) ** 2)
        assert bool(error < 1e-4) is good, layer.out_dim


def test_frequencies_above_half_the_sampling_rate_look_like_slow_ones():
    x = torch.arange(-1, 1, 1 / 8, dtype=D)[:, None]  # 8 samples a unit: at most 4 turns a unit can be told apart
    fast = torch.sin(2 * math.pi * 5 * x)
    slow = torch.sin(2 * math.pi * -3 * x)
    torch.testing.assert_close(fast, slow)


def test_published_code_leaves_out_pi():
    """NeRF's paper writes sin(2^k π x), its code computes sin(2^k x): the features differ and so does their reach."""
    x = torch.tensor([[0.5]], dtype=D)
    paper = FourierFeatures(1, 1, include_input=False).double()(x)[0, 0].item()
    assert paper == pytest.approx(1.0) and math.sin(0.5) == pytest.approx(0.479, abs=1e-3)


@pytest.mark.oracle("sinusoidal_table and a loop")
def test_time_steps_are_positions_with_cosines_first():
    t = torch.tensor([0.0, 1.0, 37.5, 999.0], dtype=D)
    found = timestep_embedding(t, 8, max_period=500.0)
    for row, step in zip(found.tolist(), t.tolist()):
        angles = [step * 500.0 ** (-i / 4) for i in range(4)]
        assert row == pytest.approx([math.cos(a) for a in angles] + [math.sin(a) for a in angles], abs=1e-12)
    table = sinusoidal_table(4, 8, 500.0, layout="concat")
    torch.testing.assert_close(timestep_embedding(torch.arange(4, dtype=D), 8, 500.0), torch.cat((table[:, 4:], table[:, :4]), -1))
    assert timestep_embedding(torch.ones(1), 2).dtype == torch.float32


def test_the_default_period_is_that_of_diffusion_models():
    t = torch.tensor([250.0])
    rate = torch.exp(-math.log(10000) * torch.arange(3, dtype=torch.float32) / 3)
    expected = torch.cat(((t * rate).cos(), (t * rate).sin()))
    torch.testing.assert_close(timestep_embedding(t, 6)[0], expected, rtol=0, atol=3e-5)


def test_fast_frequencies_survive_half_precision():
    layer = FourierFeatures(1, 8, include_input=False)
    x = torch.tensor([[0.3125]])  # exact in bfloat16
    torch.testing.assert_close(layer.bfloat16()(x.bfloat16()).float(), FourierFeatures(1, 8, include_input=False)(x), rtol=0, atol=0.02)


@pytest.mark.parametrize(("call", "message"), [
    (lambda: FourierFeatures(0, 2), "in_dim=0 and n_freqs=2 give no features"),
    (lambda: FourierFeatures(1, -1), "in_dim=1 and n_freqs=-1 give no features"),
    (lambda: FourierFeatures(1, 0, include_input=False), "n_freqs=0 give no features"),
    (lambda: FourierFeatures(1, 2, scale=0.0), "scale=0.0 is not positive"),
    (lambda: FourierFeatures(1, 2, mode="random"), "mode='random' is not 'nerf', 'gaussian' or 'linear'"),
    (lambda: FourierFeatures(2, 2)(torch.zeros(3)), r"x has shape \(3,\); expected \(..., in_dim=2\)"),
    (lambda: timestep_embedding(torch.zeros(2), 3), "dim=3 is not an even number"),
    (lambda: timestep_embedding(torch.zeros(2), 0), "dim=0 is not an even number"),
    (lambda: timestep_embedding(torch.zeros(2), 4, 0.0), "max_period=0.0 is not positive"),
    (lambda: timestep_embedding(torch.zeros(2, 1), 4), r"t has shape \(2, 1\); expected \(batch\)"),
])
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_numpy_variant_agrees(agree):
    layer = FourierFeatures(1, 5).double()
    x = torch.linspace(-1, 1, 40, dtype=D)[:, None]
    agree(numpy_features(x[:, 0].numpy(), 2 * np.pi * layer.turns[:, 0].numpy()), layer(x))
