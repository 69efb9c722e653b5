import numpy as np
import pytest
import torch

from snippets.schedulers.arena import expected_loss
from snippets.schedulers.warmup_linear_decay import warmup_linear_decay
from vocab.schedulers.tests.test_one_cycle import path, sgd
from vocab.schedulers.warmup_linear_decay import WarmupLinearDecay


def example():
    """For the contract suite: builds a scheduler for a given optimizer."""
    return (lambda optimizer: WarmupLinearDecay(optimizer, warmup_steps=3, total_steps=10)), ()


def rates(scheduler, calls):
    return path(scheduler, calls)[:, 0, 0]


@pytest.mark.oracle("transformers.get_linear_schedule_with_warmup")
@pytest.mark.parametrize(("warmup", "total"), [(0, 20), (1, 7), (10, 100), (99, 100)])
def test_equals_transformers_at_every_step_and_after_the_end(warmup, total):
    transformers = pytest.importorskip("transformers")
    theirs = path(transformers.get_linear_schedule_with_warmup(sgd(2), warmup, total), total + 5)
    np.testing.assert_allclose(path(WarmupLinearDecay(sgd(2), warmup, total), total + 5), theirs, rtol=1e-12, atol=1e-15)


@pytest.mark.oracle("torch.optim.lr_scheduler.SequentialLR of two LinearLR")
@pytest.mark.parametrize("final", [0.0, 0.25])
def test_equals_a_sequence_of_two_lines(final):
    optimizer = sgd(lr=2.0)
    linear = torch.optim.lr_scheduler.LinearLR
    parts = [linear(optimizer, 1e-12, 1.0, 6), linear(optimizer, 1.0, final, 24)]
    theirs = rates(torch.optim.lr_scheduler.SequentialLR(optimizer, parts, [6]), 35)
    np.testing.assert_allclose(rates(WarmupLinearDecay(sgd(lr=2.0), 6, 30, final), 35), theirs, rtol=1e-9, atol=1e-11)


@pytest.mark.oracle("area of a triangle")
@pytest.mark.parametrize("warmup", [0, 1, 50, 199])
def test_the_whole_run_sums_to_half_its_length_wherever_the_peak_is(warmup):
    found = rates(WarmupLinearDecay(sgd(lr=1.0), warmup, 200), 200)
    assert np.trapezoid(found) == pytest.approx(100)
    lifted = rates(WarmupLinearDecay(sgd(lr=1.0), 0, 200, 0.2), 200)
    assert np.trapezoid(lifted) == pytest.approx(200 * 0.6)


def test_peak_quarter_and_end():
    found = rates(WarmupLinearDecay(sgd(lr=4.0), 10, 50, 0.5), 60)
    assert found[5] == 2.0 and found[10] == 4.0 and found[30] == 3.0
    assert (found[50:] == 2.0).all()


def test_berts_schedule():
    """10,000 steps up, down to nothing at 1,000,000."""
    scheduler = WarmupLinearDecay(sgd(lr=1e-4), 10_000, 1_000_000)
    assert scheduler.rate(1e-4, 5_000) == pytest.approx(5e-5) and scheduler.rate(1e-4, 505_000) == pytest.approx(5e-5)
    assert scheduler.rate(1e-4, 999_999) == pytest.approx(1e-4 / 990_000)


def test_after_the_end_training_stands_still_without_a_word():
    """Pitfall: total_steps counted wrongly."""
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    scheduler, seen = WarmupLinearDecay(optimizer, 0, 3), []
    for _ in range(6):
        weight.grad = torch.ones_like(weight)
        optimizer.step()
        scheduler.step()
        seen.append(weight.item())
    assert seen[0] > seen[1] > seen[2] == seen[3] == seen[5]


def test_counting_micro_batches_ends_the_run_high_on_the_slope():
    micro_batches, accumulation = 8000, 8
    wrong = WarmupLinearDecay(sgd(lr=1.0), 0, micro_batches)
    assert wrong.rate(1.0, micro_batches // accumulation) == 0.875, "the last step of the run"


def test_on_the_noisy_quadratic_a_line_to_zero_beats_a_constant_and_a_line_to_a_tenth():
    loss = {final: expected_loss([WarmupLinearDecay(sgd(), 0, 300, final).factor(t) * 0.5 for t in range(300)])[-1] for final in (0.0, 0.1, 1.0)}
    assert loss[0.0] < loss[0.1] < loss[1.0] / 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((5, 5), "total_steps=5 is not a whole number of at least 6"),
        ((5, 10.0), "total_steps=10.0 is not a whole number"),
        ((-1, 10), "warmup_steps=-1 is not a whole number of at least 0"),
        ((1, 10, -0.1), "final_factor=-0.1 is not between 0 and 1"),
        ((1, 10, 1.1), "final_factor=1.1 is not between 0 and 1"),
    ],
)
def test_bad_options_say_which_and_why(arguments, message):
    with pytest.raises(ValueError, match=message):
        WarmupLinearDecay(sgd(), *arguments)


def test_extreme_options_are_allowed():
    assert rates(WarmupLinearDecay(sgd(lr=1.0), 5, 6, 1.0), 8)[5:].tolist() == [1.0] * 4
    optimizer = sgd()
    optimizer.param_groups[0]["initial_lr"] = 1.0
    assert WarmupLinearDecay(optimizer, 4, 10, last_epoch=0).get_last_lr() == [0.25], "step 1 is next"


def test_numpy_variant_agrees(agree):
    t = np.arange(80)
    for warmup, final in ((20, 0.3), (0, 0.0)):
        agree(warmup_linear_decay(t, warmup, 70, 0.6, final), rates(WarmupLinearDecay(sgd(lr=0.6), warmup, 70, final), 79), atol=1e-15)
    assert warmup_linear_decay(10, 20, 70, 0.6) == pytest.approx(0.3)
