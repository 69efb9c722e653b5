import copy

import pytest
import torch
from torch.nn import Parameter

from snippets.optimizers.lookahead import lookahead
from snippets.optimizers.sgd import sgd_step
from vocab.optimizers.lookahead import Lookahead
from vocab.optimizers.tests.walks import assert_same_steps, layers, take

# No example(): the constructor takes an optimizer in place of parameters and a rate, which the contract of optimizers does not know.


@pytest.mark.oracle("pytorch_optimizer.Lookahead")
def test_equals_another_library_for_100_steps():
    theirs_class = pytest.importorskip("pytorch_optimizer").Lookahead
    ours, theirs = layers((5, 4), (6,)), layers((5, 4), (6,))
    one = Lookahead(torch.optim.Adam(ours, lr=0.05), k=4, alpha=0.3)
    two = theirs_class(torch.optim.Adam(theirs, lr=0.05), k=4, alpha=0.3)
    assert_same_steps(one, two, ours, theirs)


@pytest.mark.oracle("the base optimizer alone, with alpha = 1")
def test_an_alpha_of_one_is_the_base_optimizer():
    ours, theirs = layers((5, 4)), layers((5, 4))
    assert_same_steps(Lookahead(torch.optim.Adam(ours, lr=0.05), k=3, alpha=1.0), torch.optim.Adam(theirs, lr=0.05), ours, theirs)


@pytest.mark.oracle("torch.optim.SGD with alpha·lr, at k = 1")
def test_with_one_step_ahead_it_is_sgd_with_a_smaller_rate():
    ours, theirs = layers((5, 4)), layers((5, 4))
    assert_same_steps(Lookahead(torch.optim.SGD(ours, lr=0.1), k=1, alpha=0.3), torch.optim.SGD(theirs, lr=0.03), ours, theirs)


