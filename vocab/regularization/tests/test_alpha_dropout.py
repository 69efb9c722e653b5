import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from snippets.regularization import alpha_dropout as numpy_alpha
from vocab.regularization.alpha_dropout import LOWER_LIMIT, AlphaDropout, affine
from vocab.regularization.dropout import Dropout
from vocab.regularization.tests.test_dropout import FixedDraws


def example():
    """For the contract suite: a small instance and its inputs."""
    return AlphaDropout(0.3), (torch.randn(3, 4).double(),)


@pytest.mark.oracle("torch.nn.functional.alpha_dropout under the same seed")
@pytest.mark.parametrize("p", [0.0, 0.05, 0.5, 0.9, 1.0])
def test_equals_torch(p):
    x = torch.randn(40, 7).double()
    torch.manual_seed(3)
    expected = F.alpha_dropout(x, p, training=True)
    torch.manual_seed(3)
    torch.testing.assert_close(AlphaDropout(p)(x), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.oracle("mean and variance of a million standard normal numbers")
@pytest.mark.parametrize("p", [0.05, 0.3, 0.6])
def test_mean_and_variance_stay_where_plain_dropout_raises_the_variance(p):
    n = 1_000_000
    x = torch.randn(n, dtype=torch.float64)
    y = AlphaDropout(p)(x)
    assert abs(y.mean().item()) < 4.5 / math.sqrt(n)
    assert y.var().item() == pytest.approx(1, abs=0.01)
    assert Dropout(p)(x).var().item() == pytest.approx(1 / (1 - p), rel=0.01)


@pytest.mark.oracle("published constant of the paper")
def test_dropped_numbers_lie_at_the_lower_limit_of_selu():
    assert LOWER_LIMIT == pytest.approx(-1.0507 * 1.6733, abs=1e-3) and LOWER_LIMIT == pytest.approx(-1.7581, abs=1e-4)
    assert LOWER_LIMIT == pytest.approx(F.selu(torch.tensor(-100.0).double()).item(), rel=1e-12)
    a, b = affine(0.4)
    y = AlphaDropout(0.4)(torch.full((10_000,), 5.0, dtype=torch.float64))
    dropped = (y - b) / a
    assert dropped.min().item() == pytest.approx(LOWER_LIMIT) and dropped.max().item() == pytest.approx(5)
    assert (dropped < 0).double().mean().item() == pytest.approx(0.4, abs=0.025)


@pytest.mark.oracle("moments of the mixture, from the definition")
@pytest.mark.parametrize("p", [0.0, 0.1, 0.7])
def test_scale_and_shift_undo_the_moments_of_the_mixture(p):
    a, b = affine(p)
    mean = p * -1.7580993408473766
    second = (1 - p) + p * 1.7580993408473766**2
    assert a * mean + b == pytest.approx(0, abs=1e-12)
    assert a**2 * (second - mean**2) == pytest.approx(1, rel=1e-12)


def test_behind_relu_it_keeps_neither_mean_nor_variance():
    x = torch.randn(200_000).double().relu()
    y = AlphaDropout(0.3)(x)
    assert abs(y.mean() - x.mean()) > 0.1 and abs(y.var() / x.var() - 1) > 0.5


def test_gradients_pass_where_numbers_are_kept():
    x = torch.randn(300).double().requires_grad_()
    AlphaDropout(0.5)(x).sum().backward()
    assert set(x.grad.unique().tolist()) == {0.0, affine(0.5)[0]}


def test_evaluation_changes_nothing_and_a_generator_repeats():
    x = torch.randn(200)
    assert torch.equal(AlphaDropout().eval()(x), x) and AlphaDropout().p == 0.5 and "p=0.5" in repr(AlphaDropout())
    assert torch.equal(*(AlphaDropout()(x, torch.Generator().manual_seed(2)) for _ in range(2)))
    assert AlphaDropout(0.5)(torch.full((20,), math.nan)).isnan().all()


@pytest.mark.parametrize(("call", "p", "message"), [(AlphaDropout, 1.5, "p=1.5 is not between 0 and 1"), (AlphaDropout, -0.1, "p=-0.1 is not"),
                                                     (affine, 1.0, "p=1.0 is not from 0 to below 1"), (affine, -0.1, "p=-0.1 is not from 0")])
def test_bad_probability_is_named(call, p, message):
    with pytest.raises(ValueError, match=message):
        call(p)


def test_integers_are_refused():
    with pytest.raises(TypeError, match="x has dtype torch.int64; expected a floating-point dtype"):
        AlphaDropout()(torch.ones(3).long())


def test_numpy_variant_agrees(agree):
    x = torch.randn(50, 4).double()
    torch.manual_seed(5)
    kept = torch.empty(50, 4).double().bernoulli_(0.7) != 0
    torch.manual_seed(5)
    agree(numpy_alpha.alpha_dropout(x.numpy(), 0.3, FixedDraws(np.asarray(kept))), AlphaDropout(0.3)(x))
