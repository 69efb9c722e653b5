import pytest
import torch
from torch.nn import Parameter

from snippets.optimizers.shampoo import shampoo_step
from vocab.optimizers.shampoo import Shampoo, inverse_root
from vocab.optimizers.tests.walks import assert_same_steps, layers, numbers_per_weight, take


def example():
    """For the contract suite: builds an optimizer for given parameters."""
    return (lambda params: Shampoo(params, lr=0.1, momentum=0.5, update_freq=2)), ()


@pytest.mark.oracle("pytorch_optimizer.Shampoo")
def test_equals_another_library_for_100_steps():
    theirs_class = pytest.importorskip("pytorch_optimizer").Shampoo
    ours, theirs = layers((5, 4), (3, 7)), layers((5, 4), (3, 7))
    one = Shampoo(ours, lr=0.05, eps=1e-2, update_freq=1, grafting=None)
    two = theirs_class(theirs, lr=0.05, matrix_eps=1e-2, preconditioning_compute_steps=1)
    assert_same_steps(one, two, ours, theirs, rtol=1e-8, atol=1e-10)


@pytest.mark.oracle("scipy.linalg.fractional_matrix_power, step by step")
@pytest.mark.parametrize("beta2", [1.0, 0.9])
def test_is_the_papers_formula_with_scipys_roots(beta2):
    power = pytest.importorskip("scipy.linalg").fractional_matrix_power
    (w,) = layers((4, 3))
    optimizer = Shampoo([w], lr=0.1, eps=0.01, beta2=beta2, update_freq=1, grafting=None, momentum=0.6)
    left, right = 0.01 * torch.eye(4, dtype=torch.float64), 0.01 * torch.eye(3, dtype=torch.float64)
    v, new = torch.zeros(4, 3, dtype=torch.float64), 1.0 if beta2 == 1 else 1 - beta2
    for t in range(30):
        before = w.detach().clone()
        take(optimizer, [w], t)
        left, right = beta2 * left + new * w.grad @ w.grad.T, beta2 * right + new * w.grad.T @ w.grad
        roots = [torch.from_numpy(power(x.numpy(), -0.25)) for x in (left, right)]
        v = 0.6 * v + roots[0] @ w.grad @ roots[1]
        torch.testing.assert_close(w.detach(), before - 0.1 * v, rtol=1e-9, atol=1e-11)


@pytest.mark.oracle("scipy.linalg.fractional_matrix_power")
@pytest.mark.parametrize("order", [2, 4, 6])
def test_inverse_roots_agree(order):
    power = pytest.importorskip("scipy.linalg").fractional_matrix_power
    a = torch.randn(6, 6, dtype=torch.float64)
    x = a @ a.T + 0.1 * torch.eye(6)
    torch.testing.assert_close(inverse_root(x, order), torch.from_numpy(power(x.numpy(), -1 / order)), rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(torch.diag(inverse_root(x.diagonal(), order)), inverse_root(torch.diag(x.diagonal()), order), rtol=1e-12, atol=1e-14)


@pytest.mark.oracle("torch.linalg.svd: the first step is U V^T")
@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (4, 4)])
def test_the_first_step_sets_all_singular_values_to_one(shape):
    w = Parameter(torch.zeros(shape, dtype=torch.float64))
    w.grad = torch.randn(shape, dtype=torch.float64)
    u, _, v = torch.linalg.svd(w.grad, full_matrices=False)
    Shampoo([w], lr=1.0, eps=0.0, grafting=None).step()
    torch.testing.assert_close(w.data, -u @ v, rtol=0, atol=1e-9)


def test_a_single_row_becomes_its_direction():
    w = Parameter(torch.zeros(1, 5, dtype=torch.float64))
    w.grad = torch.randn(1, 5, dtype=torch.float64)
    Shampoo([w], lr=1.0, eps=0.0, grafting=None).step()
    torch.testing.assert_close(w.data, -w.grad / w.grad.norm(), rtol=1e-9, atol=1e-12)


