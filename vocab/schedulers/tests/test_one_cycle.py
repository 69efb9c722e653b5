import copy
import math

import numpy as np
import pytest
import torch

from snippets.schedulers.one_cycle import one_cycle
from vocab.schedulers.one_cycle import OneCycleLR


def example():
    """For the contract suite: builds a scheduler for a given optimizer."""
    return (lambda optimizer: OneCycleLR(optimizer, max_lr=0.5, total_steps=12)), ()


def sgd(groups=1, **options):
    weights = [torch.nn.Parameter(torch.zeros(1)) for _ in range(groups)]
    return torch.optim.SGD([{"params": [w]} for w in weights], **{"lr": 7.0, "momentum": 0.5, **options})


def adam():
    return torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=7.0, betas=(0.5, 0.97))


def path(scheduler, calls):
    """Learning rates and momenta of every group, at the start and after each call."""
    optimizer, found = scheduler.optimizer, []
    for call in range(calls + 1):
        if call:
            optimizer.step()
            scheduler.step()
        found.append([(g["lr"], *(g["betas"] if "betas" in g else (g["momentum"],))) for g in optimizer.param_groups])
    return np.array(found)


@pytest.mark.oracle("torch.optim.lr_scheduler.OneCycleLR (learning rate and momentum)")
@pytest.mark.parametrize("build", [sgd, adam])
@pytest.mark.parametrize("three_phase", [False, True])
@pytest.mark.parametrize("strategy", ["cos", "linear"])
@pytest.mark.parametrize(("total", "pct"), [(50, 0.3), (37, 0.21), (7, 0.4), (200, 0.05)])
def test_equals_pytorch_at_every_step(total, pct, strategy, three_phase, build):
    options = dict(max_lr=0.3, total_steps=total, pct_start=pct, anneal_strategy=strategy, three_phase=three_phase)
    ours = path(OneCycleLR(build(), **options), total - 1)
    theirs = path(torch.optim.lr_scheduler.OneCycleLR(build(), **options), total - 1)
    np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-15)


@pytest.mark.oracle("torch.optim.lr_scheduler.OneCycleLR (all options)")
def test_equals_pytorch_with_every_option_changed():
    options = dict(max_lr=[0.3, 2.0], total_steps=40, pct_start=0.45, base_momentum=0.7, max_momentum=0.9, div_factor=10.0,
                   final_div_factor=50.0)
    np.testing.assert_allclose(path(OneCycleLR(sgd(2), **options), 39),
                               path(torch.optim.lr_scheduler.OneCycleLR(sgd(2), **options), 39), rtol=1e-12)
    options["cycle_momentum"] = False
    ours = path(OneCycleLR(sgd(2), **options), 39)
    np.testing.assert_allclose(ours, path(torch.optim.lr_scheduler.OneCycleLR(sgd(2), **options), 39), rtol=1e-12)
    assert (ours[..., 1] == 0.5).all(), "the optimizer's own momentum stays"


def test_positions_of_the_arguments_are_those_of_pytorch():
    import inspect

    ours, theirs = (list(inspect.signature(c).parameters) for c in (OneCycleLR, torch.optim.lr_scheduler.OneCycleLR))
    assert ours == [p for p in theirs if p not in ("epochs", "steps_per_epoch")]


@pytest.mark.oracle("closed form at the corners")
def test_corners_are_start_peak_and_end():
    lr, momentum = path(OneCycleLR(sgd(), max_lr=0.5, total_steps=100), 99)[:, 0].T
    assert lr[0] == pytest.approx(0.5 / 25) and momentum[0] == pytest.approx(0.95)
    assert lr.argmax() == 29 and lr[29] == pytest.approx(0.5), "step 30 of 100, counted from 1"
    assert momentum.argmin() == 29 and momentum[29] == pytest.approx(0.85)
    assert lr[99] == pytest.approx(0.5 / 25 / 1e4) and momentum[99] == pytest.approx(0.95)
    assert lr[10] == pytest.approx(0.02 + 0.48 * (1 - math.cos(math.pi * 10 / 29)) / 2)


