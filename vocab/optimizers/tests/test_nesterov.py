import math

import numpy as np
import pytest
import torch

from snippets.optimizers.momentum import slowest_factor
from snippets.optimizers.nesterov import nesterov_step, overshoot, textbook_step
from snippets.optimizers.arena import surface
from vocab.optimizers.momentum import roots
from vocab.optimizers.nesterov import effective_momentum, look_ahead, look_ahead_point, stability_limit
from vocab.optimizers.sgd import SGD
from vocab.optimizers.tests.walks import assert_same_path, in_numpy, quadratic


def example():
    """For the contract suite: builds an optimizer for given parameters."""
    return (lambda params: SGD(params, lr=0.02, momentum=0.8, nesterov=True)), ()


def on_bowl(h, lr, momentum, steps, nesterov=True):
    """The weight on h x^2 / 2 after each step, from 1."""
    A = torch.tensor([[h]], dtype=torch.float64)
    return quadratic(lambda p: SGD(p, lr=lr, momentum=momentum, nesterov=nesterov), A, torch.ones(1, dtype=torch.float64), steps)[:, 0]


def textbook(gradient, start, lr, momentum, steps):
    """The form with the gradient at the look-ahead point; positions and velocities, from the start on."""
    theta, v = start.clone(), torch.zeros_like(start)
    found = [(theta, v)]
    for _ in range(steps):
        v = momentum * v + gradient(theta - lr * momentum * v)
        theta = theta - lr * v
        found.append((theta, v))
    return found


@pytest.mark.oracle("torch.optim.SGD(nesterov=True)")
@pytest.mark.parametrize("momentum", [0.5, 0.95])
def test_equals_torch(momentum):
    options = dict(lr=0.01, momentum=momentum, nesterov=True)
    assert_same_path(lambda p: SGD(p, **options), lambda p: torch.optim.SGD(p, **options))


@pytest.mark.oracle("the textbook's look-ahead form, in shifted variables")
def test_weights_are_the_points_from_which_the_textbook_looks():
    """Erratum: the two forms agree after a change of variables, and not step by step."""
    R = torch.randn(4, 4, dtype=torch.float64)
    A, start, lr, mu = R @ R.T, torch.randn(4, dtype=torch.float64), 0.03, 0.9
    ours = quadratic(lambda p: SGD(p, lr=lr, momentum=mu, nesterov=True), A, start, 100)
    book = textbook(lambda w: A @ w, start, lr, mu, 100)
    shifted = torch.stack([look_ahead_point(theta, v, lr, mu) for theta, v in book])
    torch.testing.assert_close(ours, shifted, rtol=1e-10, atol=1e-12)
    plain = torch.stack([theta for theta, _ in book])
    assert (ours - plain)[1:].norm(dim=1).min() > 1e-8
    assert (ours - plain)[1:20].norm(dim=1).min() > 1e-2


@pytest.mark.oracle("numpy.roots of the recurrence of the look-ahead form")
@pytest.mark.parametrize(("lr", "h", "momentum"), [(0.1, 1.0, 0.9), (0.05, 20.0, 0.9), (0.06, 20.0, 0.9), (0.3, 1.0, 0.3)])
def test_is_heavy_ball_with_momentum_scaled_by_one_minus_lr_h(lr, h, momentum):
    effective = effective_momentum(lr, h, momentum)
    # x_{t+1} = (1 - lr h)(x_t + momentum (x_t - x_{t-1}))
    expected = np.abs(np.roots([1, -(1 - lr * h) * (1 + momentum), (1 - lr * h) * momentum])).max()
    assert abs(roots(lr, h, effective)[0]) == pytest.approx(expected, abs=1e-7)
    assert float(slowest_factor(np.array(lr * h), effective)) == pytest.approx(expected, abs=1e-7)
    found = on_bowl(h, lr, momentum, 60)
    for t in range(1, 60):
        assert found[t + 1].item() == pytest.approx(((1 + effective - lr * h) * found[t] - effective * found[t - 1]).item(), abs=1e-13)


