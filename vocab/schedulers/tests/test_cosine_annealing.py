import math

import numpy as np
import pytest
import torch

from snippets.schedulers.cosine_annealing import cosine_annealing, half_cosine as half_cosine_numpy
from vocab.schedulers.cosine_annealing import CosineAnnealingLR, half_cosine
from vocab.schedulers.tests.test_one_cycle import path, sgd


def example():
    """For the contract suite: builds a scheduler for a given optimizer."""
    return (lambda optimizer: CosineAnnealingLR(optimizer, T_max=10, eta_min=0.01)), ()


def rates(scheduler, calls):
    return path(scheduler, calls)[:, 0, 0]


@pytest.mark.oracle("torch.optim.lr_scheduler.CosineAnnealingLR (past T_max too)")
@pytest.mark.parametrize(("T_max", "eta_min"), [(1, 0.0), (7, 0.0), (50, 0.3), (200, 1e-4)])
def test_equals_pytorch_at_every_step_and_beyond_the_end(T_max, eta_min):
    calls = 2 * T_max + 5
    theirs = path(torch.optim.lr_scheduler.CosineAnnealingLR(sgd(2), T_max, eta_min), calls)
    np.testing.assert_allclose(path(CosineAnnealingLR(sgd(2), T_max, eta_min), calls), theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.oracle("closed form at both ends, in the middle and at a third")
def test_ends_middle_and_third_are_those_of_half_a_cosine():
    found = rates(CosineAnnealingLR(sgd(lr=2.0), 12, 0.5), 12)
    assert found[0] == 2.0 and found[12] == 0.5
    assert found[6] == pytest.approx((2.0 + 0.5) / 2), "the mean of both ends"
    assert found[4] == pytest.approx(0.5 + 1.5 * 0.75), "three quarters are left after a third of the way"
    assert found.mean() == pytest.approx(1.25), "the mean of the whole run too"


@pytest.mark.oracle("sum of a geometric series of complex numbers")
def test_mean_of_a_run_is_the_mean_of_both_ends():
    """Steps 0 to T - 1, as a run has them: the mean is half the highest rate, and half a step more."""
    T = 37
    series = (1 - np.exp(1j * np.pi)) / (1 - np.exp(1j * np.pi / T))  # sum of exp(i pi t / T) for t < T
    assert rates(CosineAnnealingLR(sgd(lr=1.0), T), T - 1).sum() == pytest.approx((T + series.real) / 2)
    assert series.real == pytest.approx(1)


def test_level_at_both_ends_and_steepest_in_the_middle():
    fall = -np.diff(rates(CosineAnnealingLR(sgd(lr=1.0), 100), 100))
    assert fall.argmax() in (49, 50) and fall.max() == pytest.approx(math.pi / 200, rel=1e-3)
    assert fall[0] < fall.max() / 50 and fall[-1] < fall.max() / 50
    np.testing.assert_allclose(fall, fall[::-1], atol=1e-15)


def test_past_its_end_the_rate_climbs_again_unless_clamped():
    """Pitfall: T_max shorter than the run."""
    climbing = rates(CosineAnnealingLR(sgd(lr=1.0), 10, 0.1), 25)
    np.testing.assert_allclose(climbing[10:21], climbing[10::-1], rtol=1e-12)
    assert climbing[20] == pytest.approx(1.0) and climbing[25] == pytest.approx(0.55)
    held = rates(CosineAnnealingLR(sgd(lr=1.0), 10, 0.1, clamp=True), 25)
    np.testing.assert_array_equal(held[:11], climbing[:11])
    assert (held[10:] == 0.1).all()


def test_a_stopped_cosine_is_not_the_shorter_cosine():
    """Why the loss in the middle of a long run says nothing of a shorter one: its rate has not come down."""
    long, short = rates(CosineAnnealingLR(sgd(lr=1.0), 100), 50), rates(CosineAnnealingLR(sgd(lr=1.0), 50), 50)
    assert long[50] == pytest.approx(0.5) and short[50] == pytest.approx(0.0, abs=1e-15)
    from snippets.schedulers.arena import expected_loss

    assert expected_loss(long[:50])[-1] > 1.5 * expected_loss(short[:50])[-1]


def test_the_lowest_rate_is_absolute_and_the_same_for_every_group():
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr} for lr in (1.0, 0.01)]
    found = path(CosineAnnealingLR(torch.optim.SGD(groups), 4, eta_min=0.1), 4)[..., 0]
    np.testing.assert_allclose(found[4], [0.1, 0.1])
    assert found[2, 1] == pytest.approx(0.055), "a group that began below it climbs to it"


@pytest.mark.parametrize("done", [-0.25, 0, 0.1, 0.5, 1, 1.5])
def test_half_cosine_is_a_squared_cosine_of_half_the_angle(done):
    assert half_cosine(done) == pytest.approx(math.cos(math.pi * done / 2) ** 2, abs=1e-15)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(T_max=0), "T_max=0 is not a whole number of at least 1"),
        (dict(T_max=10.0), "T_max=10.0 is not a whole number"),
        (dict(T_max=10, eta_min=-0.1), "eta_min=-0.1 is not 0 or above"),
        (dict(T_max=10, eta_min=float("nan")), "eta_min=nan"),
    ],
)
def test_bad_options_say_which_and_why(options, message):
    with pytest.raises(ValueError, match=message):
        CosineAnnealingLR(sgd(), **options)


def test_a_run_can_be_resumed_by_its_step_number():
    optimizer = sgd()
    optimizer.param_groups[0]["initial_lr"] = 1.0
    assert CosineAnnealingLR(optimizer, 10, 0.0, 4).get_last_lr() == [pytest.approx(0.5)], "step 5 is next"


def test_numpy_variant_agrees(agree):
    t = np.arange(60)
    agree(cosine_annealing(t, 40, 0.7, 0.05), rates(CosineAnnealingLR(sgd(lr=0.7), 40, 0.05), 59))
    agree(half_cosine_numpy(t / 40), [half_cosine(s / 40) for s in range(60)])
