import copy
import itertools
import math

import numpy as np
import pytest
import torch

from snippets.schedulers.reduce_on_plateau import reduce_on_plateau
from vocab.schedulers.reduce_on_plateau import ReduceLROnPlateau
from vocab.schedulers.tests.test_one_cycle import sgd


class Flat(ReduceLROnPlateau):
    """Sees the same value at every step, as the contract suite has none to give."""

    def step(self):
        super().step(1.0)


def example():
    """For the contract suite: builds a scheduler for a given optimizer."""
    return (lambda optimizer: Flat(optimizer, factor=0.5, patience=1)), ()


def rates(scheduler, values):
    """The rates after each value."""
    found = []
    for value in values:
        scheduler.step(value)
        found.append([group["lr"] for group in scheduler.optimizer.param_groups])
        assert scheduler.get_last_lr() == found[-1]
    return np.array(found)


def walks():
    rng = np.random.default_rng(0)
    walk = np.cumsum(rng.normal(size=120)) * 0.1
    noisy = 2.0 + np.exp(-np.arange(120) / 15) + 0.05 * rng.normal(size=120)
    broken = noisy.copy()
    broken[40:60] = np.nan
    broken[70] = np.inf
    return {"random walk": walk, "noisy fall": noisy, "with NaN": broken, "rising": noisy[::-1], "coarse": np.round(noisy, 1), "negative": walk - 5}


@pytest.mark.oracle("torch.optim.lr_scheduler.ReduceLROnPlateau (random walks, NaN, both modes)")
@pytest.mark.parametrize("values", list(walks()))
@pytest.mark.parametrize(("mode", "threshold_mode"), list(itertools.product(["min", "max"], ["rel", "abs"])))
@pytest.mark.parametrize("options", [dict(), dict(patience=0, factor=0.5), dict(patience=3, cooldown=4, threshold=0.02, min_lr=0.05, factor=0.3)])
def test_equals_pytorch_on_recorded_values(values, mode, threshold_mode, options):
    options = dict(mode=mode, threshold_mode=threshold_mode, **options)
    theirs = rates(torch.optim.lr_scheduler.ReduceLROnPlateau(sgd(2), **options), walks()[values])
    np.testing.assert_array_equal(rates(ReduceLROnPlateau(sgd(2), **options), walks()[values]), theirs)


@pytest.mark.oracle("worked by hand: a constant value")
@pytest.mark.parametrize("patience", [0, 1, 4])
def test_a_constant_value_reduces_at_call_patience_plus_two_and_every_patience_plus_one(patience):
    found = rates(ReduceLROnPlateau(sgd(lr=1.0), factor=0.5, patience=patience), [3.0] * 40)[:, 0]
    drops = np.flatnonzero(np.diff([1.0, *found])) + 1
    first, distance = patience + 2, patience + 1
    assert drops.tolist() == [call for call in range(1, 41) if call >= first and (call - first) % distance == 0][: len(drops)]
    assert len(drops) == min(len(range(first, 41, distance)), 26), "the last drop is the one before a change of less than eps"


def test_the_first_value_always_counts_as_better():
    assert rates(ReduceLROnPlateau(sgd(lr=1.0), patience=0), [1e300])[0, 0] == 1.0
    assert rates(ReduceLROnPlateau(sgd(lr=1.0), mode="max", patience=0), [-1e300])[0, 0] == 1.0


def test_a_relative_threshold_is_useless_near_zero_and_asks_for_too_much_of_large_negative_values():
    """Pitfall: with values below zero, as log-likelihoods or rewards, a relative threshold turns round."""
    towards = [-1.0, -1.00005, -1.0001]  # falling, so better; but less than the threshold away from the best
    assert ReduceLROnPlateau(sgd()).is_better(-1.0002, -1.0), "best * (1 - threshold) is -0.9999: even a *worse* value passes"
    assert ReduceLROnPlateau(sgd()).is_better(-0.99995, -1.0)
    worse = rates(ReduceLROnPlateau(sgd(lr=1.0), patience=0), [-1.0, -0.99995, -0.9999, -0.99985])[:, 0]
    assert (worse == 1.0).all(), "a slow rise counts as improvement for ever"
    right = rates(ReduceLROnPlateau(sgd(lr=1.0), patience=0, threshold_mode="abs"), [-1.0, -0.99995])[:, 0]
    assert right[-1] < 1.0
    assert rates(ReduceLROnPlateau(sgd(lr=1.0), patience=0, threshold_mode="abs"), towards)[-1, 0] < 1.0
    near_zero = ReduceLROnPlateau(sgd(), threshold=1e-4)
    assert near_zero.is_better(0.99e-9, 1e-9), "a share of almost nothing is almost nothing"


def test_nan_counts_as_no_improvement_and_never_becomes_the_best():
    scheduler = ReduceLROnPlateau(sgd(lr=1.0), factor=0.5, patience=2)
    found = rates(scheduler, [1.0, math.nan, math.nan, math.nan, 0.5])[:, 0]
    assert found.tolist() == [1.0, 1.0, 1.0, 0.5, 0.5] and scheduler.best == 0.5


