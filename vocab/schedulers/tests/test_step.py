import copy

import numpy as np
import pytest
import torch

from snippets.schedulers.arena import CURVATURES, expected_loss
from snippets.schedulers.step import multi_step, step_decay
from vocab.schedulers.step import MultiStepLR, StepLR
from vocab.schedulers.tests.test_one_cycle import path, sgd


def example():
    """For the contract suite: builds a scheduler for a given optimizer."""
    return (lambda optimizer: StepLR(optimizer, step_size=3, gamma=0.5)), ()


PAIRS = [
    (lambda o: StepLR(o, 7, 0.8), lambda o: torch.optim.lr_scheduler.StepLR(o, 7, 0.8)),
    (lambda o: StepLR(o, 30), lambda o: torch.optim.lr_scheduler.StepLR(o, 30)),
    (lambda o: MultiStepLR(o, [90, 30, 60]), lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [90, 30, 60])),
    (lambda o: MultiStepLR(o, [5, 5, 17, 150], 0.5), lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [5, 5, 17, 150], 0.5)),
    (lambda o: MultiStepLR(o, []), lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [])),
]


@pytest.mark.oracle("torch.optim.lr_scheduler.StepLR and MultiStepLR (200 calls, and resumed in the middle)")
@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_equals_pytorch_for_200_calls_and_after_a_round_trip_of_the_state(ours, theirs):
    expected = path(theirs(sgd(2)), 200)
    np.testing.assert_allclose(path(ours(sgd(2)), 200), expected, rtol=1e-12)
    first = ours(sgd(2))
    path(first, 61)
    second = ours(sgd(2, lr=3.0))
    second.optimizer.load_state_dict(copy.deepcopy(first.optimizer.state_dict()))
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    np.testing.assert_allclose(path(second, 139), expected[61:], rtol=1e-12)


