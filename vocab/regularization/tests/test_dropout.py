import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from snippets.regularization import dropout as numpy_dropout
from vocab.regularization.dropout import Dropout, dropout, dropout_mask


def example():
    """For the contract suite: a small instance and its inputs."""
    return Dropout(0.3), (torch.randn(3, 4).double(),)


class FixedDraws:
    """A NumPy generator whose numbers are given: those of a torch mask."""

    def __init__(self, kept):
        self.kept = np.asarray(kept, float)

    def random(self, shape):
        assert tuple(shape) == self.kept.shape
        return self.kept  # 1 is at least any p, 0 is below any p above 0


@pytest.mark.oracle("torch.nn.functional.dropout under the same seed")
@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_equals_torch(p, dtype):
    x = torch.randn(5, 7, 3).to(dtype)
    torch.manual_seed(3)
    theirs = F.dropout(x, p, training=True)
    torch.manual_seed(3)
    torch.testing.assert_close(Dropout(p)(x), theirs, rtol=0, atol=0)


@pytest.mark.oracle("binomial distribution of the number of zeros in a million")
@pytest.mark.parametrize("p", [0.1, 0.5, 0.8])
def test_zeros_have_their_share_and_the_mean_stays(p):
    n = 1_000_000
    y = Dropout(p)(torch.ones(n, dtype=torch.float64))
    zeros = (y == 0).sum().item()
    assert abs(zeros - n * p) < 4.5 * math.sqrt(n * p * (1 - p))
    assert ((y == 0) | (y == 1 / (1 - p))).all()
    assert y.mean().item() == pytest.approx(1, abs=4.5 * math.sqrt(p / (1 - p) / n))
    assert y.var().item() == pytest.approx(p / (1 - p), rel=0.02)


def test_evaluation_changes_nothing():
    x = torch.randn(4, 5)
    assert torch.equal(Dropout(0.9).eval()(x), x)
    assert torch.equal(Dropout(0.0)(x), x)


def test_p_of_one_leaves_zeros_and_no_infinity():
    x = torch.randn(4, 5, requires_grad=True)
    y = Dropout(1.0)(x)
    y.sum().backward()
    assert torch.equal(y, torch.zeros(4, 5)) and torch.equal(x.grad, torch.zeros(4, 5))


def test_backward_uses_the_mask_of_forward():
    x = torch.rand(200, dtype=torch.float64).add(0.5).requires_grad_()
    y = Dropout(0.4)(x)
    (slope,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(slope, (y != 0).double() / 0.6)


@pytest.mark.oracle("closed form of the expected squared loss (Wager et al. 2013)")
@pytest.mark.parametrize("p", [0.2, 0.5])
def test_expected_loss_of_a_linear_model_is_the_loss_and_a_ridge_penalty(p):
    x = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)
    w, target = torch.tensor([0.5, 0.3, -1.0, 0.2], dtype=torch.float64), 1.3
    losses = (Dropout(p)(x.expand(1_000_000, 4)) @ w - target).square()
    expected = (w @ x - target) ** 2 + p / (1 - p) * (w**2 * x**2).sum()
    assert abs(losses.mean() - expected) < 4.5 * losses.std() / 1000


def test_erratum_zeroing_alone_makes_training_quieter_than_evaluation():
    """Erratum: without the factor 1/(1-p) a unit sees half of its input in training and all of it afterwards."""
    x = torch.rand(200_000, dtype=torch.float64) + 1
    layer = Dropout(0.5)
    y = layer(x)
    copied = torch.where(y == 0, 0.0, x)
    assert (copied.mean() / layer.eval()(x).mean()).item() == pytest.approx(0.5, abs=0.01)
    assert (y.mean() / layer(x).mean()).item() == pytest.approx(1, abs=0.01)


@pytest.mark.oracle("closed form of the second moment")
def test_second_moment_is_larger_in_training_which_misleads_a_following_batch_norm():
    x = torch.randn(1_000_000, dtype=torch.float64)
    assert Dropout(0.5)(x).square().mean().item() == pytest.approx(2, rel=0.01)
    norm = torch.nn.Sequential(Dropout(0.5), torch.nn.BatchNorm1d(1, affine=False, momentum=1.0).double())
    norm(x.view(-1, 1))
    assert norm.eval()(x.view(-1, 1)).var().item() == pytest.approx(0.5, rel=0.02)


def test_a_mask_of_another_shape_drops_together():
    y = dropout(torch.ones(2000, 5, dtype=torch.float64), 0.3, shape=(2000, 1))
    assert (y == y[:, :1]).all() and (y[:, 0] == 0).double().mean().item() == pytest.approx(0.3, abs=0.05)


def test_a_generator_repeats_the_mask_and_leaves_the_global_one_alone():
    x, before = torch.ones(100), torch.get_rng_state()
    one, two = (Dropout(0.5)(x, generator=torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(one, two) and torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(Dropout(0.5)(x), Dropout(0.5)(x))


def test_dropped_nan_stays_visible():
    assert Dropout(0.9)(torch.full((50,), math.nan)).isnan().all()


@pytest.mark.parametrize("p", [-0.1, 1.1, math.nan])
def test_bad_probability_is_named(p):
    for call in (lambda: Dropout(p), lambda: dropout_mask(torch.zeros(1), p, (1,))):
        with pytest.raises(ValueError, match=f"p={p} is not between 0 and 1"):
            call()


def test_integers_are_refused_and_the_default_is_one_half():
    assert Dropout().p == 0.5 and "p=0.5" in repr(Dropout())
    with pytest.raises(TypeError, match="x has dtype torch.int64; expected a floating-point dtype"):
        Dropout()(torch.zeros(2, dtype=torch.long))


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_numpy_variant_agrees(agree, p):
    x = torch.randn(6, 5).double()
    torch.manual_seed(2)
    ours = Dropout(p)(x)
    agree(numpy_dropout.dropout(x.numpy(), p, FixedDraws(np.ones((6, 5)) if p == 0 else ours != 0)), ours)
    draws = numpy_dropout.dropout_mask((200_000,), p, np.random.default_rng(0))
    assert set(np.unique(draws)) <= {0.0, 1 / (1 - p) if p < 1 else 0.0}
    assert draws.mean() == pytest.approx(1 if p < 1 else 0, abs=0.01)
