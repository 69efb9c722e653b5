import math

import numpy as np
import pytest
import torch
from torch import nn

from snippets.initialization import variance_propagation as numpy_variant
from vocab.initialization.variance_propagation import empirical_variance, normal_mean, propagate_variance

D = torch.float64


def net(activation, widths, std, generator=None):
    """Linear layers without biases, an activation between two."""
    layers = [nn.Linear(n, m, bias=False, dtype=D) for n, m in zip(widths, widths[1:])]
    for layer in layers:
        nn.init.normal_(layer.weight, 0, std / layer.in_features**0.5, generator=generator)
    return nn.Sequential(*[part for layer in layers for part in (layer, activation())][:-1])


@pytest.mark.oracle("Gauss-Hermite quadrature")
@pytest.mark.parametrize("function", [torch.tanh, nn.functional.silu, torch.sin, lambda z: z**4])
@pytest.mark.parametrize("std", [0.3, 1.0])
def test_normal_mean_is_the_quadrature_of_hermite(function, std):
    nodes, weights = np.polynomial.hermite_e.hermegauss(150)
    expected = (weights * function(torch.from_numpy(std * nodes)).numpy() ** 2).sum() / math.sqrt(2 * math.pi)
    assert normal_mean(lambda z: function(z) ** 2, std) == pytest.approx(expected, rel=1e-9)


@pytest.mark.oracle("closed forms")
def test_normal_mean_knows_kinks_and_steep_functions():
    assert normal_mean(torch.ones_like) == pytest.approx(1, abs=1e-13)
    assert normal_mean(torch.relu) == pytest.approx(1 / math.sqrt(2 * math.pi), rel=1e-12)
    assert normal_mean(torch.abs, 3.0) == pytest.approx(3 * math.sqrt(2 / math.pi), rel=1e-12)
    assert normal_mean(lambda z: torch.erf(z) ** 2, 7.0) == pytest.approx(2 / math.pi * math.asin(2 * 49 / (1 + 2 * 49)), rel=1e-10)


@pytest.mark.oracle("mean over 100 random networks of width 500")
def test_prediction_is_the_mean_over_random_networks():
    depth, width, nets = 20, 500, 100
    functions = [(torch.relu, 2**0.5), (torch.tanh, 1.3)]
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(nets, 1, width, generator=generator)
    states = [x * (width / x.square().sum(2, keepdim=True)).sqrt()] * 2
    found = []
    for _ in range(depth):
        zs = [torch.empty_like(x), torch.empty_like(x)]
        for i in range(nets):  # one matrix at a time: all of a layer would be 100 MB
            w = torch.randn(width, width, generator=generator) / width**0.5
            for z, h, (_, multiple) in zip(zs, states, functions):
                z[i] = multiple * h[i] @ w
        found.append(torch.stack([z.square().mean((1, 2)).double() for z in zs]))
        states = [f(z) for z, (f, _) in zip(zs, functions)]
    found = torch.stack(found, 1)
    for measured, (f, multiple) in zip(found, functions):
        q, _ = propagate_variance(depth, width, f, multiple / width**0.5)
        assert ((measured.mean(1) - q).abs() < 3 * measured.std(1) / nets**0.5).all()
    # how far a single network strays
    assert found[0, -1].log().std().item() == pytest.approx((5 * depth / width) ** 0.5, rel=0.3)


def test_linear_layers_multiply_by_fan_in_times_the_variance():
    q, chi = propagate_variance(4, 50, lambda z: z, 0.2, input_moment=3.0)
    torch.testing.assert_close(q, torch.tensor([6.0, 12.0, 24.0, 48.0], dtype=D))
    torch.testing.assert_close(chi, torch.full((4,), 2.0, dtype=D))