@pytest.mark.oracle("closed form on a quadratic: [(1 - a) I + a (I - lr A)^k]^n x0")
@pytest.mark.parametrize(("k", "alpha"), [(5, 0.5), (3, 0.8), (7, 0.1)])
def test_on_a_quadratic_the_slow_weights_follow_a_power_of_one_matrix(k, alpha):
    torch.manual_seed(0)
    b = torch.randn(4, 4, dtype=torch.float64)
    A, (w,) = b @ b.T / 4, layers((4,))
    optimizer, eye, start = Lookahead(torch.optim.SGD([w], lr=0.1), k, alpha), torch.eye(4, dtype=torch.float64), w.detach().clone()
    for t in range(1, 10 * k + 1):
        w.grad = A @ w.detach()
        optimizer.step()
        if t % k == 0:
            cycle = (1 - alpha) * eye + alpha * torch.linalg.matrix_power(eye - 0.1 * A, k)
            torch.testing.assert_close(w.detach(), torch.linalg.matrix_power(cycle, t // k) @ start, rtol=1e-10, atol=1e-12)


@pytest.mark.oracle("closed form: the paper's ratio of steady variances on a noisy quadratic")
def test_the_steady_variance_is_below_that_of_sgd_and_as_the_closed_form_says():
    lr, k, alpha, n = 0.2, 5, 0.5, 20_000
    w, plain = (Parameter(torch.zeros(n, dtype=torch.float64)) for _ in range(2))
    ahead, sgd, generator = Lookahead(torch.optim.SGD([w], lr=lr), k, alpha), torch.optim.SGD([plain], lr=lr), torch.Generator().manual_seed(0)
    for _ in range(40 * k):
        noise = torch.randn(n, generator=generator, dtype=torch.float64)
        w.grad, plain.grad = w.detach() + noise, plain.detach() + noise
        ahead.step()
        sgd.step()
    keep = (1 - lr) ** k
    fast = lr**2 / (1 - (1 - lr) ** 2)
    # V = (1-a)² V + a² (keep² V + fast (1 - keep²)) + 2 a (1-a) keep V, solved for V
    slow = alpha**2 * fast * (1 - keep**2) / (1 - (1 - alpha + alpha * keep) ** 2)
    assert plain.detach().var().item() == pytest.approx(fast, rel=0.05)
    assert w.detach().var().item() == pytest.approx(slow, rel=0.05)
    assert slow < 0.7 * fast


def test_resumes_in_mid_cycle_bit_by_bit():
    paths = []
    for interrupted in (False, True):
        params = layers((5, 4), (6,))
        build = lambda: Lookahead(torch.optim.Adam([{"params": params[:1]}, {"params": params[1:], "lr": 0.2}], lr=0.05), k=5, alpha=0.4)  # noqa: E731
        optimizer = build()
        for t in range(30):
            if interrupted and t == 13:
                saved = copy.deepcopy(optimizer.state_dict())
                optimizer = build()
                optimizer.load_state_dict(saved)
            take(optimizer, params, t)
        paths.append([p.detach().clone() for p in params])
    torch.testing.assert_close(*paths, rtol=0, atol=0)


def test_evaluates_the_slow_weights_and_goes_on_with_the_fast_ones():
    """Pitfall: in mid-cycle the parameters are the fast weights."""
    (w,) = layers((3,))
    start = w.detach().clone()
    optimizer = Lookahead(torch.optim.SGD([w], lr=0.1), k=5)
    w.grad = torch.ones_like(w)
    optimizer.step()
    with pytest.raises(ZeroDivisionError), optimizer.slow_weights():
        assert torch.equal(w.detach(), start)
        1 / 0
    torch.testing.assert_close(w.detach(), start - 0.1)


def test_momentum_of_the_base_is_kept_over_the_synchronization():
    """Pitfall: keep, average or reset; this one keeps."""
    w = Parameter(torch.zeros(1, dtype=torch.float64))
    base = torch.optim.SGD([w], lr=1.0, momentum=0.5)
    optimizer = Lookahead(base, k=2, alpha=0.5)
    for g in (1.0, 1.0, 0.0):
        w.grad = torch.tensor([g], dtype=torch.float64)
        optimizer.step()
    # fast: -1, -2.5; slow -1.25; then the old velocity 1.5 · 0.5
    assert w.item() == pytest.approx(-1.25 - 0.75)


def test_schedulers_closures_groups_and_missing_gradients_work_through_it():
    used, unused = layers((2,), (3,))
    optimizer = Lookahead(torch.optim.SGD([used], lr=1.0), k=2)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.1)
    optimizer.add_param_group({"params": [unused], "lr": 5.0})
    assert [len(optimizer.param_groups), len(optimizer.base.param_groups)] == [2, 2]
    before = [p.detach().clone() for p in (used, unused)]

    def closure():
        optimizer.zero_grad()
        loss = used.sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == pytest.approx(before[0].sum().item())
    scheduler.step()
    assert optimizer.base.param_groups[0]["lr"] == pytest.approx(0.1)
    optimizer.step(closure)
    torch.testing.assert_close(used.detach(), before[0] - 0.5 * 1.1)
    assert torch.equal(unused.detach(), before[1])
    optimizer.zero_grad()
    assert used.grad is None


@pytest.mark.parametrize(
    ("options", "message"),
    [(dict(k=0), "k=0 is not a whole number"), (dict(k=2.5), "k=2.5 is not a whole number"), (dict(alpha=0.0), r"alpha=0.0 is not in \(0, 1\]"),
     (dict(alpha=1.1), r"alpha=1.1 is not in \(0, 1\]")],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        Lookahead(torch.optim.SGD(layers((2,)), lr=0.1), **options)


def test_what_is_no_optimizer_and_states_of_others_are_refused():
    with pytest.raises(TypeError, match="base_optimizer is a list; expected a torch.optim.Optimizer"):
        Lookahead(layers((2,)))
    one, two = (Lookahead(torch.optim.SGD(p, lr=0.1)) for p in (layers((2,)), layers((2,), (3,))))
    with pytest.raises(ValueError, match="slow weights of 1 parameters; expected 2"):
        two.load_state_dict(one.state_dict())


def test_defaults_are_the_papers():
    optimizer = Lookahead(torch.optim.SGD(layers((2,)), lr=0.1))
    assert (optimizer.k, optimizer.alpha) == (5, 0.5)


def test_numpy_variant_agrees(agree):
    (w,) = layers((5, 3))
    start, state, gradients = w.detach().numpy().copy(), {}, torch.randn(103, 5, 3, dtype=torch.float64)
    optimizer = Lookahead(torch.optim.SGD([w], lr=0.1, momentum=0.9), k=4, alpha=0.3)
    for g in gradients:
        w.grad = g.clone()
        optimizer.step()
    found = start
    for t, g in enumerate(gradients.numpy(), 1):
        found = lookahead(lambda *a: sgd_step(*a, lr=0.1, momentum=0.9), found, g, state, t, k=4, alpha=0.3)
    agree(found, w)
