import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

from snippets.optimizers.sgd import expected_excess, sgd_step, sharpness
from snippets.optimizers.arena import surface
from vocab.optimizers.sgd import SGD
from vocab.optimizers.tests.walks import assert_same_path, buffers, in_numpy, layers, quadratic, walk


def example():
    """For the contract suite: builds an optimizer for given parameters."""
    return (lambda params: SGD(params, lr=0.02, momentum=0.7, nesterov=True, weight_decay=0.1)), ()


FLAGS = [dict(momentum=m, dampening=d, nesterov=n, weight_decay=w, maximize=up)
         for m, d, n, w, up in itertools.product((0.0, 0.9), (0.0, 0.4), (False, True), (0.0, 0.1), (False, True))
         if not n or (m > 0 and d == 0)]


@pytest.mark.oracle("torch.optim.SGD, every combination of flags")
@pytest.mark.parametrize("flags", FLAGS, ids=lambda f: "-".join(f"{k}={v}" for k, v in f.items() if v) or "plain")
def test_equals_torch_for_every_combination_of_flags(flags):
    assert_same_path(lambda p: SGD(p, lr=0.01, **flags), lambda p: torch.optim.SGD(p, lr=0.01, **flags), steps=60)


@pytest.mark.oracle("closed form on a quadratic: (I - lr A)^t x0")
def test_iterate_on_a_quadratic_is_a_matrix_power():
    R = torch.randn(3, 3, dtype=torch.float64)
    A, x0, lr = R @ R.T, torch.randn(3, dtype=torch.float64), 0.05
    found = quadratic(lambda p: SGD(p, lr=lr), A, x0, 40)
    for t in (1, 7, 40):
        expected = torch.linalg.matrix_power(torch.eye(3, dtype=torch.float64) - lr * A, t) @ x0
        torch.testing.assert_close(found[t], expected, rtol=1e-10, atol=1e-12)


@pytest.mark.oracle("theory: the limit is 2 / largest eigenvalue")
@pytest.mark.parametrize(("share", "converges"), [(0.98, True), (1.02, False)])
def test_two_over_the_largest_curvature_is_the_limit(share, converges):
    """Pitfall: above it the loss explodes geometrically."""
    A = torch.diag(torch.tensor([1.0, 25.0], dtype=torch.float64))
    found = quadratic(lambda p: SGD(p, lr=share * 2 / 25), A, torch.ones(2, dtype=torch.float64), 400)[:, 1].abs()
    assert (found[-1] < 1e-6) if converges else (found[-1] > 1e6)
    assert (found[101] / found[100]).item() == pytest.approx(2 * share - 1), "the same factor at every step"


@pytest.mark.oracle("exact stationary variance of a linear recurrence")
def test_noise_keeps_it_in_a_ball_whose_size_grows_with_the_rate():
    h, sigma, n = 2.0, 0.7, 40_000
    excess = []
    for lr in (0.05, 0.2):
        w = nn.Parameter(torch.zeros(n, dtype=torch.float64))
        optimizer = SGD([w], lr=lr)
        for _ in range(150):
            w.grad = h * w.detach() + sigma * torch.randn_like(w)
            optimizer.step()
        variance = lr * sigma**2 / (h * (2 - lr * h))
        assert w.var().item() == pytest.approx(variance, rel=0.03)
        excess.append(expected_excess(lr, [h], sigma))
        assert excess[-1] == pytest.approx(h / 2 * variance)
    assert excess[1] / excess[0] == pytest.approx(4, rel=0.25), "nearly in proportion to the rate"
    assert expected_excess(1.01, [h], sigma) == math.inf


def test_decay_enters_the_velocity():
    """With zero gradients the decay alone builds up speed: L2 in the gradient, and not a factor on the weights."""
    (w,) = layers((4,))
    start, optimizer = w.detach().clone(), SGD([w], lr=0.1, momentum=0.9, weight_decay=0.5)
    for _ in range(2):
        w.grad = torch.zeros_like(w)
        optimizer.step()
    # v1 = 0.5 w0, w1 = 0.95 w0; v2 = 0.45 w0 + 0.475 w0
    torch.testing.assert_close(w.detach(), (0.95 - 0.1 * 0.925) * start, rtol=1e-12, atol=1e-14)


