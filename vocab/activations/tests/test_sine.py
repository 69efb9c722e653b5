import math

import numpy as np
import pytest
import torch
from torch import nn

from snippets.activations import sine as numpy_variant
from vocab.activations.sine import Sine, SirenLayer, siren_init_
from vocab.activations.tests.measure import GRID, slope

D = torch.float64


def example():
    """For the contract suite: a layer and its input."""
    return SirenLayer(3, 4, w0=5.0).double(), (torch.rand(2, 3, dtype=D) * 2 - 1,)


@pytest.mark.oracle("numpy.sin")
@pytest.mark.parametrize("w0", [0.5, 1.0, 30.0])
def test_is_the_sine_of_w0_times_x(w0):
    np.testing.assert_allclose(Sine(w0)(GRID).numpy(), np.sin(w0 * GRID.numpy()), rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(SirenLayer(1, 1, w0=w0).activation(GRID), torch.sin(w0 * GRID))


def test_frequency_is_30_if_nothing_is_said():
    torch.testing.assert_close(Sine()(GRID), torch.sin(30 * GRID))
    torch.manual_seed(1)
    layer = SirenLayer(6, 200)
    torch.testing.assert_close(layer(torch.ones(6)), torch.sin(30 * layer.linear(torch.ones(6))))
    assert layer.linear.weight.abs().max().item() == pytest.approx(1 / 30, rel=0.01)
    assert siren_init_(nn.Linear(6, 200)).weight.abs().max().item() == pytest.approx(1 / 30, rel=0.01)


@pytest.mark.oracle("cosine of a shifted bias")
def test_sine_and_cosine_differ_by_a_shift_of_the_bias():
    torch.testing.assert_close(Sine(12.0)(GRID + math.pi / 24), torch.cos(12 * GRID))


@pytest.mark.oracle("closed form of the derivative")
def test_derivative_is_w0_times_a_cosine():
    torch.testing.assert_close(slope(Sine(7.0)), 7 * torch.cos(7 * GRID))
    x = torch.randn(5, dtype=D, requires_grad=True)
    torch.autograd.gradcheck(Sine(7.0), x)


@pytest.mark.oracle("a siren with shifted biases")
def test_derivative_of_a_layer_is_again_a_siren():
    layer, x = SirenLayer(1, 1, w0=4.0, is_first=True).double(), torch.linspace(-1, 1, 9, dtype=D)[:, None]
    x.requires_grad_()
    (found,) = torch.autograd.grad(layer(x).sum(), x)
    weight = layer.linear.weight.item()
    with torch.no_grad():
        layer.linear.bias += math.pi / 8
    torch.testing.assert_close(found, 4 * weight * layer(x.detach()))


@pytest.mark.oracle("Kolmogorov-Smirnov: normal sums, arcsine activations")
def test_ten_layers_keep_the_distribution():
    stats = pytest.importorskip("scipy.stats")
    x = torch.rand(400, 2) * 2 - 1
    x = SirenLayer(2, 512, is_first=True)(x)
    for _ in range(10):
        layer = SirenLayer(512, 512)
        sums = 30 * layer.linear(x)
        x = layer(x)
        sums, values = sums.detach().flatten()[::7], x.detach().flatten()[::7]
        assert stats.kstest(sums, stats.norm(0, sums.std().item()).cdf).statistic < 0.02
        assert stats.kstest(sums, "norm").statistic < 0.08
        assert stats.kstest(values, stats.arcsine(-1, 2).cdf).statistic < 0.1
    # not 1 and 1/2 to the end: v = 1 - exp(-2v) is where the variance of the sums settles, and half of it the sines'
    fixed = 0.7968
    assert fixed == pytest.approx(1 - math.exp(-2 * fixed), abs=1e-4)
    assert sums.var().item() == pytest.approx(fixed, abs=0.08) and values.var().item() == pytest.approx(fixed / 2, abs=0.03)
    first = SirenLayer(1, 20000, is_first=True)(torch.ones(1, 1))
    assert stats.kstest(first.detach().flatten(), stats.arcsine(-1, 2).cdf).statistic < 0.02
    assert first.square().mean().item() == pytest.approx(0.5, abs=0.05)


def test_default_weights_of_a_linear_layer_make_deep_sines_fade():
    """What is missing without the initialisation: ten layers later all inputs look alike."""
    x = torch.rand(100, 1) * 2 - 1
    special, usual = x, x
    for i in range(10):
        n = x.shape[1] if i == 0 else 128
        special = SirenLayer(n, 128, is_first=i == 0)(special)
        usual = torch.sin(nn.Linear(n, 128)(usual))
    assert special.std(0).mean() > 0.5 and usual.std(0).mean() < 0.01


@pytest.mark.oracle("bounds of the uniform distributions")
def test_initial_weights_have_the_bounds_of_the_paper():
    for n, w0, is_first, bound in ((50, 30.0, True, 1 / 50), (50, 10.0, False, math.sqrt(6 / 50) / 10)):
        layer = siren_init_(nn.Linear(n, 400), w0, is_first)
        assert 0.99 * bound < layer.weight.abs().max().item() <= bound
        assert layer.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)
        found = layer.bias.abs().max().item()
        assert 0.98 * 50**-0.5 < found <= 50**-0.5 if is_first else 0.98 * bound < found <= bound
    assert siren_init_(nn.Linear(4, 4, bias=False)).bias is None


def test_the_usual_bias_would_double_the_variance_of_the_sums():
    """With n = 256 and w0 = 30, PyTorch's U(±1/√n) adds w0²/(3n) = 1.17 to a variance of 1."""
    assert 30**2 / (3 * 256) == pytest.approx(1.17, abs=5e-3)
    bias = 30 * nn.Linear(256, 4000).bias
    assert bias.var().item() == pytest.approx(1.17, rel=0.1)


