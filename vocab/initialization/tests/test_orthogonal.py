import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from snippets.initialization import orthogonal as numpy_variant
from vocab.initialization.orthogonal import delta_orthogonal_, orthogonal_

D = torch.float64


def source(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.oracle("torch.nn.init.orthogonal_")
@pytest.mark.parametrize("shape", [(5, 5), (3, 8), (8, 3), (4, 2, 3, 3), (20, 2, 3)])
@pytest.mark.parametrize("gain", [1.0, 2**0.5])
def test_equals_pytorch_number_for_number(shape, gain):
    ours = orthogonal_(torch.empty(shape, dtype=D), gain, generator=source())
    torch.testing.assert_close(ours, nn.init.orthogonal_(torch.empty(shape, dtype=D), gain, generator=source()), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(orthogonal_(torch.empty(shape, dtype=D), generator=source()) * gain, ours, rtol=1e-12, atol=1e-14)


@pytest.mark.oracle("definition: W Wᵀ = gain² I")
@pytest.mark.parametrize("shape", [(6, 6), (3, 50), (50, 3), (8, 2, 3, 3)])
@pytest.mark.parametrize(("dtype", "atol"), [(D, 1e-13), (torch.float32, 1e-6)])
def test_rows_or_columns_are_orthogonal(shape, dtype, atol):
    w = orthogonal_(torch.empty(shape, dtype=dtype), 1.5).flatten(1)
    product = w @ w.T if w.shape[0] <= w.shape[1] else w.T @ w
    torch.testing.assert_close(product, 2.25 * torch.eye(len(product), dtype=dtype), rtol=0, atol=3 * atol)


@pytest.mark.oracle("moments of the Haar measure")
def test_is_uniform_among_orthogonal_matrices():
    n, many = 4, 3000
    generator = source()
    w = torch.stack([orthogonal_(torch.empty(n, n, dtype=D), generator=generator) for _ in range(many)])
    assert w.mean(0).abs().max() < 4.5 * (1 / n / many) ** 0.5
    assert (w.var(0) - 1 / n).abs().max() < 0.02
    assert abs(torch.linalg.det(w).mean().item()) < 4 / many**0.5
    fourth = 3 / (n * (n + 2))  # of one entry
    assert w.pow(4).mean().item() == pytest.approx(fourth, rel=0.03)
    turned = orthogonal_(torch.empty(n, n, dtype=D)) @ w  # turning all of them changes nothing
    assert turned.mean(0).abs().max() < 4.5 * (1 / n / many) ** 0.5


def test_qr_without_the_signs_is_not_uniform():
    q = torch.stack([torch.linalg.qr(torch.randn(4, 4, dtype=D))[0] for _ in range(500)])
    assert (q[:, 0, 0] < 0).all(), "Householder's convention: the first entry is never positive"


@pytest.mark.oracle("singular values of the end-to-end Jacobian")
def test_a_linear_net_of_any_depth_keeps_norms_and_gaussian_ones_do_not():
    n, depth, generator = 16, 200, source(1)
    jacobian = torch.eye(n, dtype=D)
    for _ in range(depth):
        jacobian = orthogonal_(torch.empty(n, n, dtype=D), generator=generator) @ jacobian
    torch.testing.assert_close(torch.linalg.svdvals(jacobian), torch.ones(n, dtype=D), rtol=0, atol=1e-12)
    x = torch.randn(n, dtype=D)
    assert (jacobian @ x).norm().item() == pytest.approx(x.norm().item(), rel=1e-12)


@pytest.mark.oracle("Lyapunov exponents of Gaussian products: (ln 2 + ψ(k/2) − ln n)/2")
def test_products_of_gaussian_matrices_spread_as_known():
    n, depth = 6, 3000
    digamma = lambda k: torch.digamma(torch.tensor(k / 2, dtype=D)).item()  # noqa: E731
    expected = [0.5 * (math.log(2) + digamma(n - i) - math.log(n)) for i in range(n)]
    rng, q, logs = np.random.default_rng(0), np.eye(n), np.zeros(n)
    for _ in range(depth):
        q, r = np.linalg.qr(numpy_variant.gaussian(n, rng) @ q)
        logs += np.log(np.abs(np.diag(r)))
    np.testing.assert_allclose(logs / depth, expected, atol=0.05)
    assert expected[0] - expected[-1] > 1.2, "a factor of e^1.2 per layer between the extremes"


def test_relu_halves_the_mean_square_whatever_the_matrix():
    w = orthogonal_(torch.empty(1000, 1000))
    x = torch.randn(200, 1000)
    after = ((x @ w.T).relu() @ w.T).square().mean().item()
    assert after == pytest.approx(0.5, rel=0.02)


def image(channels):
    return torch.randn(2, channels, 9, 9, dtype=D)


def test_a_flattened_kernel_does_not_keep_the_norm_of_an_image_and_delta_does():
    x = image(4)
    flat = orthogonal_(torch.empty(4, 4, 3, 3, dtype=D))
    kept = F.conv2d(F.pad(x, (1, 1, 1, 1), "circular"), flat).norm() / x.norm()
    assert kept.item() == pytest.approx(1, abs=0.2) and abs(kept.item() - 1) > 1e-3
    delta = delta_orthogonal_(torch.empty(8, 4, 3, 5, dtype=D), gain=1.5)
    out = F.conv2d(x, delta, padding=(1, 2))
    torch.testing.assert_close(out.square().sum(1), 2.25 * x.square().sum(1))
    assert delta.count_nonzero() == 32 and delta[:, :, 1, 2].count_nonzero() == 32


def test_flattened_kernels_stretch_some_images_and_flatten_others():
    kernel = orthogonal_(torch.empty(8, 8, 3, 3, dtype=D), generator=source(2))
    spectrum = torch.linalg.svdvals(torch.fft.fft2(kernel, (9, 9)).permute(2, 3, 0, 1))
    assert spectrum.max() > 1.5 and spectrum.min() < 0.3
    delta = delta_orthogonal_(torch.empty(8, 8, 3, 3, dtype=D), generator=source(2))
    spectrum = torch.linalg.svdvals(torch.fft.fft2(delta, (9, 9)).permute(2, 3, 0, 1))
    torch.testing.assert_close(spectrum, torch.ones_like(spectrum))


@pytest.mark.parametrize("function", [orthogonal_, delta_orthogonal_])
def test_fills_a_parameter_in_place_and_repeats_with_its_generator(function):
    layer = nn.Conv1d(3, 4, 3)
    assert function(layer.weight, generator=source(5)) is layer.weight and layer.weight.is_leaf and layer.weight.requires_grad
    first = layer.weight.detach().clone()
    torch.testing.assert_close(function(layer.weight, generator=source(5)).detach(), first, rtol=0, atol=0)
    assert not torch.equal(function(layer.weight, generator=source(6)).detach(), first)
    torch.testing.assert_close(function(layer.weight, generator=source(5)).detach(), function(torch.empty(4, 3, 3), 1.0, source(5)))


def test_half_precision_is_computed_in_single():
    w = orthogonal_(torch.empty(8, 8, dtype=torch.bfloat16), generator=source())
    torch.testing.assert_close(w, orthogonal_(torch.empty(8, 8), generator=source()).bfloat16(), rtol=0, atol=0)


def test_bad_input_is_named():
    for function in (orthogonal_, delta_orthogonal_):
        with pytest.raises(ValueError, match=r"tensor has shape \(3,\); expected \(out, in, \.\.\.\)"):
            function(torch.ones(3))
        with pytest.raises(TypeError, match="tensor has dtype torch.int64"):
            function(torch.ones(3, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match="the kernel needs a middle tap, so odd sizes"):
        delta_orthogonal_(torch.ones(4, 4, 3, 2))
    with pytest.raises(ValueError, match=r"shape \(3, 4, 3\); fewer channels out than in cannot keep a norm"):
        delta_orthogonal_(torch.ones(3, 4, 3))
    assert delta_orthogonal_(torch.empty(3, 3)).shape == (3, 3)


def test_numpy_variant_agrees(agree):
    a = torch.randn(6, 6, generator=source(), dtype=D)

    class Drawn:  # the same Gaussian matrix for both
        normal = staticmethod(lambda size: a.numpy())

    agree(numpy_variant.orthogonal(6, Drawn), orthogonal_(torch.empty(6, 6, dtype=D), generator=source()), atol=1e-12)
