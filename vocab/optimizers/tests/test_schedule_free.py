import pytest
import torch
from torch.nn import Parameter

from snippets.optimizers.schedule_free import schedule_free_step
from vocab.optimizers.schedule_free import ScheduleFreeAdamW
from vocab.optimizers.tests.walks import assert_same_steps, layers, numbers_per_weight, take


def example():
    """For the contract suite: builds an optimizer for given parameters."""
    return (lambda params: ScheduleFreeAdamW(params, lr=0.05, warmup_steps=3, weight_decay=0.1)), ()


@pytest.mark.oracle("pytorch_optimizer.ScheduleFreeAdamW")
@pytest.mark.parametrize("warmup", [0, 20])
def test_equals_another_library_for_100_steps_in_training_and_evaluation(warmup):
    theirs_class = pytest.importorskip("pytorch_optimizer").ScheduleFreeAdamW
    ours, theirs = layers((5, 4), (6,)), layers((5, 4), (6,))
    options = dict(lr=0.02, betas=(0.8, 0.95), weight_decay=0.1, warmup_steps=warmup, eps=1e-6)
    one, two = ScheduleFreeAdamW(ours, **options), theirs_class(theirs, **options)
    assert_same_steps(one, two, ours, theirs)
    one.eval()
    two.eval()
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


def bases(optimizer, w, steps=30):
    """Steps with noisy gradients; the base after each."""
    stored = []
    for t in range(steps):
        take(optimizer, [w], t)
        stored.append(optimizer.state[w]["z"].clone())
    return stored


