import pytest
import torch
from torch import nn

from snippets.initialization import kaiming as numpy_variant
from vocab.initialization.kaiming import kaiming_normal_, kaiming_uniform_
from vocab.initialization.variance_propagation import empirical_variance
from vocab.initialization.xavier import xavier_normal_

D = torch.float64
PAIRS = [(kaiming_normal_, nn.init.kaiming_normal_), (kaiming_uniform_, nn.init.kaiming_uniform_)]


def source(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.oracle("torch.nn.init.kaiming_normal_, kaiming_uniform_")
@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("mode", ["fan_in", "fan_out"])
@pytest.mark.parametrize(("a", "nonlinearity"), [(0.0, "leaky_relu"), (0.3, "leaky_relu"), (0.3, "relu"), (0.0, "tanh"), (0.0, "linear")])
def test_equals_pytorch_number_for_number(pair, mode, a, nonlinearity):
    for shape in ((7, 5), (16, 8, 3, 3), (4, 6, 5)):
        ours, theirs = (f(torch.empty(shape, dtype=D), a, mode, nonlinearity, generator=source()) for f in pair)
        torch.testing.assert_close(ours, theirs, rtol=1e-13, atol=1e-15)


def test_defaults_are_pytorchs():
    for pair in PAIRS:
        ours, theirs = (f(torch.empty(6, 9, dtype=D), generator=source()) for f in pair)
        torch.testing.assert_close(ours, theirs, rtol=1e-13, atol=1e-15)


@pytest.mark.oracle("closed form gain/√fan")
@pytest.mark.parametrize(("arguments", "std"), [({}, (2 / 800) ** 0.5), ({"mode": "fan_out"}, (2 / 300) ** 0.5), ({"a": 1.0}, 800**-0.5)])
def test_standard_deviation(arguments, std):
    for function in (kaiming_normal_, kaiming_uniform_):
        w = function(torch.empty(300, 800), generator=source(), **arguments)
        assert w.std().item() == pytest.approx(std, rel=0.01)
    assert w.abs().max().item() == pytest.approx(3**0.5 * std, rel=1e-3)


@pytest.mark.oracle("mean over 100 random ReLU networks of 30 layers")
def test_thirty_relu_layers_keep_the_mean_square_on_average():
    width, generator, found = 256, source(1), []
    for _ in range(100):
        h = torch.randn(1, width, generator=generator)
        h = h * (width / h.square().sum()).sqrt()
        for _ in range(30):
            h = (h @ kaiming_normal_(torch.empty(width, width), generator=generator).T).relu()
        found.append(h.square().mean())
    found = torch.stack(found)
    assert abs(found.mean() - 1) < 3 * found.std() / 10
    assert found.log().std() > 0.4, "a single network is not the mean"


def test_xavier_loses_a_factor_of_two_to_the_thirty():
    sizes = []
    for function in (kaiming_normal_, xavier_normal_):
        h, generator = torch.randn(4, 64, generator=source(9), dtype=D), source()
        for _ in range(30):
            h = (h @ function(torch.empty(64, 64, dtype=D), generator=generator).T).relu()
        sizes.append(h.square().mean().item())
    assert sizes[0] / sizes[1] == pytest.approx(2.0**30, rel=1e-9)


@pytest.mark.oracle("mean square of gradients, measured")
def test_fan_out_keeps_the_gradient_where_fan_in_keeps_the_signal():
    for mode, kept in (("fan_in", "signal"), ("fan_out", "gradient")):
        layers = [nn.Linear(n, m, bias=False) for n, m in ((400, 1600), (1600, 400))]
        for layer in layers:
            kaiming_normal_(layer.weight, mode=mode, generator=source(4))
        x = torch.randn(500, 400).relu() * 2**0.5
        x.requires_grad_()
        z = layers[0](x)
        (back,) = torch.autograd.grad(z, x, torch.randn_like(z))
        # the ReLU in front, not drawn here, halves both: 2 stands for "kept"
        assert z.square().mean().item() == pytest.approx(2 if kept == "signal" else 2 / 4, rel=0.1)
        assert back.square().mean().item() == pytest.approx(2 * 4 if kept == "signal" else 2, rel=0.1)


@pytest.mark.oracle("a fresh torch.nn.Linear and Conv2d")
@pytest.mark.parametrize("make", [lambda: nn.Linear(50, 30), lambda: nn.Conv2d(6, 10, 3)])
def test_pytorchs_default_is_a_slope_of_root_5_and_bounds_of_one_over_root_fan_in(make):
    torch.manual_seed(11)
    layer = make()
    torch.manual_seed(11)
    expected = kaiming_uniform_(torch.empty_like(layer.weight), a=5**0.5)
    torch.testing.assert_close(layer.weight.detach(), expected, rtol=1e-6, atol=0)
    fan_in = layer.weight[0].numel()
    assert layer.weight.abs().max().item() == pytest.approx(fan_in**-0.5, rel=0.02)


def test_pytorchs_default_divides_the_mean_square_by_six_in_each_relu_layer():
    torch.manual_seed(0)
    model = nn.Sequential(*[part for _ in range(6) for part in (nn.Linear(1000, 1000, bias=False), nn.ReLU())])
    found = empirical_variance(model, torch.randn(100, 1000)).second_moment
    torch.testing.assert_close(found[1:] / found[:-1], torch.full((5,), 1 / 6), rtol=0.1, atol=0)


def test_with_its_biases_the_default_signal_ends_at_a_floor_that_is_not_the_input():
    torch.manual_seed(0)
    model = nn.Sequential(*[part for _ in range(20) for part in (nn.Linear(500, 500), nn.ReLU())])
    found = empirical_variance(model, torch.randn(100, 500))
    # q = q / 6 + 1 / (3 · 500) has its fixed point at 1 / 1250
    assert found.second_moment[-1].item() == pytest.approx(1 / 1250, rel=0.2)
    spread = model(torch.randn(100, 500)).var(0).mean().item()
    assert spread < 1e-6 * found.second_moment[-1].item()


def test_a_residual_stream_doubles_with_branches_of_this_size():
    torch.manual_seed(0)
    x = torch.randn(200, 500)
    before = x.square().mean()
    for _ in range(10):
        x = x + x.relu() @ kaiming_normal_(torch.empty(500, 500)).T
    assert (x.square().mean() / before).log2().item() == pytest.approx(10, abs=0.7)


@pytest.mark.parametrize("function", [kaiming_normal_, kaiming_uniform_])
def test_fills_a_parameter_in_place_and_repeats_with_its_generator(function):
    layer = nn.Linear(4, 3)
    assert function(layer.weight, generator=source(5)) is layer.weight and layer.weight.is_leaf and layer.weight.requires_grad
    first = layer.weight.detach().clone()
    torch.testing.assert_close(function(layer.weight, generator=source(5)).detach(), first, rtol=0, atol=0)
    assert not torch.equal(function(layer.weight, generator=source(6)).detach(), first)


@pytest.mark.parametrize("function", [kaiming_normal_, kaiming_uniform_])
def test_bad_input_is_named(function):
    w = torch.ones(3, 3)
    with pytest.raises(ValueError, match="mode='fan_avg' is not 'fan_in' or 'fan_out'"):
        function(w, mode="fan_avg")
    with pytest.raises(ValueError, match="nonlinearity='gelu' has no customary gain"):
        function(w, nonlinearity="gelu")
    with pytest.raises(ValueError, match=r"tensor has shape \(3,\); expected \(out, in, \.\.\.\)"):
        function(torch.ones(3))
    with pytest.raises(TypeError, match="tensor has dtype torch.int64"):
        function(torch.ones(3, 3, dtype=torch.int64))
    assert torch.equal(w, torch.ones(3, 3))


@pytest.mark.parametrize(("mode", "a"), [("fan_in", 0.0), ("fan_out", 0.5)])
def test_numpy_variant_agrees(agree, mode, a):
    z = torch.randn(6, 9, generator=source(), dtype=D)
    agree(numpy_variant.kaiming_std(9, 6, a, mode) * z.numpy(), kaiming_normal_(torch.empty(6, 9, dtype=D), a, mode, generator=source()))


def test_numpy_default_of_pytorch_has_the_variance_of_a_fresh_layer():
    assert numpy_variant.SCHEMES["PyTorch's default"](1000, 1000, 0.0) ** 2 == pytest.approx(nn.Linear(1000, 1000).weight.var().item(), rel=0.01)
