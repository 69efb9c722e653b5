import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from snippets.activations import network
from snippets.activations import selu as numpy_variant
from vocab.activations.selu import SELU, selu
from vocab.initialization.lecun import lecun_normal_
from vocab.activations.tests.measure import GRID, expectation, same


def example():
    """For the contract suite: the function and its input."""
    return selu, (torch.tensor([-2.0, -0.3, 0.4, 0.7, 3.0], dtype=torch.float64),)


def moments(mean, variance):
    """Mean and variance of selu(z) for normal z."""
    first, second = (expectation(f, mean, variance**0.5) for f in (selu, lambda z: selu(z) ** 2))
    return first, second - first**2


@pytest.mark.oracle("torch.nn.functional.selu")
def test_equals_pytorch_with_its_gradient():
    same(selu, F.selu)
    torch.testing.assert_close(SELU()(GRID), nn.SELU()(GRID))


@pytest.mark.oracle("the two equations for mean 0 and variance 1, solved")
def test_constants_follow_from_the_fixed_point():
    below = [math.erfc(a / math.sqrt(2)) / 2 for a in (1, 2)]  # the probability of a normal number below -1 and -2
    a, b = math.exp(0.5) * below[0] - 0.5, math.exp(2) * below[1] - 2 * math.exp(0.5) * below[0] + 0.5
    alpha = -1 / (math.sqrt(2 * math.pi) * a)
    scale = (0.5 + alpha**2 * b) ** -0.5
    assert alpha == pytest.approx(1.6732632423543772, rel=1e-14) and scale == pytest.approx(1.0507009873554805, rel=1e-14)
    assert selu(torch.tensor(1.0, dtype=torch.float64)).item() == pytest.approx(scale, rel=1e-14)
    assert selu(torch.tensor(-60.0, dtype=torch.float64)).item() == pytest.approx(-scale * alpha, rel=1e-14)


@pytest.mark.oracle("quadrature: E[selu(z)] = 0, E[selu(z)²] = 1")
def test_a_standard_normal_input_keeps_mean_and_variance():
    assert expectation(selu) == pytest.approx(0, abs=1e-12)
    assert expectation(lambda z: selu(z) ** 2) == pytest.approx(1, rel=1e-12)


@pytest.mark.oracle("quadrature of the map of mean and variance")
@pytest.mark.parametrize("omega", [-0.1, 0.0, 0.1])
def test_mean_and_variance_are_drawn_towards_zero_and_one(omega):
    """A layer whose weights sum to omega and whose squares sum to 1 maps (mean, variance) to moments(omega mean, variance)."""
    mean, variance, path = 0.1, 1.5, []
    for _ in range(40):
        path.append(math.hypot(mean, variance - 1))
        mean, variance = moments(omega * mean, variance)
    assert all(after < before for before, after in zip(path, path[1:]))
    assert path[1] < 0.85 * path[0] and path[-1] < 0.01


def test_fifty_random_layers_keep_the_fixed_point_with_lecun_normal_weights():
    x = torch.randn(200, 600, dtype=torch.float64) * 1.2 + 0.1
    for _ in range(50):
        x = selu(x @ lecun_normal_(torch.empty(600, 600, dtype=torch.float64)).T)
    assert abs(x.mean().item()) < 0.1 and abs(x.var().item() - 1) < 0.2


def test_he_weights_destroy_it_and_so_does_pytorchs_default():
    for init, low, high in ((nn.init.kaiming_normal_, 10, math.inf), (lambda w: nn.init.kaiming_uniform_(w, a=5**0.5), 0, 1e-3)):
        x = torch.randn(100, 300, dtype=torch.float64)
        for _ in range(50):
            x = selu(x @ init(torch.empty(300, 300, dtype=torch.float64)).T)
        assert low < x.var().item() < high


@pytest.mark.oracle("torch.nn.functional.alpha_dropout")
def test_alpha_dropout_keeps_mean_and_variance_and_plain_dropout_does_not():
    y = selu(torch.randn(400_000, dtype=torch.float64))
    kept = F.alpha_dropout(y, 0.1)
    assert abs(kept.mean().item()) < 0.01 and kept.var().item() == pytest.approx(1, abs=0.01)
    assert F.dropout(y, 0.1).var().item() == pytest.approx(1 / 0.9, abs=0.01)
    assert kept.min().item() < -1.7


def test_pytorchs_gain_for_selu_is_not_the_one_of_the_fixed_point():
    assert nn.init.calculate_gain("selu") == 0.75 and nn.init.calculate_gain("linear") == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_rounded_once(dtype):
    x = torch.linspace(-9, 9, 1001).to(dtype)
    torch.testing.assert_close(selu(x), selu(x.float()).to(dtype), rtol=0, atol=0)


def test_bad_input_is_named():
    with pytest.raises(TypeError, match="x has dtype torch.int64"):
        selu(torch.ones(3, dtype=torch.int64))


def test_numpy_variant_agrees(agree):
    agree(numpy_variant.selu(GRID.numpy()), selu(GRID))


def test_network_in_numpy_stays_at_the_fixed_point():
    x = np.random.default_rng(1).normal(size=(256, 300))
    mean, std = network.spread(network.through(numpy_variant.selu, x, network.weights(300, 60, 1.0)))
    assert np.abs(mean).max() < 0.12 and np.abs(std**2 - 1).max() < 0.35
