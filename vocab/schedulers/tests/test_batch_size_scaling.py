import math

import numpy as np
import pytest
import torch

from snippets.optimizers.adam import adam_step
from snippets.schedulers.batch_size_scaling import scale_adam as scale_adam_numpy, scale_lr as scale_lr_numpy
from vocab.schedulers.batch_size_scaling import scale_adam, scale_lr


@pytest.mark.oracle("published numbers: ResNet-50 in one hour")
def test_the_imagenet_recipe_is_a_tenth_for_every_256_images():
    assert scale_lr(0.1, 256, 8192) == pytest.approx(3.2)
    assert scale_lr(0.1, 256, 64) == pytest.approx(0.025)
    assert scale_lr(0.1, 256, 256) == 0.1


@pytest.mark.oracle("published numbers: LAMB's rates for BERT, square root")
def test_lamb_scales_by_the_square_root():
    """Erratum: not linearly. From 5e-3 / 2^1.5 at a batch of 4,096 the paper's table goes up by sqrt(2) at each doubling."""
    table = {4096: 5e-3 / 2**1.5, 8192: 5e-3 / 2, 16_384: 5e-3 / 2**0.5, 32_768: 5e-3}
    for batch, lr in table.items():
        assert scale_lr(5e-3 / 2**1.5, 4096, batch, "sqrt") == pytest.approx(lr)
    assert scale_lr(5e-3 / 2**1.5, 4096, 32_768) == pytest.approx(0.0141, abs=1e-4), "linear: almost three times the paper's rate"
    assert scale_lr(0.001, 256, 65_536) == pytest.approx(0.256), "the erratum's number, far out of range"
    assert scale_lr(0.001, 256, 65_536, "sqrt") == pytest.approx(0.016)


def least_squares(d=4, n=4096):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, d)) * np.array([1.0, 0.8, 0.5, 0.3])
    return x, x @ np.array([1.0, -1.0, 2.0, 1.0]) + rng.normal(size=n)


def sgd_paths(x, y, batch, lr, examples, runs=200, seed=1):
    """Mean of the weights over runs, and the loss, each time 64 more examples have been seen."""
    rng = np.random.default_rng(seed)
    w, means, losses = np.zeros((runs, x.shape[1])), [], []
    for seen in range(0, examples, batch):
        if seen % 64 == 0:
            means.append(w.mean(0))
            losses.append(((w @ x.T - y) ** 2).mean() / 2)
        i = rng.integers(0, len(x), (runs, batch))
        error = (x[i] * w[:, None]).sum(-1) - y[i]
        w = w - lr * (x[i] * error[..., None]).mean(1)
    return np.array(means), np.array(losses)


@pytest.mark.oracle("statistical: mean path of 200 small-batch runs of SGD")
def test_with_sgd_and_a_small_rate_the_linear_rule_keeps_the_mean_path():
    x, y = least_squares()
    base, base_loss = sgd_paths(x, y, 2, 0.005, 2048)
    linear, linear_loss = sgd_paths(x, y, 16, scale_lr(0.005, 2, 16), 2048, seed=2)
    root, _ = sgd_paths(x, y, 16, scale_lr(0.005, 2, 16, "sqrt"), 2048, seed=3)
    assert np.abs(linear - base).max() < 0.08, "first order in lr, and the error of 200 runs"
    assert np.abs(root - base).max() > 0.4, "the square root lags behind"
    np.testing.assert_allclose(linear_loss, base_loss, rtol=0.06)


@pytest.mark.oracle("closed form of gradient descent: 1 - lr · curvature")
def test_the_linear_rule_ends_at_the_stability_limit():
    """Erratum: a large batch takes a large rate only up to 2 / lambda_max; then there is nothing to gain, and soon everything to lose."""
    x, y = least_squares()
    top = np.linalg.eigvalsh(x.T @ x / len(x))[-1]
    difference = {}
    for k in (4, 64, 512):
        small, large = 0.005, scale_lr(0.005, 1, k)
        # The same number of examples: k small steps or one large one, without noise, in the steepest direction.
        difference[k] = abs((1 - small * top) ** k - (1 - large * top))
    assert difference[4] < 1e-3 < difference[64] < 0.1 < 0.9 < difference[512]
    assert 0.005 * 512 * top > 2, "beyond the limit: the mean path diverges"


