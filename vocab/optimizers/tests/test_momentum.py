import itertools
import math

import numpy as np
import pytest
import torch
from torch.nn import Parameter

from snippets.optimizers.momentum import momentum_step, slowest_factor
from vocab.optimizers.momentum import best_heavy_ball, critical_momentum, roots, stability_limit, velocity
from vocab.optimizers.sgd import SGD
from vocab.optimizers.tests.walks import assert_same_path, buffers, follow, in_numpy, quadratic


def example():
    """For the contract suite: builds an optimizer for given parameters."""
    return (lambda params: SGD(params, lr=0.02, momentum=0.8, dampening=0.3)), ()


def on_bowl(h, lr, momentum, steps, start=1.0):
    """The weight on h x^2 / 2 after each step."""
    A = torch.tensor([[h]], dtype=torch.float64)
    return quadratic(lambda p: SGD(p, lr=lr, momentum=momentum), A, torch.tensor([start], dtype=torch.float64), steps)[:, 0]


@pytest.mark.oracle("torch.optim.SGD with momentum")
@pytest.mark.parametrize(("momentum", "dampening"), [(0.5, 0.0), (0.95, 0.0), (0.9, 0.9)])
def test_equals_torch(momentum, dampening):
    options = dict(lr=0.01, momentum=momentum, dampening=dampening)
    assert_same_path(lambda p: SGD(p, **options), lambda p: torch.optim.SGD(p, **options))


@pytest.mark.oracle("recurrence of second order, from two positions and without a velocity")
def test_path_on_a_bowl_is_a_recurrence_of_positions():
    h, lr, mu = 3.0, 0.2, 0.8
    found = on_bowl(h, lr, mu, 40)
    for t in range(1, 40):
        assert found[t + 1].item() == pytest.approx(((1 + mu - lr * h) * found[t] - mu * found[t - 1]).item(), abs=1e-14)
    assert found[1].item() == pytest.approx(1 - lr * h)


@pytest.mark.oracle("numpy.roots of the characteristic polynomial")
@pytest.mark.parametrize(("lr", "h", "momentum"), [(0.1, 1.0, 0.9), (0.1, 1.0, 0.2), (0.5, 7.0, 0.9), (1.0, 0.3, 0.0)])
def test_roots_are_those_of_the_polynomial(lr, h, momentum):
    expected = sorted(np.roots([1, -(1 + momentum - lr * h), momentum]), key=abs)[::-1]
    found = roots(lr, h, momentum)
    assert sorted(np.round(found, 10), key=lambda z: (z.real, z.imag)) == pytest.approx(sorted(np.round(expected, 10), key=lambda z: (z.real, z.imag)))
    assert abs(found[0]) >= abs(found[1])
    assert float(slowest_factor(np.array(lr * h), momentum)) == pytest.approx(abs(found[0]))


@pytest.mark.oracle("theory: stable exactly for 0 < lr h < 2 (1 + momentum)")
@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.95])
def test_the_limit_is_where_the_theory_puts_it(momentum):
    h = 4.0
    limit = stability_limit(h, momentum)
    inside, outside = on_bowl(h, 0.98 * limit, momentum, 3000), on_bowl(h, 1.02 * limit, momentum, 3000)
    assert inside[-1].abs() < 1e-3 and not outside[-1].abs() < 1e3
    assert abs(roots(limit, h, momentum)[0]) == pytest.approx(1)
    assert stability_limit(h, momentum) == pytest.approx((1 + momentum) * 2 / 4)


@pytest.mark.oracle("theory: double root at momentum (1 - sqrt(lr h))^2")
@pytest.mark.parametrize("x", [0.01, 0.3, 1.5])
def test_critical_momentum_gives_a_double_root_and_is_the_fastest(x):
    mu = critical_momentum(x / 2, 2.0)
    first, second = roots(x, 1.0, mu)
    assert first == pytest.approx(second, abs=1e-6)
    rates = {m: abs(roots(x, 1.0, m)[0]) for m in np.linspace(0, 0.99, 100)}
    assert abs(first) <= min(rates.values()) + 1e-9
    assert abs(first) == pytest.approx(abs(1 - math.sqrt(x)), abs=1e-6)


def test_below_the_critical_momentum_it_creeps_and_above_it_swings():
    h, lr = 1.0, 0.1
    mu = critical_momentum(lr, h)
    assert (on_bowl(h, lr, mu - 0.1, 200) > 0).all()
    assert (on_bowl(h, lr, mu + 0.1, 200) < 0).any()


