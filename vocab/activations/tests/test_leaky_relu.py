import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from snippets.activations import leaky_relu as numpy_variant
from vocab.activations.leaky_relu import LeakyReLU, leaky_relu
from vocab.activations.tests.measure import GRID, expectation, same, slope


def example():
    """For the contract suite: the function and its input."""
    return leaky_relu, (torch.tensor([-2.0, -0.3, 0.4, 0.7, 3.0], dtype=torch.float64), 0.2)


@pytest.mark.oracle("torch.nn.functional.leaky_relu")
@pytest.mark.parametrize("s", [0.01, 0.2, 0.3, -0.5, 2.0])
def test_equals_pytorch_with_its_gradient(s):
    same(lambda x: leaky_relu(x, s), lambda x: F.leaky_relu(x, s), atol=0)


def test_default_slope_is_that_of_pytorch():
    torch.testing.assert_close(leaky_relu(GRID), F.leaky_relu(GRID), rtol=0, atol=0)
    torch.testing.assert_close(LeakyReLU()(GRID), nn.LeakyReLU()(GRID), rtol=0, atol=0)


@pytest.mark.oracle("limit cases of the slope")
@pytest.mark.parametrize(("s", "known"), [(0.0, torch.relu), (1.0, lambda x: x), (-1.0, torch.abs)])
def test_slope_0_is_relu_slope_1_the_identity_and_slope_minus_1_the_absolute_value(s, known):
    torch.testing.assert_close(leaky_relu(GRID, s), known(GRID), rtol=0, atol=0)


@pytest.mark.parametrize("s", [0.0, 0.01, 0.5, 1.0])
def test_is_the_larger_of_x_and_the_scaled_x_up_to_slope_1(s):
    torch.testing.assert_close(leaky_relu(GRID, s), torch.maximum(GRID, s * GRID), rtol=0, atol=0)
    assert not torch.equal(leaky_relu(GRID, 2.0), torch.maximum(GRID, 2.0 * GRID))


@pytest.mark.parametrize("s", [0.01, 0.3, 4.0])
def test_is_undone_by_the_inverse_slope(s):
    torch.testing.assert_close(leaky_relu(leaky_relu(GRID, s), 1 / s), GRID)


@pytest.mark.parametrize("c", [0.0, 0.5, 7.0])
def test_a_positive_factor_can_be_taken_out(c):
    torch.testing.assert_close(leaky_relu(c * GRID, 0.3), c * leaky_relu(GRID, 0.3))


@pytest.mark.oracle("closed form of the second moment")
@pytest.mark.parametrize("s", [0.0, 0.01, 0.2, 1.0])
def test_second_moment_of_a_normal_input_sets_the_gain(s):
    moment = expectation(lambda z: leaky_relu(z, s) ** 2)
    assert moment == pytest.approx((1 + s * s) / 2, rel=1e-12)
    assert moment**-0.5 == pytest.approx(nn.init.calculate_gain("leaky_relu", s), rel=1e-12)


@pytest.mark.oracle("torch.nn.functional.rrelu")
def test_randomised_leaky_relu_is_leaky_with_the_mean_slope_when_it_is_evaluated():
    torch.testing.assert_close(leaky_relu(GRID, 11 / 48), F.rrelu(GRID, training=False))
    drawn = F.rrelu(torch.full((4000,), -1.0), training=True)
    assert drawn.min() < -0.32 and drawn.max() > -0.13, "in training every element draws its own slope from 1/8 to 1/3"


def test_a_slope_of_001_does_not_bring_a_dead_unit_back_in_reasonable_time():
    """Erratum: it is said to prevent dead units. With a bias of -10 the unit is still off for every input after 200 steps."""
    x = torch.linspace(-2, 2, 100, dtype=torch.float64)
    target = torch.relu(1.5 * x + 0.5)
    share = {}
    for s in (0.0, 0.01, 0.2):
        weight, bias = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (1.0, -10.0))
        optimizer = torch.optim.SGD([weight, bias], lr=0.1)
        for _ in range(200):
            optimizer.zero_grad()
            (leaky_relu(weight * x + bias, s) - target).square().mean().backward()
            optimizer.step()
        share[s] = (weight * x + bias > 0).double().mean().item()
        assert (bias.item() == -10.0) == (s == 0.0), "without a slope there is no gradient at all"
    assert share[0.0] == share[0.01] == 0.0 and share[0.2] > 0.3


def test_frameworks_disagree_about_the_default():
    """Keras' layer uses 0.3: the same checkpoint, read with 0.01, gives other negative numbers by a factor of 30."""
    x = torch.tensor([-1.0])
    assert (leaky_relu(x, 0.3) / leaky_relu(x)).item() == pytest.approx(30)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_rounded_once(dtype):
    x = torch.linspace(-6, 6, 1001).to(dtype)
    torch.testing.assert_close(leaky_relu(x, 0.3), F.leaky_relu(x, 0.3), rtol=0, atol=0)


def test_inplace_writes_over_its_input_and_keeps_the_gradient():
    x = torch.tensor([-1.0, 2.0])
    assert leaky_relu(x, 0.5, inplace=True) is x and x.tolist() == [-0.5, 2.0]
    assert LeakyReLU(0.5, inplace=True)(x) is x and x.tolist() == [-0.25, 2.0]
    torch.testing.assert_close(slope(lambda z: leaky_relu(z * 2, 0.3, inplace=True)), 2 * slope(lambda z: leaky_relu(z, 0.3)))


def test_nan_stays_nan():
    assert leaky_relu(torch.tensor([math.nan, 1.0])).isnan().tolist() == [True, False]


def test_layer_is_the_function():
    x = GRID.clone()
    torch.testing.assert_close(LeakyReLU(0.3)(x), leaky_relu(GRID, 0.3), rtol=0, atol=0)
    assert torch.equal(x, GRID)
    assert repr(LeakyReLU()) == "LeakyReLU(negative_slope=0.01)"
    assert repr(LeakyReLU(0.2, inplace=True)) == "LeakyReLU(negative_slope=0.2, inplace=True)"


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_slope_that_is_no_number_is_named_at_once(bad):
    for call in (lambda: leaky_relu(GRID, bad), lambda: LeakyReLU(bad)):
        with pytest.raises(ValueError, match=f"negative_slope={bad} is not a finite number"):
            call()


def test_numbers_that_are_no_floats_are_refused():
    with pytest.raises(TypeError, match="x has dtype torch.int64"):
        leaky_relu(torch.ones(3, dtype=torch.int64))


def test_numpy_variant_agrees(agree):
    agree(numpy_variant.leaky_relu(GRID.numpy(), 0.2), leaky_relu(GRID, 0.2))
    agree(numpy_variant.slope(GRID.numpy(), 0.2), slope(lambda x: leaky_relu(x, 0.2)))


@pytest.mark.oracle("torch.optim.SGD on the same unit")
def test_training_by_hand_in_numpy_is_gradient_descent(agree):
    x, target = numpy_variant.toy()
    weight, bias = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (1.0, -0.5))
    optimizer, losses = torch.optim.SGD([weight, bias], lr=0.1), []
    for _ in range(20):
        optimizer.zero_grad()
        loss = (leaky_relu(weight * torch.from_numpy(x) + bias, 0.2) - torch.from_numpy(target)).square().mean()
        loss.backward()
        losses.append(loss.item())
        optimizer.step()
    found = numpy_variant.fit(x, target, 0.2, -0.5, 0.1, steps=20)
    agree(found[0], [weight.item(), bias.item()])
    agree(found[1], np.array(losses))