@pytest.mark.oracle("torch.optim.SGD, sparse gradients")
@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.9, False), (0.9, True)])
def test_sparse_gradients_equal_dense_ones_with_zeros(momentum, nesterov):
    tables = [nn.Embedding.from_pretrained(torch.ones(6, 2, dtype=torch.float64), freeze=False, sparse=sparse) for sparse in (True, False, False)]
    kinds = (SGD, SGD, torch.optim.SGD)
    options = dict(lr=0.1, momentum=momentum, nesterov=nesterov)
    optimizers = [kind(table.parameters(), **options) for kind, table in zip(kinds, tables)]
    for ids in ([0, 1, 1], [4], [1, 4]):
        for optimizer, table in zip(optimizers, tables):
            optimizer.zero_grad()
            table(torch.tensor(ids)).square().sum().backward()
            optimizer.step()
    torch.testing.assert_close(tables[0].weight, tables[1].weight, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(tables[0].weight, tables[2].weight, rtol=1e-12, atol=1e-14)
    assert (tables[0].weight[[2, 3, 5]] == 1).all()


def test_a_row_that_is_not_in_the_batch_coasts_on_and_a_missing_gradient_stops_it():
    """Pitfall: no gradient, a gradient of zero and a row that a sparse gradient does not name."""
    found = {}
    for kind in ("none", "zero", "sparse"):
        w = nn.Parameter(torch.zeros(2, 1, dtype=torch.float64))
        optimizer = SGD([w], lr=1.0, momentum=0.5)
        w.grad = torch.ones_like(w)
        optimizer.step()
        empty = torch.sparse_coo_tensor([[1]], torch.zeros(1, 1, dtype=torch.float64), (2, 1), check_invariants=True)
        w.grad = {"none": None, "zero": torch.zeros_like(w), "sparse": empty}[kind]
        optimizer.step()
        found[kind] = w[0].item()
    assert found == {"none": -1.0, "zero": -1.5, "sparse": -1.5}


def test_decay_of_a_sparse_table_moves_every_row():
    table = nn.Embedding.from_pretrained(torch.ones(4, 2), freeze=False, sparse=True)
    table(torch.tensor([2])).sum().backward()
    SGD(table.parameters(), lr=0.1, weight_decay=0.5).step()
    torch.testing.assert_close(table.weight.data[:, 0], torch.tensor([0.95, 0.95, 0.85, 0.95]))


def test_nesterov_is_no_free_gain():
    """Erratum: on a quadratic with a rate tuned for heavy ball, nesterov=True diverges."""
    A, start = torch.diag(torch.tensor([1.0, 2.0], dtype=torch.float64)), torch.ones(2, dtype=torch.float64)
    plain, look = (quadratic(lambda p: SGD(p, lr=1.2, momentum=0.9, nesterov=n), A, start, 200)[-1].norm() for n in (False, True))
    assert plain < 1e-3 and look > 1e6


def test_state_is_one_buffer_and_none_without_momentum():
    assert buffers(lambda p: SGD(p)) == []
    assert buffers(lambda p: SGD(p, momentum=0.9, nesterov=True)) == [(3, 2)]


def test_defaults_are_those_of_torch():
    ours, theirs = SGD(layers((2,))).defaults, torch.optim.SGD(layers((2,))).defaults
    assert ours == {name: theirs[name] for name in ours}


def test_nan_is_not_hidden():
    (w,) = layers((2, 2))
    w.grad = torch.full_like(w, torch.nan)
    SGD([w]).step()
    assert w.isnan().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(lr=-0.1), "lr=-0.1 is not 0 or more"),
        (dict(weight_decay=-0.1), "weight_decay=-0.1 is not 0 or more"),
        (dict(momentum=-0.1), r"momentum=-0.1 is not in \[0, 1\)"),
        (dict(momentum=1.0), r"momentum=1.0 is not in \[0, 1\)"),
        (dict(dampening=-0.1, momentum=0.9), r"dampening=-0.1 is not in \[0, 1\]"),
        (dict(dampening=1.1, momentum=0.9), r"dampening=1.1 is not in \[0, 1\]"),
        (dict(nesterov=True), "nesterov=True with momentum=0.0 and dampening=0.0: it needs"),
        (dict(nesterov=True, momentum=0.9, dampening=0.1), "it needs momentum above 0 and dampening 0"),
    ],
)
def test_bad_options_are_named_in_every_group(options, message):
    with pytest.raises(ValueError, match=message):
        SGD(layers((2, 2)), **options)
    with pytest.raises(ValueError, match=message):
        SGD([{"params": layers((2, 2)), **options}])


def test_extreme_options_are_allowed():
    assert torch.equal(walk(lambda p: SGD(p, lr=0.0), layers((2, 2)), 1)[0][0], layers((2, 2))[0])
    # all but the first gradient left out
    path = walk(lambda p: SGD(p, lr=0.1, momentum=0.5, dampening=1.0), layers((2, 2)), 2)
    torch.testing.assert_close(path[1][0] - path[0][0], 0.5 * (path[0][0] - layers((2, 2))[0].detach()))


@pytest.mark.parametrize("options", [{}, dict(momentum=0.8, dampening=0.3, weight_decay=0.1), dict(momentum=0.8, nesterov=True)])
def test_numpy_variant_agrees(agree, options):
    agree(*in_numpy(lambda w, g, s, t: sgd_step(w, g, s, t, lr=0.03, **options), lambda p: SGD(p, lr=0.03, **options)))


def test_curvature_of_the_demo_is_the_largest_eigenvalue():
    for name in ("bowl", "turned bowl"):
        assert sharpness(surface(name, 30.0)) == pytest.approx(30.0, rel=1e-5)
    # Rosenbrock at (-1.2, 1): Hessian [[1330, 480], [480, 200]]
    assert sharpness(surface("Rosenbrock")) == pytest.approx(np.linalg.eigvalsh([[1330.0, 480.0], [480.0, 200.0]])[-1], rel=1e-5)
