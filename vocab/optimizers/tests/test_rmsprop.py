import math

import numpy as np
import pytest
import torch

from snippets.optimizers.rmsprop import jump, rmsprop_step
from vocab.optimizers.rmsprop import RMSprop
from vocab.optimizers.tests.walks import assert_same_path, buffers, follow, in_numpy, layers


def example():
    """For the contract suite: builds an optimizer for given parameters."""
    return (lambda params: RMSprop(params, lr=0.02, alpha=0.9, momentum=0.5, centered=True, weight_decay=0.1, eps=1e-3)), ()


@pytest.mark.oracle("torch.optim.RMSprop, 100 steps")
@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("options", [{}, dict(alpha=0.8, eps=1e-2, weight_decay=0.1, maximize=True)])
def test_equals_torch(centered, momentum, options):
    options = dict(lr=0.01, eps=1e-4, centered=centered, momentum=momentum) | options
    # a centered mean square comes from a difference that cancels, so rounding counts for more
    assert_same_path(lambda p: RMSprop(p, **options), lambda p: torch.optim.RMSprop(p, **options), rtol=1e-8 if centered else 1e-10)


@pytest.mark.oracle("closed form: lr / sqrt(1 - alpha^t) under a constant gradient")
@pytest.mark.parametrize("g", [1e-3, -50.0])
def test_constant_gradient_gives_steps_that_tend_to_the_rate(g):
    path = follow(lambda p: RMSprop(p, lr=0.1, eps=0.0), [g] * 1500)
    t = torch.arange(1, 1501, dtype=torch.float64)
    torch.testing.assert_close(path.diff(), -math.copysign(0.1, g) / (1 - 0.99**t).sqrt(), rtol=1e-9, atol=0)
    assert abs(path[1].item()) == pytest.approx(1.0), "ten times the rate at alpha = 0.99: there is no bias correction"
    assert abs((path[-1] - path[-2]).item()) == pytest.approx(0.1, rel=1e-6)


@pytest.mark.oracle("variance of a sequence, with exponential weights")
def test_centered_divides_by_a_standard_deviation():
    torch.manual_seed(0)
    gradients = (3 + 0.5 * torch.randn(1500, dtype=torch.float64)).tolist()
    plain, centered = (follow(lambda p: RMSprop(p, lr=1.0, alpha=0.99, centered=c), gradients).diff()[-500:].abs().mean().item() for c in (False, True))
    assert plain == pytest.approx(3 / math.sqrt(9.25), rel=0.03)
    assert centered == pytest.approx(3 / 0.5, rel=0.15)


def test_the_root_of_the_gradient_itself_is_no_number():
    """Erratum: a widely copied formula divides by sqrt(g) where the mean of squares belongs."""
    g = np.array([4.0, -4.0])
    with np.errstate(invalid="ignore"):
        wrong = g / np.sqrt(g)
    assert wrong[0] == 2.0 and np.isnan(wrong[1])
    assert np.allclose(rmsprop_step(np.zeros(2), g, {}, 1, lr=0.01, alpha=0.99), [-0.1, 0.1])


def test_default_rate_is_a_hundredth_as_in_torch():
    """Erratum: a widely copied call has lr=1e-3 as if it were the default."""
    ours, theirs = RMSprop(layers((2,))).defaults, torch.optim.RMSprop(layers((2,))).defaults
    assert ours == {name: theirs[name] for name in ours}
    assert ours["lr"] == 0.01 and ours["alpha"] == 0.99


def test_eps_inside_the_root_is_another_eps():
    """Pitfall: a port from a library with eps inside needs its root outside, and even then differs for gradients of that size."""
    g, eps = 1e-5, 1e-7
    outside = -follow(lambda p: RMSprop(p, lr=1.0, alpha=0.0, eps=eps), [g])[1].item()
    inside = g / math.sqrt(g * g + eps)
    assert outside == pytest.approx(1, rel=0.02) and inside == pytest.approx(0.0316, rel=0.01)


def test_forgets_what_was():
    path = follow(lambda p: RMSprop(p, lr=0.1, alpha=0.9), [100.0] * 10 + [0.1] * 300)
    assert (path[-2] - path[-1]).item() == pytest.approx(0.1, rel=1e-3)


def test_momentum_sums_quotients():
    path = follow(lambda p: RMSprop(p, lr=0.01, alpha=0.0, momentum=0.5, eps=0.0), [7.0, 0.3, 20.0])
    assert (-path.diff()).tolist() == pytest.approx([0.01, 0.015, 0.0175])


@pytest.mark.parametrize(("options", "count"), [({}, 1), (dict(momentum=0.9), 2), (dict(centered=True), 2), (dict(momentum=0.9, centered=True), 3)])
def test_state_is_one_to_three_buffers(options, count):
    assert buffers(lambda p: RMSprop(p, **options)) == [(3, 2)] * count


def test_nan_is_not_hidden():
    (w,) = layers((2, 2))
    w.grad = torch.full_like(w, torch.nan)
    RMSprop([w]).step()
    assert w.isnan().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(lr=-0.1), "lr=-0.1 is not 0 or more"),
        (dict(alpha=1.0), r"alpha=1.0 is not in \[0, 1\)"),
        (dict(alpha=-0.1), "alpha=-0.1"),
        (dict(momentum=1.0), r"momentum=1.0 is not in \[0, 1\)"),
        (dict(momentum=-0.5), "momentum=-0.5"),
        (dict(eps=-1.0), "eps=-1.0"),
    ],
)
def test_bad_options_are_named_in_every_group(options, message):
    with pytest.raises(ValueError, match=message):
        RMSprop(layers((2, 2)), **options)
    with pytest.raises(ValueError, match=message):
        RMSprop([{"params": layers((2, 2)), **options}])


@pytest.mark.parametrize("options", [{}, dict(momentum=0.7, centered=True, eps=1e-3)])
def test_numpy_variant_agrees(agree, options):
    agree(*in_numpy(lambda w, g, s, t: rmsprop_step(w, g, s, t, lr=0.02, alpha=0.9, **options), lambda p: RMSprop(p, lr=0.02, alpha=0.9, **options)))


def test_demo_root_follows_the_gradient_down():
    path, seen, roots = jump(lambda w, g, s, t: rmsprop_step(w, g, s, t, 0.02, 0.95), 10.0, 0.5)
    assert roots[99] > 5 and roots[150] < 0.3 * roots[99] and seen[100] < 0.2 * seen[90]
    assert len(path) == 301 and path[0] == 4.0
