import numpy as np
import pytest
import torch

from snippets.schedulers.warmup_cosine import warmup_cosine
from vocab.schedulers.cosine_annealing import CosineAnnealingLR
from vocab.schedulers.tests.test_one_cycle import path, sgd
from vocab.schedulers.warmup_cosine import WarmupCosine


def example():
    """For the contract suite: builds a scheduler for a given optimizer."""
    return (lambda optimizer: WarmupCosine(optimizer, warmup_steps=3, total_steps=10)), ()


def rates(scheduler, calls):
    return path(scheduler, calls)[:, 0, 0]


SHAPES = [(0, 20), (1, 7), (10, 100), (99, 100)]


@pytest.mark.oracle("transformers.get_cosine_schedule_with_warmup")
@pytest.mark.parametrize(("warmup", "total"), SHAPES)
def test_down_to_zero_it_equals_transformers(warmup, total):
    transformers = pytest.importorskip("transformers")
    theirs = path(transformers.get_cosine_schedule_with_warmup(sgd(2), warmup, total), total)
    np.testing.assert_allclose(path(WarmupCosine(sgd(2), warmup, total, 0.0), total), theirs, rtol=1e-12, atol=1e-15)


@pytest.mark.oracle("transformers.get_cosine_with_min_lr_schedule_with_warmup")
@pytest.mark.parametrize(("warmup", "total"), SHAPES)
@pytest.mark.parametrize("ratio", [0.1, 0.5])
def test_down_to_a_share_it_equals_transformers(warmup, total, ratio):
    transformers = pytest.importorskip("transformers")
    theirs = path(transformers.get_cosine_with_min_lr_schedule_with_warmup(sgd(2), warmup, total, min_lr_rate=ratio), total)
    np.testing.assert_allclose(path(WarmupCosine(sgd(2), warmup, total, ratio), total), theirs, rtol=1e-12)


@pytest.mark.oracle("closed form at the seam, the middle and the end")
def test_continuous_at_the_seam_and_level_after_it():
    found = rates(WarmupCosine(sgd(lr=3.0), 40, 240, 0.2), 300)
    assert found[39] == pytest.approx(3.0 * 39 / 40) and found[40] == 3.0, "both branches give the peak at warmup_steps"
    assert 3.0 - found[41] < 1e-3, "level on the far side"
    assert found[140] == pytest.approx((3.0 + 0.6) / 2) and found[240] == pytest.approx(0.6)
    assert (found[241:] == found[240]).all(), "and stays"


@pytest.mark.oracle("torch.optim.lr_scheduler.SequentialLR of LinearLR and CosineAnnealingLR")
def test_equals_a_sequence_of_pytorchs_own():
    optimizer = sgd(lr=1.0)
    parts = [torch.optim.lr_scheduler.LinearLR(optimizer, 1e-12, 1.0, 5), torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 20, 0.1)]
    theirs = rates(torch.optim.lr_scheduler.SequentialLR(optimizer, parts, [5]), 25)
    np.testing.assert_allclose(rates(WarmupCosine(sgd(lr=1.0), 5, 25), 25), theirs, rtol=1e-9, atol=1e-11)


def test_a_cosine_over_all_steps_misses_its_end_by_the_warm_up():
    """Pitfall: the cosine's length is what remains after the warm-up."""
    right = WarmupCosine(sgd(lr=1.0), 200, 1000, 0.0).rate(1.0, 1000)
    late = CosineAnnealingLR(sgd(lr=1.0), 1000).rate(1.0, 1000 - 200)
    assert right == 0 and late == pytest.approx(0.0955, abs=1e-4), "the run ends at a tenth of the peak"
    jump = CosineAnnealingLR(sgd(lr=1.0), 1000).rate(1.0, 200)
    assert jump == pytest.approx(0.9045, abs=1e-4), "or, on the common step number, it falls off the peak at the seam"


def test_without_warm_up_and_to_zero_it_is_cosine_annealing():
    np.testing.assert_array_equal(rates(WarmupCosine(sgd(), 0, 30, 0.0), 30), rates(CosineAnnealingLR(sgd(), 30), 30))


@pytest.mark.oracle("sum of multipliers in closed form")
def test_the_run_as_a_whole_costs_the_mean_of_both_ends():
    found = rates(WarmupCosine(sgd(lr=1.0), 100, 1100, 0.1), 1099)
    assert found[100:].sum() == pytest.approx(1000 * 0.55 + 0.45), "the mean of 1 and 0.1, and half a step"
    assert found[:100].sum() == pytest.approx(99 / 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((5, 5), "total_steps=5 is not a whole number of at least 6"),
        ((5, 4), "total_steps=4"),
        ((5, 10.0), "total_steps=10.0 is not a whole number"),
        ((-1, 10), "warmup_steps=-1 is not a whole number of at least 0"),
        ((1, 10, -0.1), "min_ratio=-0.1 is not between 0 and 1"),
        ((1, 10, 1.1), "min_ratio=1.1 is not between 0 and 1"),
    ],
)
def test_bad_options_say_which_and_why(arguments, message):
    with pytest.raises(ValueError, match=message):
        WarmupCosine(sgd(), *arguments)


def test_extreme_options_are_allowed():
    assert rates(WarmupCosine(sgd(lr=1.0), 5, 6, 1.0), 8)[5:].tolist() == [1.0] * 4
    optimizer = sgd()
    optimizer.param_groups[0]["initial_lr"] = 1.0
    assert WarmupCosine(optimizer, 4, 10, last_epoch=0).get_last_lr() == [0.25], "step 1 is next"
    assert WarmupCosine(sgd(), 4, 10).min_ratio == 0.1


def test_numpy_variant_agrees(agree):
    t = np.arange(80)
    for warmup, ratio in ((20, 0.1), (0, 0.0)):
        agree(warmup_cosine(t, warmup, 70, 0.6, ratio), rates(WarmupCosine(sgd(lr=0.6), warmup, 70, ratio), 79), atol=1e-15)
    assert warmup_cosine(10, 20, 70, 0.6) == pytest.approx(0.3)
