import copy

import numpy as np
import pytest
import torch

from snippets.schedulers import warmup as numpy_variant
from snippets.schedulers.warmup import warmup
from vocab.schedulers.tests.test_one_cycle import path, sgd
from vocab.schedulers.warmup import LinearWarmup


def example():
    """For the contract suite: builds a scheduler for a given optimizer."""
    return (lambda optimizer: LinearWarmup(optimizer, warmup_steps=6, start_factor=0.1)), ()


def rates(scheduler, calls):
    return path(scheduler, calls)[:, 0, 0]


@pytest.mark.oracle("torch.optim.lr_scheduler.LinearLR")
@pytest.mark.parametrize(("steps", "start"), [(1, 0.5), (10, 0.1), (37, 1 / 3), (5, 1.0)])
def test_equals_pytorch_at_every_step(steps, start):
    theirs = path(torch.optim.lr_scheduler.LinearLR(sgd(2), start, 1.0, steps), steps + 5)
    np.testing.assert_allclose(path(LinearWarmup(sgd(2), steps, start), steps + 5), theirs, rtol=1e-12)


@pytest.mark.oracle("transformers.get_constant_schedule_with_warmup")
@pytest.mark.parametrize("steps", [0, 1, 8])
def test_from_zero_it_equals_transformers(steps):
    transformers = pytest.importorskip("transformers")
    theirs = path(transformers.get_constant_schedule_with_warmup(sgd(2), steps), 15)
    np.testing.assert_allclose(path(LinearWarmup(sgd(2), steps), 15), theirs, rtol=1e-13)


def test_pytorch_cannot_start_from_zero():
    with pytest.raises(ValueError, match="greater than 0"):
        torch.optim.lr_scheduler.LinearLR(sgd(), 0.0, 1.0, 10)


def test_the_first_step_from_zero_moves_nothing():
    """Pitfall: with start_factor 0 one batch is computed for nothing, and the rise is one step late."""
    weight = torch.nn.Parameter(torch.ones(1, dtype=torch.float64))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    scheduler, seen = LinearWarmup(optimizer, 4), []
    for _ in range(3):
        weight.grad = torch.ones_like(weight)
        optimizer.step()
        scheduler.step()
        seen.append(weight.item())
    assert seen == [1.0, 0.75, 0.25]
    assert rates(LinearWarmup(sgd(lr=1.0), 4, start_factor=0.25), 3)[0] == 0.25


def test_the_full_rate_comes_at_step_warmup_steps():
    found = rates(LinearWarmup(sgd(lr=2.0), 8), 20)
    assert found[7] == 1.75 and (found[8:] == 2.0).all()
    assert found[:9].sum() == pytest.approx(2.0 * 9 / 2), "the area of a triangle"


def test_resuming_without_the_step_counter_warms_up_again():
    whole = rates(LinearWarmup(sgd(lr=1.0), 10), 20)
    first = LinearWarmup(sgd(lr=1.0), 10)
    path(first, 12)
    second = LinearWarmup(sgd(lr=1.0), 10)
    assert second.get_last_lr() == [0.0], "forgotten: back at the start"
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    np.testing.assert_array_equal(rates(second, 8)[1:], whole[13:])


def test_a_run_can_be_resumed_by_its_step_number():
    optimizer = sgd()
    optimizer.param_groups[0]["initial_lr"] = 1.0
    assert LinearWarmup(optimizer, 10, last_epoch=3).get_last_lr() == [0.4], "step 4 is next"


def net():
    """A small net whose start is sharp, its data, and its loss as a function of all weights in one vector."""
    x, y, w = (torch.from_numpy(v) for v in numpy_variant.problem())
    hidden = len(w) // (x.shape[1] + 1)

    def loss(w):
        return ((torch.tanh(x @ w[: -hidden].view(x.shape[1], hidden)) @ w[-hidden:] - y) ** 2).mean() / 2

    return loss, w


def sharpness(loss, w, rounds=200):
    """Largest eigenvalue of the Hessian by power iteration on products with it, in the direction of largest curvature upwards."""
    v, value = torch.randn(w.shape, dtype=w.dtype, generator=torch.Generator().manual_seed(1)), 0.0
    for _ in range(rounds):
        v = v / v.norm()
        product = torch.autograd.functional.hvp(loss, w, v)[1]
        value = (v @ product).item()
        v = product + 2 * v  # lifts negative curvatures, which are small here, so that the largest one wins
    return value


