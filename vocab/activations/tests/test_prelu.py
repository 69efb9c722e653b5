import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from snippets.activations import prelu as numpy_variant
from vocab.activations.leaky_relu import leaky_relu
from vocab.activations.prelu import PReLU
from vocab.activations.tests.measure import GRID

D = torch.float64


def example():
    """For the contract suite: a layer with a slope per channel, and its input."""
    return PReLU(3).double(), (torch.randn(2, 3, 4, dtype=D),)


@pytest.mark.oracle("torch.nn.functional.prelu")
@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 5), (2, 3, 4, 5), (2, 3, 2, 2, 2)])
@pytest.mark.parametrize("n", [1, 3])
def test_equals_pytorch_with_both_gradients_in_any_number_of_dimensions(shape, n):
    layer, x, dy = PReLU(n).double(), torch.randn(shape, dtype=D, requires_grad=True), torch.randn(shape, dtype=D)
    nn.init.normal_(layer.weight)
    ours, theirs = layer(x), F.prelu(x, layer.weight)
    torch.testing.assert_close(ours, theirs)
    for a, b in zip(*(torch.autograd.grad(y, (x, layer.weight), dy) for y in (ours, theirs))):
        torch.testing.assert_close(a, b)


@pytest.mark.oracle("closed form of the slope's gradient")
def test_gradient_of_the_slope_sums_over_the_negative_inputs_of_its_channel():
    x, dy = torch.randn(4, 3, 5, dtype=D), torch.randn(4, 3, 5, dtype=D)
    for n, over in ((1, (0, 1, 2)), (3, (0, 2))):
        layer = PReLU(n).double()
        layer(x).backward(dy)
        torch.testing.assert_close(layer.weight.grad, (x * dy * (x < 0)).sum(over).reshape(n))
    layer = PReLU(3).double()
    torch.autograd.gradcheck(lambda z, w: torch.func.functional_call(layer, {"weight": w}, z), (x.requires_grad_(), layer.weight))


def test_a_fixed_slope_of_001_is_leaky_relu():
    layer = PReLU(init=0.01).double()
    torch.testing.assert_close(layer(GRID), leaky_relu(GRID), rtol=1e-7, atol=0)


def test_a_fresh_layer_has_slope_a_quarter_for_every_channel():
    assert PReLU(5).weight.tolist() == [0.25] * 5 and PReLU().weight.tolist() == [0.25]
    assert PReLU(2, init=-1.0).weight.tolist() == [-1.0, -1.0]
    torch.testing.assert_close(PReLU()(torch.tensor([-2.0, 3.0])), nn.PReLU()(torch.tensor([-2.0, 3.0])))


@pytest.mark.parametrize(("target", "slope"), [(lambda x: x, 1.0), (torch.abs, -1.0), (torch.relu, 0.0)])
def test_the_slope_that_the_data_need_is_found(target, slope):
    layer, x = PReLU().double(), torch.linspace(-2, 2, 101, dtype=D)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.5)
    for _ in range(100):
        optimizer.zero_grad()
        (layer(x) - target(x)).square().mean().backward()
        optimizer.step()
    assert layer.weight.item() == pytest.approx(slope, abs=1e-6)


def test_channels_are_axis_one():
    layer = PReLU(3, init=0.0).double()
    with torch.no_grad():
        layer.weight[1] = 10.0
    x = -torch.ones(2, 3, 4, 5, dtype=D)
    assert layer(x)[:, 1].eq(-10).all() and layer(x)[:, [0, 2]].eq(0).all()


def test_two_channels_have_two_slopes():
    layer = PReLU(2).double()
    layer.weight.data[1] = 2.0
    assert layer(-torch.ones(1, 2, 3, dtype=D)).tolist() == [[[-0.25] * 3, [-2.0] * 3]]
    with pytest.raises(ValueError, match="channels=2"):
        layer(torch.zeros(2, 3, dtype=D))


def test_one_channel_may_be_given_to_a_shared_slope_of_any_shape():
    for shape in ((), (7,), (2, 1), (2, 9, 3)):
        assert PReLU()(torch.full(shape, -4.0)).eq(-1).all()


def test_weight_decay_pulls_the_slope_to_relu():
    """The reason to leave it out: with data that need slope 1, decay 0.1 takes a fifth of it away."""
    x = torch.linspace(-2, 2, 101, dtype=D)
    found = {}
    for decay in (0.0, 0.1):
        layer = PReLU().double()
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.5, weight_decay=decay)
        for _ in range(200):
            optimizer.zero_grad()
            ((layer(x) - x).square().mean() / 2).backward()
            optimizer.step()
        found[decay] = layer.weight.item()
    second = (x * x * (x < 0)).mean().item()
    assert found[0.0] == pytest.approx(1) and found[0.1] == pytest.approx(second / (second + 0.1))
    assert 0.8 < found[0.1] < 0.9


def test_a_negative_slope_is_not_monotonic():
    x = torch.tensor([-2.0, -1.0, 0.0, 1.0])
    y = PReLU(init=-0.5)(x)
    assert y[0] > y[1] > y[2] < y[3]


def test_the_paper_is_older_than_resnet():
    """Erratum: its networks are plain. Residual networks have ReLU and no slope to learn."""
    transformers = pytest.importorskip("transformers")
    assert transformers.ResNetConfig().hidden_act == "relu"


@pytest.mark.parametrize("shape", [(2, 4), (4,), (), (3,), (2, 4, 3)])
def test_another_number_of_channels_is_named(shape):
    with pytest.raises(ValueError, match=r"x has shape .*; expected \(batch, channels=3, \.\.\.\)"):
        PReLU(3)(torch.zeros(shape))


def test_other_bad_arguments_are_named():
    for n in (0, -2):
        with pytest.raises(ValueError, match=f"num_parameters={n} is not positive"):
            PReLU(n)
    with pytest.raises(TypeError, match="x has dtype torch.int64"):
        PReLU()(torch.ones(3, dtype=torch.int64))
    assert PReLU()(torch.tensor([math.nan])).isnan().all()


def test_shown_with_its_settings():
    assert repr(PReLU(3, init=0.1)) == "PReLU(num_parameters=3, init=0.1)"


def test_numpy_variant_agrees(agree):
    layer = PReLU(init=0.375).double()
    agree(numpy_variant.prelu(GRID.numpy(), 0.375), layer(GRID))


@pytest.mark.oracle("torch.optim.SGD on the same unit")
def test_training_by_hand_in_numpy_is_gradient_descent(agree):
    x, y = numpy_variant.data("kink", 0.2)
    weight, bias, slope = (torch.tensor(v, dtype=D, requires_grad=True) for v in (1.0, 0.0, 0.25))
    optimizer = torch.optim.SGD([weight, bias, slope], lr=0.3)
    layer = PReLU().double()
    for _ in range(30):
        optimizer.zero_grad()
        out = torch.func.functional_call(layer, {"weight": slope.reshape(1)}, weight * torch.from_numpy(x) + bias)
        ((out - torch.from_numpy(y)).square().mean() / 2).backward()
        optimizer.step()
    path = numpy_variant.fit(x, y, 0.25, 0.3, steps=30)
    agree(path[-1], [weight.item(), bias.item(), slope.item()])
    assert np.shape(path) == (31, 3)
