import math

import numpy as np
import pytest
import torch
from torch import nn

from snippets.activations import network
from snippets.activations import tanh as numpy_variant
from vocab.activations.tanh import Tanh, lecun_tanh, tanh
from vocab.activations.tests.measure import GRID, expectation, same, slope


def example():
    """For the contract suite: the function and its input."""
    return tanh, (torch.tensor([-2.0, -0.3, 0.0, 0.7, 3.0], dtype=torch.float64),)


@pytest.mark.oracle("torch.tanh")
def test_equals_pytorch_with_its_gradient():
    same(tanh, torch.tanh)
    same(tanh, torch.tanh, 100 * GRID)


@pytest.mark.oracle("numpy.tanh")
def test_keeps_every_digit_near_zero_and_does_not_overflow_far_out():
    x = np.concatenate([np.logspace(-300, 3, 700), -np.logspace(-300, 3, 700), [0.0]])
    np.testing.assert_allclose(tanh(torch.from_numpy(x)).numpy(), np.tanh(x), rtol=4e-16, atol=0)
    naive = (np.exp(1e-9) - np.exp(-1e-9)) / (np.exp(1e-9) + np.exp(-1e-9))
    assert abs(naive / 1e-9 - 1) > 1e-9


def test_range_is_open_and_only_rounding_reaches_the_ends():
    """Erratum: the output is given as "-1 or +1", or as the closed interval."""
    y = tanh(torch.linspace(-18, 18, 1001, dtype=torch.float64))
    assert (y.abs() < 1).all() and len(y.unique()) > 800
    assert tanh(torch.tensor([7.5])) < 1 == tanh(torch.tensor([9.5])), "float32 rounds to 1"


def test_is_odd():
    torch.testing.assert_close(tanh(-GRID), -tanh(GRID), rtol=0, atol=0)


@pytest.mark.oracle("2 σ(2x) − 1")
def test_is_a_sigmoid_shifted_and_scaled():
    torch.testing.assert_close(tanh(GRID), 2 * torch.sigmoid(2 * GRID) - 1)


@pytest.mark.oracle("closed form of the derivative")
def test_derivative_is_one_minus_the_square_and_one_at_zero():
    found = slope(tanh)
    torch.testing.assert_close(found, 1 / torch.cosh(GRID) ** 2)
    assert found.max() == 1.0 and GRID[found.argmax()] == 0.0
    assert found[GRID == 3].item() == pytest.approx(0.0099, abs=5e-5)


@pytest.mark.oracle("addition formula")
def test_value_of_a_sum_follows_from_the_values():
    a, b = GRID, GRID.flip(0) * 0.3 + 0.1
    torch.testing.assert_close(tanh(a + b), (tanh(a) + tanh(b)) / (1 + tanh(a) * tanh(b)), rtol=1e-7, atol=1e-13)


@pytest.mark.oracle("1.7159 · numpy.tanh(2x/3), and its fixed points")
def test_lecun_version_leaves_one_and_minus_one_where_they_are():
    ones = torch.tensor([-1.0, 1.0], dtype=torch.float64)
    torch.testing.assert_close(lecun_tanh(ones), ones, rtol=0, atol=5e-5)
    np.testing.assert_allclose(lecun_tanh(GRID).numpy(), 1.7159 * np.tanh(2 * GRID.numpy() / 3), rtol=1e-14)
    x = GRID.clone().requires_grad_()
    (first,) = torch.autograd.grad(lecun_tanh(x).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    assert x[second.abs().argmax()].abs().item() == pytest.approx(1, abs=0.02), "where it bends most"


@pytest.mark.oracle("quadrature of the second moment")
def test_second_moment_of_a_normal_input_and_the_gain_of_pytorch():
    moment = expectation(lambda z: tanh(z) ** 2)
    assert moment == pytest.approx(0.3943, abs=5e-5) and moment**-0.5 == pytest.approx(1.5925, abs=5e-5)
    assert nn.init.calculate_gain("tanh") == 5 / 3
    second = 1.17848  # of the sums that this gain settles at
    assert (25 / 9) * expectation(lambda z: tanh(z) ** 2, std=second**0.5) == pytest.approx(second, rel=1e-5)
    assert (25 / 9) * expectation(lambda z: (1 - tanh(z) ** 2) ** 2, std=second**0.5) == pytest.approx(1.21, abs=5e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_rounded_once(dtype):
    x = torch.linspace(-9, 9, 1001).to(dtype)
    torch.testing.assert_close(tanh(x), tanh(x.float()).to(dtype), rtol=0, atol=0)


def test_targets_at_the_ends_are_never_reached():
    weight = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    for target, bounded in ((1.0, False), (0.9, True)):
        weight.data.fill_(1.0)
        for _ in range(400):
            weight.grad = None
            (tanh(weight) - target).square().backward()
            weight.data -= 5 * weight.grad
        assert (weight.item() < 1.5) is bounded
    assert weight.item() == pytest.approx(math.atanh(0.9), abs=1e-3)


def test_layer_is_the_function():
    torch.testing.assert_close(Tanh()(GRID), nn.Tanh()(GRID))


def test_numbers_that_are_no_floats_are_refused():
    for function in (tanh, lecun_tanh):
        with pytest.raises(TypeError, match="x has dtype torch.int64"):
            function(torch.ones(3, dtype=torch.int64))


def test_numpy_variant_agrees(agree):
    agree(numpy_variant.tanh(GRID.numpy()), tanh(GRID))
    agree(numpy_variant.slope(numpy_variant.tanh(GRID.numpy())), slope(tanh))


@pytest.mark.oracle("autograd through the deep network")
def test_gradient_through_the_network_in_numpy(agree):
    layers = list(network.weights(12, 4, 1.5))
    x = torch.randn(5, 12, dtype=torch.float64, requires_grad=True)
    y = x
    for w in layers:
        y = tanh(y @ torch.from_numpy(w))
    dy = torch.randn_like(y)
    y.backward(dy)
    states = network.through(numpy_variant.tanh, x.detach().numpy(), layers)
    agree(states[-1], y)
    agree(numpy_variant.backward(states, layers, dy.numpy())[0], x.grad)