@pytest.mark.oracle("theory: the limit 2 (1 + momentum) / (1 + 2 momentum) / h")
@pytest.mark.parametrize("momentum", [0.3, 0.9])
def test_limit_of_the_learning_rate_is_below_that_of_heavy_ball_and_of_sgd(momentum):
    limit = stability_limit(5.0, momentum)
    assert on_bowl(5.0, 0.98 * limit, momentum, 3000)[-1].abs() < 1e-3
    assert not on_bowl(5.0, 1.02 * limit, momentum, 3000)[-1].abs() < 1e3
    assert limit < 2 / 5.0
    assert stability_limit(5.0, 0.0) == pytest.approx(0.4)
    assert on_bowl(5.0, 1.02 * limit, momentum, 3000, nesterov=False)[-1].abs() < 1e-3


def test_swings_less_than_heavy_ball():
    look, plain = (-on_bowl(10.0, 0.02, 0.9, 200, nesterov).min() for nesterov in (True, False))
    assert 0 < look < 0.6 * plain


@pytest.mark.oracle("Nesterov 1983: error below 2 |x0 - x*|^2 / (lr (t + 1)^2) with momentum (t - 1) / (t + 2)")
def test_with_a_growing_momentum_a_smooth_convex_function_falls_like_one_over_t_squared():
    n = 200  # a chain of springs pulled at its end: plain descent is slow on it
    A = (2 * torch.eye(n) - torch.diag(torch.ones(n - 1), 1) - torch.diag(torch.ones(n - 1), -1)).double()
    b = torch.zeros(n, dtype=torch.float64)
    b[0] = 1.0
    goal, lr = torch.linalg.solve(A, b), 1 / 4
    value = lambda x: (0.5 * x @ A @ x - b @ x).item()  # noqa: E731
    x = last = slow = torch.zeros(n, dtype=torch.float64)
    lowest, errors = value(goal), []
    for t in range(1, 101):
        y = x + (t - 1) / (t + 2) * (x - last)
        last, x = x, y - lr * (A @ y - b)
        slow = slow - lr * (A @ slow - b)
        errors.append((value(x) - lowest, value(slow) - lowest))
        assert errors[-1][0] <= 2 * (goal @ goal).item() / (lr * (t + 1) ** 2)
    assert errors[-1][0] < 0.6 * errors[-1][1]


def test_needs_one_gradient_a_step_and_the_second_look_is_free():
    g, v = torch.tensor([2.0]), torch.tensor([10.0])
    assert look_ahead(g, v, 0.9).item() == 11.0
    assert (g.item(), v.item()) == (2.0, 10.0)


@pytest.mark.parametrize("options", [dict(momentum=0.0), dict(momentum=0.9, dampening=0.5)])
def test_needs_momentum_and_no_dampening(options):
    for kind in (SGD, torch.optim.SGD):
        with pytest.raises(ValueError, match="(?i)nesterov"):
            kind([torch.nn.Parameter(torch.zeros(1))], lr=0.1, nesterov=True, **options)


def test_numpy_variant_agrees(agree):
    agree(*in_numpy(lambda w, g, s, t: nesterov_step(w, g, s, t, 0.03, 0.8), lambda p: SGD(p, lr=0.03, momentum=0.8, nesterov=True)))


def test_textbook_form_of_the_snippet_is_the_textbooks():
    start, state, theta = torch.tensor([1.0, -2.0], dtype=torch.float64), {}, np.array([1.0, -2.0])
    A = torch.tensor([[2.0, 0.5], [0.5, 5.0]], dtype=torch.float64)
    for t in range(1, 21):
        theta = textbook_step(theta, lambda w: A.numpy() @ w, state, t, 0.1, 0.8)
    np.testing.assert_allclose(theta, textbook(lambda w: A @ w, start, 0.1, 0.8, 20)[-1][0].numpy(), rtol=1e-10)


def test_overshoot_of_the_demo():
    path = np.array([[-2.0, 1.0], [1.0, 0.5], [0.0, math.nan]])
    assert overshoot(path, surface("bowl")) == pytest.approx([50.0, 0.0])
    assert np.isnan(overshoot(path, surface("Rosenbrock"))[1])
