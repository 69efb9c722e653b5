import pytest
import torch
from torch.nn import Parameter
from torch.nn.functional import cross_entropy

from snippets.optimizers.sophia import sophia_step
from vocab.optimizers.lion import Lion
from vocab.optimizers.sophia import SophiaG, hutchinson, sampled_cross_entropy
from vocab.optimizers.tests.walks import assert_kernel_agrees, assert_same_steps, layers, numbers_per_weight, take


def example():
    """For the contract suite: builds an optimizer for given parameters."""
    return (lambda params: SophiaG(params, lr=0.02)), ()


@pytest.mark.oracle("pytorch_optimizer.SophiaH, given the same curvature")
@pytest.mark.parametrize("foreach", [False, True])
def test_equals_another_library_for_100_steps(foreach):
    theirs_class = pytest.importorskip("pytorch_optimizer").SophiaH
    ours, theirs = layers((5, 4), (6,)), layers((5, 4), (6,))
    # The library clips at p and not at 1, so its rate is p times shorter and its decay p times larger.
    one = SophiaG(ours, lr=0.01, betas=(0.9, 0.8), rho=0.25, weight_decay=0.2, eps=1e-6, foreach=foreach)
    two = theirs_class(theirs, lr=0.04, betas=(0.9, 0.8), p=0.25, weight_decay=0.05, eps=4e-6)
    for t in range(100):
        torch.manual_seed(t)
        for p, q in zip(ours, theirs):
            p.grad = p.detach() + torch.randn_like(p)
            q.grad = p.grad.clone()
        curvature = [4 * torch.rand_like(p) - 0.5 for p in ours] if t % 7 == 0 else None
        if curvature:
            one.update_hessian(curvature)
        one.step()
        # between estimates the library's own call for one is off, as its period is long
        two.update_period = 10**9
        for group in two.param_groups:
            group["step"] = max(group.get("step", 0), 1)
        two.step(hessian=curvature)
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.oracle("Newton's method on a quadratic")
@pytest.mark.parametrize("lr", [1.0, 0.3])
def test_with_exact_curvature_and_no_clipping_it_is_a_newton_step(lr):
    h, goal = torch.tensor([100.0, 1.0, 0.01], dtype=torch.float64), torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64)
    w = Parameter(torch.zeros(3, dtype=torch.float64))
    optimizer = SophiaG([w], lr=lr, betas=(0.0, 0.0), rho=1.0, weight_decay=0.0)
    optimizer.update_hessian([h])
    w.grad = h * (w.detach() - goal)
    optimizer.step()
    torch.testing.assert_close(w.data, lr * goal, rtol=1e-12, atol=1e-14)


@pytest.mark.oracle("vocab's Lion with equal betas, where everything is clipped")
def test_where_everything_is_clipped_it_is_signed_momentum():
    ours, theirs = layers((5, 4)), layers((5, 4))
    one, two = SophiaG(ours, lr=0.02, betas=(0.9, 0.99), weight_decay=0.1), Lion(theirs, lr=0.02, betas=(0.9, 0.9), weight_decay=0.1)
    assert one.clipped() == 0.0, "nothing is known before the first step"
    assert_same_steps(one, two, ours, theirs)
    assert one.clipped() == 1.0, "no curvature has been given"


@pytest.mark.oracle("torch.autograd.functional.hessian, 10,000 probes")
def test_hutchinsons_estimate_is_the_diagonal_in_the_mean():
    a, b = torch.randn(4, dtype=torch.float64), torch.randn(4, dtype=torch.float64)

    def f(w):
        return (a @ w).sin() * 2 + (w**2 * b).sum() + w[0] * w[1] ** 2

    w = torch.randn(4, dtype=torch.float64, requires_grad=True)
    generator = torch.Generator().manual_seed(0)
    true = torch.autograd.functional.hessian(f, w)
    loss = f(w)
    samples = torch.stack([hutchinson(f(w), [w], generator)[0] for _ in range(10_000)])
    error = samples.std(0) / 100
    assert ((samples.mean(0) - true.diagonal()).abs() < 4 * error + 1e-9).all()
    # of u_i (H u)_i with normal u: 2 H_ii² + sum of H_ij² over the others
    spread = (true**2).sum(1) + true.diagonal() ** 2
    torch.testing.assert_close(samples.var(0), spread, rtol=0.1, atol=0)
    assert loss.requires_grad


