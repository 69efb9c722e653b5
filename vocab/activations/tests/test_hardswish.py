import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from snippets.activations import hardswish as numpy_variant
from vocab.activations.hardswish import Hardswish, hardswish
from vocab.activations.tests.measure import GRID, expectation, same, slope


def example():
    """For the contract suite: the function and its input."""
    return hardswish, (torch.tensor([-4.0, -0.3, 0.0, 0.7, 5.0], dtype=torch.float64),)


@pytest.mark.oracle("torch.nn.functional.hardswish")
def test_equals_pytorch_with_its_gradient():
    corners = GRID.abs() == 3  # where there is no derivative
    same(hardswish, F.hardswish, GRID[~corners])
    torch.testing.assert_close(hardswish(GRID), F.hardswish(GRID))


@pytest.mark.oracle("closed form of the derivative")
def test_derivative_is_a_ramp_with_a_jump_at_both_ends():
    inside = GRID.abs() < 3
    found = slope(hardswish)
    torch.testing.assert_close(found[inside], (2 * GRID[inside] + 3) / 6)
    assert (found[GRID <= -3] == 0).all() and (found[GRID >= 3] == 1).all()
    x = torch.tensor([-3 + 1e-9, 3 - 1e-9], dtype=torch.float64)
    torch.testing.assert_close(slope(hardswish, x), torch.tensor([-0.5, 1.5], dtype=torch.float64), rtol=0, atol=1e-8)


@pytest.mark.oracle("x · ReLU6(x + 3) / 6")
def test_is_x_times_a_shifted_relu6():
    torch.testing.assert_close(hardswish(GRID), GRID * F.relu6(GRID + 3) / 6)


def test_is_exactly_zero_on_the_left_and_exactly_x_on_the_right():
    assert (hardswish(GRID)[GRID <= -3] == 0).all()
    right = GRID[GRID >= 3]
    torch.testing.assert_close(hardswish(right), right)


def test_what_x_loses_minus_x_keeps():
    torch.testing.assert_close(hardswish(GRID) - hardswish(-GRID), GRID)


def test_minimum_is_minus_three_eighths():
    y = hardswish(GRID)
    assert y.min() == -0.375 and GRID[y.argmin()] == -1.5


@pytest.mark.oracle("SiLU, on a grid")
def test_largest_distance_to_silu_is_at_the_corners():
    apart = (hardswish(GRID) - F.silu(GRID)).abs()
    assert apart.max().item() == pytest.approx(0.142, abs=5e-4) and GRID[apart.argmax()].abs() == 3
    assert apart.max().item() == pytest.approx(3 * torch.sigmoid(torch.tensor(-3.0)).item(), rel=1e-6)


@pytest.mark.oracle("quadrature of the second moment")
def test_second_moment_of_a_normal_input_sets_the_gain():
    moment = expectation(lambda z: hardswish(z) ** 2, kinks=(-3.0, 3.0))
    assert moment == pytest.approx(0.3316, abs=5e-5) and moment**-0.5 == pytest.approx(1.737, abs=5e-4)


def test_mobilenet_v3_uses_this_and_not_silu():
    """Erratum: the published weights depend on it; with SiLU in its place a random stack of ten layers ends elsewhere."""
    x = torch.randn(64, 32, dtype=torch.float64)
    ours, theirs = x, x
    for _ in range(10):
        weight = torch.randn(32, 32, dtype=torch.float64) * (1 / 0.3316 / 32) ** 0.5
        ours, theirs = hardswish(ours @ weight), F.silu(theirs @ weight)
    assert (ours - theirs).norm() > 0.1 * ours.norm()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_rounded_once(dtype):
    x = torch.linspace(-9, 9, 1001).to(dtype)
    torch.testing.assert_close(hardswish(x), hardswish(x.float()).to(dtype), rtol=0, atol=0)
    assert hardswish(torch.tensor([300.0], dtype=torch.float16)) == 300, "x · 6 would overflow for x > 10,917"
    assert hardswish(torch.tensor([20000.0], dtype=torch.float16)) == 20000


def test_layer_in_place_keeps_the_gradient():
    x = GRID.clone()
    torch.testing.assert_close(Hardswish()(x), nn.Hardswish()(GRID))
    assert torch.equal(x, GRID)
    assert Hardswish(inplace=True)(x) is x
    torch.testing.assert_close(x, F.hardswish(GRID))
    torch.testing.assert_close(slope(lambda z: Hardswish(inplace=True)(z * 1)), slope(hardswish))
    assert (repr(Hardswish()), repr(Hardswish(inplace=True))) == ("Hardswish()", "Hardswish(inplace=True)")


def test_numbers_that_are_no_floats_are_refused():
    for call in (hardswish, Hardswish(), Hardswish(inplace=True)):
        with pytest.raises(TypeError, match="x has dtype torch.int64"):
            call(torch.ones(3, dtype=torch.int64))
        with pytest.raises(TypeError, match="x is a list"):
            call([1.0])


def test_numpy_variant_agrees(agree):
    inside = GRID[GRID.abs() != 3]
    agree(numpy_variant.hardswish(GRID.numpy()), hardswish(GRID), atol=1e-15)
    agree(numpy_variant.slope(inside.numpy()), slope(hardswish, inside), atol=1e-15)


def test_quantised_output_has_at_most_as_many_levels_as_the_bits_allow():
    low, high, y = numpy_variant.quantised(numpy_variant.hardswish, 5.0, 3)
    assert (low, high) == (-0.375, 5.0) and len(np.unique(y.round(9))) == 8