def test_momentum_is_the_mirror_image_of_the_learning_rate():
    lr, momentum = path(OneCycleLR(sgd(), max_lr=1.0, total_steps=60, final_div_factor=1.0), 59)[:, 0].T
    np.testing.assert_allclose((lr - 0.04) / 0.96, (0.95 - momentum) / 0.1, atol=1e-12)


def test_the_papers_form_spends_its_last_phase_far_below_the_start():
    """Erratum: rise and fall of the learning rate alone are not the method; momentum and the last phase belong to it."""
    scheduler = OneCycleLR(sgd(), max_lr=1.0, total_steps=101, pct_start=0.4, anneal_strategy="linear", three_phase=True)
    lr, momentum = path(scheduler, 100)[:, 0].T
    top = 0.4 * 101 - 1
    assert [int(t) for t in (top, 2 * top)] == [39, 78]
    assert lr[79:].max() < 0.04 < lr[78] and lr[100] == pytest.approx(4e-6)
    assert np.abs(np.diff(lr[80:], 2)).max() < 1e-12, "a straight line"
    assert (momentum[79:] == 0.95).all() and momentum.min() < 0.852


@pytest.mark.parametrize("strategy", ["cos", "linear"])
def test_the_call_after_the_last_batch_never_goes_below_the_end(strategy):
    ours = path(OneCycleLR(sgd(), 1.0, 20, anneal_strategy=strategy), 20)
    assert (ours[20] == ours[19]).all()
    theirs = path(torch.optim.lr_scheduler.OneCycleLR(sgd(), 1.0, 20, anneal_strategy=strategy), 20)[20, 0, 0]
    assert theirs < 0 if strategy == "linear" else theirs > 1000 * ours[20, 0, 0]


def test_one_call_too_many_is_an_error():
    scheduler = OneCycleLR(sgd(), 1.0, 5)
    path(scheduler, 5)
    with pytest.raises(ValueError, match=r"step\(\) was called 6 times, the schedule has total_steps=5"):
        scheduler.step()


def test_with_adam_the_first_beta_moves_and_the_second_stays():
    found = path(OneCycleLR(adam(), 0.01, 30), 29)[:, 0]
    assert found[:, 1].min() == pytest.approx(0.85, abs=1e-3) and found[0, 1] == 0.95
    assert (found[:, 2] == 0.97).all()


def test_the_optimizers_own_learning_rate_and_momentum_are_replaced():
    optimizer = sgd(momentum=0.0)
    scheduler = OneCycleLR(optimizer, 0.5, 10)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.02)
    assert optimizer.param_groups[0]["momentum"] == 0.95, "also one that was switched off"
    assert scheduler.base_lrs == [pytest.approx(0.02)]


def test_a_run_resumes_by_step_number_or_by_state():
    whole = path(OneCycleLR(sgd(), 0.5, 20), 19)
    first = OneCycleLR(sgd(), 0.5, 20)
    path(first, 8)
    by_state = OneCycleLR(sgd(), 0.5, 20)
    by_state.load_state_dict(copy.deepcopy(first.state_dict()))
    np.testing.assert_allclose(path(by_state, 11)[1:], whole[9:], rtol=1e-12)
    optimizer = first.optimizer
    optimizer.param_groups[0]["initial_lr"] = kept = 123.0
    by_number = OneCycleLR(optimizer, 0.5, 20, last_epoch=8)  # step 9 is next, and set at once, as in PyTorch
    assert optimizer.param_groups[0]["initial_lr"] == kept
    np.testing.assert_allclose(path(by_number, 10), whole[9:], rtol=1e-12)


def test_state_brings_its_old_length_along():
    """Pitfall: resuming with a longer run keeps the old end."""
    short, longer = OneCycleLR(sgd(), 0.5, 5), OneCycleLR(sgd(), 0.5, 50)
    longer.load_state_dict(short.state_dict())
    path(longer, 5)
    with pytest.raises(ValueError, match="total_steps=5"):
        longer.step()


