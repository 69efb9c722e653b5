import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from snippets.activations import hardsigmoid as numpy_variant
from vocab.activations.hardsigmoid import hardsigmoid, hardtanh, relu6
from vocab.activations.tests.measure import GRID, expectation, same, slope


def example():
    """For the contract suite: the function and its input."""
    return hardsigmoid, (torch.tensor([-4.0, -0.3, 0.0, 0.7, 5.0], dtype=torch.float64),)


@pytest.mark.oracle("torch.nn.functional: hardsigmoid, relu6, hardtanh")
def test_all_three_equal_pytorch_with_their_gradients_also_at_the_corners():
    assert {-3.0, -1.0, 0.0, 1.0, 3.0, 6.0} <= set(GRID.tolist())
    same(hardsigmoid, F.hardsigmoid, atol=1e-8)  # PyTorch rounds its 1/6 to float32 on the way back
    same(relu6, F.relu6, atol=0)
    same(hardtanh, F.hardtanh, atol=0)
    same(lambda x: hardtanh(x, -2.5, 0.5), lambda x: F.hardtanh(x, -2.5, 0.5), atol=0)


def test_clamp_differs_in_the_gradient_at_the_corners_alone_and_not_since_pytorch_2_14():
    differs = slope(lambda x: x.clamp(0, 6)) != slope(relu6)
    assert GRID[differs].tolist() == ([0.0, 6.0] if torch.__version__ < "2.14" else [])


@pytest.mark.oracle("numpy.clip")
def test_hardsigmoid_is_a_shifted_relu6_and_relu6_a_hardtanh():
    x = GRID.numpy()
    np.testing.assert_allclose(hardsigmoid(GRID).numpy(), np.clip((x + 3) / 6, 0, 1), rtol=1e-15, atol=1e-16)
    np.testing.assert_array_equal(relu6(GRID).numpy(), np.clip(x, 0, 6))
    torch.testing.assert_close(hardtanh(GRID, 0, 6), relu6(GRID), rtol=0, atol=0)


def test_both_sides_add_up_to_one():
    torch.testing.assert_close(hardsigmoid(GRID) + hardsigmoid(-GRID), torch.ones_like(GRID))


@pytest.mark.oracle("the sigmoid, on a fine grid")
def test_largest_distance_to_the_sigmoid():
    x = torch.linspace(-8, 8, 160001, dtype=torch.float64)
    apart = (hardsigmoid(x) - torch.sigmoid(x)).abs()
    assert apart.max().item() == pytest.approx(0.0692, abs=5e-5)
    assert x[apart.argmax()].abs().item() == pytest.approx(math.log(2 + math.sqrt(3)), abs=1e-4)


def test_three_functions_are_called_hard_sigmoid():
    """Slopes 1/6 (PyTorch), 1/5 (Keras 2) and 1/2 (BinaryConnect): up to 1/3 apart."""
    variants = {s: (s * GRID + 0.5).clamp(0, 1) for s in (1 / 6, 1 / 5, 1 / 2)}
    torch.testing.assert_close(hardsigmoid(GRID), variants[1 / 6])
    assert (hardsigmoid(GRID) - variants[1 / 5]).abs().max().item() == pytest.approx(1 / 12, abs=1e-3)
    assert (hardsigmoid(GRID) - variants[1 / 2]).abs().max().item() == pytest.approx(1 / 3, abs=1e-3)


def test_no_gradient_outside_the_range():
    x = torch.tensor([-3.0, -2.999, 2.999, 3.0], dtype=torch.float64)
    assert slope(hardsigmoid, x).tolist() == [0.0, pytest.approx(1 / 6), pytest.approx(1 / 6), 0.0]


@pytest.mark.oracle("quadrature of the second moment")
def test_moments_of_a_normal_input():
    assert expectation(hardsigmoid, kinks=(-3.0, 3.0)) == pytest.approx(1 / 2, rel=1e-12)
    assert expectation(lambda z: hardsigmoid(z) ** 2, kinks=(-3.0, 3.0)) == pytest.approx(0.278, abs=5e-4)
    assert expectation(lambda z: relu6(z) ** 2, kinks=(0.0, 6.0)) == pytest.approx(0.5, abs=1e-6)


@pytest.mark.oracle("normal distribution function")
@pytest.mark.parametrize(("std", "gate", "cap"), [(1, 0.0027, 0.0), (2, 0.134, 0.00135), (3, 0.317, 0.0228), (4, 0.453, 0.0668)])
def test_share_of_normal_inputs_without_a_gradient(std, gate, cap):
    z = torch.special.ndtri((torch.arange(20000, dtype=torch.float64) + 0.5) / 20000) * std
    assert (slope(hardsigmoid, z) == 0).double().mean().item() == pytest.approx(gate, abs=1e-3)
    assert (relu6(z) == 6).double().mean().item() == pytest.approx(cap, abs=1e-4)


def test_eight_bits_have_a_known_step_for_relu6():
    """256 levels on [0, 6] are off by at most half a step, 0.0118, whatever the input."""
    error = np.abs(numpy_variant.quantise(relu6(10 * GRID).numpy(), 0, 6, 8) - relu6(10 * GRID).numpy())
    assert error.max() == pytest.approx(6 / 255 / 2, rel=1e-2)


def test_nan_stays_nan():
    for function in (hardsigmoid, relu6, hardtanh):
        assert function(torch.tensor([math.nan, 1.0])).isnan().tolist() == [True, False]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_rounded_once(dtype):
    x = torch.linspace(-9, 9, 1001).to(dtype)
    torch.testing.assert_close(hardsigmoid(x), hardsigmoid(x.double()).to(dtype), rtol=0, atol=0)


def test_bad_arguments_are_named():
    with pytest.raises(TypeError, match="x has dtype torch.int64"):
        hardtanh(torch.ones(3, dtype=torch.int64))
    for low, high in ((1.0, 1.0), (2.0, 1.0), (math.nan, 1.0)):
        with pytest.raises(ValueError, match=f"min_val={low} is not below max_val={high}"):
            hardtanh(GRID, low, high)


def test_numpy_variant_agrees(agree):
    agree(numpy_variant.hardsigmoid(GRID.numpy()), hardsigmoid(GRID))
    agree(numpy_variant.relu6(GRID.numpy()), relu6(GRID))
    agree(numpy_variant.slope(GRID.numpy()), slope(hardsigmoid))