@pytest.mark.oracle("search over rate and momentum on a grid")
def test_best_heavy_ball_has_the_square_root_of_the_condition_number():
    low, high = 0.5, 20.0
    lr, mu = best_heavy_ball(low, high)
    k = math.sqrt(high / low)
    worst = lambda lr, mu: max(abs(roots(lr, h, mu)[0]) for h in (low, high))  # noqa: E731
    assert worst(lr, mu) == pytest.approx((k - 1) / (k + 1), abs=1e-6)
    grid = min(worst(a, m) for a, m in itertools.product(np.linspace(0.01, 0.3, 60), np.linspace(0, 0.98, 50)))
    assert worst(lr, mu) <= grid
    plain = min(max(abs(1 - a * low), abs(1 - a * high)) for a in np.linspace(0.001, 0.1, 1000))
    assert plain == pytest.approx((k**2 - 1) / (k**2 + 1), abs=1e-3)
    assert math.log(plain) / math.log(worst(lr, mu)) < 0.2, "plain descent needs more than five times the steps"


def test_a_bowl_that_is_round_needs_one_step():
    assert best_heavy_ball(4.0, 4.0) == (0.25, 0.0)


@pytest.mark.oracle("geometric series: a constant gradient counts 1 / (1 - momentum) times")
@pytest.mark.parametrize(("momentum", "times"), [(0.9, 10), (0.99, 100)])
def test_a_constant_gradient_adds_up(momentum, times):
    """Erratum: 0.99 is no setting for large batches, it is a step ten times that of 0.9."""
    path = follow(lambda p: SGD(p, lr=0.01, momentum=momentum), [2.0] * 3000)
    assert (path[-2] - path[-1]).item() == pytest.approx(0.01 * 2 * times, rel=1e-9)
    assert (path[0] - path[1]).item() == pytest.approx(0.02), "the first step knows nothing of it"


def test_an_alternating_gradient_cancels():
    path = follow(lambda p: SGD(p, lr=1.0, momentum=0.9), [(-1.0) ** t for t in range(400)])
    assert (path[-1] - path[-2]).abs().item() == pytest.approx(1 / 1.9, rel=1e-6)


@pytest.mark.oracle("Adam's first moment, up to the first step")
def test_full_dampening_makes_a_mean():
    v, mean = torch.zeros(1, dtype=torch.float64), 0.0
    for t, g in enumerate([3.0, -1.0, 2.0, 5.0], 1):
        velocity(v, torch.tensor([g], dtype=torch.float64), t, 0.8, dampening=0.8)
        mean = g if t == 1 else 0.8 * mean + 0.2 * g
    assert v.item() == pytest.approx(mean)


def test_a_change_of_rate_rescales_the_whole_velocity():
    """Pitfall: with the rate inside the velocity the past would keep its own."""
    w = Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer, inside, position = SGD([w], lr=1.0, momentum=0.9), 0.0, 0.0
    for t in range(100):
        lr = 1.0 if t < 99 else 0.1
        optimizer.param_groups[0]["lr"] = lr
        w.grad = torch.ones_like(w)
        before = w.item()
        optimizer.step()
        inside = 0.9 * inside - lr
        position += inside
    assert before - w.item() == pytest.approx(1.0, rel=1e-3)
    assert -inside == pytest.approx(9.1, rel=1e-3)


def test_velocity_is_changed_in_place_and_the_gradient_is_not():
    v, g = torch.tensor([1.0]), torch.tensor([2.0])
    assert velocity(v, g, 2, 0.5) is v
    assert v.item() == 2.5 and g.item() == 2.0


def test_state_is_one_buffer():
    assert buffers(lambda p: SGD(p, momentum=0.9)) == [(3, 2)]


@pytest.mark.parametrize(("call", "message"), [
    (lambda: critical_momentum(4.0, 1.0), r"lr \* curvature = 4.0 is not in \(0, 4\)"),
    (lambda: critical_momentum(0.0, 1.0), "is not in"),
    (lambda: best_heavy_ball(0.0, 1.0), "low=0.0 and high=1.0: expected 0 < low <= high"),
    (lambda: best_heavy_ball(2.0, 1.0), "low=2.0 and high=1.0"),
])
def test_bad_numbers_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_numpy_variant_agrees(agree):
    agree(*in_numpy(lambda w, g, s, t: momentum_step(w, g, s, t, 0.03, 0.8), lambda p: SGD(p, lr=0.03, momentum=0.8)))
