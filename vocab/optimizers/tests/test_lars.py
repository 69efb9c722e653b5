import pytest
import torch
from torch import nn
from torch.nn import Parameter

from snippets.optimizers.lars import lars_step
from vocab.optimizers.lars import LARS
from vocab.optimizers.tests.walks import assert_same_steps, layers, numbers_per_weight, take


def example():
    """For the contract suite: builds an optimizer for given parameters."""
    return (lambda params: LARS(params, lr=5.0, trust_coefficient=0.01)), ()


@pytest.mark.oracle("pytorch_optimizer.LARS (eps 0)")
@pytest.mark.parametrize("momentum", [0.0, 0.8])
@pytest.mark.parametrize("foreach", [False, True])
def test_equals_another_library_for_100_steps(momentum, foreach):
    theirs_class = pytest.importorskip("pytorch_optimizer").LARS
    ours, theirs = layers((5, 4), (3, 2, 2), (6,)), layers((5, 4), (3, 2, 2), (6,))
    options = dict(lr=0.3, momentum=momentum, weight_decay=0.2, trust_coefficient=0.05)
    assert_same_steps(LARS(ours, eps=0.0, foreach=foreach, **options), theirs_class(theirs, **options), ours, theirs)


@pytest.mark.oracle("pytorch_optimizer.LARS on a small convolutional network")
def test_trains_a_small_convolutional_network_as_another_library_does():
    theirs_class = pytest.importorskip("pytorch_optimizer").LARS
    paths = []
    for build in (lambda p: LARS(p, lr=2.0, trust_coefficient=0.02, eps=0.0), lambda p: theirs_class(p, lr=2.0, trust_coefficient=0.02, weight_decay=1e-4)):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)).double()
        optimizer, x, y = build(net.parameters()), torch.randn(16, 1, 6, 6).double(), torch.randint(0, 3, (16,))
        for _ in range(50):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x), y).backward()
            optimizer.step()
        paths.append([p.detach().clone() for p in net.parameters()])
    torch.testing.assert_close(*paths, rtol=1e-9, atol=1e-12)


@pytest.mark.oracle("torch.optim.SGD with momentum, its gradients scaled so that the ratio is 1")
def test_with_a_ratio_of_one_it_is_sgd_with_momentum():
    ours, theirs = layers((4, 3), (5,)), layers((4, 3), (5,))
    one, two = LARS(ours, lr=0.1, momentum=0.7, weight_decay=0.0, trust_coefficient=1.0, eps=0.0), torch.optim.SGD(theirs, lr=0.1, momentum=0.7)
    for t in range(60):
        torch.manual_seed(t)
        for p, q in zip(ours, theirs):
            p.grad = torch.randn_like(p)
            p.grad *= p.detach().norm() / p.grad.norm()  # as long as the weights
            q.grad = p.grad.clone()
        one.step()
        two.step()
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.oracle("identity: each layer moves by lr · trust coefficient of its norm, whatever its gradient")
def test_a_layer_whose_loss_is_a_thousand_times_larger_moves_no_more():
    """Erratum: the trust coefficient is no global rate; lr stands beside it."""
    for lr, trust in ((2.0, 0.01), (0.5, 0.1)):
        for scale in (1.0, 1000.0):
            first, second = layers((6, 5), (3, 4))
            before = [first.detach().clone(), second.detach().clone()]
            ((first**2).sum() * scale + (second**3).sum()).backward()
            LARS([first, second], lr=lr, momentum=0.0, weight_decay=0.0, trust_coefficient=trust, eps=0.0).step()
            for p, b in zip((first, second), before):
                assert (p - b).norm().item() == pytest.approx(lr * trust * b.norm().item(), rel=1e-12)


