import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from snippets.activations import network
from snippets.activations import squared_relu as numpy_variant
from vocab.activations.squared_relu import SquaredReLU, squared_relu
from vocab.activations.tests.measure import GRID, expectation, same, slope


def example():
    """For the contract suite: the function and its input."""
    return squared_relu, (torch.tensor([-2.0, -0.3, 0.4, 0.7, 3.0], dtype=torch.float64),)


@pytest.mark.oracle("torch.nn.functional.relu, squared")
def test_equals_the_square_of_relu_with_its_gradient():
    same(squared_relu, lambda x: F.relu(x) ** 2, atol=0)


@pytest.mark.oracle("transformers ACT2FN['relu2']")
def test_is_what_checkpoints_call_relu2():
    known = pytest.importorskip("transformers.activations").ACT2FN["relu2"]
    same(squared_relu, known, atol=0)


@pytest.mark.oracle("closed form of the derivative")
def test_derivative_is_twice_relu_and_continuous():
    torch.testing.assert_close(slope(squared_relu), 2 * torch.relu(GRID), rtol=0, atol=0)
    near = torch.tensor([-1e-9, 0.0, 1e-9], dtype=torch.float64)
    assert slope(squared_relu, near).tolist() == [0.0, 0.0, 2e-9]


@pytest.mark.oracle("homogeneity of degree two")
@pytest.mark.parametrize("c", [0.0, 0.5, 8.0])
def test_a_positive_factor_comes_out_squared(c):
    torch.testing.assert_close(squared_relu(c * GRID), c**2 * squared_relu(GRID), rtol=1e-15, atol=0)


@pytest.mark.oracle("Gaussian moments 1/2 and 3/2")
def test_moments_of_a_normal_input():
    assert expectation(squared_relu) == pytest.approx(1 / 2, rel=1e-12)
    assert expectation(lambda z: squared_relu(z) ** 2) == pytest.approx(3 / 2, rel=1e-12)
    assert 1.5**-0.5 == pytest.approx(0.816, abs=5e-4)


@pytest.mark.oracle("ReGLU with tied value and gate")
def test_is_a_gated_unit_whose_value_and_gate_are_the_same_projection():
    x, weight = torch.randn(5, 4, dtype=torch.float64), torch.randn(6, 4, dtype=torch.float64)
    value = gate = F.linear(x, weight)
    torch.testing.assert_close(squared_relu(F.linear(x, weight)), torch.relu(gate) * value)


def test_negative_inputs_get_no_gradient_and_give_exact_zeros():
    left = GRID[GRID <= 0]
    assert (squared_relu(left) == 0).all() and (slope(squared_relu, left) == 0).all()


def test_half_precision_overflows_where_the_page_says():
    x = torch.tensor([255.0, 256.0], dtype=torch.float16)
    assert squared_relu(x)[0] == 65024 and squared_relu(x)[1] == math.inf
    assert squared_relu(x.bfloat16()).isfinite().all()
    if hasattr(torch, "float8_e4m3fn"):
        assert torch.finfo(torch.float8_e4m3fn).max == 448, "reached by x above 21.2"
    assert math.sqrt(448) == pytest.approx(21.2, abs=0.05)


def test_an_input_twice_as_large_is_four_to_the_power_of_the_depth():
    """Scale errors double their exponent in every layer: (factor 2) becomes 2^(2^n)."""
    rng = np.random.default_rng(0)
    x, layers = rng.normal(size=(16, 32)), list(network.weights(32, 4, 0.8))
    once, twice = (network.through(numpy_variant.squared_relu, s * x, layers)[-1] for s in (1.0, 2.0))
    np.testing.assert_allclose(twice, 2.0**16 * once, rtol=1e-12)


def test_nan_stays_nan():
    assert squared_relu(torch.tensor([math.nan, -1.0])).isnan().tolist() == [True, False]


def test_layer_is_the_function():
    torch.testing.assert_close(SquaredReLU()(GRID), F.relu(GRID) ** 2, rtol=0, atol=0)


def test_numbers_that_are_no_floats_are_refused():
    with pytest.raises(TypeError, match="x has dtype torch.int64"):
        squared_relu(torch.ones(3, dtype=torch.int64))


@pytest.mark.interp
def test_kernel_agrees(kernel_agrees):
    x = GRID.clone().requires_grad_()
    kernel_agrees("gated_unit", lambda backend: (SquaredReLU(backend=backend)(x), squared_relu(x, backend=backend)), (x,))


def test_numpy_variant_agrees(agree):
    agree(numpy_variant.squared_relu(GRID.numpy()), squared_relu(GRID))
    agree(numpy_variant.slope(GRID.numpy()), slope(squared_relu))
