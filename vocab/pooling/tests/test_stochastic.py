import numpy as np
import pytest
import torch
from torch.nn import functional as F

from snippets.pooling import stochastic as numpy_variant
from vocab.pooling.stochastic import StochasticPool2d

D = torch.float64
N = 40_000


def example():
    return StochasticPool2d(2), (torch.rand(2, 2, 4, 5, dtype=D) + 0.1,)


def draws(values):
    """Many draws of one 2×2 window."""
    x = torch.tensor(values, dtype=D).view(1, 1, 2, 2).expand(1, N, 2, 2)
    return StochasticPool2d(2)(x)[0, :, 0, 0]


@pytest.mark.oracle("chi-square test of the frequencies")
@pytest.mark.parametrize("values", [(1.0, 2.0, 3.0, 4.0), (0.1, 0.0, 5.0, 1.0), (2.0, 2.5, 2.2, 2.1)])
def test_activations_are_drawn_in_proportion_to_their_size(values):
    stats = pytest.importorskip("scipy.stats")
    found, a = draws(values), torch.tensor(values, dtype=D)
    counts = np.array([(found == v).sum().item() for v in values])
    assert counts.sum() == N
    expected = (a / a.sum() * N).numpy()
    assert counts[expected == 0].sum() == 0
    assert stats.chisquare(counts[expected > 0], expected[expected > 0]).pvalue > 1e-4
    assert stats.chisquare(counts[expected > 0]).pvalue < 1e-4, "not evenly"


@pytest.mark.oracle("law of large numbers: within four standard errors")
def test_evaluation_gives_the_mean_of_many_draws():
    values = (1.0, 2.0, 3.0, 4.0)
    found = draws(values)
    y = StochasticPool2d(2).eval()(torch.tensor(values, dtype=D).view(1, 1, 2, 2)).item()
    assert y == pytest.approx(30 / 10) and abs(found.mean().item() - y) < 4 * found.std().item() / N**0.5


@pytest.mark.oracle("closed form sum a² / sum a")
@pytest.mark.parametrize(("k", "s"), [(2, 2), (3, 2), (2, 1)])
def test_evaluation_is_the_probability_weighted_mean_between_average_and_maximum(k, s):
    x = torch.rand(2, 3, 7, 8, dtype=D)
    y = StochasticPool2d(k, s).eval()(x)
    torch.testing.assert_close(y, F.avg_pool2d(x.square(), k, s) / F.avg_pool2d(x, k, s))
    assert (y >= F.avg_pool2d(x, k, s) - 1e-12).all() and (y <= F.max_pool2d(x, k, s) + 1e-12).all()
    torch.testing.assert_close(StochasticPool2d(k, s).eval()(x), y, rtol=0, atol=0)


def test_erratum_it_does_not_draw_evenly_and_is_not_random_in_evaluation():
    """A widely copied sentence says that it samples from the region: neither the proportions nor the test rule is in it."""
    found = draws((1.0, 0.0, 0.0, 9.0))
    assert (found == 9).double().mean().item() == pytest.approx(0.9, abs=0.01)
    module, x = StochasticPool2d(2), torch.rand(1, 8, 6, 6)
    assert not torch.equal(module(x), module(x))
    assert torch.equal(module.eval()(x), module.eval()(x))


def test_a_window_of_zeros_gives_zero_and_a_single_activation_always_wins():
    zeros, one = torch.zeros(1, 1, 2, 2, dtype=D, requires_grad=True), (0.0, 0.0, 1e-6, 0.0)
    assert (draws(one) == 1e-6).all() and (draws((0.0, 0.0, 0.0, 3.0)) == 3.0).all()
    for module in (StochasticPool2d(2), StochasticPool2d(2).eval()):
        y = module(zeros)
        assert y.item() == 0.0
        assert torch.autograd.grad(y, zeros)[0].isfinite().all()


def test_gradient_goes_to_the_drawn_activation_alone():
    x = torch.rand(1, 3, 4, 4, dtype=D, requires_grad=True)
    y = StochasticPool2d(2)(x)
    assert y.shape == (1, 3, 2, 2)
    y.backward(2 * torch.ones_like(y))
    assert (x.grad == 2).sum() == y.numel() and (x.grad != 0).sum() == y.numel()
    torch.testing.assert_close((x.grad * x).detach().sum(), 2 * y.detach().sum())


def test_the_generator_decides_and_windows_are_drawn_independently():
    module, x = StochasticPool2d(2), torch.rand(1, 4, 8, 8)
    first, again, other = (module(x, torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    alike = draws((1.0, 2.0, 3.0, 4.0))
    assert len(alike.unique()) == 4, "equal windows are drawn one by one"


def test_half_precision_is_summed_in_single():
    x = torch.full((1, 1, 2, 2), 300.0, dtype=torch.float16)
    y = StochasticPool2d(2).eval()(x)
    assert y.item() == 300.0 and y.dtype == torch.float16


@pytest.mark.parametrize("training", [True, False])
def test_negative_activations_are_refused(training):
    with pytest.raises(ValueError, match="x holds -0.5: a negative activation has no probability; put a ReLU before"):
        StochasticPool2d(2).train(training)(torch.tensor([1.0, -0.5, 0.0, 0.0]).view(1, 1, 2, 2))


def test_wrong_arguments_and_inputs_are_named():
    with pytest.raises(ValueError, match="kernel_size=0 is below 1"):
        StochasticPool2d(0)
    with pytest.raises(ValueError, match="stride=0 is below 1"):
        StochasticPool2d(2, 0)
    with pytest.raises(ValueError, match=r"x has shape \(3, 8, 8\)"):
        StochasticPool2d(2)(torch.zeros(3, 8, 8))
    with pytest.raises(ValueError, match="x has a side of 1, with padding 1; a window spans 2"):
        StochasticPool2d(2)(torch.zeros(1, 1, 1, 4))
    with pytest.raises(TypeError, match="x is a list"):
        StochasticPool2d(2)([1.0])
    assert repr(StochasticPool2d(3, 2)) == "StochasticPool2d(3, stride=2)"


@pytest.mark.parametrize(("k", "s"), [(2, 2), (3, 2)])
def test_numpy_variant_agrees_in_evaluation(agree, k, s):
    x = torch.rand(1, 1, 7, 8, dtype=D)
    x[..., :3, :3] = 0
    agree(numpy_variant.stochastic_pool(x[0, 0].numpy(), k, s), StochasticPool2d(k, s).eval()(x)[0, 0])


def test_numpy_draws_have_the_same_probabilities():
    a = np.broadcast_to(np.array([1.0, 2.0, 3.0, 4.0]), (N, 4))
    _, winners = numpy_variant.draw(a, np.random.default_rng(0))
    np.testing.assert_allclose(np.bincount(winners) / N, [0.1, 0.2, 0.3, 0.4], atol=0.01)
    drawn = numpy_variant.stochastic_pool(np.arange(16.0).reshape(4, 4), 2, 2, np.random.default_rng(0))
    assert drawn.shape == (2, 2) and drawn[0, 0] in (1, 4, 5)


def test_demo_never_draws_a_zero():
    assert numpy_variant.show(first=0.0, draws=500)[0]["series"]["share of the draws"][0] == 0