@pytest.mark.oracle("the paper's equations, in plain floats")
def test_decay_enters_ratio_gradient_and_velocity():
    """Erratum: a formula without the decay, the momentum and the global rate is not LARS."""
    w = Parameter(torch.tensor([[3.0, 4.0]], dtype=torch.float64))
    optimizer = LARS([w], lr=0.5, momentum=0.6, weight_decay=0.2, trust_coefficient=0.1, eps=0.01)
    x, y, vx, vy = 3.0, 4.0, 0.0, 0.0
    for g in ((1.0, -2.0), (0.5, 0.25), (-3.0, 1.0)):
        w.grad = torch.tensor([g], dtype=torch.float64)
        optimizer.step()
        size, slope = (x * x + y * y) ** 0.5, (g[0] ** 2 + g[1] ** 2) ** 0.5
        local = 0.1 * size / (slope + 0.2 * size + 0.01)
        vx, vy = 0.6 * vx + local * (g[0] + 0.2 * x), 0.6 * vy + local * (g[1] + 0.2 * y)
        x, y = x - 0.5 * vx, y - 0.5 * vy
        assert w.flatten().tolist() == pytest.approx([x, y], rel=1e-12)


def test_biases_and_gains_get_plain_momentum_unless_asked():
    ours, theirs = layers((7,), ()), layers((7,), ())
    assert_same_steps(LARS(ours, lr=0.05, weight_decay=0.5), torch.optim.SGD(theirs, lr=0.05, momentum=0.9), ours, theirs, steps=30)
    (w,) = layers((7,))
    before = w.detach().clone()
    w.grad = torch.ones_like(w)
    LARS([w], lr=1.0, weight_decay=0.0, trust_coefficient=0.01, eps=0.0, exclude_1d=False).step()
    assert (w - before).norm().item() == pytest.approx(0.01 * before.norm().item())


def test_layers_that_are_zero_can_move():
    """Pitfall: with norm 0 the ratio would be 0 for ever."""
    w = Parameter(torch.zeros(2, 2, dtype=torch.float64))
    w.grad = torch.full_like(w, 3.0)
    LARS([w], lr=0.1, momentum=0.0).step()
    torch.testing.assert_close(w.data, torch.full_like(w, -0.3))


def test_zero_gradients_do_nothing_without_decay():
    (w,) = layers((3, 3))
    before = w.detach().clone()
    w.grad = torch.zeros_like(w)
    LARS([w], lr=1.0, weight_decay=0.0).step()
    assert torch.equal(w.detach(), before)


def test_state_is_one_velocity_and_none_without_momentum():
    for momentum, numbers in ((0.9, 1), (0.0, 0)):
        params = layers((5, 4))
        optimizer = LARS(params, lr=0.1, momentum=momentum)
        take(optimizer, params, 0)
        assert numbers_per_weight(optimizer, params[0]) == numbers


def test_one_hour_of_imagenet_needed_no_layer_rates():
    """Erratum: that run was momentum SGD at 0.1 per 256 images, 3.2 at 8192; LARS with its usual coefficient moves far less at such a rate."""
    assert 0.1 * 8192 / 256 == pytest.approx(3.2)
    (w,) = layers((20, 20))
    before = w.detach().clone()
    take(LARS([w], lr=3.2, momentum=0.0, weight_decay=0.0), [w], 0)
    assert ((w - before).norm() / before.norm()).item() == pytest.approx(0.0032, rel=1e-6)


def test_defaults_are_the_documented_ones():
    assert LARS(layers((2, 2)), lr=1.0).defaults == dict(lr=1.0, momentum=0.9, weight_decay=1e-4, trust_coefficient=0.001, eps=1e-8,
                                                        exclude_1d=True, foreach=None, maximize=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(lr=-0.1), "lr=-0.1 is not 0 or more"),
        (dict(momentum=1.0), r"momentum=1.0 is not in \[0, 1\)"),
        (dict(momentum=-0.1), r"momentum=-0.1 is not in \[0, 1\)"),
        (dict(trust_coefficient=0.0), "trust_coefficient=0.0 is not above 0"),
        (dict(weight_decay=-1.0), "weight_decay=-1.0 is not 0 or more"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        LARS(layers((2, 2)), **{"lr": 1.0, **options})


def test_numpy_variant_agrees(agree):
    (w,) = layers((5, 3))
    start, state, gradients = w.detach().numpy().copy(), {}, torch.randn(100, 5, 3, dtype=torch.float64)
    optimizer = LARS([w], lr=2.0, weight_decay=0.1, trust_coefficient=0.01)
    for g in gradients:
        w.grad = g.clone()
        optimizer.step()
    found = start
    for t, g in enumerate(gradients.numpy(), 1):
        found = lars_step(found, g, state, t, lr=2.0, weight_decay=0.1, trust=0.01)
    agree(found, w)
