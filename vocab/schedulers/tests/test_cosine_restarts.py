import numpy as np
import pytest
import torch

from snippets.schedulers.arena import expected_loss
from snippets.schedulers.cosine_restarts import cosine_restarts
from vocab.schedulers.cosine_annealing import CosineAnnealingLR
from vocab.schedulers.cosine_restarts import CosineAnnealingWarmRestarts
from vocab.schedulers.tests.test_one_cycle import path, sgd


def example():
    """For the contract suite: builds a scheduler for a given optimizer."""
    return (lambda optimizer: CosineAnnealingWarmRestarts(optimizer, T_0=3, T_mult=2, eta_min=0.01)), ()


def rates(scheduler, calls):
    return path(scheduler, calls)[:, 0, 0]


@pytest.mark.oracle("torch.optim.lr_scheduler.CosineAnnealingWarmRestarts")
@pytest.mark.parametrize(("T_0", "T_mult", "eta_min"), [(1, 1, 0.0), (10, 1, 0.2), (7, 2, 0.0), (4, 3, 0.5)])
def test_equals_pytorch_at_every_step(T_0, T_mult, eta_min):
    theirs = path(torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(sgd(2), T_0, T_mult, eta_min), 250)
    np.testing.assert_allclose(path(CosineAnnealingWarmRestarts(sgd(2), T_0, T_mult, eta_min), 250), theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.oracle("restart times in closed form, T_0 (T_mult^k - 1) / (T_mult - 1)")
@pytest.mark.parametrize(("T_0", "T_mult"), [(5, 1), (5, 2), (3, 3), (1, 4)])
def test_restarts_come_where_the_geometric_series_says(T_0, T_mult):
    scheduler = CosineAnnealingWarmRestarts(sgd(lr=1.0), T_0, T_mult)
    starts = [T_0 * k if T_mult == 1 else T_0 * (T_mult**k - 1) // (T_mult - 1) for k in range(6)]
    found = np.array([scheduler.rate(1.0, t) for t in range(starts[-1] + 1)])
    assert np.flatnonzero(found == 1.0).tolist() == starts
    assert [t + 1 for t in range(starts[-1]) if scheduler.ends_cycle(t)] == starts[1:]


def test_the_last_step_of_a_cycle_is_one_short_of_the_lowest_rate():
    found = rates(CosineAnnealingWarmRestarts(sgd(lr=1.0), 10), 20)
    assert found[9] == pytest.approx((1 - np.cos(np.pi / 10)) / 2) and found[10] == 1.0 == found[20]
    assert found.min() > 0.02


def test_one_cycle_is_cosine_annealing():
    np.testing.assert_array_equal(rates(CosineAnnealingWarmRestarts(sgd(), 30, 2, 0.1), 29), rates(CosineAnnealingLR(sgd(), 30, 0.1), 29))


def test_a_cycle_twice_as_long_is_the_same_curve_stretched():
    scheduler = CosineAnnealingWarmRestarts(sgd(), 8, 2, 0.1)
    first, second = [scheduler.rate(1.0, t) for t in range(8)], [scheduler.rate(1.0, 8 + 2 * t) for t in range(8)]
    np.testing.assert_allclose(second, first, rtol=1e-14)


def test_a_step_far_out_is_found_without_walking_there():
    scheduler = CosineAnnealingWarmRestarts(sgd(), 1, 2)
    assert scheduler.rate(1.0, 2**200 - 1) == 1.0 and scheduler.ends_cycle(2**200 - 2)


def test_losses_in_the_middle_of_a_cycle_are_high_by_design():
    """Pitfall: evaluate at the ends only."""
    losses = expected_loss(rates(CosineAnnealingWarmRestarts(sgd(lr=0.8), 50), 199))
    ends = losses[[50, 100, 150, 200]]
    middles = losses[[75, 125, 175]]
    assert middles.min() > 1.4 * ends.max()


def test_in_a_single_bowl_restarts_gain_nothing():
    """They are for losses with many valleys: here every restart only shakes up what had settled."""
    again = expected_loss(rates(CosineAnnealingWarmRestarts(sgd(lr=0.8), 50), 199))
    once = expected_loss(rates(CosineAnnealingLR(sgd(lr=0.8), 200), 199))
    assert once[200] < 0.8 * again[200]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(T_0=0), "T_0=0 is not a whole number of at least 1"),
        (dict(T_0=5.5), "T_0=5.5 is not a whole number"),
        (dict(T_mult=0), "T_mult=0 is not a whole number of at least 1"),
        (dict(T_mult=1.5), "T_mult=1.5 is not a whole number of at least 1"),
        (dict(eta_min=-1e-3), "eta_min=-0.001 is not 0 or above"),
    ],
)
def test_bad_options_say_which_and_why(options, message):
    with pytest.raises(ValueError, match=message):
        CosineAnnealingWarmRestarts(sgd(), **{"T_0": 5, **options})


def test_pytorch_refuses_a_factor_that_is_no_whole_number_too():
    with pytest.raises(ValueError, match="T_mult"):
        torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(sgd(), 5, 1.5)


def test_a_run_can_be_resumed_by_its_step_number():
    optimizer = sgd()
    optimizer.param_groups[0]["initial_lr"] = 1.0
    assert CosineAnnealingWarmRestarts(optimizer, 4, 2, 0.0, 7).get_last_lr() == [pytest.approx(0.5)], "step 8 is the middle of the second cycle"


@pytest.mark.parametrize("T_mult", [1, 2, 3])
def test_numpy_variant_agrees(agree, T_mult):
    t = np.arange(120)
    agree(cosine_restarts(t, 7, 0.6, T_mult, 0.05), rates(CosineAnnealingWarmRestarts(sgd(lr=0.6), 7, T_mult, 0.05), 119))
    assert cosine_restarts(7, 7, 0.6) == 0.6
