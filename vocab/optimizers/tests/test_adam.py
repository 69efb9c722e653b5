import math

import pytest
import torch

from snippets.optimizers.adam import adam_step, watch
from vocab.optimizers.adam import Adam
from vocab.optimizers.rmsprop import RMSprop
from vocab.optimizers.tests.walks import assert_same_path, buffers, follow, in_numpy, layers, walk


def example():
    """For the contract suite: builds an optimizer for given parameters."""
    return (lambda params: Adam(params, lr=0.02, weight_decay=0.1, amsgrad=True)), ()


@pytest.mark.oracle("torch.optim.Adam, 200 steps")
@pytest.mark.parametrize("amsgrad", [False, True])
@pytest.mark.parametrize("options", [{}, dict(betas=(0.5, 0.9), eps=1e-2, weight_decay=0.1), dict(betas=(0.0, 0.95), maximize=True)])
def test_equals_torch(amsgrad, options):
    options = dict(lr=0.02, amsgrad=amsgrad, **options)
    assert_same_path(lambda p: Adam(p, **options), lambda p: torch.optim.Adam(p, **options), steps=200)


def test_amsgrad_differs_where_gradients_fade():
    gradients = [1.0] * 5 + [0.01] * 20
    plain, largest = (follow(lambda p: Adam(p, lr=0.1, betas=(0.0, 0.5), amsgrad=a), gradients) for a in (False, True))
    assert (plain[-1] - plain[-2]).item() == pytest.approx(-0.1, rel=0.01)
    assert (largest[-1] - largest[-2]).item() == pytest.approx(-0.001, rel=0.05)


@pytest.mark.oracle("identity: the first step is lr g / (|g| + eps)")
@pytest.mark.parametrize("g", [1e-6, -3e-3, 1.0, -1e5])
def test_first_step_is_a_sign(g):
    eps = 1e-7
    found = follow(lambda p: Adam(p, lr=0.3, eps=eps), [g])[1].item()
    assert found == pytest.approx(-0.3 * g / (abs(g) + eps), rel=1e-12)


@pytest.mark.oracle("identity: a constant gradient moves by lr at every step")
def test_constant_gradient_moves_at_the_learning_rate():
    found = follow(lambda p: Adam(p, lr=0.1, eps=0.0), [-7.0] * 50)
    torch.testing.assert_close(found, 0.1 * torch.arange(51, dtype=torch.float64), rtol=1e-12, atol=1e-13)


@pytest.mark.oracle("invariance: the loss times a constant (eps = 0)")
def test_scale_of_the_loss_cancels():
    start = layers((5, 4))[0].detach()
    one, two = [], []
    for factor, path in ((1e-4, one), (1e4, two)):
        w = torch.nn.Parameter(start.clone())
        optimizer = Adam([w], lr=0.05, eps=0.0)
        for t in range(60):
            torch.manual_seed(t)
            w.grad = factor * (w.detach() + torch.randn_like(w))
            optimizer.step()
            path.append(w.detach().clone())
    torch.testing.assert_close(one, two, rtol=1e-10, atol=0)


@pytest.mark.oracle("Reddi et al. 2018: gradients C, -1, -1 repeated")
def test_adam_climbs_where_rare_large_gradients_matter_and_amsgrad_descends():
    C = 3.0
    options = dict(lr=0.01, betas=(0.0, 1 / (1 + C * C)), eps=0.0)
    wrong, right = (follow(lambda p: Adam(p, amsgrad=a, **options), [C, -1.0, -1.0] * 100)[::3] for a in (False, True))
    assert (wrong.diff() > 0).all() and wrong[-1] > 0.6, "the sum of a cycle's gradients is +1, so the weight should fall"
    assert (right.diff() < 0).all() and right[-1] < -0.25
    # A cycle of AMSGrad: the largest v stays near C^2 from the first on
    assert right[-1] - right[-2] == pytest.approx(-0.01 * (C - 2) / (C * math.sqrt((1 - options["betas"][1]) / (1 - options["betas"][1] ** 3))), rel=0.05)


@pytest.mark.oracle("RMSprop, once bias correction has faded")
def test_without_momentum_it_is_rmsprop_with_bias_correction():
    """beta1 = 0: scale RMSprop's rate by the correction, step by step."""
    (w,), (u,) = layers((6,)), layers((6,))
    one, two = Adam([w], lr=0.02, betas=(0.0, 0.9), eps=0.0), RMSprop([u], lr=0.02, alpha=0.9, eps=0.0)
    for t in range(1, 31):
        torch.manual_seed(t)
        w.grad = torch.randn_like(w)
        u.grad = w.grad.clone()
        two.param_groups[0]["lr"] = 0.02 * math.sqrt(1 - 0.9**t)
        one.step()
        two.step()
    torch.testing.assert_close(w, u, rtol=1e-12, atol=1e-14)


@pytest.mark.oracle("closed form of the uncorrected first step")
def test_without_bias_correction_the_first_step_is_three_times_too_long():
    """Erratum: m and v alone, as in the version that leaves the corrections out (eps = 0)."""
    state = {}
    first = adam_step(0.0, 5.0, state, 1, lr=1.0, eps=0.0, correct=False)
    assert -first == pytest.approx((1 - 0.9) / math.sqrt(1 - 0.999), rel=1e-12)
    assert -first == pytest.approx(3.162, abs=1e-3)
    w, path = 0.0, []
    state = {}
    for t in range(1, 3001):
        new = adam_step(w, 5.0, state, t, lr=1.0, eps=0.0, correct=False)
        path.append(w - new)
        w = new
    assert max(path) > 6 and path[-1] == pytest.approx(1.0, abs=0.03), "it grows first, and fades over thousands of steps"


