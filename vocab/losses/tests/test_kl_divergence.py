import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import Categorical, Normal, kl_divergence
from torch.nn import functional as F

from snippets.losses.kl_divergence import kl, kl_gauss
from vocab.losses.cross_entropy import CrossEntropy
from vocab.losses.kl_divergence import kl_div, kl_estimates, kl_normal

P = 2 * torch.randn(4, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
Q = 2 * torch.randn(4, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def example():
    """For the contract suite: a small instance and its inputs."""
    return kl_div, (torch.randn(3, 4).double(), torch.randn(3, 4).double())


@pytest.mark.oracle("torch.distributions.kl_divergence (categorical)")
def test_equals_the_divergence_of_categorical_distributions_both_ways():
    there, back = kl_divergence(Categorical(logits=P), Categorical(logits=Q)), kl_divergence(Categorical(logits=Q), Categorical(logits=P))
    for direction, expected in (("forward", there), ("reverse", back)):
        torch.testing.assert_close(kl_div(P, Q, direction, "none"), expected)
        torch.testing.assert_close(kl_div(P, Q, direction, "sum"), expected.sum())
        torch.testing.assert_close(kl_div(P, Q, direction), expected.mean())
    assert not torch.isclose(there, back).any(), "not symmetric"
    torch.testing.assert_close(kl_div(P, Q), kl_div(P, Q, "forward", "batchmean"))


@pytest.mark.oracle("torch.nn.functional.kl_div(log q, p, batchmean)")
def test_argument_order_of_pytorchs_function():
    """F.kl_div(input, target) is KL(target || input), with log-probabilities as input."""
    log_q, p = F.log_softmax(Q, 1), F.softmax(P, 1)
    torch.testing.assert_close(kl_div(P, Q), F.kl_div(log_q, p, reduction="batchmean"))
    x, y = P.clone().requires_grad_(), Q.clone().requires_grad_()
    ours = torch.autograd.grad(kl_div(x, y), (x, y))
    theirs = torch.autograd.grad(F.kl_div(F.log_softmax(y, 1), F.log_softmax(x, 1), reduction="batchmean", log_target=True), (x, y))
    torch.testing.assert_close(ours, theirs)


def test_bare_kl_div_loss_is_too_small_by_the_number_of_classes():
    """Erratum: the default reduction of nn.KLDivLoss divides by rows times classes."""
    with pytest.warns(UserWarning, match="batchmean"):
        bare = nn.KLDivLoss()(F.log_softmax(Q, 1), F.softmax(P, 1))
    torch.testing.assert_close(5 * bare, kl_div(P, Q))


@pytest.mark.oracle("identity: cross-entropy minus entropy")
def test_is_cross_entropy_minus_entropy():
    p = F.softmax(P, 1)
    torch.testing.assert_close(kl_div(P, Q), CrossEntropy()(Q, p) - Categorical(logits=P).entropy().mean())
    x = Q.clone().requires_grad_()
    torch.testing.assert_close(torch.autograd.grad(kl_div(P, x, reduction="sum"), x)[0], F.softmax(Q, 1) - p)  # as that of cross-entropy


def test_never_negative_and_zero_only_for_equal_distributions():
    near = P + 1e-3 * Q
    assert (kl_div(P, near, reduction="none") > 0).all()
    torch.testing.assert_close(kl_div(P, P + 7.0), torch.tensor(0.0).double(), rtol=0, atol=1e-15)
    # near by it is a squared distance: half the variance of the change under p
    p, change = F.softmax(P, 1), 1e-3 * Q
    variance = (p * change**2).sum(1) - (p * change).sum(1) ** 2
    torch.testing.assert_close(kl_div(P, near, reduction="none"), variance / 2, rtol=1e-2, atol=0)


@pytest.mark.oracle("torch.distributions.kl_divergence (normal)")
def test_price_of_a_gaussian_code():
    mu, logvar = P, Q
    expected = kl_divergence(Normal(mu, (logvar / 2).exp()), Normal(0.0, 1.0)).sum(-1)
    torch.testing.assert_close(kl_normal(mu, logvar), expected)
    tiny = torch.full((1,), 1e-9, dtype=torch.float64)
    assert kl_normal(0 * tiny, tiny).item() == pytest.approx(2.5e-19, rel=1e-6, abs=0)
    assert torch.autograd.gradgradcheck(kl_normal, (P.clone().requires_grad_(), Q.clone().requires_grad_()))


@pytest.mark.oracle("Monte Carlo with a million samples")
def test_closed_form_for_gaussians_is_the_mean_log_ratio():
    mu, sigma, rng = 0.8, 0.6, np.random.default_rng(0)
    x = mu + sigma * rng.standard_normal(1_000_000)
    log_ratio = (x**2 - ((x - mu) / sigma) ** 2) / 2 - math.log(sigma)
    expected = kl_normal(torch.tensor([mu]), torch.tensor([2 * math.log(sigma)])).item()
    assert log_ratio.mean() == pytest.approx(expected, abs=5 * log_ratio.std() / 1000)


def test_an_excluded_class_is_free_for_the_first_and_infinite_for_the_second():
    p = torch.tensor([[0.0, 0.0, -math.inf]], requires_grad=True)
    q = torch.zeros(1, 3, requires_grad=True)
    value = kl_div(p, q)
    value.backward()
    assert value.item() == pytest.approx(math.log(1.5))
    assert p.grad.isfinite().all() and q.grad.isfinite().all()
    assert kl_div(p, q, "reverse").isinf()
    assert kl_div(p, p).item() == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_logits_of_ten_thousand(dtype):
    p, q = torch.tensor([[1e4, -1e4]], dtype=dtype), torch.tensor([[-1e4, 1e4]], dtype=dtype, requires_grad=True)
    value = kl_div(p, q, reduction="sum")
    value.backward()
    assert value.item() == pytest.approx(2e4) and value.dtype == torch.float32
    assert torch.equal(q.grad, torch.tensor([[-1, 1]], dtype=dtype))


def test_the_mean_is_over_all_rows_and_over_nothing_it_is_zero():
    cube = torch.stack([P, Q])
    torch.testing.assert_close(kl_div(cube, cube.flip(0)), kl_div(cube, cube.flip(0), reduction="none").mean())
    assert kl_div(P[:0], Q[:0]).item() == 0


def exact_gradients(index):
    """Gradient by the logits of pi of the expected estimate, the samples held fixed as in a training step; all outcomes enumerated."""
    logits = P[0].clone().requires_grad_()
    log_pi, log_ref = F.log_softmax(logits, 0), F.log_softmax(Q[0], 0)
    estimate = kl_estimates(log_pi, log_ref)[index]
    return torch.autograd.grad((log_pi.exp().detach() * estimate).sum(), logits)[0]


@pytest.mark.oracle("expectation over all outcomes")
def test_first_and_third_estimate_are_unbiased_and_the_second_is_close():
    p, exact = F.softmax(P[0], 0), kl_div(P[:1], Q[:1]).item()
    k1, k2, k3 = kl_estimates(F.log_softmax(P[0], 0), F.log_softmax(Q[0], 0))
    assert (p @ k1).item() == pytest.approx(exact) == pytest.approx((p @ k3).item())
    assert (p @ k2).item() != pytest.approx(exact, rel=1e-3)
    assert (k3 >= 0).all() and (k1 < 0).any()
    near = [k for k in kl_estimates(F.log_softmax(P[0], 0), F.log_softmax(P[0] + 0.05 * Q[0], 0))]
    spread = [((p @ k**2) - (p @ k) ** 2).sqrt().item() for k in near]
    assert spread[2] < spread[0] / 5
    assert (p @ near[1]).item() == pytest.approx((p @ near[0]).item(), rel=0.1)


def test_as_a_loss_only_the_second_estimate_has_the_gradient_of_the_divergence():
    logits = P[:1].clone().requires_grad_()
    (wanted,) = torch.autograd.grad(kl_div(logits, Q[:1]), logits)
    torch.testing.assert_close(exact_gradients(1), wanted[0])
    torch.testing.assert_close(exact_gradients(0), torch.zeros(5).double(), rtol=0, atol=1e-15)  # nothing on average, only noise
    (other,) = torch.autograd.grad(kl_div(Q[:1], logits), logits)
    torch.testing.assert_close(exact_gradients(2), other[0])  # the divergence the other way round
    assert not torch.allclose(wanted, other, rtol=0.1)


def test_mean_log_ratio_per_token_is_a_rate_and_no_normalization():
    """Erratum: (1/n) log of a ratio of n tokens estimates the divergence per token; that of the sequence is n times as much."""
    p, q = F.softmax(P[0], 0), F.softmax(Q[0], 0)
    pairs_p, pairs_q = torch.outer(p, p).flatten(), torch.outer(q, q).flatten()  # n = 2 independent tokens
    sequence = kl_div(pairs_p.log()[None], pairs_q.log()[None])
    torch.testing.assert_close(sequence, 2 * kl_div(P[:1], Q[:1]))
    per_token = (pairs_p * (pairs_p / pairs_q).pow(1 / 2).log()).sum()
    torch.testing.assert_close(per_token, kl_div(P[:1], Q[:1]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: kl_div(P, Q, "backward"), "direction='backward' is not 'forward' or 'reverse'"),
        (lambda: kl_div(P, Q, reduction="mean"), "reduction='mean' is not 'batchmean', 'sum' or 'none'"),
        (lambda: kl_div(P, Q[:3]), r"q_logits has shape \(3, 5\); expected that of p_logits, \(4, 5\)"),
        (lambda: kl_div(P.sum(), Q), r"p_logits has shape \(\); expected \(\.\.\., classes\)"),
        (lambda: kl_normal(P, Q[:3]), r"logvar has shape \(3, 5\); expected that of mu"),
        (lambda: kl_estimates(P, Q[:3]), r"log_ref has shape \(3, 5\); expected that of log_pi"),
    ],
)
def test_bad_values_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_tensors_are_asked_for():
    for call, message in ((lambda: kl_normal([0.0], P), "mu is a list"), (lambda: kl_normal(P, [0.0]), "logvar is a list"),
                          (lambda: kl_estimates([0.0], P), "log_pi is a list"), (lambda: kl_estimates(P, P.long()), "log_ref has dtype")):
        with pytest.raises(TypeError, match=message):
            call()


def test_numpy_variant_agrees(agree):
    agree(kl(F.softmax(P, 1).numpy(), F.softmax(Q, 1).numpy()), kl_div(P, Q, reduction="none"))
    agree(kl_gauss(P.numpy(), np.exp(Q.numpy() / 2)).sum(1), kl_normal(P, Q))