def test_a_bias_adds_its_variance_in_each_layer():
    q, chi = propagate_variance(3, 4, lambda z: z, 0.25, bias_std=2.0)
    torch.testing.assert_close(q, torch.tensor([4.25, 5.0625, 5.265625], dtype=D))
    torch.testing.assert_close(chi, torch.full((3,), 0.25, dtype=D))


def test_relu_halves_the_second_moment_and_keeps_34_percent_of_the_variance():
    """Erratum: it does not drop "all negative variance"; the mean becomes 0.399."""
    mean, second = normal_mean(torch.relu), normal_mean(lambda z: torch.relu(z) ** 2)
    assert second == pytest.approx(0.5, rel=1e-12) and mean == pytest.approx(0.3989, abs=5e-5)
    assert second - mean**2 == pytest.approx(0.5 - 0.5 / math.pi, rel=1e-12)
    assert second - mean**2 == pytest.approx(0.3408, abs=5e-5)


def test_fan_in_times_variance_one_keeps_linear_nets_only():
    """Erratum: the rule fan_in · σ² = 1 loses half per layer with ReLU, which needs 2."""
    for f, gain, kept in [(lambda z: z, 1, 1.0), (torch.relu, 1, 2.0**-9), (torch.relu, 2, 1.0)]:
        q, _ = propagate_variance(10, 400, f, (gain / 400) ** 0.5)
        assert (q[-1] / q[0]).item() == pytest.approx(kept, rel=1e-9)


@pytest.mark.oracle("finite differences of the prediction itself")
def test_chi_of_the_linear_fixed_point_is_the_slope_of_the_variance_map():
    # for small signals tanh is linear, so q' / q and chi agree there, whatever the weights
    q, chi = propagate_variance(2, 100, torch.tanh, 0.13, input_moment=1e-8)
    assert (q[1] / q[0]).item() == pytest.approx(1.69, rel=1e-6)
    assert chi[0].item() == pytest.approx(1.69, rel=1e-6)


def test_tanh_has_the_edge_of_chaos_at_weight_std_one():
    chis = [propagate_variance(400, 100, torch.tanh, s / 10)[1][-1].item() for s in (0.9, 1.0, 1.5)]
    assert chis[0] == pytest.approx(0.81, abs=1e-6)
    assert chis[1] == pytest.approx(1, abs=0.01)
    assert chis[2] == pytest.approx(1.139, abs=1e-3)


@pytest.mark.oracle("the layers run by hand")
def test_measured_are_the_numbers_of_each_layer():
    model, x = net(nn.Tanh, [6, 9, 7, 5], 1.4), torch.randn(8, 6, dtype=D) + 0.5
    found = empirical_variance(model, x, generator=torch.Generator().manual_seed(2))
    g = torch.randn(8, 5, generator=torch.Generator().manual_seed(2), dtype=D)
    h, outs = x, []
    for layer in (model[0], model[2], model[4]):
        outs.append(h @ layer.weight.detach().T)
        h = outs[-1].tanh()
    back = [g]
    for layer, z in ((model[4], outs[1]), (model[2], outs[0])):
        back.insert(0, back[0] @ layer.weight.detach() * (1 - z.tanh() ** 2))
    torch.testing.assert_close(found.variance, torch.stack([((z - z.mean()) ** 2).mean() for z in outs]))
    torch.testing.assert_close(found.second_moment, torch.stack([(z**2).mean() for z in outs]))
    torch.testing.assert_close(found.gradient, torch.stack([(b**2).mean() for b in back]))


def test_measuring_leaves_model_and_input_alone_and_minds_no_activation_in_place():
    model, x = nn.Sequential(nn.Linear(5, 5), nn.ReLU(inplace=True), nn.Linear(5, 4)), torch.randn(6, 5)
    plain = nn.Sequential(model[0], nn.ReLU(), model[2])
    kept, y = x.clone(), model(x)
    with torch.no_grad():  # as in an evaluation loop
        ours, other = (empirical_variance(m, x, generator=torch.Generator().manual_seed(0)) for m in (model, plain))
    torch.testing.assert_close(list(ours), list(other), rtol=0, atol=0)
    assert torch.equal(x, kept) and torch.equal(model(x), y) and all(p.grad is None for p in model.parameters())
    assert not model[0]._forward_hooks