@pytest.mark.oracle("closed form lr · gamma^⌊t / step_size⌋")
def test_each_group_falls_by_gamma_every_step_size_calls():
    optimizer = torch.optim.SGD([{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr} for lr in (0.5, 2.0)])
    found = path(StepLR(optimizer, 4, 0.3), 40)[..., 0]
    t = np.arange(41)
    np.testing.assert_allclose(found, np.outer(0.3 ** (t // 4), [0.5, 2.0]), rtol=1e-13)
    assert found[3, 1] == 2.0 and found[4, 1] == pytest.approx(0.6), "the drop is at the call number step_size"


def test_the_resnet_recipe_has_three_drops_in_90_epochs():
    rates = path(MultiStepLR(sgd(lr=0.1), [30, 60, 80]), 89)[:, 0, 0]
    assert [int(n) for n in np.flatnonzero(np.diff(rates)) + 1] == [30, 60, 80]
    assert rates[-1] == pytest.approx(1e-4)


def test_a_milestone_named_twice_counts_twice():
    assert path(MultiStepLR(sgd(lr=1.0), [2, 2], 0.5), 3)[:, 0, 0].tolist() == [1, 1, 0.25, 0.25]


def test_calls_are_counted_not_epochs():
    """Erratum: "every N epochs" is true only if step() is called once an epoch."""
    batches, epochs = 10, 6
    per_epoch, per_batch = StepLR(sgd(lr=1.0), 3, 0.1), StepLR(sgd(lr=1.0), 3, 0.1)
    path(per_epoch, epochs)
    path(per_batch, epochs * batches)
    assert per_epoch.get_last_lr() == [pytest.approx(0.01)]
    assert per_batch.get_last_lr() == [pytest.approx(1e-20)], "the same number, meant in epochs and called per batch: training is over"


@pytest.mark.oracle("steady state of SGD on a noisy quadratic, solved by hand")
def test_the_drop_of_the_loss_is_the_noise_shrinking():
    """At a constant rate the expected loss settles at Σ noise² lr / (2 (2 - lr h)), which falls with the rate."""
    noise, late = 0.7, {}
    for lr in (0.5, 0.05):
        late[lr] = expected_loss(np.full(40_000, lr), noise)[-1]
        by_hand = sum(h * lr**2 * noise**2 / (1 - (1 - lr * h) ** 2) / 2 for h in CURVATURES)
        assert late[lr] == pytest.approx(by_hand, rel=1e-9)
    assert 8 < late[0.5] / late[0.05] < 13, "a tenth of the rate, about a tenth of the loss"


def test_step_before_the_optimizer_warns_and_skips_the_first_rate():
    optimizer = sgd(lr=1.0)
    scheduler = StepLR(optimizer, 1, 0.5)
    with pytest.warns(UserWarning, match="before `optimizer.step"):
        scheduler.step()
    assert optimizer.param_groups[0]["lr"] == 0.5, "no step was made with 1.0"


def test_a_rate_set_by_hand_is_overwritten_here_and_kept_by_pytorch():
    for build, after in ((StepLR, 1.0), (torch.optim.lr_scheduler.StepLR, 0.25)):
        optimizer = sgd(lr=1.0)
        scheduler = build(optimizer, 10, 0.5)
        optimizer.param_groups[0]["lr"] = 0.25
        optimizer.step()
        scheduler.step()
        assert optimizer.param_groups[0]["lr"] == after


def test_works_as_a_part_of_a_sequence():
    def sequence(build, optimizer):
        first = torch.optim.lr_scheduler.ConstantLR(optimizer, factor=0.5, total_iters=100)
        return torch.optim.lr_scheduler.SequentialLR(optimizer, [first, build(optimizer, 4, 0.1)], milestones=[5])

    found = path(sequence(StepLR, sgd(2)), 20)
    np.testing.assert_allclose(found, path(sequence(torch.optim.lr_scheduler.StepLR, sgd(2)), 20), rtol=1e-12)
    assert found[4, 0, 0] == 3.5 and found[5, 0, 0] == 7.0


def test_a_run_can_be_resumed_by_its_step_number():
    optimizer = sgd(lr=1.0)
    optimizer.param_groups[0]["initial_lr"] = 8.0
    assert StepLR(optimizer, 2, 0.5, last_epoch=3).get_last_lr() == [2.0], "step 4 is next"
    assert MultiStepLR(optimizer, [2], 0.5, last_epoch=3).get_last_lr() == [4.0]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda o: StepLR(o, 0), "step_size=0 is not a whole number of at least 1"),
        (lambda o: StepLR(o, 2.0), "step_size=2.0 is not a whole number"),
        (lambda o: StepLR(o, True), "step_size=True is not a whole number"),
        (lambda o: StepLR(o, 2, 0.0), "gamma=0.0 is not above 0 and at most 1"),
        (lambda o: StepLR(o, 2, 1.5), "gamma=1.5 is not above 0 and at most 1"),
        (lambda o: StepLR(o, 2, float("nan")), "gamma=nan"),
        (lambda o: MultiStepLR(o, [3, 0]), "milestone=0 is not a whole number of at least 1"),
        (lambda o: MultiStepLR(o, [3, 4.5]), "milestone=4.5"),
        (lambda o: MultiStepLR(o, [3], -0.1), "gamma=-0.1"),
    ],
)
def test_bad_options_say_which_and_why(build, message):
    with pytest.raises(ValueError, match=message):
        build(sgd())


def test_smallest_options_are_allowed():
    assert path(StepLR(sgd(), 1, 1.0), 3)[:, 0, 0].tolist() == [7.0] * 4
    assert path(MultiStepLR(sgd(), [1]), 1)[1, 0, 0] == pytest.approx(0.7)


def test_a_group_added_later_is_an_error():
    optimizer = sgd()
    scheduler = StepLR(optimizer, 3)
    optimizer.add_param_group({"params": [torch.nn.Parameter(torch.zeros(1))]})
    with pytest.raises(ValueError, match="the optimizer has 2 parameter groups, the schedule was built for 1"):
        optimizer.step()
        scheduler.step()


def test_numpy_variant_agrees(agree):
    t = np.arange(60)
    agree(step_decay(t, 0.8, 7, 0.6), path(StepLR(sgd(lr=0.8), 7, 0.6), 59)[:, 0, 0])
    agree(multi_step(t, 0.8, [50, 20, 35], 0.6), path(MultiStepLR(sgd(lr=0.8), [50, 20, 35], 0.6), 59)[:, 0, 0])
    assert step_decay(14, 0.8, 7, 0.5) == 0.2
