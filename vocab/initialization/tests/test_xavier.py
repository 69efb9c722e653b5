import pytest
import torch
from torch import nn

from snippets.initialization import xavier as numpy_variant
from vocab.initialization.variance_propagation import empirical_variance
from vocab.initialization.xavier import fans, xavier_normal_, xavier_uniform_

D = torch.float64
SHAPES = [(7, 5), (30, 20), (16, 8, 3, 3), (4, 6, 5), (2, 3, 2, 2, 2)]


def source(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.oracle("torch.nn.init.xavier_uniform_, xavier_normal_")
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("gain", [1.0, 5 / 3])
def test_equals_pytorch_number_for_number(shape, gain):
    for ours, theirs in ((xavier_uniform_, nn.init.xavier_uniform_), (xavier_normal_, nn.init.xavier_normal_)):
        found = ours(torch.empty(shape, dtype=D), gain, generator=source())
        expected = theirs(torch.empty(shape, dtype=D), gain, generator=source())
        torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-15)
        plain, one = ours(torch.empty(shape), generator=source()), ours(torch.empty(shape), 1.0, generator=source())
        assert torch.equal(plain, one)


@pytest.mark.oracle("closed form of bound and variance")
def test_bound_and_variance():
    w = xavier_uniform_(torch.empty(600, 200, dtype=D), gain=2.0)
    bound = 2 * (6 / 800) ** 0.5
    assert 0.9999 * bound < w.max() <= bound and -bound <= w.min() < -0.9999 * bound
    for found in (w, xavier_normal_(torch.empty(600, 200, dtype=D), gain=2.0)):
        assert found.var().item() == pytest.approx(2 * 4 / 800, rel=0.02)
        assert abs(found.mean().item()) < 4 * (0.01 / found.numel()) ** 0.5


def linear_net(widths):
    layers = [nn.Linear(n, m, bias=False, dtype=D) for n, m in zip(widths, widths[1:])]
    for layer in layers:
        xavier_normal_(layer.weight)
    return nn.Sequential(*layers)


@pytest.mark.oracle("variance of both directions, measured")
def test_square_linear_layers_keep_both_directions():
    found = empirical_variance(linear_net([800] * 7), torch.randn(200, 800, dtype=D))
    assert (found.variance - 1).abs().max() < 0.1 and (found.gradient - 1).abs().max() < 0.1


@pytest.mark.oracle("variance of both directions, measured")
@pytest.mark.parametrize(("n", "m"), [(400, 1600), (1600, 400)])
def test_other_layers_miss_both_in_opposite_directions(n, m):
    layer = linear_net([n, m])
    x = torch.randn(300, n, dtype=D, requires_grad=True)
    z = layer(x)
    (back,) = torch.autograd.grad(z, x, torch.randn_like(z))
    forward, backward = z.var().item(), back.var().item()
    assert forward == pytest.approx(2 * n / (n + m), rel=0.02)
    assert backward == pytest.approx(2 * m / (n + m), rel=0.02)
    assert (forward - 1) * (backward - 1) < 0 and forward + backward == pytest.approx(2, rel=0.02)


def test_with_relu_the_signal_halves_per_layer():
    widths = [600] * 9
    layers = linear_net(widths)
    model = nn.Sequential(*[part for layer in layers for part in (layer, nn.ReLU())])
    found = empirical_variance(model, torch.randn(200, 600, dtype=D)).second_moment
    assert (found[0] / found[-1]).log2().item() == pytest.approx(7, abs=0.5)


def test_kernels_count_in_both_fans():
    assert fans(torch.empty(64, 16, 3, 5)) == (240, 960)
    assert fans(torch.empty(3, 7)) == (7, 3) and fans(torch.empty(1, 1, 3)) == (3, 3)
    convolution = nn.Conv2d(16, 64, (3, 5))
    assert fans(convolution.weight)[0] == convolution.weight[0].numel()


@pytest.mark.oracle("torch.nn.init._calculate_fan_in_and_fan_out")
@pytest.mark.parametrize("shape", SHAPES)
def test_fans_are_pytorchs(shape):
    assert fans(torch.empty(shape)) == nn.init._calculate_fan_in_and_fan_out(torch.empty(shape))


def test_grouped_and_transposed_convolutions_are_counted_differently():
    grouped = nn.Conv2d(16, 32, 3, groups=4)
    fan_in, fan_out = fans(grouped.weight)
    assert (fan_in, fan_out) == (4 * 9, 32 * 9), "an input feeds the 8 outputs of its own group only: 72"
    assert fans(grouped.weight.chunk(4)[0]) == (36, 72)
    transposed = nn.ConvTranspose2d(10, 20, 3)
    assert fans(transposed.weight) == (20 * 9, 10 * 9), "an output sums over 10 inputs: 90"
    assert fans(transposed.weight.transpose(0, 1)) == (90, 180)


def test_a_fused_matrix_of_queries_keys_and_values_is_too_small_by_root_2():
    fused = xavier_uniform_(torch.empty(3 * 64, 64))
    parts = torch.empty(3 * 64, 64)
    for part in parts.chunk(3):
        xavier_uniform_(part)
    assert (parts.abs().max() / fused.abs().max()).item() == pytest.approx(2**0.5, rel=0.01)
    # PyTorch's own attention does it the first way
    bound = nn.MultiheadAttention(64, 4).in_proj_weight.abs().max().item()
    assert bound == pytest.approx((6 / (64 + 192)) ** 0.5, rel=0.01)


def test_fills_a_parameter_in_place_and_repeats_with_its_generator():
    layer = nn.Linear(4, 3)
    for function in (xavier_uniform_, xavier_normal_):
        assert function(layer.weight, generator=source(5)) is layer.weight and layer.weight.is_leaf
        first = layer.weight.detach().clone()
        state = torch.get_rng_state()
        torch.testing.assert_close(function(layer.weight, generator=source(5)).detach(), first, rtol=0, atol=0)
        assert torch.equal(state, torch.get_rng_state()), "the global generator is not touched"
        assert not torch.equal(function(layer.weight, generator=source(6)).detach(), first)


@pytest.mark.parametrize("function", [xavier_uniform_, xavier_normal_, fans])
def test_bad_input_is_named(function):
    with pytest.raises(ValueError, match=r"tensor has shape \(3,\); expected \(out, in, \.\.\.\): a bias has no fan"):
        function(torch.ones(3))
    with pytest.raises(ValueError, match=r"tensor has shape \(0, 3\); a fan of 0 has no variance"):
        function(torch.ones(0, 3))
    with pytest.raises(TypeError, match="tensor has dtype torch.int64"):
        function(torch.ones(3, 3, dtype=torch.int64))


@pytest.mark.parametrize(("n", "m"), [(5, 5), (3, 12)])
def test_numpy_variant_agrees(agree, n, m):
    z = torch.randn(m, n, generator=source(), dtype=D)
    agree(numpy_variant.xavier_std(n, m, 1.5) * z.numpy(), xavier_normal_(torch.empty(m, n, dtype=D), 1.5, generator=source()))
    u = torch.rand(m, n, generator=source(), dtype=D)
    agree(numpy_variant.xavier_bound(n, m, 1.5) * (2 * u.numpy() - 1), xavier_uniform_(torch.empty(m, n, dtype=D), 1.5, generator=source()))
