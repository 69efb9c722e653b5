import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from snippets.losses import adversarial as np_adversarial
from vocab.losses.adversarial import GANLoss

MODES = ("nonsaturating", "minimax", "lsgan", "hinge", "wgan")
REAL, FAKE = (3 * torch.randn(11, generator=torch.Generator().manual_seed(s), dtype=torch.float64) for s in (1, 2))

# Two distributions over 8 places, as 1,000 samples each, so that a mean over samples is an exact expectation.
P, Q = torch.tensor([[10, 20, 60, 160, 250, 250, 150, 100], [190, 240, 220, 160, 90, 50, 30, 20]])
AT_P, AT_Q = (torch.arange(8).repeat_interleave(n) for n in (P, Q))
p, q = P.double() / 1000, Q.double() / 1000


def example():
    """For the contract suite: the discriminator's loss and its inputs."""
    return GANLoss().discriminator, (torch.randn(5).double(), torch.randn(3, 2).double())


def value(mode, answer):
    """Loss of the discriminator that answers ``answer[i]`` at place i."""
    return GANLoss(mode).discriminator(answer[AT_P], answer[AT_Q])


def best(mode, steps=400):
    """What a discriminator with one free answer per place learns."""
    answer = torch.zeros(8, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([answer], max_iter=steps, tolerance_grad=1e-13, tolerance_change=0, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = value(mode, answer)
        loss.backward()
        return loss

    optimizer.step(closure)
    return answer.detach()


@pytest.mark.oracle("scipy.spatial.distance.jensenshannon: the best discriminator's value is 2 ln 2 - 2 JSD")
@pytest.mark.parametrize("mode", ["nonsaturating", "minimax"])
def test_best_discriminator_measures_the_jensen_shannon_divergence(mode):
    distance = pytest.importorskip("scipy.spatial.distance").jensenshannon(p, q)
    expected = 2 * math.log(2) - 2 * distance**2
    assert value(mode, torch.logit(p / (p + q))).item() == pytest.approx(expected, rel=1e-12)
    learned = best(mode)
    torch.testing.assert_close(torch.sigmoid(learned), p / (p + q), rtol=1e-5, atol=0)
    assert value(mode, learned).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.oracle("closed form: the best least-squares discriminator is p / (p + q), of value half the sum of p q / (p + q)")
def test_best_least_squares_discriminator():
    learned = best("lsgan")
    torch.testing.assert_close(learned, p / (p + q), rtol=1e-5, atol=0)
    assert value("lsgan", learned).item() == pytest.approx((p * q / (p + q)).sum().item() / 2, rel=1e-9)


@pytest.mark.oracle("closed form: the best hinge discriminator is the sign of p - q, of value 2 - 2 TV; all answers of -1, 0, 1 tried")
def test_best_hinge_discriminator_measures_the_total_variation():
    tried = torch.cartesian_prod(*[torch.tensor([-1.0, 0.0, 1.0]).double()] * 8)
    all_values = F.relu(1 - tried) @ p + F.relu(1 + tried) @ q
    place = all_values.argmin()
    sign = torch.where(p == q, tried[place], (p - q).sign())  # where both are equal, every answer between is as good
    assert torch.equal(tried[place], sign)
    assert value("hinge", sign).item() == pytest.approx(all_values[place].item(), rel=1e-12)
    assert value("hinge", sign).item() == pytest.approx(2 - (p - q).abs().sum().item(), rel=1e-12)


@pytest.mark.oracle("scipy.stats.wasserstein_distance")
def test_best_critic_of_slope_one_measures_the_wasserstein_distance():
    distance = pytest.importorskip("scipy.stats").wasserstein_distance(range(8), range(8), p, q)
    slope = (q.cumsum(0) - p.cumsum(0)).sign()[:-1]  # up where q is ahead: the steepest that slope 1 allows
    critic = torch.cat([torch.zeros(1, dtype=torch.float64), slope.cumsum(0)])
    assert -value("wgan", critic).item() == pytest.approx(distance, rel=1e-12)
    assert -value("wgan", 3 * critic).item() == pytest.approx(3 * distance, rel=1e-12)  # without a bound on the slope there is no best


@pytest.mark.parametrize(("mode", "discriminator", "generator"), [
    ("nonsaturating", 2 * math.log(2), math.log(2)), ("minimax", 2 * math.log(2), -math.log(2)), ("lsgan", 0.5, 0.5), ("hinge", 2.0, 0.0), ("wgan", 0.0, 0.0)])
def test_values_of_a_discriminator_that_answers_zero(mode, discriminator, generator):
    zero = torch.zeros(7, dtype=torch.float64)
    assert GANLoss(mode).discriminator(zero, zero[:3]).item() == pytest.approx(discriminator, rel=1e-12)
    assert GANLoss(mode).generator(zero).item() == pytest.approx(generator, rel=1e-12)


@pytest.mark.oracle("torch.nn.functional.binary_cross_entropy_with_logits")
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_nonsaturating_is_cross_entropy_with_the_labels_that_each_player_wants(reduction):
    loss, yes, no = GANLoss(reduction=reduction), torch.ones(11).double(), torch.zeros(11).double()
    bce = F.binary_cross_entropy_with_logits
    torch.testing.assert_close(loss.discriminator(REAL, FAKE), bce(REAL, yes, reduction=reduction) + bce(FAKE, no, reduction=reduction))
    torch.testing.assert_close(loss.generator(FAKE), bce(FAKE, yes, reduction=reduction))
    torch.testing.assert_close(GANLoss("minimax", reduction).generator(FAKE), -bce(FAKE, no, reduction=reduction))
    assert GANLoss().mode == "nonsaturating" and GANLoss().reduction == "mean"


@pytest.mark.oracle("values by hand")
@pytest.mark.parametrize(("mode", "of_discriminator", "of_generator"), [
    # real 0.5, 2, -1 and fake -2, 0.25, 1
    ("lsgan", [(0.25 + 4) / 2, (1 + 0.0625) / 2, (4 + 1) / 2], [9 / 2, 0.5625 / 2, 0]),
    ("hinge", [0.5 + 0, 0 + 1.25, 2 + 2], [2, -0.25, -1]),
    ("wgan", [-2.5, -1.75, 2], [2, -0.25, -1]),
])
def test_values_by_hand(mode, of_discriminator, of_generator):
    real, fake = torch.tensor([0.5, 2.0, -1.0]).double(), torch.tensor([-2.0, 0.25, 1.0]).double()
    assert GANLoss(mode, "none").discriminator(real, fake).tolist() == of_discriminator
    assert GANLoss(mode, "none").generator(fake).tolist() == of_generator
    assert GANLoss(mode, "sum").discriminator(real, fake).item() == sum(of_discriminator)
    assert GANLoss(mode).generator(fake).item() == pytest.approx(sum(of_generator) / 3, rel=1e-12)


def generator_slopes(mode, d):
    d = d.clone().requires_grad_()
    return torch.autograd.grad(GANLoss(mode, "sum").generator(d), d)[0]


@pytest.mark.oracle("closed form: -D for minimax, D - 1 for nonsaturating, with D the probability of real")
def test_minimax_gives_up_where_nonsaturating_pushes_most():
    d = torch.linspace(-40, 40, 161, dtype=torch.float64)
    torch.testing.assert_close(generator_slopes("minimax", d), -torch.sigmoid(d), rtol=1e-9, atol=0)
    torch.testing.assert_close(generator_slopes("nonsaturating", d), torch.sigmoid(d) - 1, rtol=1e-9, atol=1e-15)
    torch.testing.assert_close(generator_slopes("lsgan", d), d - 1)
    for mode in ("hinge", "wgan"):
        assert (generator_slopes(mode, d) == -1).all()
    sure = torch.tensor([-20.0]).double()
    assert generator_slopes("minimax", sure).abs().item() < 1e-8 and generator_slopes("nonsaturating", sure).item() == pytest.approx(-1, abs=1e-8)


@pytest.mark.parametrize("mode", MODES)
def test_players_pull_at_a_generated_sample_in_opposite_directions(mode):
    """Hence the detach: a discriminator's step that reaches the samples makes them worse. (Answers from 0 to 1; squares agree outside.)"""
    net, x = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1), nn.Sigmoid()).double(), torch.randn(6, 2).double().requires_grad_()
    loss = GANLoss(mode)
    (worse,) = torch.autograd.grad(loss.discriminator(net(torch.randn(6, 2).double()), net(x)), x)
    (better,) = torch.autograd.grad(loss.generator(net(x)), x)
    torch.testing.assert_close(F.cosine_similarity(worse, better), torch.full((6,), -1.0).double())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_answers_of_ten_thousand(mode, dtype):
    for sign in (1, -1):
        real = torch.full((4,), sign * 1e4, dtype=dtype, requires_grad=True)
        fake = (-real.detach()).requires_grad_()
        d, g = GANLoss(mode).discriminator(real, fake), GANLoss(mode).generator(fake)
        (d + g).backward()
        assert d.dtype == g.dtype == torch.float32 and d.isfinite() and g.isfinite()
        assert real.grad.dtype == dtype and real.grad.isfinite().all() and fake.grad.isfinite().all()
    assert GANLoss().discriminator(real, fake).item() == pytest.approx(2e4, rel=0.01)
    assert GANLoss("hinge").discriminator(-real, -fake).item() == 0


