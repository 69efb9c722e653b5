import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from snippets.activations import silu as numpy_variant
from vocab.activations.silu import Swish, silu
from vocab.activations.tests.measure import GRID, expectation, same, slope


def example():
    """For the contract suite: the layer with its parameter, and its input."""
    return Swish(1.3, learnable=True).double(), (torch.tensor([-2.0, -0.3, 0.0, 0.7, 3.0], dtype=torch.float64),)


@pytest.mark.oracle("torch.nn.functional.silu")
def test_equals_pytorch_with_its_gradient():
    same(silu, F.silu)
    same(Swish(), F.silu)


@pytest.mark.parametrize("beta", [0.3, 1.0, 4.0])
def test_swish_is_silu_on_another_scale(beta):
    torch.testing.assert_close(Swish(beta)(GRID), F.silu(beta * GRID) / beta)


@pytest.mark.oracle("the condition f' = 0")
def test_minimum_is_where_the_function_is_x_plus_one():
    """Erratum: the range is sometimes given as -1 to 50. It is -0.2785 to infinity."""
    x = torch.linspace(-2, -1, 1_000_001, dtype=torch.float64)
    y = silu(x)
    at = x[y.argmin()].item()
    assert at == pytest.approx(-1.27846, abs=1e-5) and y.min().item() == pytest.approx(-0.27846, abs=5e-6)
    assert y.min().item() == pytest.approx(at + 1, abs=1e-6)
    assert silu(torch.tensor([1e30])).item() == pytest.approx(1e30)


@pytest.mark.oracle("closed form of the derivative")
def test_derivative_is_gate_plus_what_opening_it_brings():
    s = torch.sigmoid(GRID)
    torch.testing.assert_close(slope(silu), s + GRID * s * (1 - s))
    assert slope(silu, torch.zeros(1, dtype=torch.float64)).item() == 0.5
    x = torch.linspace(2, 3, 100001, dtype=torch.float64)
    steepest = slope(silu, x)
    assert steepest.max().item() == pytest.approx(1.0998, abs=5e-5)
    assert x[steepest.argmax()].item() == pytest.approx(2.3994, abs=1e-4)


@pytest.mark.parametrize("beta", [0.0, 1.0, 3.0])
def test_what_x_loses_minus_x_keeps(beta):
    torch.testing.assert_close(Swish(beta)(GRID) - Swish(beta)(-GRID), GRID)


@pytest.mark.oracle("limits of beta: x/2, quick GELU, ReLU")
def test_beta_goes_from_half_of_x_over_quick_gelu_to_relu():
    torch.testing.assert_close(Swish(0.0)(GRID), GRID / 2, rtol=0, atol=0)
    quick = pytest.importorskip("transformers.activations").ACT2FN["quick_gelu"]
    torch.testing.assert_close(Swish(1.702)(GRID), quick(GRID))
    distance = (Swish(1e4)(GRID) - torch.relu(GRID)).abs().max().item()
    assert distance < 0.2785e-4


@pytest.mark.oracle("closed form of the gradient of beta")
def test_gradient_of_beta_sums_over_the_whole_layer():
    layer, dy = Swish(0.7, learnable=True).double(), torch.randn_like(GRID)
    layer(GRID).backward(dy)
    s = torch.sigmoid(0.7 * GRID)
    torch.testing.assert_close(layer.beta.grad, (dy * GRID**2 * s * (1 - s)).sum())


def test_beta_is_a_parameter_only_if_it_is_learnable():
    assert not list(Swish(2.0).parameters()) and not Swish(2.0).state_dict()
    assert Swish(2, learnable=True).beta.item() == 2.0
    assert repr(Swish()) == "Swish(beta=1, learnable=False)"
    assert repr(Swish(0.5, learnable=True)) == "Swish(beta=0.5, learnable=True)"


def test_learned_beta_finds_the_gate_that_made_the_data():
    layer, target = Swish(1.0, learnable=True).double(), F.silu(2.5 * GRID) / 2.5
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.1)
    for _ in range(300):
        optimizer.zero_grad()
        (layer(GRID) - target).square().mean().backward()
        optimizer.step()
    assert layer.beta.item() == pytest.approx(2.5, abs=1e-2)


@pytest.mark.oracle("quadrature of the second moment")
def test_second_moment_of_a_normal_input_sets_the_gain():
    moment = expectation(lambda z: silu(z) ** 2)
    assert moment == pytest.approx(0.3558, abs=5e-5) and moment**-0.5 == pytest.approx(1.6765, abs=5e-5)


def test_hard_swish_of_mobilenet_v3_is_another_function():
    """Erratum: MobileNetV3 is often listed as a user of SiLU; its function is up to 0.142 away."""
    assert (silu(GRID) - F.hardswish(GRID)).abs().max().item() == pytest.approx(0.142, abs=5e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_rounded_once_and_underflows_to_zero(dtype):
    x = torch.linspace(-20, 9, 1001).to(dtype)
    for function in (silu, Swish()):
        torch.testing.assert_close(function(x), silu(x.double()).to(dtype), rtol=0, atol=0)
    y = x.clone().requires_grad_()
    silu(y - 60000).sum().backward()
    assert (silu(x - 60000) == 0).all() and y.grad.isfinite().all()


def test_minus_infinity_has_no_value():
    assert silu(torch.tensor(-math.inf)).isnan() and F.silu(torch.tensor(-math.inf)).isnan()


def test_bad_arguments_are_named():
    for beta in (math.nan, math.inf):
        with pytest.raises(ValueError, match=f"beta={beta} is not a finite number"):
            Swish(beta)
    for function in (silu, Swish()):
        with pytest.raises(TypeError, match="x has dtype torch.int64"):
            function(torch.ones(3, dtype=torch.int64))


def test_numpy_variant_agrees(agree):
    agree(numpy_variant.swish(GRID.numpy()), silu(GRID))
    agree(numpy_variant.swish(GRID.numpy(), 2.5), Swish(2.5)(GRID))
    agree(numpy_variant.slope(GRID.numpy(), 2.5), slope(Swish(2.5)))


def test_is_a_layer_of_pytorch_too():
    torch.testing.assert_close(Swish()(GRID), nn.SiLU()(GRID))
