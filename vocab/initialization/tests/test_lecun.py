import pytest
import torch
from torch import nn
from torch.nn import functional as F

from snippets.initialization import lecun as numpy_variant
from vocab.initialization.lecun import lecun_normal_, lecun_uniform_
from vocab.initialization.variance_propagation import propagate_variance

D = torch.float64
BOTH = [lecun_normal_, lecun_uniform_]


def source(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.oracle("chi-square test of the variance")
@pytest.mark.parametrize("shape", [(300, 500), (64, 32, 5, 5)])
def test_sample_variance_is_one_over_fan_in(shape):
    chi2 = pytest.importorskip("scipy.stats").chi2
    w = lecun_normal_(torch.empty(shape, dtype=D), generator=source())
    fan_in, n = w[0].numel(), w.numel()
    statistic = (w.square().sum() * fan_in).item()
    assert chi2.ppf(0.001, n) < statistic < chi2.ppf(0.999, n)
    uniform = lecun_uniform_(torch.empty(shape, dtype=D), generator=source())
    error = (4 / 5 / n) ** 0.5  # of the mean square of uniform numbers, relative to it
    assert abs(uniform.square().mean().item() * fan_in - 1) < 4 * error
    assert uniform.abs().max().item() == pytest.approx((3 / fan_in) ** 0.5, rel=1e-4)


@pytest.mark.oracle("torch.nn.init.kaiming_normal_(nonlinearity='linear')")
@pytest.mark.parametrize("shape", [(30, 50), (6, 3, 5, 5), (4, 2, 3)])
def test_equals_pytorchs_kaiming_for_a_linear_function(shape):
    for ours, theirs in zip(BOTH, (nn.init.kaiming_normal_, nn.init.kaiming_uniform_)):
        expected = theirs(torch.empty(shape, dtype=D), nonlinearity="linear", generator=source())
        torch.testing.assert_close(ours(torch.empty(shape, dtype=D), generator=source()), expected, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("init", BOTH)
def test_one_linear_layer_returns_unit_variance(init):
    z = torch.randn(1000, 700) @ init(torch.empty(500, 700), generator=source(3)).T
    assert z.var().item() == pytest.approx(1, abs=0.02)


@pytest.mark.oracle("fixed point of self-normalizing networks")
def test_selu_keeps_mean_and_variance_through_fifty_layers():
    x, generator = torch.randn(200, 1000), source(1)
    for _ in range(50):
        x = F.selu(x @ lecun_normal_(torch.empty(1000, 1000), generator=generator).T)
        assert abs(x.mean().item()) < 0.1 and abs(x.var().item() - 1) < 0.15


def test_kaimings_default_and_pytorchs_default_lose_the_fixed_point():
    for std, low, high in [(2**0.5, 5, 1e6), (3**-0.5, 0, 1e-6)]:
        q, _ = propagate_variance(50, 1, F.selu, std)
        assert low < q[-1].item() < high


def test_linear_layers_start_three_times_smaller():
    torch.manual_seed(2)
    default = nn.Linear(900, 400).weight
    assert default.var().item() * 900 == pytest.approx(1 / 3, rel=0.02)
    assert default.abs().max().item() == pytest.approx(1 / 30, rel=1e-3)


def test_pytorch_has_no_function_of_this_name():
    assert not [name for name in dir(nn.init) if "lecun" in name]


@pytest.mark.parametrize("init", BOTH)
def test_fills_a_parameter_in_place_and_repeats_with_its_generator(init):
    layer = nn.Linear(4, 3)
    assert init(layer.weight, generator=source(5)) is layer.weight and layer.weight.is_leaf and layer.weight.requires_grad
    first = layer.weight.detach().clone()
    torch.testing.assert_close(init(layer.weight, generator=source(5)).detach(), first, rtol=0, atol=0)
    assert not torch.equal(init(layer.weight, generator=source(6)).detach(), first)


@pytest.mark.parametrize("init", BOTH)
def test_bad_input_is_named(init):
    with pytest.raises(TypeError, match="tensor has dtype torch.int64"):
        init(torch.ones(3, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"tensor has shape \(3,\); expected \(out, in, \.\.\.\)"):
        init(torch.ones(3))


def test_numpy_variant_agrees(agree):
    z = torch.randn(6, 9, generator=source(), dtype=D)
    agree(numpy_variant.lecun_std(9) * z.numpy(), lecun_normal_(torch.empty(6, 9, dtype=D), generator=source()))


def test_numpy_map_agrees(agree):
    q, _ = propagate_variance(20, 1, F.selu, 1.2, input_moment=0.5)
    agree(numpy_variant.path(0.5, 1.2, 20)[1:], q)