def test_sixteen_bits_are_widened_before_they_are_added():
    ones = torch.ones(100_000, dtype=torch.float16)
    for mode in MODES:
        loss = GANLoss(mode, "sum")
        torch.testing.assert_close(loss.discriminator(ones, ones), loss.discriminator(ones.float(), ones.float()))
        torch.testing.assert_close(loss.generator(ones), loss.generator(ones.float()))


@pytest.mark.parametrize("mode", MODES)
def test_patches_and_unequal_batches_are_means_of_each(mode):
    real, fake = torch.randn(2, 1, 3, 3).double(), torch.randn(5, 1, 2, 2).double()
    loss, each = GANLoss(mode), GANLoss(mode, "none")
    expected = torch.stack([each.discriminator(r, f) for r in real.flatten() for f in fake.flatten()]).mean()
    torch.testing.assert_close(loss.discriminator(real, fake), expected)
    assert loss.generator(fake[:0]).item() == 0 == loss.discriminator(real[:0], fake[:0]).item()


@pytest.mark.parametrize("mode", MODES)
def test_second_derivatives(mode):
    inputs = REAL.clone().requires_grad_(), FAKE.clone().requires_grad_()
    both = lambda r, f: GANLoss(mode, "none").discriminator(r, f) ** 2 + GANLoss(mode, "none").generator(f) ** 2  # noqa: E731
    assert torch.autograd.gradcheck(both, inputs) and torch.autograd.gradgradcheck(both, inputs)