def test_second_moment_is_of_the_gradient_itself_and_no_variance():
    """Erratum: a constant gradient has variance 0, and the step would have no bound."""
    (w,) = layers((1,))
    optimizer = Adam([w], betas=(0.9, 0.9))
    for _ in range(200):
        w.grad = torch.full_like(w, 2.0)
        optimizer.step()
    assert optimizer.state[w]["v"].item() == pytest.approx(4.0)


def test_eps_of_a_normalization_layer_slows_small_gradients():
    """Erratum: eps is a guard, and no unit of the learning rate."""
    moved = [-follow(lambda p: Adam(p, lr=1.0, eps=eps), [1e-6])[1].item() for eps in (1e-8, 1e-5)]
    assert moved == pytest.approx([1 / 1.01, 1 / 11], rel=1e-9)


def test_eps_vanishes_in_half_precision():
    """Pitfall: 1e-8 is no number of float16, so a weight whose gradient is 0 divides by it."""
    w = torch.nn.Parameter(torch.ones(2, dtype=torch.float16))
    w.grad = torch.tensor([0.0, 1e-4], dtype=torch.float16)
    Adam([w]).step()
    assert not w.isfinite().all()
    assert torch.tensor(1e-8, dtype=torch.float16) == 0


def test_decay_as_a_penalty_is_weaker_for_weights_with_large_gradients():
    """Pitfall: gradients of alternating sign and size 1 and 100; the decay goes through the denominator."""
    shrunk = []
    for size in (1.0, 100.0):
        w = torch.nn.Parameter(torch.ones((), dtype=torch.float64))
        optimizer = Adam([w], lr=1e-3, weight_decay=0.1)
        for t in range(400):
            w.grad = torch.tensor(size * (-1) ** t, dtype=torch.float64)
            optimizer.step()
        shrunk.append(1 - w.item())
    assert shrunk[0] > 0.02 and 0 < shrunk[1] < 0.1 * shrunk[0]


def test_a_jump_of_the_gradient_is_divided_by_what_v_remembers():
    """Pitfall: 1000 steps of size 1, then 100: v lags behind, and with beta2 = 0.95 less so."""
    jump = []
    for beta2 in (0.999, 0.95):
        path = follow(lambda p: Adam(p, lr=1.0, betas=(0.9, beta2)), [1.0, -1.0] * 500 + [100.0])
        jump.append((path[-2] - path[-1]).item())
    assert jump[0] == pytest.approx((10 - 0.9 * 0.1 / 1.9) / math.sqrt((0.999 * (1 - 0.999**1000) + 10) / (1 - 0.999**1001)), rel=0.01)
    assert jump[0] > 2 and jump[1] < 0.5


def test_state_is_two_buffers_and_three_with_amsgrad():
    assert buffers(lambda p: Adam(p)) == [(3, 2)] * 2
    assert buffers(lambda p: Adam(p, amsgrad=True)) == [(3, 2)] * 3


def test_defaults_are_the_papers():
    assert Adam(layers((2,))).defaults == dict(lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, amsgrad=False, foreach=None, maximize=False)


@pytest.mark.parametrize("amsgrad", [False, True])
def test_nan_is_not_hidden(amsgrad):
    (w,) = layers((2, 2))
    w.grad = torch.full_like(w, torch.nan)
    Adam([w], amsgrad=amsgrad).step()
    assert w.isnan().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(lr=-0.1), "lr=-0.1 is not 0 or more"),
        (dict(eps=-1e-8), "eps=-1e-08 is not 0 or more"),
        (dict(weight_decay=-0.1), "weight_decay=-0.1 is not 0 or more"),
        (dict(betas=(1.0, 0.9)), r"betas=\(1.0, 0.9\) are not all in \[0, 1\)"),
        (dict(betas=(0.9, -0.1)), "betas"),
    ],
)
def test_bad_options_are_named_in_every_group(options, message):
    with pytest.raises(ValueError, match=message):
        Adam(layers((2, 2)), **options)
    with pytest.raises(ValueError, match=message):
        Adam([{"params": layers((2, 2)), **options}])


def test_extreme_options_are_allowed():
    assert torch.equal(walk(lambda p: Adam(p, lr=0.0, betas=(0.0, 0.0), eps=0.0), layers((2, 2)), 1)[0][0], layers((2, 2))[0])


@pytest.mark.parametrize("decay", [0.0, 0.2])
def test_numpy_variant_agrees(agree, decay):
    agree(*in_numpy(lambda w, g, s, t: adam_step(w, g, s, t, lr=0.03, weight_decay=decay), lambda p: Adam(p, lr=0.03, weight_decay=decay)))


def test_what_the_demo_draws_are_the_moments_of_its_path():
    from snippets.optimizers.arena import surface

    path, m_hat, scale = watch(surface("bowl", 5.0), 0.1, (0.8, 0.9), True, 30)
    for t in range(30):
        assert path[t] - path[t + 1] == pytest.approx(0.1 * m_hat[t] / (scale[t] + 1e-8), rel=1e-9)
