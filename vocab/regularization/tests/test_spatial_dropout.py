import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from snippets.regularization import spatial_dropout as numpy_spatial
from vocab.regularization.dropout import Dropout
from vocab.regularization.spatial_dropout import Dropout1d, Dropout2d, Dropout3d
from vocab.regularization.tests.test_dropout import FixedDraws


def example():
    """For the contract suite: a small instance and its inputs."""
    return Dropout2d(0.3), (torch.randn(2, 4, 3, 2).double(),)


@pytest.mark.oracle("torch.nn.functional.dropout1d, dropout2d, dropout3d under the same seed")
@pytest.mark.parametrize("p", [0.0, 0.3, 0.8, 1.0])
@pytest.mark.parametrize(("ours", "theirs", "size"), [(Dropout1d, F.dropout1d, (5,)), (Dropout2d, F.dropout2d, (4, 3)), (Dropout3d, F.dropout3d, (2, 4, 3))])
def test_equals_torch(p, ours, theirs, size):
    x = torch.randn(6, 5, *size).double()
    torch.manual_seed(3)
    expected = theirs(x, p, training=True)
    torch.manual_seed(3)
    torch.testing.assert_close(ours(p)(x), expected, rtol=0, atol=0)


def test_the_mask_is_constant_over_a_map_and_differs_between_examples():
    y = Dropout2d(0.4)(torch.ones(20, 10, 5, 7, dtype=torch.float64))
    assert (y.flatten(2).var(2) == 0).all() and set(y.unique().tolist()) == {0.0, 1 / 0.6}
    assert (y[0, :, 0, 0] != y[1, :, 0, 0]).any()


@pytest.mark.oracle("binomial distribution of the number of dropped channels")
def test_channels_are_dropped_in_their_share():
    n = 400 * 500
    y = Dropout1d(0.3)(torch.ones(400, 500, 2))
    assert abs((y[..., 0] == 0).sum().item() - 0.3 * n) < 4.5 * math.sqrt(n * 0.3 * 0.7)


@pytest.mark.oracle("closed form of the variance of a mean over a map")
def test_noise_of_single_pixels_averages_out_and_noise_of_channels_does_not():
    """A pooled map of 64 equal pixels: the variance is p/(1-p), over 64 for element-wise dropout."""
    x = torch.ones(20_000, 1, 8, 8, dtype=torch.float64)
    assert Dropout(0.5)(x).mean((2, 3)).var().item() == pytest.approx(1 / 64, rel=0.05)
    assert Dropout2d(0.5)(x).mean((2, 3)).var().item() == pytest.approx(1, rel=0.05)


def test_evaluation_changes_nothing_and_a_generator_repeats():
    x = torch.randn(2, 30, 4, 4)
    assert torch.equal(Dropout2d().eval()(x), x) and Dropout2d().p == 0.5 and "p=0.5" in repr(Dropout2d())
    assert torch.equal(*(Dropout2d()(x, torch.Generator().manual_seed(2)) for _ in range(2)))


@pytest.mark.parametrize(
    ("module", "shape", "message"),
    [
        (Dropout2d, (4, 5, 6), r"x has shape \(4, 5, 6\); expected \(batch, channels, height, width\)"),
        (Dropout1d, (5, 6), r"x has shape \(5, 6\); expected \(batch, channels, length\)"),
        (Dropout3d, (1, 2, 3, 4), r"expected \(batch, channels, depth, height, width\)"),
    ],
)
def test_a_missing_dimension_is_not_guessed(module, shape, message):
    """torch's Dropout2d takes three dimensions with a warning: were they (C, H, W) or (N, C, L)?"""
    with pytest.raises(ValueError, match=message):
        module()(torch.zeros(shape))
    with pytest.raises(ValueError, match="p=1.5 is not between 0 and 1"):
        module(1.5)


def test_numpy_variant_agrees(agree):
    x = torch.randn(3, 4, 5, 2).double()
    y = Dropout2d(0.4)(x)
    kept = (y != 0).flatten(2).any(2)[:, :, None, None]
    agree(numpy_spatial.channel_dropout(x.numpy(), 0.4, FixedDraws(np.asarray(kept))), y)