def test_the_cooldown_waits_before_it_counts_again():
    found = rates(ReduceLROnPlateau(sgd(lr=1.0), factor=0.5, patience=1, cooldown=3), [1.0] * 12)[:, 0]
    drops = np.flatnonzero(np.diff([1.0, *found])) + 1
    assert drops.tolist() == [3, 8], "3 calls of cooldown, then patience + 1 bad ones"


def test_no_rate_falls_below_the_lowest():
    optimizer = torch.optim.SGD([{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr} for lr in (1.0, 0.02)])
    found = rates(ReduceLROnPlateau(optimizer, factor=0.1, patience=0, min_lr=0.05), [1.0] * 5)
    assert found[-1, 0] == 0.05 and found[-1, 1] == 0.02, "one that was lower is left alone"


def test_takes_tensors_and_goes_on_from_its_state():
    values = walks()["noisy fall"]
    whole = rates(ReduceLROnPlateau(sgd(lr=1.0), patience=3, cooldown=2), values)
    first = ReduceLROnPlateau(sgd(lr=1.0), patience=3, cooldown=2)
    rates(first, torch.from_numpy(values[:57]))
    second = ReduceLROnPlateau(sgd(lr=1.0), patience=9)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    second.optimizer.load_state_dict(first.optimizer.state_dict())
    np.testing.assert_array_equal(rates(second, values[57:]), whole[57:])
    assert second.last_epoch == len(values), "every call is counted"


def test_step_without_a_value_is_an_error():
    with pytest.raises(TypeError, match="metrics"):
        ReduceLROnPlateau(sgd()).step()


def test_it_knows_nothing_of_the_step_number_so_a_sequence_cannot_drive_it():
    """Pitfall: the only scheduler whose step needs a value."""
    optimizer = sgd()
    parts = [torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0), ReduceLROnPlateau(optimizer)]
    both = torch.optim.lr_scheduler.SequentialLR(optimizer, parts, milestones=[1])
    optimizer.step()
    with pytest.raises(TypeError, match=r"ReduceLROnPlateau needs a value, step\(metrics\), which SequentialLR cannot give"):
        both.step()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(mode="low"), "mode='low' is not 'min' or 'max'"),
        (dict(threshold_mode="percent"), "threshold_mode='percent' is not 'rel' or 'abs'"),
        (dict(factor=1.0), "factor=1.0 is not between 0 and 1, both excluded"),
        (dict(factor=0.0), "factor=0.0 is not between 0 and 1"),
        (dict(patience=-1), "patience=-1 is not 0 or above"),
        (dict(threshold=-1e-4), "threshold=-0.0001 is not 0 or above"),
        (dict(cooldown=-1), "cooldown=-1 is not 0 or above"),
        (dict(min_lr=-0.1), "min_lr=-0.1 is not 0 or above"),
        (dict(eps=-0.1), "eps=-0.1 is not 0 or above"),
    ],
)
def test_bad_options_say_which_and_why(options, message):
    with pytest.raises(ValueError, match=message):
        ReduceLROnPlateau(sgd(), **options)


def test_defaults_are_those_of_pytorch():
    import inspect

    ours, theirs = (inspect.signature(c).parameters for c in (ReduceLROnPlateau, torch.optim.lr_scheduler.ReduceLROnPlateau))
    assert [(n, p.default) for n, p in ours.items()] == [(n, p.default) for n, p in theirs.items() if n != "verbose"]


def test_numpy_variant_agrees(agree):
    values = walks()["noisy fall"]
    ours = reduce_on_plateau(values, 0.8, factor=0.4, patience=3, threshold=1e-3)
    agree(ours, [0.8, *rates(ReduceLROnPlateau(sgd(lr=0.8), factor=0.4, patience=3, threshold=1e-3, eps=0.0), values)[:, 0]])


@pytest.mark.oracle("torch.optim.lr_scheduler.ReduceLROnPlateau (ties and a NaN at the start)")
@pytest.mark.parametrize(
    ("values", "options", "expected"),
    [
        ([math.nan], dict(), [0.5]),  # bad from the first call on
        ([3.0, 2.0], dict(threshold=1.0, threshold_mode="abs"), [1.0, 0.5]),  # better by just the threshold is not better
        ([3.0, 4.0], dict(threshold=1.0, threshold_mode="abs", mode="max"), [1.0, 0.5]),
        ([3.0, 3.0], dict(threshold=0.0), [1.0, 0.5]),
        ([3.0, 3.0], dict(eps=0.5), [1.0, 1.0]),  # a drop of just eps is left out
        ([3.0, 3.0], dict(eps=0.49), [1.0, 0.5]),
    ],
)
def test_ties_are_decided_as_in_pytorch(values, options, expected):
    options = dict(factor=0.5, patience=0, **options)
    assert rates(ReduceLROnPlateau(sgd(lr=1.0), **options), values)[:, 0].tolist() == expected
    assert rates(torch.optim.lr_scheduler.ReduceLROnPlateau(sgd(lr=1.0), **options), values)[:, 0].tolist() == expected
