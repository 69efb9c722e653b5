import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from snippets.activations import log_softmax as numpy_variant
from vocab.activations.log_softmax import LogSoftmax, log_softmax, logsumexp
from vocab.activations.softmax import softmax

D = torch.float64


def example():
    """For the contract suite: the function, logits and axis."""
    return log_softmax, (3 * torch.randn(2, 4, dtype=D), 1)


def logits(*shape):
    return 3 * torch.randn(*shape, dtype=D)


@pytest.mark.oracle("torch.nn.functional.log_softmax, torch.logsumexp")
@pytest.mark.parametrize("dim", [0, 1, 2, -1, -3])
def test_both_equal_pytorch_with_their_gradients_along_every_axis(dim):
    x = logits(3, 4, 5).requires_grad_()
    for ours, theirs in (
        (log_softmax(x, dim), F.log_softmax(x, dim)),
        (logsumexp(x, dim), torch.logsumexp(x, dim)),
        (logsumexp(x, dim, keepdim=True), torch.logsumexp(x, dim, keepdim=True)),
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-13, atol=1e-14)
        dy = torch.randn_like(theirs)
        torch.testing.assert_close(*(torch.autograd.grad(y, x, dy, retain_graph=True)[0] for y in (ours, theirs)), rtol=1e-11, atol=1e-13)
    torch.testing.assert_close(LogSoftmax(dim)(x), F.log_softmax(x, dim))


