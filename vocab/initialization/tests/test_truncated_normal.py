import math

import numpy as np
import pytest
import torch
from torch import nn

from snippets.initialization import truncated_normal as numpy_variant
from vocab.initialization.truncated_normal import small_init_, trunc_normal_

D = torch.float64
CASES = [(0.0, 1.0, -2.0, 2.0), (0.5, 2.0, -1.0, 1.0), (0.0, 0.02, -0.03, 0.01), (0.0, 1.0, 3.0, 5.0), (1.0, 1.0, -9.0, -5.0), (0.0, 1.0, 8.0, 30.0)]


def source(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.oracle("scipy.stats.truncnorm: bounds and moments")
@pytest.mark.parametrize(("mean", "std", "a", "b"), CASES)
def test_samples_lie_inside_and_have_the_moments_of_the_truncated_normal(mean, std, a, b):
    truncnorm = pytest.importorskip("scipy.stats").truncnorm((a - mean) / std, (b - mean) / std, loc=mean, scale=std)
    n = 200_000
    w = trunc_normal_(torch.empty(n, dtype=D), mean, std, a, b, generator=source())
    assert a <= w.min() and w.max() <= b
    assert abs(w.mean().item() - truncnorm.mean()) < 4 * truncnorm.std() / n**0.5
    assert w.std().item() == pytest.approx(truncnorm.std(), rel=0.01)
    statistic = pytest.importorskip("scipy.stats").kstest(w.numpy()[:20_000], truncnorm.cdf)
    assert statistic.pvalue > 0.001


@pytest.mark.oracle("torch.nn.init.trunc_normal_ (Kolmogorov-Smirnov)")
@pytest.mark.parametrize(("mean", "std", "a", "b"), CASES[:4])
def test_same_distribution_as_pytorchs(mean, std, a, b):
    ks = pytest.importorskip("scipy.stats").ks_2samp
    theirs = nn.init.trunc_normal_(torch.empty(30_000, dtype=D), mean, std, a, b, generator=source(1))
    ours = trunc_normal_(torch.empty(30_000, dtype=D), mean, std, a, b, generator=source(2))
    assert ks(ours.numpy(), theirs.numpy()).pvalue > 0.001


@pytest.mark.oracle("quantiles of the normal distribution (statistics.NormalDist)")
def test_without_bounds_in_reach_each_uniform_number_becomes_its_quantile():
    from statistics import NormalDist

    u = torch.rand(500, generator=source(3), dtype=D)
    w = trunc_normal_(torch.empty(500, dtype=D), 0.1, 0.5, -50.0, 50.0, generator=source(3))
    expected = [NormalDist(0.1, 0.5).inv_cdf(v) for v in u.tolist()]
    torch.testing.assert_close(w, torch.tensor(expected, dtype=D), rtol=1e-9, atol=1e-12)


def test_bounds_are_numbers_not_multiples_so_the_usual_call_cuts_nothing():
    w = trunc_normal_(torch.empty(100_000), generator=source())
    assert w.std().item() == pytest.approx(0.02, rel=0.01) and abs(w.mean().item()) < 3e-4
    assert 0.07 < w.abs().max() < 0.11, "five deviations, far from 2"
    cut = trunc_normal_(torch.empty(100_000), std=0.02, a=-0.04, b=0.04, generator=source())
    assert cut.std().item() == pytest.approx(0.8796 * 0.02, rel=0.01) and cut.abs().max() <= 0.04


@pytest.mark.oracle("closed form √(1 − 4φ(2)/(2Φ(2) − 1))")
def test_cutting_at_two_deviations_leaves_88_percent():
    density, inside = math.exp(-2) / math.sqrt(2 * math.pi), math.erf(math.sqrt(2))
    assert math.sqrt(1 - 4 * density / inside) == pytest.approx(0.8796, abs=5e-5)
    w = trunc_normal_(torch.empty(1_000_000, dtype=D), std=1.0, generator=source())
    assert w.std().item() == pytest.approx(math.sqrt(1 - 4 * density / inside), rel=2e-3)


@pytest.mark.parametrize(("width", "expected"), [(64, 0.16), (768, 0.554), (2500, 1.0), (8192, 1.81)])
def test_a_fixed_deviation_fits_one_width_only(width, expected):
    h = torch.randn(200, width)
    h = h / h.square().mean(1, keepdim=True).sqrt()
    logits = h @ trunc_normal_(torch.empty(1500, width), generator=source()).T
    assert logits.std().item() == pytest.approx(expected, rel=0.02)
    loss = nn.functional.cross_entropy(logits, torch.randint(1500, (200,)))
    assert loss.item() - math.log(1500) == pytest.approx(expected**2 / 2, abs=0.25)


@pytest.mark.oracle("transformers: a fresh GPT-2 and BERT")
def test_gpt2_and_bert_start_with_002_and_gpt2_scales_what_enters_the_stream():
    transformers = pytest.importorskip("transformers")
    gpt2 = transformers.GPT2Model(transformers.GPT2Config(n_embd=128, n_layer=8, n_head=2, vocab_size=300))
    block = gpt2.h[3]
    assert block.mlp.c_fc.weight.std().item() == pytest.approx(0.02, rel=0.03)
    for weight in (block.mlp.c_proj.weight, block.attn.c_proj.weight):
        assert weight.std().item() == pytest.approx(0.02 / math.sqrt(2 * 8), rel=0.03)
    assert transformers.BertConfig().initializer_range == transformers.GPT2Config().initializer_range == 0.02


@pytest.mark.oracle("closed form √(2/(5 d))")
def test_small_init_is_xaviers_deviation_of_the_first_feed_forward_matrix():
    w = small_init_(torch.empty(4 * 200, 200), 200, generator=source())
    assert w.std().item() == pytest.approx(math.sqrt(2 / (200 + 4 * 200)), rel=0.01)
    assert abs(w.mean().item()) < 4 * w.std().item() / w.numel() ** 0.5
    torch.testing.assert_close(small_init_(torch.empty(7), 200, generator=source(1)),
                               nn.init.normal_(torch.empty(7), 0, math.sqrt(2 / 1000), generator=source(1)))
    assert math.sqrt(2 / (5 * 1000)) == pytest.approx(0.02)


def test_fresh_weights_are_far_from_one_and_trained_ones_have_heavier_tails():
    """Erratum: weights are not "usually Gaussian between -1 and 1"."""
    kurtosis = lambda w: ((w - w.mean()) ** 4).mean().item() / w.var(correction=0).item() ** 2  # noqa: E731
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8))
    for layer in (model[0], model[2]):
        trunc_normal_(layer.weight, generator=source())
    fresh = model[0].weight.detach().clone()
    assert fresh.abs().max() < 0.1 and kurtosis(fresh) == pytest.approx(3, abs=0.3)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
    for _ in range(150):  # a task that needs 8 of the 64 inputs
        x = torch.randn(256, 64)
        optimizer.zero_grad()
        nn.functional.mse_loss(model(x), 3 * x[:, :8].abs()).backward()
        optimizer.step()
    assert kurtosis(model[0].weight.detach()) > 4


