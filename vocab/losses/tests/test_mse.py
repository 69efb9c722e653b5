import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from snippets.losses.mse import best_constant, mse, mse_slope
from vocab.losses.mse import MSELoss

INPUT = 3 * torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
TARGET = torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def example():
    """For the contract suite: a small instance and its inputs."""
    return MSELoss(), (torch.randn(3, 2).double(), torch.randn(3, 2).double())


@pytest.mark.oracle("torch.nn.functional.mse_loss")
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_value_and_gradients_equal_pytorchs(reduction):
    pair = []
    for function in (MSELoss(reduction), lambda x, y: F.mse_loss(x, y, reduction=reduction)):
        x, y = INPUT.clone().requires_grad_(), TARGET.clone().requires_grad_()
        value = function(x, y)
        pair.append((value, *torch.autograd.grad(value.sum(), (x, y))))
    torch.testing.assert_close(*pair)


@pytest.mark.oracle("closed form: the best constant is the mean, and the variance remains")
def test_the_best_constant_is_the_mean_and_costs_the_variance():
    y = TARGET.flatten()
    c = y.mean().clone().requires_grad_()
    value = MSELoss()(c.expand_as(y), y)
    (slope,) = torch.autograd.grad(value, c)
    assert slope.abs() < 1e-14
    assert value.item() == pytest.approx(np.var(y.numpy()))
    for other in (0.01, -0.01):  # each step away costs its square
        assert MSELoss()((c + other).expand_as(y), y).item() == pytest.approx(np.var(y.numpy()) + 1e-4)


@pytest.mark.oracle("decomposition into squared bias and variance over 2,000 data sets")
def test_error_of_an_estimator_is_squared_bias_plus_variance():
    """The mean of ten numbers, shrunk to 0: more bias, less variance, and the best shrinkage is known."""
    truth, rng = 0.5, np.random.default_rng(0)
    means = torch.from_numpy(rng.normal(truth, 1.0, (2000, 10)).mean(1))
    errors = {}
    for shrink in (1.0, 0.7, 0.3):
        guesses = shrink * means
        errors[shrink] = MSELoss()(guesses, torch.full_like(guesses, truth)).item()
        bias, variance = guesses.numpy().mean() - truth, guesses.numpy().var()
        assert errors[shrink] == pytest.approx(bias**2 + variance, rel=1e-12)
        assert errors[shrink] == pytest.approx(((shrink - 1) * truth) ** 2 + shrink**2 / 10, rel=0.15)
    assert errors[0.7] < errors[1.0] < errors[0.3]


@pytest.mark.oracle("torch.distributions.Normal.log_prob")
def test_is_the_likelihood_of_gaussian_noise_up_to_two_constants():
    likelihood = -torch.distributions.Normal(INPUT, torch.ones_like(INPUT)).log_prob(TARGET)
    torch.testing.assert_close(0.5 * MSELoss("none")(INPUT, TARGET) + 0.5 * math.log(2 * math.pi), likelihood)


def test_gradient_of_each_prediction_is_twice_its_error_over_the_count():
    x = INPUT.clone().requires_grad_()
    MSELoss()(x, TARGET).backward()
    torch.testing.assert_close(x.grad, 2 * (INPUT - TARGET) / 30)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_an_error_of_ten_thousand_does_not_overflow(dtype):
    x = torch.tensor([1e4, -1e4], dtype=dtype, requires_grad=True)
    value = MSELoss()(x, -x.detach())
    value.backward()
    assert value.item() == pytest.approx(4e8, rel=0.01) and value.dtype == torch.float32
    torch.testing.assert_close(x.grad, torch.tensor([2e4, -2e4], dtype=dtype), rtol=0.01, atol=0)
    assert F.mse_loss(x.half(), -x.half()).isinf()


def test_the_mean_over_nothing_is_zero():
    assert MSELoss()(torch.zeros(0), torch.zeros(0)).item() == 0 and F.mse_loss(torch.zeros(0), torch.zeros(0)).isnan()


def test_second_derivative_is_two_over_the_count():
    assert torch.autograd.gradgradcheck(MSELoss(), (INPUT[0].clone().requires_grad_(), TARGET[0].clone().requires_grad_()))
    hessian = torch.autograd.functional.hessian(lambda x: MSELoss()(x, TARGET[0, 0]), INPUT[0, 0])
    torch.testing.assert_close(hessian, torch.eye(3).double() * 2 / 3)


def test_a_column_against_a_row_is_refused_where_pytorch_compares_all_with_all():
    x, y = torch.randn(4, 1), torch.randn(4)
    with pytest.raises(ValueError, match=r"target has shape \(4,\); expected that of input, \(4, 1\)"):
        MSELoss()(x, y)
    with pytest.warns(UserWarning, match="broadcasting"):
        silent = F.mse_loss(x, y, reduction="none")
    assert silent.shape == (4, 4)


def test_each_argument_is_named():
    for pair, message in (((torch.zeros(2).long(), torch.zeros(2)), "input has dtype torch.int64"), ((torch.zeros(2), [0.0, 0.0]), "target is a list")):
        with pytest.raises(TypeError, match=message):
            MSELoss()(*pair)
    with pytest.raises(ValueError, match="reduction='avg' is not"):
        MSELoss("avg")


def test_numpy_variant_agrees(agree):
    x = INPUT.clone().requires_grad_()
    value = MSELoss()(x, TARGET)
    agree(mse(INPUT.numpy(), TARGET.numpy()), value)
    agree(mse_slope(INPUT.numpy(), TARGET.numpy()), torch.autograd.grad(value, x)[0])
    agree(best_constant(TARGET.numpy()), TARGET.mean())