@pytest.mark.oracle("torch.autograd.functional.hessian of the cross-entropy, mean over sampled labels")
def test_bartletts_estimate_is_the_diagonal_with_sampled_labels_and_not_with_true_ones():
    """Pitfall: with the data's labels it is the empirical Fisher matrix, another quantity."""
    n = 3
    x, labels = torch.randn(n, 2, dtype=torch.float64), torch.tensor([0, 1, 1])
    w = Parameter(torch.randn(2, 3, dtype=torch.float64))
    true = torch.autograd.functional.hessian(lambda w: cross_entropy(x @ w, labels), w.detach()).reshape(6, 6).diagonal().reshape(2, 3)
    optimizer = SophiaG([w], betas=(0.9, 0.0), rho=1.0)
    generator, total, rounds = torch.Generator().manual_seed(0), torch.zeros(2, 3, dtype=torch.float64), 4000
    for _ in range(rounds):
        w.grad = None
        sampled_cross_entropy(x @ w, generator).backward()
        optimizer.update_hessian(bs=n)
        total += optimizer.state[w]["h"]
    torch.testing.assert_close(total / rounds, true, rtol=0.12, atol=0.005)
    w.grad = None
    cross_entropy(x @ w, labels).backward()
    optimizer.update_hessian(bs=n)
    assert ((optimizer.state[w]["h"] - true).abs() / true).max() > 0.5


def test_labels_are_drawn_from_the_softmax():
    logits = torch.tensor([2.0, 0.0, -1.0], dtype=torch.float64).log_softmax(0).expand(20_000, 3)
    entropy = -(logits[0].exp() * logits[0]).sum()
    assert sampled_cross_entropy(logits).item() == pytest.approx(entropy.item(), abs=0.02)
    batched = sampled_cross_entropy(logits.reshape(100, 200, 3), torch.Generator().manual_seed(0))
    torch.testing.assert_close(batched, sampled_cross_entropy(logits, torch.Generator().manual_seed(0)))


def test_the_curvature_is_a_running_mean():
    (w,) = layers((3,))
    optimizer = SophiaG([w], betas=(0.9, 0.75))
    w.grad = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    optimizer.update_hessian(bs=8)
    torch.testing.assert_close(optimizer.state[w]["h"], torch.tensor([2.0, 8.0, 18.0], dtype=torch.float64))
    optimizer.update_hessian([torch.zeros(3, dtype=torch.float64)])
    torch.testing.assert_close(optimizer.state[w]["h"], torch.tensor([1.5, 6.0, 13.5], dtype=torch.float64))


def test_says_when_the_next_estimate_is_due_also_after_resuming():
    (w,) = layers((3, 2))
    optimizer, due = SophiaG([w], update_period=3), []
    for t in range(7):
        due.append(optimizer.due)
        take(optimizer, [w], t)
    assert due == [True, False, False, True, False, False, True]
    other = SophiaG(layers((3, 2)), update_period=3)
    other.load_state_dict(optimizer.state_dict())
    assert [optimizer.due, other.due] == [False, False]


def test_negative_curvature_is_walked_down_at_full_speed():
    w = Parameter(torch.tensor([0.01, 0.5], dtype=torch.float64))
    optimizer = SophiaG([w], lr=0.1, betas=(0.0, 0.0), rho=1.0, weight_decay=0.0)
    optimizer.update_hessian([torch.tensor([-1.0, 2.0], dtype=torch.float64)])
    w.grad = torch.tensor([-0.01, 1.0], dtype=torch.float64)  # of -x²/2 + y²
    optimizer.step()
    torch.testing.assert_close(w.data, torch.tensor([0.11, 0.45], dtype=torch.float64), msg="away from the top, and Newton's share")
    assert optimizer.clipped() == 0.5


