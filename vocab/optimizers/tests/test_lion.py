import math

import numpy as np
import pytest
import torch
from torch.nn import Parameter

from snippets.optimizers.lion import lion_step
from vocab.optimizers.lion import Lion
from vocab.optimizers.tests.walks import assert_kernel_agrees, assert_same_steps, layers, numbers_per_weight, take


def example():
    """For the contract suite: builds an optimizer for given parameters."""
    return (lambda params: Lion(params, lr=0.02, weight_decay=0.1)), ()


@pytest.mark.oracle("pytorch_optimizer.Lion")
@pytest.mark.parametrize("foreach", [False, True])
def test_equals_another_library_for_100_steps(foreach):
    theirs_class = pytest.importorskip("pytorch_optimizer").Lion
    ours, theirs = layers((5, 4), (3, 2, 2), (6,)), layers((5, 4), (3, 2, 2), (6,))
    options = dict(lr=0.01, betas=(0.8, 0.95), weight_decay=0.3)
    assert_same_steps(Lion(ours, foreach=foreach, **options), theirs_class(theirs, **options), ours, theirs)


@pytest.mark.oracle("the paper's formulas, weight by weight in Python floats")
@pytest.mark.parametrize("swapped", [False, True])
def test_the_step_interpolates_with_beta1_and_the_buffer_with_beta2(swapped):
    (w,) = layers((4, 3))
    betas = (0.5, 0.95)
    optimizer = Lion([w], lr=0.02, betas=betas[::-1] if swapped else betas, weight_decay=0.1)
    values, kept = w.detach().flatten().tolist(), [0.0] * 12
    for t in range(60):
        take(optimizer, [w], t)
        for i, g in enumerate(w.grad.flatten().tolist()):
            mixed = betas[0] * kept[i] + (1 - betas[0]) * g
            values[i] -= 0.02 * (math.copysign(1.0, mixed) + 0.1 * values[i])
            kept[i] = betas[1] * kept[i] + (1 - betas[1]) * g
        # both paths get the gradients of the optimizer's own weights, so only the use of the betas can differ
    same = np.allclose(w.detach().flatten(), values, rtol=1e-10, atol=0)
    assert same is not swapped


@pytest.mark.oracle("identity: every weight moves by exactly the learning rate")
def test_every_weight_moves_by_the_learning_rate_whatever_its_gradient():
    (w,) = layers((6, 5))
    optimizer = Lion([w], lr=0.07)
    for t in range(10):
        before = w.detach().clone()
        torch.manual_seed(t)
        w.grad = torch.randn_like(w) * 10.0 ** torch.randint(-8, 8, w.shape)
        optimizer.step()
        torch.testing.assert_close((w.detach() - before).abs(), torch.full_like(w, 0.07), rtol=1e-12, atol=1e-15)


@pytest.mark.oracle("invariance: the loss times a positive constant")
def test_the_path_does_not_depend_on_the_scale_of_the_loss():
    ours, theirs = layers((5, 4)), layers((5, 4))
    one, two = Lion(ours, lr=0.02, weight_decay=0.1), Lion(theirs, lr=0.02, weight_decay=0.1)
    for t in range(50):
        torch.manual_seed(t)
        ours[0].grad = ours[0].detach() + torch.randn_like(ours[0])
        theirs[0].grad = ours[0].grad * 2.0**-40  # a power of two, so that not even rounding differs
        one.step()
        two.step()
    assert torch.equal(ours[0], theirs[0])


@pytest.mark.oracle("torch.optim.SGD's velocity: its sign, where both betas are equal")
def test_equal_betas_are_signed_momentum():
    (w,) = layers((5, 4))
    twin = Parameter(w.detach().clone())
    ours, momentum = Lion([w], lr=0.05, betas=(0.8, 0.8)), torch.optim.SGD([twin], lr=1.0, momentum=0.8)
    for t in range(40):
        before, at = twin.detach().clone(), w.detach().clone()
        take(ours, [w], t)
        twin.grad = w.grad.clone()
        momentum.step()
        velocity = before - twin.detach()
        torch.testing.assert_close(w.detach(), at - 0.05 * velocity.sign(), rtol=1e-10, atol=1e-12)