@pytest.mark.oracle("the gradient of the target")
def test_a_fitted_siren_has_the_derivative_of_the_signal_too():
    x = torch.linspace(-1, 1, 128, dtype=D)[:, None].requires_grad_()
    target = lambda z: torch.sin(2 * math.pi * z) + 0.5 * torch.cos(5 * math.pi * z)  # noqa: E731
    wanted = 2 * math.pi * torch.cos(2 * math.pi * x) - 2.5 * math.pi * torch.sin(5 * math.pi * x)
    net = nn.Sequential(SirenLayer(1, 48, w0=10.0, is_first=True), SirenLayer(48, 48, w0=10.0), nn.Linear(48, 1)).double()
    siren_init_(net[2], 10.0)
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
    for _ in range(250):
        optimizer.zero_grad()
        (net(x) - target(x)).square().mean().backward()
        optimizer.step()
    (found,) = torch.autograd.grad(net(x).sum(), x)
    assert (found - wanted).norm() < 0.1 * wanted.norm()


def test_the_angle_between_vectors_is_another_thing():
    """Erratum: "sine and cosine" are listed as measures of alignment. Cosine similarity compares two vectors; this acts on each number."""
    a, b = torch.tensor([1.0, 0.0]), torch.tensor([3.0, 4.0])
    assert torch.cosine_similarity(a, b, dim=0).item() == pytest.approx(0.6)
    assert Sine(1.0)(b).tolist() == pytest.approx([math.sin(3), math.sin(4)])


def test_the_sine_of_an_angle_cannot_tell_opposite_from_equal():
    """Erratum: |sin| of the angle is 0 for the same direction and for the opposite one."""
    a = torch.tensor([1.0, 2.0], dtype=D)
    for other, cosine in ((3 * a, 1.0), (-a, -1.0)):
        found = torch.cosine_similarity(a, other, dim=0)
        assert found.item() == pytest.approx(cosine) and (1 - found**2).abs().sqrt().item() < 1e-7


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_rounded_once(dtype):
    x = torch.linspace(-1, 1, 1001).to(dtype)
    torch.testing.assert_close(Sine()(x), torch.sin(30 * x.float()).to(dtype), rtol=0, atol=0)


@pytest.mark.parametrize("w0", [0.0, -1.0, math.inf, math.nan])
def test_a_frequency_that_is_not_positive_is_named(w0):
    for call in (lambda: Sine(w0), lambda: SirenLayer(2, 3, w0=w0), lambda: siren_init_(nn.Linear(2, 3), w0)):
        with pytest.raises(ValueError, match=f"w0={w0} is not a positive number"):
            call()


def test_bad_inputs_are_named():
    with pytest.raises(ValueError, match=r"x has shape \(5, 2\); expected \(\.\.\., in_features=3\)"):
        SirenLayer(3, 4)(torch.zeros(5, 2))
    for layer in (Sine(), SirenLayer(3, 4)):
        with pytest.raises(TypeError, match="x has dtype torch.int64"):
            layer(torch.ones(3, dtype=torch.int64))


def test_shown_with_its_frequency():
    assert repr(Sine(2.0)) == "Sine(w0=2.0)"


def as_module(params, w0):
    layers = SirenLayer(1, 6, w0=w0, is_first=True), SirenLayer(6, 6, w0=w0), nn.Linear(6, 1)
    with torch.no_grad():
        for layer, w, b in zip((layers[0].linear, layers[1].linear, layers[2]), params[::2], params[1::2]):
            layer.weight.data, layer.bias.data = torch.from_numpy(w.T.copy()), torch.from_numpy(b.copy())
    return nn.Sequential(*layers)


@pytest.mark.oracle("autograd")
def test_numpy_network_agrees_in_value_derivative_and_gradient(agree):
    rng = np.random.default_rng(0)
    params = numpy_variant.start(6, 5.0, True, rng)
    x, target = rng.uniform(-1, 1, (9, 1)), rng.normal(size=(9, 1))
    net, z = as_module(params, 5.0), torch.from_numpy(x).requires_grad_()
    y = net(z)
    agree(numpy_variant.forward(params, x, 5.0, True)[-1], y)
    agree(numpy_variant.derivative(params, x, 5.0, True), torch.autograd.grad(y.sum(), z, retain_graph=True)[0])
    loss = (y - torch.from_numpy(target)).square().mean()
    loss.backward()
    found = numpy_variant.gradient(params, x, target, 5.0, True)
    agree(found[0], loss)
    for ours, theirs in zip(found[1], net.parameters()):
        agree(ours, theirs.grad.T if theirs.ndim == 2 else theirs.grad, rtol=1e-6, atol=1e-12)


def test_numpy_tanh_network_has_the_gradient_of_finite_differences():
    rng = np.random.default_rng(0)
    params = numpy_variant.start(6, 5.0, False, rng)
    x, target = rng.uniform(-1, 1, (9, 1)), rng.normal(size=(9, 1))
    _, grads = numpy_variant.gradient(params, x, target, 5.0, False)
    for p, g in zip(params, grads):
        p.flat[0] += 1e-6
        up = numpy_variant.gradient(params, x, target, 5.0, False)[0]
        p.flat[0] -= 2e-6
        down = numpy_variant.gradient(params, x, target, 5.0, False)[0]
        p.flat[0] += 1e-6
        assert (up - down) / 2e-6 == pytest.approx(g.flat[0], rel=1e-5, abs=1e-9)
