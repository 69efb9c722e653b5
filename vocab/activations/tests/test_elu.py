import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from snippets.activations import elu as numpy_variant
from snippets.activations import network
from vocab.activations.elu import ELU, celu, elu
from vocab.activations.tests.measure import GRID, expectation, same, slope


def example():
    """For the contract suite: the function and its input."""
    return elu, (torch.tensor([-2.0, -0.3, 0.4, 0.7, 3.0], dtype=torch.float64), 1.5)


def curvature(function, x):
    x = x.clone().requires_grad_()
    (first,) = torch.autograd.grad(function(x).sum(), x, create_graph=True)
    return torch.autograd.grad(first.sum(), x)[0]


@pytest.mark.oracle("torch.nn.functional: elu, celu")
@pytest.mark.parametrize("alpha", [0.1, 1.0, 3.0])
def test_both_equal_pytorch_with_their_gradients(alpha):
    same(lambda x: elu(x, alpha), lambda x: F.elu(x, alpha))
    same(lambda x: celu(x, alpha), lambda x: F.celu(x, alpha), atol=1e-7)  # PyTorch rounds 1/alpha to float32


def test_default_alpha_is_one():
    torch.testing.assert_close(elu(GRID), F.elu(GRID))
    torch.testing.assert_close(celu(GRID), F.elu(GRID))
    torch.testing.assert_close(ELU()(GRID), nn.ELU()(GRID))


@pytest.mark.parametrize("alpha", [0.3, 1.0, 2.0])
def test_the_left_side_ends_at_minus_alpha(alpha):
    x = torch.tensor([-math.inf, -60.0], dtype=torch.float64)
    for function in (elu, celu):
        torch.testing.assert_close(function(x, alpha), torch.full_like(x, -alpha), rtol=1e-12, atol=0)
        assert (function(GRID, alpha) > -alpha).all()


@pytest.mark.oracle("closed form of the derivative")
def test_derivative_is_the_value_plus_alpha():
    left = GRID[GRID < 0]
    torch.testing.assert_close(slope(lambda x: elu(x, 1.7), left), elu(left, 1.7) + 1.7)
    torch.testing.assert_close(slope(lambda x: celu(x, 1.7), left), celu(left, 1.7) / 1.7 + 1)


def test_the_slope_is_continuous_for_alpha_one_only_and_the_second_derivative_never():
    """Erratum: "smooth". With another alpha elu has a kink, celu has none; the second derivative always jumps."""
    sides = torch.tensor([-1e-9, 1e-9], dtype=torch.float64)

    def jump(function):
        left, right = slope(function, sides)
        return (right - left).item()

    assert jump(elu) == pytest.approx(0, abs=1e-8)
    for alpha in (0.5, 2.0):
        assert jump(lambda x: elu(x, alpha)) == pytest.approx(1 - alpha, abs=1e-8)
        assert jump(lambda x: celu(x, alpha)) == pytest.approx(0, abs=1e-8)
        for function, left in ((elu, alpha), (celu, 1 / alpha)):
            found = curvature(lambda x: function(x, alpha), sides)
            torch.testing.assert_close(found, torch.tensor([left, 0.0], dtype=torch.float64), rtol=0, atol=1e-8)


@pytest.mark.oracle("numpy.expm1")
def test_a_tiny_negative_number_keeps_its_digits():
    x = torch.tensor([-1e-8], dtype=torch.float64)
    assert elu(x).item() == pytest.approx(np.expm1(-1e-8), rel=1e-15)
    assert abs((torch.exp(x) - 1).item() / np.expm1(-1e-8) - 1) > 1e-10
    assert elu(torch.tensor([-1e-8])).item() == pytest.approx(-1e-8) and torch.exp(torch.tensor([-1e-8])).item() == 1


@pytest.mark.parametrize("function", [elu, celu])
def test_a_large_positive_number_has_gradient_one_and_not_nan(function):
    x = torch.tensor([100.0, 1000.0])
    assert slope(function, x).tolist() == [1.0, 1.0]
    naive = slope(lambda z: torch.where(z > 0, z, torch.exp(z) - 1), x)
    assert naive.isnan().all(), "the branch that is not used overflows"


@pytest.mark.oracle("closed form of the Gaussian moments")
@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0])
def test_moments_of_a_normal_input(alpha):
    below = [math.erfc(a / math.sqrt(2)) / 2 for a in (1, 2)]  # the probability of a normal number below -1 and -2
    a, b = math.exp(0.5) * below[0] - 0.5, math.exp(2) * below[1] - 2 * math.exp(0.5) * below[0] + 0.5
    assert expectation(lambda z: elu(z, alpha)) == pytest.approx(1 / math.sqrt(2 * math.pi) + alpha * a, rel=1e-11)
    assert expectation(lambda z: elu(z, alpha) ** 2) == pytest.approx(1 / 2 + alpha**2 * b, rel=1e-11)


def test_numbers_of_the_page():
    assert expectation(elu) == pytest.approx(0.1605, abs=5e-5)
    moment = expectation(lambda z: elu(z) ** 2)
    assert moment == pytest.approx(0.6449, abs=5e-5) and moment**-0.5 == pytest.approx(1.2452, abs=5e-5)


def test_mean_of_deep_layers_stays_nearer_to_zero_than_relus():
    x = np.random.default_rng(1).normal(size=(256, 200))
    share = {}
    for name, f, factor in (("elu", numpy_variant.elu, 1.2452), ("relu", lambda z: np.maximum(z, 0), math.sqrt(2))):
        mean, std = network.spread(network.through(f, x, network.weights(200, 20, factor)))
        share[name] = (mean[1:] / std[1:]).mean()
    assert share["elu"] < 0.3 < 0.6 < share["relu"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_rounded_once(dtype):
    x = torch.linspace(-9, 9, 1001).to(dtype)
    torch.testing.assert_close(elu(x, 0.7), elu(x.float(), 0.7).to(dtype), rtol=0, atol=0)
    assert elu(x).dtype == dtype


@pytest.mark.parametrize("alpha", [0.0, -1.0, math.inf, math.nan])
def test_an_alpha_that_is_not_positive_is_named_at_once(alpha):
    for call in (lambda: elu(GRID, alpha), lambda: celu(GRID, alpha), lambda: ELU(alpha)):
        with pytest.raises(ValueError, match=f"alpha={alpha} is not a positive number"):
            call()


def test_layer_is_the_function():
    torch.testing.assert_close(ELU(0.3)(GRID), elu(GRID, 0.3), rtol=0, atol=0)
    assert repr(ELU(0.3)) == "ELU(alpha=0.3)"


def test_numbers_that_are_no_floats_are_refused():
    with pytest.raises(TypeError, match="x has dtype torch.int64"):
        elu(torch.ones(3, dtype=torch.int64))


def test_numpy_variant_agrees(agree):
    agree(numpy_variant.elu(GRID.numpy(), 1.5), elu(GRID, 1.5))
    agree(numpy_variant.celu(GRID.numpy(), 1.5), celu(GRID, 1.5))
    agree(numpy_variant.slope(GRID.numpy(), 1.5), slope(lambda x: elu(x, 1.5)))