@pytest.mark.oracle("closed form: a gradient N(mu, sigma²) moves a weight by lr·erf(mu/(sigma·sqrt 2)) in the mean")
@pytest.mark.parametrize("ratio", [0.1, 1.0, 3.0])
def test_noise_slows_the_walk_as_the_normal_distribution_says(ratio):
    w = Parameter(torch.zeros(100_000, dtype=torch.float64))
    w.grad = ratio + torch.randn(100_000, dtype=torch.float64)
    Lion([w], lr=1.0, betas=(0.0, 0.0)).step()
    assert -w.mean().item() == pytest.approx(math.erf(ratio / math.sqrt(2)), abs=0.01)  # three standard errors


def test_with_a_constant_rate_it_ends_in_a_cycle_around_the_minimum():
    ends = []
    for lr in (0.1, 0.01):
        w = Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
        optimizer, late = Lion([w], lr=lr), []
        for t in range(int(60 / lr)):
            w.grad = w.detach() * torch.tensor([1.0, 20.0])
            optimizer.step()
            late.append(w.detach().abs().max().item() / lr)
        ends.append(max(late[-100:]))
    assert all(1 <= end < 10 for end in ends), "it neither leaves nor comes to rest: within ten learning rates"


def test_weights_without_gradient_and_momentum_stay():
    w = Parameter(torch.ones(2, dtype=torch.float64))
    optimizer = Lion([w], lr=0.1)
    w.grad = torch.tensor([0.0, 1.0], dtype=torch.float64)
    optimizer.step()
    torch.testing.assert_close(w.data, torch.tensor([1.0, 0.9], dtype=torch.float64))
    w.grad = torch.zeros_like(w)
    optimizer.step()
    torch.testing.assert_close(w.data, torch.tensor([1.0, 0.8], dtype=torch.float64), msg="the kept average moves on")


def test_state_is_one_of_adams_two_buffers():
    """Erratum: more memory-efficient means one buffer instead of two, not more."""
    ours, theirs = layers((5, 4)), layers((5, 4))
    one, two = Lion(ours), torch.optim.Adam(theirs)
    take(one, ours, 0)
    take(two, theirs, 0)
    assert numbers_per_weight(one, ours[0]) == 1
    assert numbers_per_weight(two, theirs[0]) == 2


def test_decay_is_a_share_of_the_weights_times_the_rate():
    (w,) = layers((3, 3))
    before = w.detach().clone()
    w.grad = torch.zeros_like(w)
    Lion([w], lr=0.1, weight_decay=0.5).step()
    torch.testing.assert_close(w.detach(), 0.95 * before)


@pytest.mark.parametrize("foreach", [False, True])
def test_nan_is_not_hidden_by_the_sign(foreach):
    """Pitfall: torch.sign makes a 0 of a NaN, and a weight would stand still without a word."""
    assert torch.sign(torch.tensor(torch.nan)) == 0
    (w,) = layers((3,))
    before = w.detach().clone()
    w.grad = torch.tensor([torch.nan, 1.0, 0.0], dtype=torch.float64)
    Lion([w], lr=0.1, foreach=foreach).step()
    torch.testing.assert_close(w.detach(), before - torch.tensor([torch.nan, 0.1, 0.0], dtype=torch.float64), equal_nan=True)


def test_defaults_are_the_papers():
    assert Lion(layers((2, 2))).defaults == dict(lr=1e-4, betas=(0.9, 0.99), weight_decay=0.0, foreach=None, maximize=False, backend="auto")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(lr=-0.1), "lr=-0.1 is not 0 or more"),
        (dict(weight_decay=-0.1), "weight_decay=-0.1 is not 0 or more"),
        (dict(betas=(0.9, 1.0)), r"betas=\(0.9, 1.0\) are not all in \[0, 1\)"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        Lion(layers((2, 2)), **options)


def test_numpy_variant_agrees(agree):
    (w,) = layers((5, 3))
    start, state, gradients = w.detach().numpy().copy(), {}, torch.randn(100, 5, 3, dtype=torch.float64)
    optimizer = Lion([w], lr=0.03, weight_decay=0.1)
    for g in gradients:
        w.grad = g.clone()
        optimizer.step()
    found = start
    for t, g in enumerate(gradients.numpy(), 1):
        found = lion_step(found, g, state, t, lr=0.03, weight_decay=0.1)
    agree(found, w)


@pytest.mark.interp
def test_kernel_agrees(kernel_agrees):
    assert_kernel_agrees(kernel_agrees, lambda params, **options: Lion(params, lr=0.02, weight_decay=0.1, maximize=True, **options))
