import math

import pytest
import torch

from snippets.optimizers.adadelta import adadelta_step, watch
from snippets.optimizers.arena import surface
from vocab.optimizers.adadelta import Adadelta
from vocab.optimizers.tests.walks import assert_same_path, buffers, follow, in_numpy, layers, walk


def example():
    """For the contract suite: builds an optimizer for given parameters."""
    return (lambda params: Adadelta(params, lr=0.5, weight_decay=0.1, eps=1e-3)), ()


@pytest.mark.oracle("torch.optim.Adadelta, 100 steps")
@pytest.mark.parametrize("options", [{}, dict(lr=0.3, rho=0.6, eps=1e-2, weight_decay=0.2), dict(rho=0.95, maximize=True)])
def test_equals_torch(options):
    assert_same_path(lambda p: Adadelta(p, **options), lambda p: torch.optim.Adadelta(p, **options))


@pytest.mark.oracle("identity: the first step is sqrt(eps / ((1 - rho) g^2 + eps)) g")
@pytest.mark.parametrize("g", [1e-6, 0.5, -300.0])
def test_first_step_uses_the_updates_before_it(g):
    """Pitfall: with the current update in the numerator, the order of a common bug, this is another number."""
    rho, eps = 0.8, 1e-4
    first = follow(lambda p: Adadelta(p, rho=rho, eps=eps), [g])[1].item()
    assert first == pytest.approx(-math.sqrt(eps) / math.sqrt((1 - rho) * g * g + eps) * g, rel=1e-12)
    if abs(g) > 0.1:
        assert abs(first) == pytest.approx(math.sqrt(eps / (1 - rho)), rel=2e-3)


@pytest.mark.oracle("the paper's algorithm, in numbers")
def test_second_step_knows_the_first():
    rho, eps, (g1, g2) = 0.9, 1e-6, (2.0, -3.0)
    v = 0.1 * g1**2
    d1 = math.sqrt(eps) / math.sqrt(v + eps) * g1
    u = 0.1 * d1**2
    v = 0.9 * v + 0.1 * g2**2
    d2 = math.sqrt(u + eps) / math.sqrt(v + eps) * g2
    assert follow(lambda p: Adadelta(p, rho=rho, eps=eps), [g1, g2]).tolist() == pytest.approx([0, -d1, -d1 - d2], rel=1e-12)


@pytest.mark.oracle("invariance: the loss times a constant, up to eps")
def test_scale_of_the_loss_cancels():
    one, two = (walk(lambda p: Adadelta(p, eps=1e-8), layers((5, 4)), 1, factor) for factor in (1.0, 1e4))
    torch.testing.assert_close(one, two, rtol=1e-5, atol=0)
    start = layers((6,))[0].detach()
    ends = []
    for factor in (1e3, 1e6):
        w = torch.nn.Parameter(start.clone())
        optimizer = Adadelta([w], eps=1e-6)
        for t in range(80):
            torch.manual_seed(t)
            w.grad = factor * (w.detach() + torch.randn_like(w))
            optimizer.step()
        ends.append(w.detach())
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-6, atol=1e-8)


def test_steps_grow_by_themselves_from_the_start_that_eps_gives():
    """Pitfall: eps is the hidden learning rate of the start."""
    slow, fast = (follow(lambda p: Adadelta(p, eps=eps), [1.0] * 100) for eps in (1e-6, 1e-3))
    assert slow[1] / fast[1] == pytest.approx(math.sqrt(1e-3), rel=0.01)
    assert (slow.diff().abs()[1:] > slow.diff().abs()[:-1]).all()
    assert abs(fast[-1]) > 20 * abs(slow[-1])


def test_rate_is_a_factor_outside_of_both_means():
    one, two = (follow(lambda p: Adadelta(p, lr=lr), [1.0, 3.0, -2.0]) for lr in (1.0, 0.25))
    torch.testing.assert_close(two, 0.25 * one, rtol=1e-12, atol=0)


@pytest.mark.oracle("exponential mean, worked out from all gradients")
def test_accumulator_is_an_exponential_mean_and_no_window():
    """Erratum: a gradient from long ago still counts, and none is stored."""
    w = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))
    optimizer, gradients = Adadelta([w], rho=0.9), [50.0] + [1.0] * 60
    for g in gradients:
        w.grad = torch.tensor(g, dtype=torch.float64)
        optimizer.step()
    expected = sum(0.1 * 0.9 ** (60 - i) * g**2 for i, g in enumerate(gradients))
    assert optimizer.state[w]["v"].item() == pytest.approx(expected, rel=1e-12)
    assert expected - (1 - 0.9**60) == pytest.approx(0.1 * 0.9**60 * 2500, rel=1e-9)
    assert buffers(lambda p: Adadelta(p)) == [(3, 2)] * 2


def test_defaults_are_those_of_torch():
    ours, theirs = Adadelta(layers((2,))).defaults, torch.optim.Adadelta(layers((2,))).defaults
    assert ours == {name: theirs[name] for name in ours}


def test_nan_is_not_hidden():
    (w,) = layers((2, 2))
    w.grad = torch.full_like(w, torch.nan)
    Adadelta([w]).step()
    assert w.isnan().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(lr=-0.1), "lr=-0.1 is not 0 or more"),
        (dict(rho=1.0), r"rho=1.0 is not in \[0, 1\)"),
        (dict(rho=-0.1), "rho=-0.1"),
        (dict(eps=-1.0), "eps=-1.0"),
    ],
)
def test_bad_options_are_named_in_every_group(options, message):
    with pytest.raises(ValueError, match=message):
        Adadelta(layers((2, 2)), **options)
    with pytest.raises(ValueError, match=message):
        Adadelta([{"params": layers((2, 2)), **options}])


def test_numpy_variant_agrees(agree):
    agree(*in_numpy(lambda w, g, s, t: adadelta_step(w, g, s, t, 0.7, 0.8, 1e-3), lambda p: Adadelta(p, 0.7, 0.8, 1e-3)))


def test_demo_is_blind_to_the_scale_of_the_loss():
    one, two = (watch(surface("bowl"), 0.9, 1e-6, factor)[0] for factor in (1.0, 100.0))
    assert abs(one - two).max() < 1e-3 and abs(one[-1] - one[0]).max() > 0.5
