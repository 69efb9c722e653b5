import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from snippets.activations import mish as numpy_variant
from vocab.activations.mish import Mish, mish
from vocab.activations.tests.measure import GRID, expectation, same, slope


def example():
    """For the contract suite: the function and its input."""
    return mish, (torch.tensor([-2.0, -0.3, 0.0, 0.7, 3.0], dtype=torch.float64),)


def curvature(function, x=GRID):
    x = x.clone().requires_grad_()
    (first,) = torch.autograd.grad(function(x).sum(), x, create_graph=True)
    return torch.autograd.grad(first.sum(), x)[0]


@pytest.mark.oracle("torch.nn.functional.mish and torch.nn.Mish")
def test_pytorch_has_it_and_it_is_the_same_with_its_gradient():
    """Erratum: it is often shown as a class of one's own to write."""
    same(mish, F.mish)
    torch.testing.assert_close(Mish()(GRID), nn.Mish()(GRID))


@pytest.mark.oracle("x · tanh(log1p(exp(x))) in NumPy")
def test_is_x_times_the_tanh_of_its_softplus():
    x = GRID.numpy()
    np.testing.assert_allclose(mish(GRID).numpy(), x * np.tanh(np.log1p(np.exp(x))), rtol=1e-13)


@pytest.mark.oracle("the gate without logarithm or tanh")
def test_gate_is_a_rational_function_of_exp():
    n = (1 + GRID.exp()) ** 2
    torch.testing.assert_close(mish(GRID), GRID * (n - 1) / (n + 1), rtol=1e-11, atol=1e-13)


@pytest.mark.oracle("closed form of the derivative")
def test_derivative_is_gate_plus_what_opening_it_brings():
    t = torch.tanh(F.softplus(GRID))
    torch.testing.assert_close(slope(mish), t + GRID * torch.sigmoid(GRID) * (1 - t**2))
    torch.autograd.gradcheck(mish, GRID[::200].clone().requires_grad_())


def test_value_at_zero_is_zero_with_slope_three_fifths():
    zero = torch.zeros(1, dtype=torch.float64)
    assert mish(zero).item() == 0.0 and slope(mish, zero).item() == pytest.approx(0.6, rel=1e-12)


def test_minimum_is_where_the_page_says():
    x = torch.linspace(-2, -1, 100_001, dtype=torch.float64)
    y = mish(x)
    assert y.min().item() == pytest.approx(-0.30884, abs=5e-6) and x[y.argmin()].item() == pytest.approx(-1.19243, abs=1e-5)
    assert mish(torch.tensor([1e30])).item() == pytest.approx(1e30)


def test_nothing_overflows_far_out():
    x = torch.tensor([-1000.0, -100.0, 100.0, 1000.0], requires_grad=True)
    y = mish(x)
    y.sum().backward()
    torch.testing.assert_close(y.detach(), torch.tensor([0.0, 0.0, 100.0, 1000.0]))
    torch.testing.assert_close(x.grad, torch.tensor([0.0, 0.0, 1.0, 1.0]))
    literal = torch.tensor([100.0], requires_grad=True)
    (literal * torch.tanh(torch.log(1 + torch.exp(literal)))).backward()
    assert literal.grad.isnan().item(), "the formula as it is printed has a NaN gradient here"


@pytest.mark.oracle("largest second derivative")
def test_it_bends_more_than_silu_and_less_than_gelu():
    """Erratum: "smoother than Swish". All three are infinitely differentiable; by curvature, Mish is not the smoothest."""
    largest = {f.__name__: curvature(f).abs().max().item() for f in (F.silu, mish, F.gelu)}
    assert largest["silu"] == pytest.approx(0.5) and largest["mish"] == pytest.approx(0.644, abs=1e-3)
    assert largest["gelu"] == pytest.approx(math.sqrt(2 / math.pi))


@pytest.mark.oracle("quadrature of the second moment")
def test_second_moment_of_a_normal_input_sets_the_gain():
    moment = expectation(lambda z: mish(z) ** 2)
    assert moment == pytest.approx(0.4523, abs=5e-5) and moment**-0.5 == pytest.approx(1.487, abs=5e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_rounded_once(dtype):
    x = torch.linspace(-9, 12, 1001).to(dtype)
    torch.testing.assert_close(mish(x), mish(x.float()).to(dtype), rtol=0, atol=0)


def test_layer_in_place_keeps_the_gradient():
    x = GRID.clone()
    Mish()(x)
    assert torch.equal(x, GRID)
    assert Mish(inplace=True)(x) is x
    torch.testing.assert_close(x, F.mish(GRID))
    torch.testing.assert_close(slope(lambda z: Mish(inplace=True)(z * 1)), slope(F.mish))
    assert (repr(Mish()), repr(Mish(inplace=True))) == ("Mish()", "Mish(inplace=True)")


def test_numbers_that_are_no_floats_are_refused():
    for call in (mish, Mish(), Mish(inplace=True)):
        with pytest.raises(TypeError, match="x has dtype torch.int64"):
            call(torch.ones(3, dtype=torch.int64))
        with pytest.raises(TypeError, match="x is a list"):
            call([1.0])


def test_numpy_variant_agrees_in_value_slope_and_curvature(agree):
    agree(numpy_variant.mish(GRID.numpy()), mish(GRID))
    agree(numpy_variant.slope(GRID.numpy()), slope(mish), rtol=1e-6, atol=1e-12)
    agree(numpy_variant.curvature(GRID.numpy()), curvature(mish), rtol=1e-6, atol=1e-12)


def test_the_curves_that_the_demo_compares_with_are_the_right_ones(agree):
    for name, known in (("SiLU", F.silu), ("GELU", F.gelu)):
        value, first, second = numpy_variant.CURVES[name]
        agree(value(GRID.numpy()), known(GRID), atol=1e-14)
        agree(first(GRID.numpy()), slope(known), atol=1e-12)
        agree(second(GRID.numpy()), curvature(known), atol=1e-12)
