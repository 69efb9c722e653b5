import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from snippets.losses.mae import mae, mae_slope, pinball
from vocab.losses.mae import L1Loss, PinballLoss

INPUT = 3 * torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
TARGET = torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def example():
    """For the contract suite: a small instance and its inputs."""
    return L1Loss(), (torch.randn(3, 2).double(), torch.randn(3, 2).double())


def constants(loss, y, at):
    """The loss of each constant prediction."""
    return torch.stack([loss(c.expand_as(y), y) for c in at])


@pytest.mark.oracle("torch.nn.functional.l1_loss")
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_value_and_gradients_equal_pytorchs(reduction):
    pair = []
    for function in (L1Loss(reduction), lambda x, y: F.l1_loss(x, y, reduction=reduction)):
        x, y = INPUT.clone().requires_grad_(), TARGET.clone().requires_grad_()
        value = function(x, y)
        pair.append((value, *torch.autograd.grad(value.sum(), (x, y))))
    torch.testing.assert_close(*pair)


@pytest.mark.oracle("numpy.median")
def test_the_best_constant_is_the_median_for_an_odd_count():
    y = TARGET.flatten()[:29]
    values = constants(L1Loss(), y, y)  # the loss is piecewise linear: one of the targets is best
    assert y[values.argmin()].item() == np.median(y.numpy())


def test_for_an_even_count_everything_between_the_middle_two_is_best():
    y = torch.tensor([0.0, 1.0, 3.0, 50.0], dtype=torch.float64)
    values = constants(L1Loss(), y, torch.tensor([0.9, 1.0, 1.5, np.median(y.numpy()), 3.0, 3.1], dtype=torch.float64))
    assert values[1:5].unique().numel() == 1 and (values[[0, 5]] > values[1]).all()


@pytest.mark.oracle("torch.distributions.Laplace.log_prob")
def test_is_the_likelihood_of_laplace_noise_up_to_a_constant():
    likelihood = -torch.distributions.Laplace(INPUT, torch.ones_like(INPUT)).log_prob(TARGET)
    torch.testing.assert_close(L1Loss("none")(INPUT, TARGET) + math.log(2), likelihood)


def test_gradient_is_a_sign_over_the_count_and_zero_at_equality():
    x = torch.tensor([5.0, 1e6, -2.0, 0.3], requires_grad=True)
    L1Loss()(x, torch.tensor([4.9, 0.0, 0.0, 0.3])).backward()
    assert torch.equal(x.grad, torch.tensor([0.25, 0.25, -0.25, 0.0]))


def test_a_constant_step_size_does_not_converge_and_a_decaying_one_does():
    def run(rate):
        x = torch.tensor([0.55], dtype=torch.float64)
        for t in range(1000):
            x = x.detach().requires_grad_()
            L1Loss()(x, torch.zeros_like(x)).backward()
            x = x - rate(t) * x.grad
        return x.abs().item()

    assert run(lambda t: 0.1) == pytest.approx(0.05, abs=1e-9)  # to and fro between +0.05 and -0.05
    assert run(lambda t: 0.1 / (1 + t / 10)) < 1e-3


@pytest.mark.oracle("sklearn.metrics.mean_pinball_loss")
@pytest.mark.parametrize("quantile", [0.05, 0.5, 0.9])
def test_pinball_equals_sklearns(quantile):
    metric = pytest.importorskip("sklearn.metrics").mean_pinball_loss
    expected = metric(TARGET.flatten().numpy(), INPUT.flatten().numpy(), alpha=quantile)
    assert PinballLoss(quantile)(INPUT, TARGET).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.oracle("numpy.quantile")
@pytest.mark.parametrize("quantile", [0.05, 0.31, 0.9])
def test_the_best_constant_of_pinball_is_the_quantile(quantile):
    y = TARGET.flatten()[:29]
    best = y[constants(PinballLoss(quantile), y, y).argmin()].item()
    assert best == np.quantile(y.numpy(), quantile, method="inverted_cdf")


def test_pinball_of_one_half_is_half_of_the_absolute_error():
    for reduction in ("mean", "sum", "none"):
        torch.testing.assert_close(PinballLoss(reduction=reduction)(INPUT, TARGET), 0.5 * L1Loss(reduction)(INPUT, TARGET))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_errors_of_ten_thousand_in_sum(dtype):
    x = torch.full((10,), 1e4, dtype=dtype)
    assert L1Loss("sum")(x, -x).item() == pytest.approx(2e5)


def test_the_mean_over_nothing_is_zero():
    for loss in (L1Loss(), PinballLoss()):
        assert loss(torch.zeros(0), torch.zeros(0)).item() == 0


def test_second_derivatives_vanish():
    assert torch.autograd.gradgradcheck(L1Loss(), (INPUT[0].clone().requires_grad_(), TARGET[0].clone().requires_grad_()))
    assert torch.autograd.gradcheck(PinballLoss(0.3), (INPUT[0].clone().requires_grad_(), TARGET[0]))


@pytest.mark.parametrize("quantile", [0.0, 1.0, -0.1, math.nan])
def test_bad_quantiles_are_named(quantile):
    with pytest.raises(ValueError, match=f"quantile={quantile} is not between 0 and 1"):
        PinballLoss(quantile)


@pytest.mark.parametrize("loss", [L1Loss, lambda **k: PinballLoss(0.5, **k)])
def test_bad_input_is_named(loss):
    with pytest.raises(ValueError, match="reduction='avg' is not"):
        loss(reduction="avg")
    with pytest.raises(ValueError, match=r"target has shape \(4,\); expected that of input, \(4, 1\)"):
        loss()(torch.zeros(4, 1), torch.zeros(4))


def test_numpy_variant_agrees(agree):
    x = INPUT.clone().requires_grad_()
    value = L1Loss()(x, TARGET)
    agree(mae(INPUT.numpy(), TARGET.numpy()), value)
    agree(mae_slope(INPUT.numpy(), TARGET.numpy()), torch.autograd.grad(value, x)[0])
    agree(pinball(INPUT.numpy(), TARGET.numpy(), 0.8), PinballLoss(0.8)(INPUT, TARGET))