@pytest.mark.oracle("full-matrix Adagrad with scipy's root, for a vector")
def test_a_vector_gets_full_matrix_adagrad():
    power = pytest.importorskip("scipy.linalg").fractional_matrix_power
    (w,) = layers((4,))
    optimizer, total = Shampoo([w], lr=0.1, eps=0.01, update_freq=1, grafting=None), 0.01 * torch.eye(4, dtype=torch.float64)
    for t in range(20):
        before = w.detach().clone()
        take(optimizer, [w], t)
        total = total + torch.outer(w.grad, w.grad)
        step = torch.from_numpy(power(total.numpy(), -0.5)) @ w.grad
        torch.testing.assert_close(w.detach(), before - 0.1 * step, rtol=1e-9, atol=1e-11)


@pytest.mark.oracle("torch.optim.Adagrad, for a vector beyond the largest size")
def test_large_dimensions_keep_the_diagonal():
    ours, theirs = layers((6,)), layers((6,))
    one = Shampoo(ours, lr=0.1, eps=1e-3, update_freq=1, grafting=None, max_size=5)
    two = torch.optim.Adagrad(theirs, lr=0.1, initial_accumulator_value=1e-3, eps=0.0)
    assert_same_steps(one, two, ours, theirs)
    at_the_limit = layers((6,))
    optimizer = Shampoo(at_the_limit, max_size=6)
    take(optimizer, at_the_limit, 0)
    assert optimizer.state[at_the_limit[0]]["statistic_0"].shape == (6, 6)
    matrix = layers((6, 3))
    optimizer = Shampoo(matrix, max_size=5)
    take(optimizer, matrix, 0)
    state = optimizer.state[matrix[0]]
    assert [state[f"statistic_{i}"].shape for i in (0, 1)] == [(6,), (3, 3)]
    torch.testing.assert_close(state["statistic_0"], 1e-4 + matrix[0].grad.square().sum(1))


@pytest.mark.oracle("invariance: rotations of rows and columns")
def test_rotating_the_weights_rotates_the_path():
    torch.manual_seed(0)
    q, r = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64)).Q, torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64)).Q
    (w,) = layers((4, 3))
    twin = Parameter(q @ w.detach() @ r)
    one, two = (Shampoo([p], lr=0.1, update_freq=3) for p in (w, twin))
    for t in range(20):
        torch.manual_seed(t)
        w.grad = torch.randn_like(w)
        twin.grad = q @ w.grad @ r
        one.step()
        two.step()
    torch.testing.assert_close(twin.detach(), q @ w.detach() @ r, rtol=1e-8, atol=1e-9)


def test_roots_are_computed_rarely_and_statistics_always():
    (w,) = layers((3, 2))
    optimizer, roots, sums = Shampoo([w], update_freq=3), [], []
    for t in range(7):
        take(optimizer, [w], t)
        roots.append(optimizer.state[w]["root_0"].clone())
        sums.append(optimizer.state[w]["statistic_0"].trace().item())
    changed = [not torch.equal(a, b) for a, b in zip(roots, roots[1:])]
    assert changed == [False, False, True, False, False, True]
    assert all(a < b for a, b in zip(sums, sums[1:]))


@pytest.mark.oracle("torch.optim.SGD and Adam: the lengths of their steps")
@pytest.mark.parametrize("grafting", ["sgd", "adam"])
def test_a_grafted_step_has_the_others_length_and_shampoos_direction(grafting):
    (w,), (plain,), (other,) = layers((4, 3)), layers((4, 3)), layers((4, 3))
    one = Shampoo([w], lr=0.1, update_freq=1, grafting=grafting)
    two = Shampoo([plain], lr=0.1, update_freq=1, grafting=None)
    three = torch.optim.SGD([other], lr=0.1) if grafting == "sgd" else torch.optim.Adam([other], lr=0.1, betas=(0.0, 0.999))
    for t in range(12):
        torch.manual_seed(t)
        before = [p.detach().clone() for p in (w, plain, other)]
        w.grad = torch.randn_like(w)
        plain.grad, other.grad = w.grad.clone(), w.grad.clone()
        for optimizer in (one, two, three):
            optimizer.step()
        moved = [p.detach() - b for p, b in zip((w, plain, other), before)]
        torch.testing.assert_close(moved[0].norm(), moved[2].norm(), rtol=1e-7, atol=0)
        torch.testing.assert_close(moved[0] / moved[0].norm(), moved[1] / moved[1].norm(), rtol=1e-9, atol=1e-10)


