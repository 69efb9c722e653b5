import math

import numpy as np
import pytest
import torch

from snippets.regularization import dropblock as numpy_dropblock
from vocab.regularization import dropblock
from vocab.regularization.dropblock import DropBlock2d, block_rate, drop_share
from vocab.regularization.tests.test_dropout import FixedDraws


def example():
    """For the contract suite: a small instance and its inputs."""
    return DropBlock2d(0.3, 2), (torch.randn(2, 3, 5, 4).double(),)


def with_corners(monkeypatch, corners, block_size, x):
    """DropBlock with the corners that are drawn given."""
    monkeypatch.setattr(dropblock, "dropout_mask", lambda like, p, shape, generator: 1 - corners.view(shape))
    return DropBlock2d(0.3, block_size)(x)


@pytest.mark.oracle("definition, square by square (as torchvision drop_block2d)")
@pytest.mark.parametrize("block_size", [1, 2, 3, 5])
def test_squares_at_the_drawn_corners_are_dropped_and_the_mean_is_restored(monkeypatch, block_size):
    x = torch.rand(2, 3, 6, 8).double() + 1
    corners = (torch.rand(2, 3, 7 - block_size, 9 - block_size) < 0.1).double()
    kept = torch.ones_like(x)
    for b, c, r, s in corners.nonzero().tolist():
        kept[b, c, r : r + block_size, s : s + block_size] = 0
    assert 0 < kept.mean() < 1
    torch.testing.assert_close(with_corners(monkeypatch, corners, block_size, x), x * kept * kept.numel() / kept.sum())


@pytest.mark.oracle("simulation of a million pixels")
@pytest.mark.parametrize(("size", "p", "block_size"), [((14, 14), 0.05, 7), ((24, 24), 0.5, 5), ((9, 16), 0.3, 4), ((7, 7), 0.1, 7)])
def test_the_real_share_is_below_the_one_asked_for_and_follows_the_formula(size, p, block_size):
    y = DropBlock2d(p, block_size)(torch.ones(3000, 4, *size))
    share = (y == 0).float().mean((2, 3)).flatten()
    expected = drop_share(*size, p, block_size)
    assert abs(share.mean() - expected) < 4.5 * share.std() / math.sqrt(len(share))
    assert expected <= p + 1e-12
    if p <= 0.05:
        assert expected == pytest.approx(p, abs=0.005)


def test_rates_worked_out_by_hand():
    assert block_rate(14, 14, 0.1, 7) == pytest.approx(0.1 / 49 * 196 / 64)
    assert block_rate(10, 20, 0.3, 1) == 0.3 and block_rate(6, 6, 0.3, 6) == pytest.approx(0.3)
    assert drop_share(4, 4, 0.3, 1) == pytest.approx(0.3) and drop_share(5, 5, 0.2, 5) == pytest.approx(0.2)
    # Three places of a square of 2 in a row of 4 would be 9 on 4 by 4: corners are covered once, edges twice, the middle four times.
    g = block_rate(4, 4, 0.4, 2)
    by_hand = (4 * g + 8 * (1 - (1 - g) ** 2) + 4 * (1 - (1 - g) ** 4)) / 16
    assert drop_share(4, 4, 0.4, 2) == pytest.approx(by_hand)


@pytest.mark.oracle("dropout of single numbers, and of whole maps")
def test_squares_of_one_pixel_are_dropout_and_squares_of_the_map_are_spatial_dropout():
    x = torch.ones(200, 50, 4, 4)
    ones, whole = DropBlock2d(0.3, 1)(x), DropBlock2d(0.3, 4)(x)
    for y, draws in ((ones, 160_000), (whole, 10_000)):
        share = (y == 0).float().mean().item()
        assert abs(share - 0.3) < 4.5 * math.sqrt(0.3 * 0.7 / draws)
        assert y.mean().item() == pytest.approx(1, abs=1e-5), "scaled by the share that is left, not by the one expected"
    assert (whole.flatten(2).var(2) == 0).all() and (ones.flatten(2).var(2) > 0).any()


def test_evaluation_and_p_zero_change_nothing_and_p_can_be_raised():
    x = torch.randn(2, 3, 8, 8)
    layer = DropBlock2d()
    assert (layer.p, layer.block_size) == (0.1, 7) and repr(layer) == "DropBlock2d(p=0.1, block_size=7)"
    assert torch.equal(layer.eval()(x), x) and torch.equal(DropBlock2d(0.0, 3)(x), x)
    layer = DropBlock2d(0.0, 3)
    layer.p = 1.0
    assert (layer(x) == 0).float().mean() > 0.5


def test_everything_dropped_gives_zeros_and_a_generator_repeats():
    assert (DropBlock2d(1.0, 2)(torch.ones(2, 2, 2, 2)) == 0).all()
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(*(DropBlock2d(0.3, 3)(x, torch.Generator().manual_seed(2)) for _ in range(2)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: DropBlock2d(1.5), "p=1.5 is not between 0 and 1"),
        (lambda: DropBlock2d(0.1, 0), "block_size=0 is not 1 or more"),
        (lambda: DropBlock2d(0.1, 7)(torch.zeros(1, 1, 4, 9)), "block_size=7 is larger than the map of 4 by 9"),
        (lambda: DropBlock2d(0.1, 7).eval()(torch.zeros(1, 1, 4, 9)), "block_size=7 is larger"),
        (lambda: DropBlock2d(0.1, 2)(torch.zeros(3, 4, 9)), r"x has shape \(3, 4, 9\); expected \(batch, channels, height, width\)"),
    ],
)
def test_what_does_not_fit_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_numpy_variant_agrees(agree, monkeypatch):
    x = torch.rand(2, 3, 6, 5).double()
    corners = (torch.rand(2, 3, 4, 3) < 0.15).double()
    ours = numpy_dropblock.dropblock(x.numpy(), 0.3, 3, FixedDraws(1 - corners))
    agree(ours, with_corners(monkeypatch, corners, 3, x))
    agree(numpy_dropblock.block_rate(9, 8, 0.2, 3), block_rate(9, 8, 0.2, 3))
    agree(numpy_dropblock.drop_share(9, 8, 0.2, 3), drop_share(9, 8, 0.2, 3))
    assert np.isfinite(ours).all()