def test_weights_without_gradient_and_curvature_stay():
    (w,) = layers((2, 2))
    before = w.detach().clone()
    w.grad = torch.zeros_like(w)
    SophiaG([w], lr=0.1, weight_decay=0.0).step()
    assert torch.equal(w.detach(), before)


def test_complex_curvature_counts_both_parts():
    w = Parameter(torch.tensor([1.0 + 2.0j], dtype=torch.complex128))
    optimizer = SophiaG([w], betas=(0.9, 0.0))
    w.grad = torch.tensor([3.0 + 4.0j], dtype=torch.complex128)
    optimizer.update_hessian(bs=2)
    torch.testing.assert_close(optimizer.state[w]["h"], torch.tensor([[18.0, 32.0]], dtype=torch.float64))
    optimizer.step()


def test_parameters_without_gradient_get_no_curvature():
    first, second = layers((2,), (3,))
    second.grad = torch.ones_like(second)
    optimizer = SophiaG([first, second])
    optimizer.update_hessian(bs=1)
    assert "h" not in optimizer.state[first] and "h" in optimizer.state[second]


def test_state_is_as_large_as_adams():
    params = layers((5, 4))
    optimizer = SophiaG(params)
    take(optimizer, params, 0)
    assert numbers_per_weight(optimizer, params[0]) == 2


def test_defaults_are_the_documented_ones():
    assert SophiaG(layers((2, 2))).defaults == dict(lr=6e-4, betas=(0.965, 0.99), rho=0.04, weight_decay=0.1, update_period=10, eps=1e-15,
                                                    foreach=None, maximize=False, backend="auto")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(lr=-0.1), "lr=-0.1 is not 0 or more"),
        (dict(rho=0.0), "rho=0.0 is not above 0"),
        (dict(eps=0.0), "eps=0.0 is not above 0"),
        (dict(update_period=0), "update_period=0 is not a whole number of 1 or more"),
        (dict(update_period=2.5), "update_period=2.5 is not a whole number of 1 or more"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        SophiaG(layers((2, 2)), **options)


def test_bad_curvature_is_named():
    optimizer = SophiaG(layers((2, 2)))
    with pytest.raises(ValueError, match="either curvature or bs"):
        optimizer.update_hessian()
    with pytest.raises(ValueError, match="either curvature or bs"):
        optimizer.update_hessian([torch.ones(2, 2)], bs=3)
    with pytest.raises(ValueError, match="curvature has 2 tensors for 1 parameters"):
        optimizer.update_hessian([torch.ones(2, 2)] * 2)
    with pytest.raises(ValueError, match=r"curvature\[0\] has shape \(3,\); expected \(2, 2\)"):
        optimizer.update_hessian([torch.ones(3)])
    with pytest.raises(TypeError, match="loss is a float"):
        hutchinson(1.0, [])
    with pytest.raises(TypeError, match="logits has dtype torch.int64"):
        sampled_cross_entropy(torch.ones(2, 3, dtype=torch.long))


def test_numpy_variant_agrees(agree):
    (w,) = layers((5, 3))
    start, state, gradients = w.detach().numpy().copy(), {}, torch.randn(100, 5, 3, dtype=torch.float64)
    optimizer = SophiaG([w], lr=0.03, rho=0.5)
    for t, g in enumerate(gradients):
        if optimizer.due:
            optimizer.update_hessian([gradients[t] ** 2 - 0.1])
        w.grad = g.clone()
        optimizer.step()
    found = start
    for t, g in enumerate(gradients.numpy(), 1):
        found = sophia_step(found, g, state, t, lr=0.03, rho=0.5, h=g**2 - 0.1 if t % 10 == 1 else None)
    agree(found, w)


@pytest.mark.interp
def test_kernel_agrees(kernel_agrees):
    def build(params, **options):
        optimizer = SophiaG(params, lr=0.02, betas=(0.9, 0.8), rho=0.5, **options)
        torch.manual_seed(1)
        optimizer.update_hessian([torch.rand_like(p) - 0.1 for p in params])  # some curvature is negative
        return optimizer

    assert_kernel_agrees(kernel_agrees, build)