@pytest.mark.oracle("scipy.special: log_softmax, logsumexp")
def test_both_equal_scipy():
    special = pytest.importorskip("scipy.special")
    x = logits(6, 5)
    np.testing.assert_allclose(logsumexp(x, 1).numpy(), special.logsumexp(x.numpy(), 1), rtol=1e-13)
    np.testing.assert_allclose(log_softmax(x).numpy(), special.log_softmax(x.numpy(), 1), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(LogSoftmax()(x).numpy(), special.log_softmax(x.numpy(), 1), rtol=1e-12, atol=1e-14)


def test_exponentials_sum_to_one():
    torch.testing.assert_close(log_softmax(logits(9, 7)).exp().sum(-1), torch.ones(9, dtype=D))


@pytest.mark.oracle("the softmax is the gradient")
def test_gradient_of_logsumexp_is_the_softmax():
    x = logits(4, 6).requires_grad_()
    torch.testing.assert_close(torch.autograd.grad(logsumexp(x, 1).sum(), x)[0], softmax(x))


@pytest.mark.oracle("bounds of a smooth maximum")
def test_lies_between_the_maximum_and_log_n_above_it():
    x = logits(200, 8)
    above = logsumexp(x, 1) - x.amax(1)
    assert (above > 0).all() and (above < math.log(8)).all()
    assert logsumexp(torch.zeros(8, dtype=D), 0).item() == pytest.approx(math.log(8))
    assert (logsumexp(50 * x, 1) / 50 - x.amax(1)).max() < math.log(8) / 50, "with a low temperature it is the maximum"


@pytest.mark.oracle("convexity on random segments")
def test_is_convex():
    a, b, t = logits(300, 5), logits(300, 5), torch.rand(300, dtype=D)
    mixed = t[:, None] * a + (1 - t[:, None]) * b
    assert (logsumexp(mixed, 1) <= t * logsumexp(a, 1) + (1 - t) * logsumexp(b, 1) + 1e-12).all()


def test_it_is_underflow_that_log_softmax_avoids():
    """Erratum: the reason given is overflow. The softmax of [0, −1000] does not overflow; its logarithm is −inf."""
    x = torch.tensor([0.0, -1000.0])
    assert softmax(x).tolist() == [1.0, 0.0] and softmax(x).log()[1] == -math.inf
    assert log_softmax(x).tolist() == [0.0, -1000.0]
    z = x.clone().requires_grad_()
    softmax(z).log()[1].backward()
    assert z.grad.isnan().any()
    z.grad = None
    log_softmax(z)[1].backward()
    assert z.grad.tolist() == [-1.0, 1.0]


@pytest.mark.oracle("torch.nn.functional.cross_entropy")
def test_its_negative_at_the_target_is_cross_entropy():
    x, target = logits(9, 7), torch.randint(7, (9,))
    torch.testing.assert_close(-log_softmax(x)[torch.arange(9), target].mean(), F.cross_entropy(x, target))
    torch.testing.assert_close(F.nll_loss(log_softmax(x), target), F.cross_entropy(x, target))


def test_second_log_softmax_changes_nothing():
    once = log_softmax(logits(4, 5))
    torch.testing.assert_close(log_softmax(once), once, rtol=1e-12, atol=1e-14)


def test_large_logits_are_shifted_before_the_logarithm_is_subtracted():
    """In float32 the spacing of numbers near 1e6 is 0.06: x − logsumexp(x) cannot see log 2."""
    x = torch.tensor([1e6, 1e6])
    torch.testing.assert_close(log_softmax(x), torch.full((2,), -math.log(2)))
    assert (x - logsumexp(x, 0) + math.log(2)).abs().max() > 0.005


def test_infinities():
    nothing = torch.full((3,), -math.inf)
    assert logsumexp(nothing, 0) == -math.inf and log_softmax(nothing).isnan().all()
    assert logsumexp(torch.tensor([0.0, math.inf]), 0) == math.inf
    x = torch.tensor([0.0, -math.inf, 0.0])
    torch.testing.assert_close(log_softmax(x), torch.tensor([-math.log(2), -math.inf, -math.log(2)]))
    torch.testing.assert_close(torch.logsumexp(nothing, 0), logsumexp(nothing, 0))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_rounded_once(dtype):
    x = logits(5, 300).to(dtype)
    torch.testing.assert_close(log_softmax(x), log_softmax(x.float()).to(dtype), rtol=0, atol=0)
    torch.testing.assert_close(logsumexp(x, 1), logsumexp(x.float(), 1).to(dtype), rtol=0, atol=0)


def test_bad_arguments_are_named():
    for call in (lambda dim: log_softmax(logits(2, 3), dim), lambda dim: logsumexp(logits(2, 3), dim)):
        for dim in (2, -3):
            with pytest.raises(ValueError, match=rf"dim={dim} is not an axis of x, whose shape is \(2, 3\)"):
                call(dim)
    for function in (log_softmax, lambda x: logsumexp(x, 0)):
        with pytest.raises(TypeError, match="x has dtype torch.int64"):
            function(torch.ones(3, dtype=torch.int64))


def test_layer_shows_its_axis():
    assert repr(LogSoftmax(1)) == "LogSoftmax(dim=1)"


@pytest.mark.interp
@pytest.mark.parametrize("dim", [0, 1, -1])
def test_kernel_agrees(dim, kernel_agrees):
    x = torch.randn(3, 5, 7, dtype=torch.float64, requires_grad=True)
    kernel_agrees("softmax", lambda backend: log_softmax(x, dim, backend=backend), (x,))


def test_numpy_variant_agrees(agree):
    x = logits(4, 6)
    agree(numpy_variant.log_softmax(x.numpy()), log_softmax(x))
    agree(numpy_variant.logsumexp(x.numpy()), logsumexp(x, 1, keepdim=True))


@pytest.mark.oracle("the smallest number of each precision")
def test_demo_loses_the_logarithm_where_the_precision_ends():
    for dtype, end in (("float16", 17.33), ("float32", 103.97)):
        below, above = (numpy_variant.both(gap, 2, np.dtype(dtype))[0] for gap in (end - 0.1, end + 0.2))
        assert np.isfinite(below) and above == -math.inf
        assert numpy_variant.both(200, 2, np.dtype(dtype))[1] == -200