def test_steps_within_a_sequence_move_the_momentum_too():
    optimizer = sgd()
    first = torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)
    both = torch.optim.lr_scheduler.SequentialLR(optimizer, [first, OneCycleLR(optimizer, 0.5, 10)], milestones=[3])
    momenta = path(both, 6)[:, 0, 1]
    np.testing.assert_allclose(momenta[3:], path(OneCycleLR(sgd(), 0.5, 10), 3)[:, 0, 1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(total_steps=0), "total_steps=0 is not a whole number above 0"),
        (dict(total_steps=10.0), "total_steps=10.0 is not a whole number"),
        (dict(anneal_strategy="exp"), "anneal_strategy='exp' is not 'cos' or 'linear'"),
        (dict(base_momentum=0.96), "base_momentum=0.96, max_momentum=0.95"),
        (dict(base_momentum=-0.1), "base_momentum=-0.1"),
        (dict(max_momentum=1.0), "max_momentum=1.0"),
        (dict(div_factor=0.0), "div_factor=0.0"),
        (dict(final_div_factor=0.0), "final_div_factor=0.0"),
        (dict(max_lr=0.0), "max_lr=0.0 is not a number above 0"),
        (dict(max_lr=[0.1]), "or one for each of 2 parameter groups"),
        (dict(max_lr=[0.1, -0.1]), "max_lr"),
        (dict(pct_start=0.0), "pct_start=0.0 of total_steps=20 leaves a phase without a step"),
        (dict(pct_start=0.05), "leaves a phase without a step"),
        (dict(pct_start=1.0), "leaves a phase without a step"),
        (dict(pct_start=30.0), "leaves a phase without a step"),
        (dict(pct_start=0.7, three_phase=True), r"its corners would be at steps \[0, 13.0, 26.0, 19\]"),
        (dict(pct_start=0.525, three_phase=True), "leaves a phase without a step"),
        (dict(total_steps=1), "leaves a phase without a step"),
    ],
)
def test_bad_options_say_which_and_why(options, message):
    with pytest.raises(ValueError, match=message):
        OneCycleLR(sgd(2), **{"max_lr": 0.5, "total_steps": 20, **options})


def test_extreme_options_are_allowed():
    OneCycleLR(sgd(), 0.5, 20, pct_start=0.0501)
    assert OneCycleLR(sgd(), 0.5, 20, div_factor=0.5, final_div_factor=0.5).get_last_lr() == [pytest.approx(1.0)]
    found = path(OneCycleLR(sgd(), 0.5, 3, pct_start=0.5, base_momentum=0.0, max_momentum=0.0), 2)
    assert (found[:, 0, 1] == 0).all()


def test_an_optimizer_without_momentum_is_named():
    plain = torch.optim.Adagrad([torch.nn.Parameter(torch.zeros(1))])
    with pytest.raises(ValueError, match="Adagrad has neither momentum nor betas; pass cycle_momentum=False"):
        OneCycleLR(plain, 0.5, 10)
    assert OneCycleLR(plain, 0.5, 10, cycle_momentum=False).get_last_lr() == [pytest.approx(0.02)]


def test_a_group_added_later_is_an_error():
    optimizer = sgd()
    scheduler = OneCycleLR(optimizer, 0.5, 10)
    optimizer.add_param_group({"params": [torch.nn.Parameter(torch.zeros(1))]})
    with pytest.raises(ValueError, match="the optimizer has 2 parameter groups, the schedule was built for 1"):
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize(("total", "pct"), [(50, 0.3), (333, 0.9), (50, 0.05)])
def test_numpy_variant_agrees(agree, total, pct):
    lr, momentum = path(OneCycleLR(sgd(), 0.7, total, pct), total - 1)[:, 0].T
    ours = np.array([one_cycle(step, total, 0.7, pct) for step in range(total)])
    agree(ours[:, 0], lr)
    agree(ours[:, 1], momentum)
