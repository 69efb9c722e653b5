import pytest
import torch
from torch.nn import Parameter

from snippets.optimizers.adan import adan_step
from vocab.optimizers.adan import Adan
from vocab.optimizers.tests.walks import assert_kernel_agrees, assert_same_steps, layers, numbers_per_weight, take


def example():
    """For the contract suite: builds an optimizer for given parameters."""
    return (lambda params: Adan(params, lr=0.02)), ()


@pytest.mark.oracle("pytorch_optimizer.Adan (decay as a division)")
@pytest.mark.parametrize("foreach", [False, True])
def test_equals_another_library_for_100_steps(foreach):
    theirs_class = pytest.importorskip("pytorch_optimizer").Adan
    ours, theirs = layers((5, 4), (3, 2, 2), (6,)), layers((5, 4), (3, 2, 2), (6,))
    options = dict(lr=0.01, betas=(0.9, 0.8, 0.95), eps=1e-4, weight_decay=0.3)
    two = theirs_class(theirs, **options)
    one = Adan(ours, foreach=foreach, **options)
    # The library takes 0 for the gradient before the first; given a first step without effect on its averages, both agree.
    for p, q in zip(ours, theirs):
        p.grad, q.grad = torch.zeros_like(p), torch.zeros_like(q)
    one.step()
    two.step()
    assert_same_steps(one, two, ours, theirs)


@pytest.mark.oracle("the paper's algorithm, weight by weight in Python floats")
def test_is_the_papers_algorithm_with_betas_turned_round():
    """Pitfall: the paper's betas are the shares of what is new."""
    w = Parameter(torch.tensor([0.7], dtype=torch.float64))
    fresh = (0.1, 0.3, 0.05)  # the paper's beta 1, 2 and 3
    optimizer = Adan([w], lr=0.04, betas=tuple(1 - b for b in fresh), eps=1e-3, weight_decay=0.5)
    x, m, v, n, last = 0.7, 0.0, 0.0, 0.0, None
    for k in range(1, 101):
        g = 2 * x + (-1) ** k * 0.3
        w.grad = torch.tensor([g], dtype=torch.float64)
        optimizer.step()
        d = 0.0 if last is None else g - last
        m = (1 - fresh[0]) * m + fresh[0] * g
        v = (1 - fresh[1]) * v + fresh[1] * d
        n = (1 - fresh[2]) * n + fresh[2] * (g + (1 - fresh[1]) * d) ** 2
        hats = [value / (1 - (1 - b) ** k) for value, b in zip((m, v, n), fresh)]
        x = (x - 0.04 / (hats[2] ** 0.5 + 1e-3) * (hats[0] + (1 - fresh[1]) * hats[1])) / (1 + 0.04 * 0.5)
        last = g
        assert w.item() == pytest.approx(x, rel=1e-10)


@pytest.mark.oracle("torch.optim.Adam, with the second beta at 0")
def test_without_the_difference_it_is_adam():
    """Erratum: the third beta belongs to a second moment, Adam's, and is no momentum."""
    ours, theirs = layers((5, 4), (6,)), layers((5, 4), (6,))
    one, two = Adan(ours, lr=0.02, betas=(0.9, 0.0, 0.97), weight_decay=0.0), torch.optim.Adam(theirs, lr=0.02, betas=(0.9, 0.97))
    assert_same_steps(one, two, ours, theirs)


@pytest.mark.oracle("closed form: a constant gradient g moves a weight by lr·g/(|g| + eps)")
def test_a_constant_gradient_moves_every_weight_by_the_rate():
    g = torch.tensor([1e-3, -5.0, 200.0, 0.0], dtype=torch.float64)
    w = Parameter(torch.zeros(4, dtype=torch.float64))
    optimizer = Adan([w], lr=0.1, eps=1e-3, weight_decay=0.0)
    for t in range(1, 30):
        w.grad = g.clone()
        optimizer.step()
        torch.testing.assert_close(w.data, -0.1 * t * g / (g.abs() + 1e-3), rtol=1e-10, atol=1e-14)


def test_the_first_difference_is_zero():
    """Pitfall: with 0 for the gradient before the first, the first step would be longer than the rate."""
    (w,) = layers((4, 3))
    before = w.detach().clone()
    optimizer = Adan([w], lr=0.1, eps=0.0, weight_decay=0.0)
    take(optimizer, [w], 0)
    torch.testing.assert_close((w.detach() - before).abs(), torch.full_like(w, 0.1), rtol=1e-12, atol=0)
    assert optimizer.state[w]["c"].abs().max() == 0
    torch.testing.assert_close(optimizer.state[w]["last"], w.grad, rtol=0, atol=0)


def test_decay_is_a_division_that_cannot_change_the_sign():
    for decay, left in ((0.5, 1 / 1.05), (100.0, 1 / 11.0)):
        w = Parameter(torch.ones(2, 2, dtype=torch.float64))
        w.grad = torch.zeros_like(w)
        Adan([w], lr=0.1, weight_decay=decay).step()
        torch.testing.assert_close(w.data, torch.full_like(w, left), rtol=1e-12, atol=0)


def test_state_is_twice_adams():
    ours, theirs = layers((5, 4)), layers((5, 4))
    one, two = Adan(ours), torch.optim.Adam(theirs)
    take(one, ours, 0)
    take(two, theirs, 0)
    assert numbers_per_weight(one, ours[0]) == 4
    assert numbers_per_weight(two, theirs[0]) == 2


def test_defaults_are_the_documented_ones():
    assert Adan(layers((2, 2))).defaults == dict(lr=1e-3, betas=(0.98, 0.92, 0.99), eps=1e-8, weight_decay=0.02, foreach=None, maximize=False, backend="auto")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(lr=-0.1), "lr=-0.1 is not 0 or more"),
        (dict(eps=-0.1), "eps=-0.1 is not 0 or more"),
        (dict(betas=(0.9, 0.99)), r"betas=\(0.9, 0.99\) are 2 numbers; expected 3"),
        (dict(betas=(0.9, 0.9, 1.0)), r"betas=\(0.9, 0.9, 1.0\) are not all in \[0, 1\)"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        Adan(layers((2, 2)), **options)


def test_numpy_variant_agrees(agree):
    (w,) = layers((5, 3))
    start, state, gradients = w.detach().numpy().copy(), {}, torch.randn(100, 5, 3, dtype=torch.float64)
    optimizer = Adan([w], lr=0.03, weight_decay=0.1)
    for g in gradients:
        w.grad = g.clone()
        optimizer.step()
    found = start
    for t, g in enumerate(gradients.numpy(), 1):
        found = adan_step(found, g, state, t, lr=0.03, weight_decay=0.1)
    agree(found, w)


@pytest.mark.interp
def test_kernel_agrees(kernel_agrees):
    assert_kernel_agrees(kernel_agrees, lambda params, **options: Adan(params, lr=0.02, betas=(0.9, 0.8, 0.95), weight_decay=0.3, **options))
