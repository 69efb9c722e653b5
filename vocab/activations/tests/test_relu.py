import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from snippets.activations import network
from snippets.activations import relu as numpy_variant
from vocab.activations.relu import ReLU, relu
from vocab.activations.tests.measure import GRID, expectation, same, slope


def example():
    """For the contract suite: the function and its input."""
    return relu, (torch.tensor([-2.0, -0.3, 0.4, 0.7, 3.0], dtype=torch.float64),)


@pytest.mark.oracle("torch.nn.functional.relu")
def test_equals_pytorch_with_its_gradient():
    assert 0.0 in GRID
    same(relu, F.relu, atol=0)


def test_gradient_at_exactly_zero_is_zero():
    assert slope(relu, torch.tensor([-1e-300, 0.0, 1e-300], dtype=torch.float64)).tolist() == [0.0, 0.0, 1.0]


@pytest.mark.oracle("positive homogeneity")
@pytest.mark.parametrize("c", [0.0, 0.5, 7.0])
def test_a_positive_factor_can_be_taken_out(c):
    torch.testing.assert_close(relu(c * GRID), c * relu(GRID), rtol=0, atol=0)


def test_a_second_relu_changes_nothing():
    torch.testing.assert_close(relu(relu(GRID)), relu(GRID), rtol=0, atol=0)


def test_the_two_halves_give_the_number_and_its_size():
    torch.testing.assert_close(relu(GRID) - relu(-GRID), GRID, rtol=0, atol=0)
    torch.testing.assert_close(relu(GRID) + relu(-GRID), GRID.abs(), rtol=0, atol=0)


@pytest.mark.oracle("closed forms of the Gaussian moments")
def test_a_normal_input_keeps_half_of_its_second_moment_and_gets_a_mean():
    assert expectation(lambda z: relu(z) ** 2) == pytest.approx(1 / 2, rel=1e-12)
    assert expectation(relu) == pytest.approx(1 / math.sqrt(2 * math.pi), rel=1e-12)


def test_half_of_the_variance_is_not_dropped_but_the_second_moment_is_halved():
    """Erratum: the variance of the output is 0.341, neither 0.5 nor the half "of the positive side"."""
    for std in (0.1, 1.0, 30.0):
        second, mean = (expectation(f, std=std) for f in (lambda z: relu(z) ** 2, relu))
        assert second == pytest.approx(std**2 / 2)
        assert second - mean**2 == pytest.approx(std**2 * (1 / 2 - 1 / (2 * math.pi)))
    assert 1 / 2 - 1 / (2 * math.pi) == pytest.approx(0.341, abs=5e-4)


def test_range_has_no_upper_end():
    """Erratum: the range is sometimes given as "0 to x"."""
    y = relu(torch.tensor([-1e300, 1e300, math.inf, -math.inf], dtype=torch.float64))
    assert y.tolist() == [0.0, 1e300, math.inf, 0.0]


@pytest.mark.oracle("interpolation between knots")
def test_a_hidden_layer_of_relus_is_any_piecewise_linear_function():
    at, values = np.array([-3.0, -1.0, 0.5, 2.0, 3.0]), np.array([1.0, -2.0, 0.5, 0.5, 4.0])
    x = torch.linspace(-3, 3, 601, dtype=torch.float64)
    slopes = np.diff(values) / np.diff(at)
    turns = torch.from_numpy(np.diff(slopes, prepend=0.0))
    y = values[0] + relu(x[:, None] - torch.from_numpy(at[:-1])) @ turns
    torch.testing.assert_close(y.numpy(), np.interp(x, at, values), rtol=0, atol=1e-13)


def test_he_weights_keep_the_second_moment_through_thirty_layers_and_half_as_large_ones_do_not():
    x = np.random.default_rng(1).normal(size=(256, 512))
    for factor, wanted in ((math.sqrt(2), 1.0), (1.0, 2.0**-30), (2.0, 2.0**31)):
        last = network.through(numpy_variant.relu, x, network.weights(512, 30, factor))[-1]
        assert abs(math.log2((last**2).mean() * factor**2 / wanted)) < 1.5  # factor² is the next layer's share


def test_a_dead_unit_gets_no_gradient_and_stays_dead():
    x = torch.randn(256, 4, dtype=torch.float64)
    weight, bias = torch.randn(4, 2, dtype=torch.float64), torch.tensor([0.0, -50.0], dtype=torch.float64, requires_grad=True)
    relu(x @ weight + bias).sum().backward()
    assert bias.grad[0] > 50 and bias.grad[1] == 0.0


def test_inplace_writes_over_its_input_and_fails_where_backward_needs_it():
    x = torch.tensor([-1.0, 2.0])
    assert relu(x, inplace=True) is x and x.tolist() == [0.0, 2.0]
    z = torch.randn(5, dtype=torch.float64, requires_grad=True)
    relu(z * 2, inplace=True).sum().backward()  # a product does not need its output
    torch.testing.assert_close(z.grad, 2 * (z > 0).double())
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        relu(z.sigmoid(), inplace=True).sum().backward()  # the sigmoid does


def test_nan_stays_nan():
    assert relu(torch.tensor([math.nan, 1.0])).isnan().tolist() == [True, False]


def test_layer_is_the_function():
    x = GRID.clone()
    torch.testing.assert_close(ReLU()(x), F.relu(x), rtol=0, atol=0)
    assert torch.equal(x, GRID)
    assert ReLU(inplace=True)(x) is x and torch.equal(x, F.relu(GRID))
    assert (repr(ReLU()), repr(ReLU(inplace=True))) == ("ReLU()", "ReLU(inplace=True)")


def test_numbers_that_are_no_floats_are_refused():
    with pytest.raises(TypeError, match="x has dtype torch.int64"):
        relu(torch.ones(3, dtype=torch.int64))


def test_numpy_variant_agrees(agree):
    agree(numpy_variant.relu(GRID.numpy()), relu(GRID))
    agree(numpy_variant.slope(GRID.numpy()), slope(relu))


def test_share_of_dead_units_counts_those_that_no_input_switches_on():
    y = np.array([[0.0, 1.0, 0.0, 0.0], [2.0, 1.0, 0.0, 0.0]])
    assert numpy_variant.dead(y) == 0.5