def descend(loss, w, schedule):
    losses, path_ = [], [w]
    for lr in schedule:
        w = w.detach().requires_grad_()
        value = loss(w)
        losses.append(value.item())
        w = (w - lr * torch.autograd.grad(value, w)[0]).detach()
        path_.append(w)
    return losses, path_


@pytest.mark.oracle("torch.autograd.functional.hessian (largest eigenvalue)")
def test_warm_up_leads_to_flatter_places_and_without_it_the_run_is_lost():
    """Why it helps: the target is above 2 / curvature at the start, and no longer at the end of the rise."""
    loss, w = net()
    exact = torch.linalg.eigvalsh(torch.autograd.functional.hessian(loss, w))
    at_start = sharpness(loss, w)
    assert at_start == pytest.approx(exact[-1].item(), rel=1e-6)
    target = 8 / at_start
    slow, path_ = descend(loss, w, [target * LinearWarmup(sgd(), 150).factor(t) for t in range(300)])
    at_end = sharpness(loss, path_[150])
    assert 2 / at_start < target < 2.1 / at_end, "it has become flat enough"
    assert at_end < 0.3 * at_start
    fast, _ = descend(loss, w, [target] * 300)
    assert max(slow) <= slow[0] and slow[-1] < 1e-3 * slow[0]
    assert fast[50] > 1e6 * fast[0], "lost"


@pytest.mark.oracle("numbers of the Adam recursion, worked out for one weight")
def test_adams_first_steps_have_the_full_rate_whatever_the_gradient():
    """One of the two reasons: the first step is lr · sign(g), as the second moment is that single gradient's square."""
    moved = []
    for g in (1e-4, 1.0, 30.0):
        weight = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
        optimizer = torch.optim.Adam([weight], lr=0.5, eps=0.0)
        weight.grad = torch.full_like(weight, g)
        optimizer.step()
        moved.append(weight.item())
    np.testing.assert_allclose(moved, [-0.5] * 3, rtol=1e-12)


def test_the_right_length_scales_with_the_memory_of_adam():
    """Erratum: 10,000 steps are no constant of nature. v has seen 1 - beta2^t of its weight after t steps."""
    for beta2, enough in ((0.999, 3000), (0.95, 60)):
        assert 1 - beta2**enough == pytest.approx(0.95, abs=0.005)
    assert 10_000 / 1_000_000 == 0.01 and 10_000 / 20_000 == 0.5, "one per cent of one run, half of another"


def test_layers_of_a_sharp_start_keep_their_balance_during_warm_up():
    """Erratum: not a balance of the layers' variances, but the curvature changes; gradient flow conserves each unit's balance
    of a linear net exactly, with or without warm-up."""
    x = torch.randn(30, 3, dtype=torch.float64)
    y = x @ torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    a, b = torch.randn(3, 4, dtype=torch.float64), torch.randn(4, dtype=torch.float64)
    start = (a**2).sum(0) - b**2
    for t in range(4000):
        error = x @ a @ b - y
        lr = 2e-3 * min(1, t / 2000)
        a, b = a - lr * x.T @ torch.outer(error, b) / 30, b - lr * (x @ a).T @ error / 30
    assert (x @ a @ b - y).square().mean() < 0.05
    torch.testing.assert_close((a**2).sum(0) - b**2, start, rtol=0, atol=0.02)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(warmup_steps=-1), "warmup_steps=-1 is not a whole number of at least 0"),
        (dict(warmup_steps=10.0), "warmup_steps=10.0 is not a whole number"),
        (dict(warmup_steps=5, start_factor=-0.1), "start_factor=-0.1 is not between 0 and 1"),
        (dict(warmup_steps=5, start_factor=1.1), "start_factor=1.1 is not between 0 and 1"),
    ],
)
def test_bad_options_say_which_and_why(options, message):
    with pytest.raises(ValueError, match=message):
        LinearWarmup(sgd(), **options)


def test_numpy_variant_agrees(agree):
    t = np.arange(40)
    agree(warmup(t, 17, 0.2), rates(LinearWarmup(sgd(lr=1.0), 17, 0.2), 39))
    agree(warmup(t, 17), rates(LinearWarmup(sgd(lr=1.0), 17), 39))
    assert warmup(3, 0) == 1.0 and warmup(3, 4) == 0.75


def test_numpy_net_has_the_gradient_of_autograd(agree):
    loss, w = net()
    value, gradient = numpy_variant.loss_and_gradient(w.numpy(), *numpy_variant.problem()[:2])
    agree(value, loss(w))
    agree(gradient, torch.autograd.functional.jacobian(loss, w))
