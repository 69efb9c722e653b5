import numpy as np
import pytest
import torch
from torch import nn

from snippets.pooling import global_max as numpy_variant
from vocab.pooling.global_max import GlobalMaxPool

D = torch.float64


def example():
    mask = torch.ones(2, 3, 4, dtype=torch.bool)
    mask[0, 1:, 2:] = False
    return GlobalMaxPool(), (torch.randn(2, 3, 3, 4, dtype=D), mask)


@pytest.mark.oracle("torch.nn.AdaptiveMaxPool2d(1) and torch.amax")
@pytest.mark.parametrize("size", [(1, 1), (3, 7)])
def test_equals_adaptive_max_pooling_to_one(size):
    x = torch.randn(2, 3, *size, dtype=D)
    torch.testing.assert_close(GlobalMaxPool(keepdim=True)(x), nn.AdaptiveMaxPool2d(1)(x))
    torch.testing.assert_close(GlobalMaxPool()(x), x.amax((2, 3)))
    torch.testing.assert_close(GlobalMaxPool((-1,))(x[..., 0]), nn.AdaptiveMaxPool1d(1)(x[..., 0])[..., 0])
    torch.testing.assert_close(GlobalMaxPool((-1,), keepdim=True)(x[..., 0]), nn.AdaptiveMaxPool1d(1)(x[..., 0]))


@pytest.mark.oracle("invariance to order and repetition")
def test_order_and_repetition_do_not_matter():
    pool, x = GlobalMaxPool((-1,)), torch.randn(2, 3, 9, dtype=D)
    torch.testing.assert_close(pool(x[..., torch.randperm(9)]), pool(x))
    torch.testing.assert_close(pool(torch.cat([x, x[..., :5]], -1)), pool(x))
    assert (torch.cat([x, x[..., :5]], -1).sum(-1) - x.sum(-1)).abs().max() > 0.1, "a sum counts"


def test_gradient_goes_to_one_position_per_channel_and_is_shared_among_equals():
    x = torch.tensor([[[1.0, 5.0, 2.0], [4.0, 4.0, 0.0]]], dtype=D, requires_grad=True)
    GlobalMaxPool((-1,))(x).backward(torch.tensor([[3.0, 6.0]], dtype=D))
    assert x.grad[0].tolist() == [[0, 3, 0], [3, 3, 0]]


def test_masked_positions_never_win_even_where_all_others_are_negative():
    x, mask = -torch.rand(2, 3, 6, dtype=D) - 1, torch.tensor([[True] * 2 + [False] * 4, [True] * 6])
    x[0, :, 2:] = 100.0
    y = GlobalMaxPool((-1,))(x, mask)
    torch.testing.assert_close(y, torch.stack([x[0, :, :2].amax(-1), x[1].amax(-1)]))
    zeros = x.masked_fill(~mask[:, None], 0.0).amax(-1)
    assert (zeros[0] == 0).all() and (y[0] < 0).all(), "a mask of zeros wins over negative features"


def test_image_masks_hide_pixels_of_all_channels():
    pool, (x, mask) = example()
    for i in range(2):
        torch.testing.assert_close(pool(x, mask)[i], x[i][:, mask[i]].amax(-1))
    torch.testing.assert_close(GlobalMaxPool(keepdim=True)(x, mask)[..., 0, 0], pool(x, mask))


def test_a_row_that_keeps_nothing_is_nan_and_the_others_are_not():
    y = GlobalMaxPool((-1,))(torch.randn(2, 3, 4), torch.tensor([[False] * 4, [True] * 4]))
    assert y[0].isnan().all() and y[1].isfinite().all()
    pool, (x, mask) = example()
    mask[1] = False
    assert pool(x, mask)[1].isnan().all() and pool(x, mask)[0].isfinite().all()


@pytest.mark.oracle("commuting with increasing functions")
def test_it_commutes_with_increasing_functions_and_never_falls_when_something_grows():
    pool, x = GlobalMaxPool(), torch.randn(2, 3, 4, 4, dtype=D)
    torch.testing.assert_close(pool(x.exp()), pool(x).exp())
    assert (pool(x + torch.rand_like(x)) >= pool(x)).all()


@pytest.mark.oracle("PointNet: at most C critical points decide")
def test_at_most_as_many_points_as_channels_decide_the_result():
    x = torch.randn(1, 5, 200, dtype=D)
    winners = x[0].argmax(-1).unique()
    assert len(winners) <= 5
    torch.testing.assert_close(GlobalMaxPool((-1,))(x[..., winners]), GlobalMaxPool((-1,))(x))
    assert winners.tolist() == numpy_variant.critical(x[0].numpy()).tolist()


@pytest.mark.parametrize("dims", [(), (-2,), (0, 1), (-3, -1)])
def test_other_dimensions_are_refused(dims):
    with pytest.raises(ValueError, match="are not the last dimensions"):
        GlobalMaxPool(dims)


def test_wrong_inputs_are_named():
    x = torch.zeros(2, 3, 4)
    with pytest.raises(ValueError, match=r"x has shape \(2, 3, 4\); expected \(batch, channels, position, position\)"):
        GlobalMaxPool()(x)
    with pytest.raises(ValueError, match="there is no position to take a maximum of"):
        GlobalMaxPool((-1,))(x[..., :0])
    for shape in [(2, 3), (1, 4), (2, 3, 4)]:
        with pytest.raises(ValueError, match=r"mask has shape .*; expected \(2, 4\)"):
            GlobalMaxPool((-1,))(x, torch.ones(shape, dtype=torch.bool))
    with pytest.raises(TypeError, match="mask has dtype torch.float32; expected torch.bool"):
        GlobalMaxPool((-1,))(x, torch.ones(2, 4))
    with pytest.raises(TypeError, match="x is a list"):
        GlobalMaxPool()([1.0])
    assert GlobalMaxPool((-1, -2))(x[None]).shape == (1, 2), "the order of the dimensions does not matter"


def test_numpy_variant_agrees(agree):
    x, mask = torch.randn(3, 6, dtype=D) - 3, torch.tensor([True, False, True, True, False, True])
    agree(numpy_variant.global_max(x.numpy()), GlobalMaxPool((-1,))(x[None])[0])
    agree(numpy_variant.global_max(x.numpy(), mask.numpy()), GlobalMaxPool((-1,))(x[None], mask[None])[0])


def test_demo_does_not_notice_copies_under_a_maximum_and_does_under_a_sum():
    assert "moves the max by up to 0.00" in numpy_variant.show(duplicates=20)[-1]["caption"]
    assert "moves the sum by up to 0.00" not in numpy_variant.show(duplicates=20, pool="sum")[-1]["caption"]
    assert np.isfinite(numpy_variant.DIRECTIONS).all()
