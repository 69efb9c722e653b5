import copy

import numpy as np
import pytest
import torch

from snippets.schedulers.arena import expected_loss
from snippets.schedulers.warmup_stable_decay import warmup_stable_decay
from vocab.schedulers.tests.test_one_cycle import path, sgd
from vocab.schedulers.warmup_stable_decay import WarmupStableDecay


def example():
    """For the contract suite: builds a scheduler for a given optimizer."""
    return (lambda optimizer: WarmupStableDecay(optimizer, warmup_steps=2, stable_steps=3, decay_steps=5)), ()


def rates(scheduler, calls):
    return path(scheduler, calls)[:, 0, 0]


@pytest.mark.oracle("transformers.get_wsd_schedule (linear, cosine, 1-sqrt)")
@pytest.mark.parametrize("decay", ["linear", "cosine", "1-sqrt"])
@pytest.mark.parametrize("ratio", [0.0, 0.2])
@pytest.mark.parametrize(("warmup", "stable", "fall"), [(0, 10, 5), (7, 0, 20), (5, 30, 1), (10, 20, 30)])
def test_equals_transformers_at_every_step(warmup, stable, fall, ratio, decay):
    transformers = pytest.importorskip("transformers")
    calls = warmup + stable + fall + 5
    theirs = path(transformers.get_wsd_schedule(sgd(2), num_warmup_steps=warmup, num_stable_steps=stable, num_decay_steps=fall, decay_type=decay,
                                                min_lr_ratio=ratio), calls)
    ours = WarmupStableDecay(sgd(2), warmup, stable, fall, decay, ratio, start_factor=ratio)  # transformers rises from the ratio, too
    np.testing.assert_allclose(path(ours, calls), theirs, rtol=1e-12, atol=1e-15)


@pytest.mark.oracle("closed form at a quarter of the fall")
@pytest.mark.parametrize(("decay", "left"), [("1-sqrt", 0.5), ("linear", 0.75), ("cosine", (2 + 2**0.5) / 4)])
def test_the_curves_differ_in_how_they_begin(decay, left):
    found = rates(WarmupStableDecay(sgd(lr=2.0), 4, 10, 20, decay, 0.1), 60)
    assert found[2] == 1.0 and (found[4:15] == 2.0).all(), "the first step of the fall still has the plateau's rate"
    assert found[19] == pytest.approx(2.0 * (0.1 + 0.9 * left))
    assert found[34] == pytest.approx(0.2) and (found[34:] == found[34]).all()


def train(optimizer, weight, scheduler, steps, first=0):
    """Steps on a noisy loss whose noise depends on the step number alone, as the data of a run do."""
    for t in range(first, first + steps):
        noise = torch.randn(3, dtype=torch.float64, generator=torch.Generator().manual_seed(t))
        weight.grad = weight.detach() + noise
        optimizer.step()
        scheduler.step()


def build(stable, fall):
    weight = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))
    optimizer = torch.optim.AdamW([weight], lr=0.1)
    return weight, optimizer, WarmupStableDecay(optimizer, 5, stable, fall)


def test_runs_that_share_the_plateau_are_equal_to_the_last_bit_until_the_decay():
    """The branching property: the length of the run has no influence before the fall begins."""
    short, long = build(20, 10), build(60, 30)
    for weight, optimizer, scheduler in (short, long):
        train(optimizer, weight, scheduler, 25)
    assert torch.equal(short[0], long[0])
    for weight, optimizer, scheduler in (short, long):
        train(optimizer, weight, scheduler, 2, first=25)
    assert not torch.equal(short[0], long[0])


def test_a_branch_from_a_checkpoint_is_the_run_that_was_planned_so():
    planned = build(20, 10)
    train(planned[1], planned[0], planned[2], 35)
    trunk = build(None, 10)
    train(trunk[1], trunk[0], trunk[2], 25)
    kept = [copy.deepcopy(thing.state_dict()) for thing in trunk[1:]]
    weight, optimizer, scheduler = build(None, 10)
    weight.data.copy_(trunk[0].data)
    optimizer.load_state_dict(kept[0])
    scheduler.load_state_dict(kept[1])
    scheduler.decay_now()
    train(optimizer, weight, scheduler, 10, first=25)
    assert torch.equal(weight, planned[0])
    train(trunk[1], trunk[0], trunk[2], 100, first=25)
    assert trunk[2].get_last_lr() == [0.1], "the trunk goes on"