@pytest.mark.oracle("identity: the plain mean of the stored bases")
@pytest.mark.parametrize("beta1", [1.0, 0.9, 0.3])
def test_what_is_evaluated_is_the_mean_of_all_bases(beta1):
    (w,) = layers((4, 3))
    optimizer = ScheduleFreeAdamW([w], lr=0.1, betas=(beta1, 0.99))
    stored = bases(optimizer, w)
    between = w.detach().clone()
    optimizer.eval()
    mean = torch.stack(stored).mean(0)
    torch.testing.assert_close(w.detach(), mean, rtol=1e-10, atol=1e-12)
    optimizer.train()
    torch.testing.assert_close(w.detach(), between, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(between, (1 - beta1) * stored[-1] + beta1 * mean, rtol=1e-10, atol=1e-12)


@pytest.mark.oracle("primal averaging, written out: gradients at the average")
def test_a_beta_of_one_takes_gradients_at_the_average():
    (w,) = layers((5,))
    optimizer, h = ScheduleFreeAdamW([w], lr=0.1, betas=(1.0, 0.9)), torch.arange(1.0, 6.0, dtype=torch.float64)
    x, z, v = w.detach().clone(), w.detach().clone(), torch.zeros(5, dtype=torch.float64)
    for t in range(1, 50):
        w.grad = h * w.detach()
        optimizer.step()
        v = 0.9 * v + 0.1 * (h * x) ** 2
        z = z - 0.1 * h * x / ((v / (1 - 0.9**t)).sqrt() + 1e-8)
        x = x + (z - x) / t
        torch.testing.assert_close(w.detach(), x, rtol=1e-10, atol=1e-12)


@pytest.mark.oracle("torch.optim.RMSprop-like base with its mean kept beside it (Polyak-Ruppert)")
def test_a_beta_near_zero_is_the_average_of_the_base_method():
    beta1 = 1e-6  # 0 itself cannot be undone by eval()
    (w,), (twin,) = layers((5,)), layers((5,))
    optimizer = ScheduleFreeAdamW([w], lr=0.05, betas=(beta1, 0.9))
    adam, path = torch.optim.Adam([twin], lr=0.05, betas=(0.0, 0.9)), []
    for t in range(40):
        torch.manual_seed(t)
        w.grad = torch.randn(5, dtype=torch.float64) + w.detach()
        torch.manual_seed(t)
        twin.grad = torch.randn(5, dtype=torch.float64) + twin.detach()
        optimizer.step()
        adam.step()
        path.append(twin.detach().clone())
    torch.testing.assert_close(w.detach(), twin.detach(), rtol=0, atol=1e-4)
    optimizer.eval()
    torch.testing.assert_close(w.detach(), torch.stack(path).mean(0), rtol=0, atol=1e-4)


def test_steps_of_the_warm_up_count_by_the_square_of_their_rate():
    (w,) = layers((3, 2))
    optimizer = ScheduleFreeAdamW([w], lr=0.1, warmup_steps=4)
    stored = bases(optimizer, w, steps=6)
    optimizer.eval()
    weights = torch.tensor([1, 4, 9, 16, 16, 16], dtype=torch.float64)
    torch.testing.assert_close(w.detach(), torch.einsum("t,tij->ij", weights / weights.sum(), torch.stack(stored)), rtol=1e-10, atol=1e-12)


def test_the_average_settles_where_the_base_does_not():
    w = Parameter(torch.full((200,), 3.0, dtype=torch.float64))
    optimizer = ScheduleFreeAdamW([w], lr=0.1, betas=(0.9, 0.999))
    generator = torch.Generator().manual_seed(0)
    for _ in range(400):
        w.grad = w.detach() + torch.randn(200, generator=generator, dtype=torch.float64)
        optimizer.step()
    base = optimizer.state[w]["z"].square().mean()
    optimizer.eval()
    assert w.detach().square().mean() < base / 3


def test_steps_after_eval_are_refused_and_switching_twice_does_nothing():
    """Pitfall: the parameters hold two different points."""
    (w,) = layers((3, 2))
    optimizer = ScheduleFreeAdamW([w], lr=0.1)
    optimizer.eval()
    optimizer.train()
    bases(optimizer, w, steps=5)
    at = w.detach().clone()
    optimizer.eval()
    once = w.detach().clone()
    optimizer.eval()
    assert torch.equal(w.detach(), once) and not torch.allclose(once, at)
    with pytest.raises(RuntimeError, match=r"step after eval\(\).*call train\(\)"):
        optimizer.step()
    optimizer.train()
    optimizer.train()
    torch.testing.assert_close(w.detach(), at, rtol=1e-12, atol=1e-14)


def test_complex_weights_switch_as_pairs():
    w = Parameter(torch.tensor([1.0 + 2.0j], dtype=torch.complex128))
    pair = Parameter(torch.view_as_real(w.detach()).clone())
    for p in (w, pair):
        optimizer = ScheduleFreeAdamW([p], lr=0.1)
        for _ in range(5):
            p.grad = p.detach().clone()
            optimizer.step()
        optimizer.eval()
    torch.testing.assert_close(torch.view_as_real(w.detach()), pair.detach())


def test_a_rate_of_zero_moves_nothing():
    (w,) = layers((2, 2))
    before = w.detach().clone()
    take(ScheduleFreeAdamW([w], lr=0.0), [w], 0)
    torch.testing.assert_close(w.detach(), before, rtol=0, atol=0)


def test_state_is_as_large_as_adams():
    params = layers((5, 4))
    optimizer = ScheduleFreeAdamW(params)
    take(optimizer, params, 0)
    assert numbers_per_weight(optimizer, params[0]) == 2


def test_defaults_are_the_documented_ones():
    assert ScheduleFreeAdamW(layers((2, 2))).defaults == dict(lr=2.5e-3, betas=(0.9, 0.999), weight_decay=0.0, warmup_steps=0, eps=1e-8,
                                                              training=True, foreach=None, maximize=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(lr=-0.1), "lr=-0.1 is not 0 or more"),
        (dict(betas=(0.0, 0.9)), r"betas\[0\]=0.0 is not in \(0, 1\]"),
        (dict(betas=(1.1, 0.9)), r"betas\[0\]=1.1 is not in \(0, 1\]"),
        (dict(betas=(0.9, 1.0)), r"are not all in \[0, 1\)"),
        (dict(warmup_steps=-1), "warmup_steps=-1 is not 0 or more"),
        (dict(eps=-1.0), "eps=-1.0 is not 0 or more"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        ScheduleFreeAdamW(layers((2, 2)), **options)


def test_numpy_variant_agrees(agree):
    (w,) = layers((5, 3))
    start, state, gradients = w.detach().numpy().copy(), {}, torch.randn(100, 5, 3, dtype=torch.float64)
    optimizer = ScheduleFreeAdamW([w], lr=0.03, weight_decay=0.1, warmup_steps=10)
    for g in gradients:
        w.grad = g.clone()
        optimizer.step()
    found = start
    for t, g in enumerate(gradients.numpy(), 1):
        found = schedule_free_step(found, g, state, t, lr=0.03, weight_decay=0.1, warmup=10)
    agree(found, w)
    optimizer.eval()
    agree(state["x"], w)