def test_half_precision_is_lifted_for_the_roots():
    """Pitfall: fourth roots of what half precision rounds."""
    w = Parameter(torch.zeros(3, 2, dtype=torch.float16))
    w.grad = torch.randn(3, 2).half() * 1e-3  # its squares are below what half precision holds
    exact = Parameter(torch.zeros(3, 2))
    exact.grad = w.grad.float()
    for p in (w, exact):
        Shampoo([p], lr=1.0, eps=0.0, grafting=None).step()
    torch.testing.assert_close(w.detach().float(), exact.detach(), rtol=1e-3, atol=1e-3)
    assert exact.detach().norm() > 1


def test_numbers_without_dimensions_and_zero_gradients():
    number, still = Parameter(torch.tensor(2.0)), Parameter(torch.ones(2, 2))
    number.grad, still.grad = torch.tensor(-4.0), torch.zeros(2, 2)
    Shampoo([number, still], lr=0.1, eps=0.0).step()
    torch.testing.assert_close(number.data, torch.tensor(2.4), msg="as long as SGD's step")
    assert torch.equal(still.data, torch.ones(2, 2))


def test_state_is_the_squares_of_the_dimensions():
    params = layers((6, 4))
    optimizer = Shampoo(params)
    take(optimizer, params, 0)
    assert numbers_per_weight(optimizer, params[0]) == 2 * (36 + 16) / 24, "statistics and roots"
    with_momentum = Shampoo(layers((6, 4)), momentum=0.9)
    take(with_momentum, with_momentum.param_groups[0]["params"], 0)
    assert numbers_per_weight(with_momentum, with_momentum.param_groups[0]["params"][0]) == 1 + 2 * (36 + 16) / 24


def test_defaults_are_the_documented_ones():
    assert Shampoo(layers((2, 2))).defaults == dict(lr=0.03, momentum=0.0, eps=1e-4, beta2=1.0, update_freq=10, grafting="sgd", max_size=8192,
                                                    foreach=None, maximize=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(lr=-0.1), "lr=-0.1 is not 0 or more"),
        (dict(momentum=1.0), r"momentum=1.0 is not in \[0, 1\)"),
        (dict(beta2=0.0), r"beta2=0.0 is not in \(0, 1\]"),
        (dict(beta2=1.1), r"beta2=1.1 is not in \(0, 1\]"),
        (dict(update_freq=0), "update_freq=0 is not a whole number of 1 or more"),
        (dict(max_size=0.5), "max_size=0.5 is not a whole number of 1 or more"),
        (dict(grafting="lamb"), "grafting='lamb' is not None, 'sgd' or 'adam'"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        Shampoo(layers((2, 2)), **options)


def test_a_matrix_of_the_wrong_shape_is_named():
    with pytest.raises(ValueError, match=r"matrix has shape \(2, 2, 2\); expected \(n, n\)"):
        inverse_root(torch.ones(2, 2, 2), 4)


@pytest.mark.parametrize("shape", [(5, 3), (4,)])
def test_numpy_variant_agrees(agree, shape):
    (w,) = layers(shape)
    start, state, gradients = w.detach().numpy().copy(), {}, torch.randn(60, *shape, dtype=torch.float64)
    optimizer = Shampoo([w], lr=0.05, update_freq=4)
    for g in gradients:
        w.grad = g.clone()
        optimizer.step()
    found = start
    for t, g in enumerate(gradients.numpy(), 1):
        found = shampoo_step(found, g, state, t, lr=0.05, every=4)
    agree(found, w)