def test_decay_now_takes_another_length_and_refuses_the_wrong_moment():
    scheduler = WarmupStableDecay(sgd(lr=1.0), 3, None, 50, "linear")
    with pytest.raises(ValueError, match="step 0 is not on the plateau: it begins at step 3 and has stable_steps=None"):
        scheduler.decay_now()
    path(scheduler, 3)
    scheduler.decay_now(4)
    assert rates(scheduler, 5).tolist() == [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
    with pytest.raises(ValueError, match="step 8 is not on the plateau: it begins at step 3 and has stable_steps=0"):
        scheduler.decay_now()
    planned = WarmupStableDecay(sgd(lr=1.0), 0, 6, 4, "linear")
    path(planned, 6)
    planned.decay_now()  # the last moment, and no change
    assert planned.stable_steps == 6 and rates(planned, 2)[2] == 0.5
    with pytest.raises(ValueError, match="decay_steps=0 is not a whole number of at least 1"):
        WarmupStableDecay(sgd(), 0, 5, 3).decay_now(0)


def test_the_loss_falls_sharply_in_the_decay_so_the_trunk_must_not_be_compared_with_a_finished_run():
    """Pitfall: the trunk's loss is mostly the noise of its rate."""
    share = [WarmupStableDecay(sgd(), 10, 240, 50).factor(t) for t in range(300)]
    losses = expected_loss(0.5 * np.array(share))
    assert losses[250] > 0.95 * losses[200], "flat on the plateau"
    assert losses[300] < 0.55 * losses[250]


def test_a_very_short_decay_leaves_loss_on_the_table():
    losses = {fall: expected_loss(0.5 * np.array([WarmupStableDecay(sgd(), 0, 300 - fall, fall).factor(t) for t in range(300)]))[-1]
              for fall in (6, 60)}
    assert losses[6] > 1.5 * losses[60]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(warmup_steps=-1), "warmup_steps=-1 is not a whole number of at least 0"),
        (dict(stable_steps=-1), "stable_steps=-1 is not a whole number of at least 0"),
        (dict(decay_steps=0), "decay_steps=0 is not a whole number of at least 1"),
        (dict(decay="sqrt"), r"decay='sqrt' is not one of \['1-sqrt', 'linear', 'cosine'\]"),
        (dict(min_ratio=-0.1), "min_ratio=-0.1 is not between 0 and 1"),
        (dict(min_ratio=1.1), "min_ratio=1.1 is not between 0 and 1"),
        (dict(start_factor=1.1), "start_factor=1.1 is not between 0 and 1"),
    ],
)
def test_bad_options_say_which_and_why(options, message):
    with pytest.raises(ValueError, match=message):
        WarmupStableDecay(sgd(), **{"warmup_steps": 3, "stable_steps": 3, "decay_steps": 3, **options})


def test_extreme_options_are_allowed():
    assert rates(WarmupStableDecay(sgd(lr=1.0), 0, 0, 1, min_ratio=1.0), 3).tolist() == [1.0] * 4
    optimizer = sgd()
    optimizer.param_groups[0]["initial_lr"] = 1.0
    assert WarmupStableDecay(optimizer, 2, 2, 4, "linear", last_epoch=5).get_last_lr() == [0.5], "step 6 is next"


@pytest.mark.parametrize("decay", ["linear", "cosine", "1-sqrt"])
def test_numpy_variant_agrees(agree, decay):
    t = np.arange(80)
    agree(warmup_stable_decay(t, 10, 30, 25, 0.6, decay, 0.1), rates(WarmupStableDecay(sgd(lr=0.6), 10, 30, 25, decay, 0.1), 79))
    agree(warmup_stable_decay(t, 0, 30, 25, 0.6, decay), rates(WarmupStableDecay(sgd(lr=0.6), 0, 30, 25, decay), 79), atol=1e-15)