def adam_losses(batch, lr, betas, eps, examples=6144, runs=300, d=6, seed=0):
    """Mean loss against examples seen for Adam on a quadratic with curvature 1 and gradient noise of deviation 8 / sqrt(batch)."""
    rng = np.random.default_rng(seed)
    w, state, losses, every = np.ones((runs, d)), {}, [], 128
    for t in range(1, examples // batch + 1):
        if (t - 1) * batch % every == 0:
            losses.append((w**2).mean() / 2)
        w = adam_step(w, w + 8 / math.sqrt(batch) * rng.normal(size=w.shape), state, t, lr, betas, eps)
    return np.array(losses)


@pytest.mark.oracle("statistical: loss of 300 small-batch runs of Adam against examples seen (Malladi et al.)")
def test_with_adam_the_square_root_rule_keeps_the_loss_curve_and_the_linear_one_does_not():
    base = dict(lr=2e-3, betas=(0.98, 0.995), eps=1e-8)
    reference = adam_losses(1, **base)
    k = 8
    lr, betas, eps = scale_adam(**base, k=k)
    root = adam_losses(k, lr, betas, eps, seed=1)
    linear = adam_losses(k, base["lr"] * k, betas, eps, seed=2)
    only_rate = adam_losses(k, base["lr"], base["betas"], base["eps"], seed=3)
    off = {name: np.abs(np.log(curve[4:] / reference[4:])).max() for name, curve in (("root", root), ("linear", linear), ("none", only_rate))}
    assert off["root"] < 0.15 and off["linear"] > 4 * off["root"] and off["none"] > 4 * off["root"]


def test_scaled_memories_last_as_many_examples():
    lr, betas, eps = scale_adam(1e-3, (0.9, 0.999), 1e-8, 5)
    assert lr == pytest.approx(1e-3 * 5**0.5) and eps == pytest.approx(1e-8 / 5**0.5)
    assert [5 / (1 - b) for b in betas] == [pytest.approx(1 / (1 - 0.9)), pytest.approx(1 / (1 - 0.999))]
    back = scale_adam(lr, betas, eps, 1 / 5)
    assert back[0] == pytest.approx(1e-3) and back[1] == (pytest.approx(0.9), pytest.approx(0.999)) and back[2] == pytest.approx(1e-8)


@pytest.mark.oracle("moments of a mean of k gradients")
def test_eps_falls_with_the_noise_of_the_gradient():
    """Where noise is all there is, k times the batch divides the root of v by sqrt(k): eps must follow to keep its share."""
    noise = torch.randn(200_000, 16, dtype=torch.float64)
    small, large = noise[:, 0].square().mean().sqrt(), noise.mean(1).square().mean().sqrt()
    _, _, eps = scale_adam(1e-3, (0.9, 0.99), 1e-6, 10)
    assert eps == pytest.approx(1e-6 / math.sqrt(10))
    assert (small / large).item() == pytest.approx(math.sqrt(16), rel=0.02)


def test_far_extrapolation_is_absurd_and_adams_memory_says_so():
    """Pitfall: nothing stops the linear rule; scale_adam stops where a memory would be shorter than one step."""
    assert scale_lr(3e-4, 32, 65_536) == pytest.approx(0.6144)
    with pytest.raises(ValueError, match=r"k=11 is too much for beta=0.9: a memory of 10 steps would be shorter than one, so k is at most 10"):
        scale_adam(1e-3, (0.9, 0.999), 1e-8, 11)
    assert scale_adam(1e-3, (0.75, 0.999), 0.0, 4)[1][0] == 0.0, "the last that is allowed"
    assert scale_adam(1e-3, (0.0, 0.999), 1e-8, 1)[1] == (0.0, pytest.approx(0.999)), "no memory at all stays so"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: scale_lr(0.0, 1, 2), "base_lr=0.0 is not above 0"),
        (lambda: scale_lr(0.1, 0, 2), "base_batch=0 is not above 0"),
        (lambda: scale_lr(0.1, 1, -2), "batch=-2 is not above 0"),
        (lambda: scale_lr(0.1, 1, 2, "cube"), "rule='cube' is not 'linear' or 'sqrt'"),
        (lambda: scale_adam(-1.0, (0.9, 0.9), 1e-8, 1), "lr=-1.0 is not above 0"),
        (lambda: scale_adam(1.0, (0.9, 0.9), 1e-8, 0), "k=0 is not above 0"),
        (lambda: scale_adam(1.0, (0.9, 0.9), -1e-8, 1), "eps=-1e-08 is not 0 or above"),
        (lambda: scale_adam(1.0, (0.9, 1.0), 1e-8, 1), r"betas=\(0.9, 1.0\) are not both between 0 and 1, 1 excluded"),
        (lambda: scale_adam(1.0, (-0.1, 0.9), 1e-8, 0.5), "betas="),
    ],
)
def test_bad_values_say_which_and_why(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_numpy_variant_agrees(agree):
    for rule in ("linear", "sqrt"):
        agree(scale_lr_numpy(0.1, 32, 320, rule), scale_lr(0.1, 32, 320, rule))
    ours, module = scale_adam_numpy(1e-3, (0.9, 0.999), 1e-8, 4), scale_adam(1e-3, (0.9, 0.999), 1e-8, 4)
    agree([ours[0], *ours[1], ours[2]], [module[0], *module[1], module[2]])
    assert scale_lr_numpy(0.1, 32, 320, "none") == 0.1
