import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from snippets.activations import softplus as numpy_variant
from vocab.activations.softplus import Softplus, inverse_softplus, softplus
from vocab.activations.tests.measure import GRID, expectation, same, slope

WIDE = torch.linspace(-60, 60, 2401, dtype=torch.float64)


def example():
    """For the contract suite: the function and its input."""
    return softplus, (torch.tensor([-2.0, -0.3, 0.0, 0.7, 30.0], dtype=torch.float64), 1.5)


@pytest.mark.oracle("torch.nn.functional.softplus")
@pytest.mark.parametrize(("beta", "threshold"), [(1.0, 20.0), (0.3, 20.0), (5.0, 20.0), (2.0, 1.0), (1.0, -3.0)])
def test_equals_pytorch_with_its_gradient_and_its_threshold(beta, threshold):
    same(lambda x: softplus(x, beta, threshold), lambda x: F.softplus(x, beta, threshold), WIDE)


def test_defaults_are_those_of_pytorch():
    torch.testing.assert_close(softplus(WIDE), F.softplus(WIDE), rtol=1e-14, atol=0)
    torch.testing.assert_close(Softplus()(WIDE), nn.Softplus()(WIDE), rtol=1e-14, atol=0)


def test_threshold_is_exceeded_not_reached():
    x = torch.tensor([1.0, 1.0 + 1e-9], dtype=torch.float64)
    torch.testing.assert_close(softplus(x, threshold=1.0), F.softplus(x, threshold=1.0), rtol=1e-15, atol=0)
    assert softplus(x, threshold=1.0)[0] > 1.3 and softplus(x, threshold=1.0)[1] == x[1]


@pytest.mark.oracle("numpy.logaddexp(0, x)")
def test_is_the_logarithm_of_a_sum_of_exponentials_to_the_last_digits():
    np.testing.assert_allclose(softplus(WIDE, threshold=math.inf).numpy(), np.logaddexp(0, WIDE.numpy()), rtol=1e-14)
    assert softplus(torch.tensor([-700.0], dtype=torch.float64)).item() == pytest.approx(math.exp(-700), rel=1e-12)


@pytest.mark.oracle("torch.sigmoid is the derivative")
@pytest.mark.parametrize("beta", [0.5, 1.0, 4.0])
def test_derivative_is_the_sigmoid(beta):
    torch.testing.assert_close(slope(lambda x: softplus(x, beta, math.inf)), torch.sigmoid(beta * GRID), rtol=1e-12, atol=0)


@pytest.mark.parametrize("beta", [0.5, 1.0, 4.0])
def test_difference_of_the_two_sides_is_x(beta):
    torch.testing.assert_close(softplus(GRID, beta) - softplus(-GRID, beta), GRID, rtol=0, atol=3e-9)


@pytest.mark.oracle("closed form of the distance to ReLU")
@pytest.mark.parametrize("beta", [0.5, 1.0, 10.0, 1000.0])
def test_lies_above_relu_by_at_most_ln_2_over_beta_and_tends_to_it(beta):
    above = softplus(GRID, beta, math.inf) - torch.relu(GRID)
    assert above.max().item() == pytest.approx(math.log(2) / beta, rel=1e-12)
    assert GRID[above.argmax()] == 0.0 and above.min() >= -1e-15
    assert (softplus(-GRID.abs(), beta, math.inf)[GRID.abs() * beta < 700] > 0).all()


@pytest.mark.parametrize("beta", [0.5, 1.0, 4.0])
def test_inverse_finds_the_input(beta):
    x = torch.linspace(-30, 30, 601, dtype=torch.float64)
    torch.testing.assert_close(inverse_softplus(softplus(x, beta), beta), x, rtol=1e-8, atol=1e-8)
    y = torch.tensor([1e-12, 0.1, 800.0], dtype=torch.float64)
    torch.testing.assert_close(softplus(inverse_softplus(y, beta), beta), y, rtol=1e-12, atol=0)


def test_inverse_of_what_softplus_cannot_return_is_no_number():
    assert inverse_softplus(torch.tensor(0.0)) == -math.inf
    assert inverse_softplus(torch.tensor(-1.0)).isnan()


@pytest.mark.oracle("numpy.log(numpy.expm1(y))")
def test_inverse_of_a_small_number_keeps_its_digits_where_exp_minus_one_has_none():
    y = torch.tensor([1e-3, 1e-8], dtype=torch.float32)
    exact = np.log(np.expm1(y.double().numpy()))
    np.testing.assert_allclose(inverse_softplus(y).numpy(), exact, rtol=3e-7)
    naive = torch.log(torch.exp(y) - 1)
    assert abs(naive[0].item() - exact[0]) > 1e-5 and naive[1] == -math.inf


@pytest.mark.oracle("gate of a selective state space model: exp(−softplus(z)) = σ(−z)")
def test_decay_of_mamba_is_a_sigmoid():
    torch.testing.assert_close(torch.exp(-softplus(GRID)), torch.sigmoid(-GRID))


def test_a_literal_logarithm_of_one_plus_exp_overflows():
    """Erratum: ln(1 + e^x) as it stands in formulas of Mish is infinite in float32 from x = 88.8, and its gradient NaN."""
    for function, finite in ((lambda x: torch.log(1 + torch.exp(x)), False), (softplus, True)):
        x = torch.tensor([89.0], requires_grad=True)
        y = function(x)
        y.backward()
        assert y.isfinite().item() is finite and x.grad.isfinite().item() is finite
    assert torch.log(1 + torch.exp(torch.tensor(88.0))).isfinite()
    assert torch.log(1 + torch.exp(torch.tensor(-20.0))) == 0 < softplus(torch.tensor(-20.0)), "and its left tail is lost"


def test_moments_of_a_normal_input():
    assert expectation(softplus) == pytest.approx(0.806, abs=5e-4)
    assert expectation(lambda z: softplus(z) ** 2) == pytest.approx(0.921, abs=5e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_rounded_once(dtype):
    x = torch.linspace(-9, 9, 1001).to(dtype)
    torch.testing.assert_close(softplus(x, 0.7), softplus(x.float(), 0.7).to(dtype), rtol=0, atol=0)
    assert softplus(x).dtype == dtype


@pytest.mark.parametrize("beta", [0.0, -1.0, math.inf, math.nan])
def test_a_sharpness_that_is_not_positive_is_named_at_once(beta):
    for call in (lambda: softplus(GRID, beta), lambda: inverse_softplus(GRID, beta), lambda: Softplus(beta)):
        with pytest.raises(ValueError, match=f"beta={beta} is not a positive number"):
            call()


def test_layer_is_the_function():
    torch.testing.assert_close(Softplus(3.0, 5.0)(GRID), softplus(GRID, 3.0, 5.0), rtol=0, atol=0)
    assert repr(Softplus(3.0)) == "Softplus(beta=3.0, threshold=20.0)"


def test_numbers_that_are_no_floats_are_refused():
    for function, name in ((softplus, "x"), (inverse_softplus, "y")):
        with pytest.raises(TypeError, match=f"{name} has dtype torch.int64"):
            function(torch.ones(3, dtype=torch.int64))


def test_numpy_variant_agrees(agree):
    agree(numpy_variant.softplus(GRID.numpy(), 1.5), softplus(GRID, 1.5, math.inf))
    agree(numpy_variant.slope(GRID.numpy(), 1.5), slope(lambda x: softplus(x, 1.5, math.inf)))
    y = torch.linspace(0.01, 40, 501, dtype=torch.float64)
    agree(numpy_variant.inverse_softplus(y.numpy(), 1.5), inverse_softplus(y, 1.5))
