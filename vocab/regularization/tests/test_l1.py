import functools
import math

import pytest
import torch
from torch import nn

from snippets.regularization import l1 as numpy_l1
from vocab.regularization.l1 import l1_penalty, prox_l1_, soft_threshold


def example():
    """For the contract suite: a small instance and its inputs."""
    return functools.partial(l1_penalty, lam=0.3), (torch.randn(3, 4).double(),)


def problem():
    torch.manual_seed(3)
    X = torch.randn(30, 8).double()
    truth = torch.tensor([2.0, 0, 0, -1.0, 0, 0, 0.5, 0]).double()
    return X, X @ truth + 0.3 * torch.randn(30).double()


def ista(X, y, lam, steps=350):
    w = torch.zeros(X.shape[1], dtype=torch.float64)
    step = 1 / torch.linalg.matrix_norm(X, 2).item() ** 2
    for _ in range(steps):
        w -= step * X.T @ (X @ w - y)
        prox_l1_(w, step * lam)
    return w


@pytest.mark.oracle("sklearn.linear_model.Lasso (alpha = lam / N)")
@pytest.mark.parametrize("lam", [3.0, 15.0])
def test_proximal_descent_finds_the_lasso_and_its_zeros(lam):
    library = pytest.importorskip("sklearn.linear_model").Lasso
    X, y = problem()
    theirs = torch.tensor(library(alpha=lam / 30, fit_intercept=False, tol=1e-12, max_iter=100_000).fit(X.numpy(), y.numpy()).coef_)
    ours = ista(X, y, lam)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-8)
    assert torch.equal(ours == 0, theirs == 0) and 0 < (ours == 0).sum() < 8


@pytest.mark.oracle("conditions of Karush, Kuhn and Tucker")
def test_gradients_of_the_data_are_at_most_lam_and_lam_where_a_weight_is_left():
    X, y = problem()
    w = ista(X, y, 8.0)
    pull = X.T @ (y - X @ w)
    used = w != 0
    torch.testing.assert_close(pull[used], 8.0 * w[used].sign(), rtol=1e-8, atol=0)
    assert (pull[~used].abs() < 8).all() and 0 < used.sum() < 8


@pytest.mark.oracle("closed form for an orthonormal design")
def test_with_orthonormal_features_it_is_one_soft_threshold():
    Q = torch.linalg.qr(torch.randn(12, 5).double()).Q
    y = torch.randn(12).double() * 2
    least_squares = Q.T @ y
    lam = least_squares.abs().median().item()
    expected = least_squares.sign() * (least_squares.abs() - lam).clamp(min=0)
    torch.testing.assert_close(ista(Q, y, lam), expected, rtol=1e-9, atol=1e-12)
    assert (expected == 0).sum() == 3


def test_above_the_largest_useful_strength_all_is_zero():
    X, y = problem()
    most = (X.T @ y).abs().max().item()
    assert (ista(X, y, most * 1.001, 200) == 0).all()
    assert (ista(X, y, most * 0.99, 200) != 0).sum() == 1


@pytest.mark.oracle("minimum of the proximal objective over a grid")
@pytest.mark.parametrize("w", [-1.7, -0.3, 0.0, 0.4, 2.2])
def test_soft_threshold_is_the_proximal_minimum(w):
    grid = torch.linspace(-3, 3, 60_001, dtype=torch.float64)
    best = grid[(0.5 * (grid - w) ** 2 + 0.5 * grid.abs()).argmin()]
    assert soft_threshold(torch.tensor([w], dtype=torch.float64), 0.5).item() == pytest.approx(best.item(), abs=1e-4)


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam])
def test_erratum_adding_it_to_the_loss_gives_no_exact_zero(kind):
    """Erratum: the subgradient steps over zero and back; only the proximal step stops there."""
    X, y = problem()
    w = nn.Parameter(torch.zeros(8, dtype=torch.float64))
    optimizer = kind([w], lr=0.004 if kind is torch.optim.SGD else 0.02)
    for _ in range(400):
        optimizer.zero_grad()
        (0.5 * (X @ w - y).square().sum() + l1_penalty([w], 15.0)).backward()
        optimizer.step()
    exact = ista(X, y, 15.0)
    assert (exact == 0).sum() >= 3 and (w != 0).all()
    assert w[exact == 0].abs().max() < 0.15, "near zero, but not zero"


def test_adam_gives_every_weight_another_penalty():
    """The same loss and strength; the gradient of the second weight is a hundred times larger, and its penalty fades."""
    moved = []
    for lam in (0.0, 0.5):
        w = nn.Parameter(torch.ones(2, dtype=torch.float64))
        optimizer = torch.optim.Adam([w], lr=0.01)
        for step in range(20):
            optimizer.zero_grad()
            sign = 1 if step % 2 else -1
            ((w * torch.tensor([1.0, 100.0]) * sign).sum() + l1_penalty(w, lam)).backward()
            optimizer.step()
        moved.append(w.detach())
    pulled = moved[0] - moved[1]
    assert pulled[0] > 10 * pulled[1] > 0


def test_value_and_gradient():
    w = torch.tensor([1.0, -2.0, 0.0], dtype=torch.float64, requires_grad=True)
    value = l1_penalty([w, torch.tensor([-4.0]).double()], 0.5)
    assert value.item() == 3.5
    assert torch.autograd.grad(value, w)[0].tolist() == [0.5, -0.5, 0.0]


def test_several_tensors_are_thresholded_in_place():
    a, b = nn.Parameter(torch.tensor([1.0, -0.2])), torch.tensor([-3.0])
    prox_l1_([a, b], 0.5)
    assert a.tolist() == [0.5, 0.0] and b.tolist() == [-2.5]
    kept = torch.tensor([0.7, math.nan])
    prox_l1_(kept, 0.0)
    assert kept[0].item() == pytest.approx(0.7) and kept[1].isnan()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda w: l1_penalty(w, -1.0), "lam=-1.0 is not 0 or a number above"),
        (lambda w: prox_l1_(w, -0.5), "threshold=-0.5 is not 0 or more"),
        (lambda w: soft_threshold(w, math.nan), "threshold=nan is not 0 or more"),
        (lambda w: prox_l1_([], 0.5), "params is empty"),
    ],
)
def test_bad_options_say_which_and_why(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.ones(2))


def test_integers_are_refused():
    with pytest.raises(TypeError, match="w has dtype torch.int64"):
        soft_threshold(torch.ones(2).long(), 0.1)


def test_numpy_variant_agrees(agree):
    X, y = problem()
    step = 1 / torch.linalg.matrix_norm(X, 2).item() ** 2
    agree(numpy_l1.proximal(X.numpy(), y.numpy(), 8.0, step, 300), ista(X, y, 8.0, 300), atol=1e-12)
    agree(numpy_l1.soft_threshold(X.numpy(), 0.4), soft_threshold(X, 0.4))
