import functools

import pytest
import torch
from torch import nn

from snippets.regularization import l2 as numpy_l2
from vocab.regularization.l2 import l2_penalty, shrinkage


def example():
    """For the contract suite: a small instance and its inputs."""
    return functools.partial(l2_penalty, lam=0.3), (torch.randn(3, 4).double(),)


def problem(n=12, d=4):
    torch.manual_seed(1)
    return torch.randn(n, d).double() * torch.tensor([2.0, 1.5, 1.0, 0.8]), torch.randn(n).double()


def fitted(X, y, lam, steps=700):
    """Least squares with the penalty, by plain gradient descent."""
    w = torch.zeros(X.shape[1], dtype=torch.float64, requires_grad=True)
    rate = 1 / (torch.linalg.matrix_norm(X, 2) ** 2 + lam).item()
    for _ in range(steps):
        (g,) = torch.autograd.grad(0.5 * (X @ w - y).square().sum() + l2_penalty(w, lam), w)
        w.data -= rate * g
    return w.detach()


@pytest.mark.oracle("closed form of ridge regression (normal equations)")
@pytest.mark.parametrize("lam", [0.5, 5.0])
def test_least_squares_with_it_reaches_the_closed_form(lam):
    X, y = problem()
    expected = torch.linalg.solve(X.T @ X + lam * torch.eye(4, dtype=torch.float64), X.T @ y)
    torch.testing.assert_close(fitted(X, y, lam), expected, rtol=1e-8, atol=1e-10)
    assert (expected != 0).all(), "small, but none is zero"


@pytest.mark.oracle("singular value decomposition of the ridge solution")
def test_each_singular_direction_shrinks_by_its_own_factor():
    X, y = problem()
    U, s, Vt = torch.linalg.svd(X, full_matrices=False)
    ridge = torch.linalg.solve(X.T @ X + 2.0 * torch.eye(4, dtype=torch.float64), X.T @ y)
    plain = torch.linalg.lstsq(X, y[:, None]).solution[:, 0]
    torch.testing.assert_close(Vt @ ridge, shrinkage(s, 2.0) * (Vt @ plain))
    hat = X @ torch.linalg.solve(X.T @ X + 2.0 * torch.eye(4, dtype=torch.float64), X.T)
    torch.testing.assert_close(shrinkage(s, 2.0).sum(), hat.trace())


@pytest.mark.oracle("torch.distributions.Normal with the variance 1/lam")
def test_it_is_the_logarithm_of_a_gaussian_prior():
    a, b = torch.randn(5).double(), torch.randn(5).double()
    prior = torch.distributions.Normal(torch.zeros(5).double(), 0.4**-0.5)
    torch.testing.assert_close(l2_penalty(a, 0.4) - l2_penalty(b, 0.4), (prior.log_prob(b) - prior.log_prob(a)).sum())


def path(make, penalty, steps=50):
    torch.manual_seed(2)
    w = nn.Parameter(torch.randn(4, dtype=torch.float64))
    optimizer = make([w])
    scale = torch.tensor([10.0, 1.0, 0.1, 1.0], dtype=torch.float64)
    for _ in range(steps):
        optimizer.zero_grad()
        ((w * scale - 1).square().sum() + (l2_penalty([w], penalty) if penalty else 0)).backward()
        optimizer.step()
    return w.detach()


@pytest.mark.oracle("torch.optim.SGD(weight_decay=lam) and torch.optim.Adam(weight_decay=lam), 50 steps")
def test_it_is_what_weight_decay_means_in_sgd_and_adam_of_torch():
    for kind, options in ((torch.optim.SGD, dict(lr=0.004, momentum=0.9)), (torch.optim.Adam, dict(lr=0.05))):
        ours = path(lambda w: kind(w, **options), 0.3)
        torch.testing.assert_close(ours, path(lambda w: kind(w, weight_decay=0.3, **options), 0.0), rtol=1e-10, atol=1e-13)


def test_in_adam_it_is_not_decoupled_weight_decay():
    ours = path(lambda w: torch.optim.Adam(w, lr=0.05), 0.3)
    decoupled = path(lambda w: torch.optim.AdamW(w, lr=0.05, weight_decay=0.3), 0.0)
    assert (ours - decoupled).abs().max() > 0.05


def test_erratum_it_sets_no_weight_to_zero():
    """Erratum: it does not make a network use fewer weights; among copies of a feature it shares instead of choosing."""
    x, y = torch.randn(20).double(), torch.randn(20).double()
    w = fitted(torch.stack([x, x, torch.randn(20).double()], 1), y, 3.0)
    assert (w.abs() > 1e-4).all()
    torch.testing.assert_close(w[0], w[1])


def test_several_tensors_add_up_and_the_gradient_is_lam_w():
    a, b = torch.randn(2, 3).double().requires_grad_(), torch.randn(4).double().requires_grad_()
    value = l2_penalty([a, b], 0.7)
    assert value.item() == pytest.approx(0.35 * (a.norm() ** 2 + b.norm() ** 2).item(), rel=1e-12)
    torch.testing.assert_close(torch.autograd.grad(value, (a, b)), (0.7 * a.detach(), 0.7 * b.detach()))


@pytest.mark.parametrize("lam", [-0.1, float("nan"), float("inf")])
def test_bad_strength_is_named(lam):
    for call in (l2_penalty, shrinkage):
        with pytest.raises(ValueError, match=f"lam={lam} is not 0 or a number above"):
            call(torch.ones(2), lam)
    assert l2_penalty(torch.ones(2), 0.0).item() == 0


def test_no_weights_are_refused():
    with pytest.raises(ValueError, match="params is empty"):
        l2_penalty([], 0.1)
    with pytest.raises(TypeError, match="singular_values is a list"):
        shrinkage([1.0], 0.1)


def test_numpy_variant_agrees(agree):
    X, y = problem()
    agree(numpy_l2.l2_penalty(X.numpy(), 0.3), l2_penalty(X, 0.3))
    agree(numpy_l2.ridge(X.numpy(), y.numpy(), 5.0), fitted(X, y, 5.0))
    s = torch.linalg.svdvals(X)
    agree(numpy_l2.shrinkage(s.numpy(), 2.0), shrinkage(s, 2.0))