@pytest.mark.oracle("closed form: each round multiplies the distance from the equilibrium by sqrt(1 + lr**2 s**2)")
@pytest.mark.parametrize("mode", ["wgan", "minimax"])
def test_two_players_with_one_weight_each_circle_and_never_arrive(mode):
    """The generator is one point, the discriminator a slope, the data are at 0: steps of both at once move outward."""
    point, slope, loss = *torch.tensor([1.0, 0.0], dtype=torch.float64), GANLoss(mode)
    for _ in range(200):
        point.requires_grad_(), slope.requires_grad_()
        (down,) = torch.autograd.grad(loss.generator(slope.detach() * point), point)
        (up,) = torch.autograd.grad(loss.discriminator(slope * torch.zeros_like(slope), slope * point.detach()), slope)
        before, s = math.hypot(point.item(), slope.item()), 1.0 if mode == "wgan" else torch.sigmoid(slope * point).item()
        point, slope = (point - 0.1 * down).detach(), (slope - 0.1 * up).detach()
        assert math.hypot(point, slope) == pytest.approx(before * math.sqrt(1 + 0.01 * s**2), rel=1e-12)
    assert math.hypot(point, slope) > 1.2


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: GANLoss("vanilla"), ValueError, "mode='vanilla' is none of nonsaturating, minimax, lsgan, hinge, wgan"),
        (lambda: GANLoss(reduction="max"), ValueError, "reduction='max' is not 'mean', 'sum' or 'none'"),
        (lambda: GANLoss(reduction="none").discriminator(REAL, FAKE[:3]), ValueError, r"fake has shape \(3,\); expected that of real, \(11,\)"),
        (lambda: GANLoss().discriminator(REAL, 0.0), TypeError, "fake is a float; expected a tensor"),
        (lambda: GANLoss().discriminator(REAL > 0, FAKE), TypeError, "real has dtype torch.bool; expected a floating-point dtype"),
        (lambda: GANLoss().generator(FAKE.long()), TypeError, "fake has dtype torch.int64"),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("mode", MODES)
def test_numpy_variant_agrees(agree, mode):
    real, fake, loss = REAL.clone().requires_grad_(), FAKE.clone().requires_grad_(), GANLoss(mode)
    d, g = loss.discriminator(real, fake), loss.generator(fake)
    agree(np_adversarial.discriminator_loss(REAL.numpy(), FAKE.numpy(), mode), d)
    agree(np_adversarial.generator_loss(FAKE.numpy(), mode), g)
    of_real, of_fake = torch.autograd.grad(d, (real, fake))
    for numbers, slope, ours in zip((REAL, FAKE, FAKE), np_adversarial.SLOPES[mode], (of_real, of_fake, torch.autograd.grad(g, fake)[0])):
        agree(slope(numbers.numpy()) / 11, ours)


def test_the_game_of_the_demo_is_that_of_autograd():
    """One hundred rounds with torch's gradients instead of those worked out by hand."""
    z, chance = torch.from_numpy(np_adversarial.Z), torch.from_numpy(np_adversarial.CHANCE)
    for mode in MODES:
        path, weights = np_adversarial.play(mode, 2.0, -1.0, steps=100)
        shift, scale, w, loss = *torch.tensor([-1.0, 0.4], dtype=torch.float64), torch.zeros(3).double(), GANLoss(mode, "none")
        answer = lambda w, x: w[0] + w[1] * x / 2 + w[2] * x**2 / 4  # noqa: E731
        for _ in range(100):
            w.requires_grad_(), shift.requires_grad_(), scale.requires_grad_()
            x = shift + scale * z
            (up,) = torch.autograd.grad(chance @ loss.discriminator(answer(w, 1 + z), answer(w, x.detach())), w)
            w = (w - 0.2 * 2**0.5 * up).detach()
            w = w.clamp(-1, 1) if mode == "wgan" else w
            by_shift, by_scale = torch.autograd.grad(chance @ loss.generator(answer(w, x)), (shift, scale))
            shift, scale = (shift - 0.2 / 2**0.5 * by_shift).detach(), (scale - 0.2 / 2**0.5 * by_scale).detach()
        np.testing.assert_allclose([*path[-1, :2], *weights], [shift, scale, *w], rtol=1e-9, atol=1e-12)