@pytest.mark.parametrize("function", [trunc_normal_, lambda t, **k: small_init_(t, 64, **k)])
def test_fills_a_parameter_in_place_and_repeats_with_its_generator(function):
    layer = nn.Linear(4, 3)
    assert function(layer.weight, generator=source(5)) is layer.weight and layer.weight.is_leaf and layer.weight.requires_grad
    first = layer.weight.detach().clone()
    torch.testing.assert_close(function(layer.weight, generator=source(5)).detach(), first, rtol=0, atol=0)
    assert not torch.equal(function(layer.weight, generator=source(6)).detach(), first)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_inside_and_spreads(dtype):
    w = trunc_normal_(torch.empty(20_000, dtype=dtype), std=1.0, a=-1.5, b=1.5)
    assert w.dtype == dtype and w.abs().max() <= 1.5 and w.float().std() > 0.7


def test_bad_values_are_named():
    w = torch.ones(3)
    for arguments, message in [({"std": 0.0}, "std=0.0 is not a number above 0"), ({"std": math.nan}, "std=nan is not"),
                               ({"std": math.inf}, "std=inf is not"), ({"a": 1.0, "b": 1.0}, "a=1.0 is not below b=1.0"),
                               ({"a": 1.0, "b": 2.0}, "a=1.0 and b=2.0 lie too far from mean=0.0 for std=0.02")]:
        with pytest.raises(ValueError, match=message):
            trunc_normal_(w, **arguments)
    with pytest.raises(ValueError, match="d_model=0 is below 1"):
        small_init_(w, 0)
    assert small_init_(torch.empty(50_000), 1).std().item() == pytest.approx(0.4**0.5, rel=0.02)
    for call in (trunc_normal_, lambda t: small_init_(t, 4)):
        with pytest.raises(TypeError, match="tensor has dtype torch.int64"):
            call(torch.ones(3, dtype=torch.int64))
    assert torch.equal(w, torch.ones(3))


def test_numpy_variant_agrees(agree):
    z = torch.randn(6, 9, generator=source(), dtype=D)
    agree(numpy_variant.small_std(50) * z.numpy(), small_init_(torch.empty(6, 9, dtype=D), 50, generator=source()))


@pytest.mark.oracle("Kolmogorov-Smirnov")
def test_numpy_rejection_and_inversion_draw_from_the_same_distribution():
    ks = pytest.importorskip("scipy.stats").ks_2samp
    w = numpy_variant.trunc_normal((20_000,), 1.0, -0.5, 2.0, np.random.default_rng(0))
    ours = trunc_normal_(torch.empty(20_000, dtype=D), 0.0, 1.0, -0.5, 2.0, generator=source())
    assert ks(w, ours.numpy()).pvalue > 0.001
    assert numpy_variant.loss_above_uniform(np.array([0.0, 0.0])) == pytest.approx(0, abs=1e-15)