def test_other_kinds_of_layers_can_be_measured_and_none_is_an_error():
    model, x = net(nn.ReLU, [400] * 3, 2**0.5), torch.randn(60, 400, dtype=D)
    (after,) = empirical_variance(model, x, of=nn.ReLU).second_moment
    before = empirical_variance(model, x).second_moment[0]
    assert (after / before).item() == pytest.approx(0.5, rel=0.02)
    with pytest.raises(ValueError, match="model has no layer of the kinds"):
        empirical_variance(nn.ReLU(), x)
    convolution = empirical_variance(nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Conv2d(3, 1, 1)), torch.randn(1, 2, 5, 5))
    assert len(convolution.variance) == 2


@pytest.mark.parametrize(("placement", "depth"), [("none", 20), ("pre", 20)])
def test_residual_streams_grow_exponentially_without_a_norm_and_linearly_with_one(placement, depth):
    torch.manual_seed(1)
    x = torch.randn(300, 400, dtype=D)
    sizes = [1.0]
    for _ in range(depth):
        entered = x if placement == "none" else x / x.square().mean(1, keepdim=True).sqrt()
        x = x + entered @ torch.randn(400, 400, dtype=D) / 20
        sizes.append(x.square().mean().item())
    expected = 2.0**depth if placement == "none" else 1 + depth
    assert sizes[-1] == pytest.approx(expected, rel=0.15)


def test_bad_input_is_named():
    for changed, message in [({"depth": 0}, "depth=0 is below 1"), ({"width": 0}, "width=0 is below 1"),
                             ({"weight_std": -1.0}, "weight_std=-1.0 is not a number from 0 up"),
                             ({"bias_std": math.nan}, "bias_std=nan is not"), ({"input_moment": -0.5}, "input_moment=-0.5 is not")]:
        with pytest.raises(ValueError, match=message):
            propagate_variance(**{"depth": 2, "width": 3, "activation": torch.tanh, "weight_std": 1.0, **changed})
    with pytest.raises(TypeError, match="x has dtype torch.int64"):
        empirical_variance(nn.Linear(2, 2), torch.ones(2, 2, dtype=torch.int64))
    assert propagate_variance(1, 1, torch.tanh, 0.0)[0].tolist() == [0.0]


@pytest.mark.parametrize("name", ["linear", "ReLU", "tanh", "GELU"])
def test_numpy_theory_agrees(agree, name):
    torch_function = {"linear": lambda z: z * 1, "ReLU": torch.relu, "tanh": torch.tanh, "GELU": lambda z: nn.functional.gelu(z, approximate="tanh")}[name]
    q, chi = propagate_variance(12, 64, torch_function, 1.2 / 8)
    ours = numpy_variant.theory(12, *numpy_variant.ACTIVATIONS[name], 1.44)
    agree(ours[0], q)
    agree(ours[1], chi)


def test_numpy_network_agrees(agree):
    model, x = net(nn.Tanh, [6, 9, 7, 5], 1.4), torch.randn(8, 6, dtype=D)
    found = empirical_variance(model, x, generator=torch.Generator().manual_seed(2))
    g = torch.randn(8, 5, generator=torch.Generator().manual_seed(2), dtype=D).numpy()
    layers = [p.detach().numpy() for p in model.parameters()]
    f, slope = numpy_variant.ACTIVATIONS["tanh"]
    zs = numpy_variant.forward(x.numpy(), layers, f)
    agree(numpy_variant.second_moments(zs), found.second_moment)
    agree(numpy_variant.second_moments(numpy_variant.backward(g, zs, layers, slope)), found.gradient)
