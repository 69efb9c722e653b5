import numpy as np
import pytest
import torch
from torch.nn import functional as F

from snippets.pooling import adaptive as numpy_variant
from vocab.pooling.adaptive import AdaptivePool2d, adaptive_bins

D = torch.float64


def example():
    return AdaptivePool2d((2, 3)), (torch.randn(2, 2, 5, 7, dtype=D),)


@pytest.mark.oracle("torch.nn.functional.adaptive_avg_pool2d and adaptive_max_pool2d")
@pytest.mark.parametrize("size", [(1, 1), (5, 7), (8, 12), (13, 6)])
@pytest.mark.parametrize("out", [(1, 1), (3, 4), (4, 3), (7, 7), (13, 1)])
def test_equals_torch_adaptive_pooling_with_gradients(size, out):
    x = torch.randn(2, 3, *size, dtype=D, requires_grad=True)
    for mode, theirs in (("avg", F.adaptive_avg_pool2d), ("max", F.adaptive_max_pool2d)):
        ours, expected = AdaptivePool2d(out, mode)(x), theirs(x, out)
        torch.testing.assert_close(ours, expected)
        grad = torch.randn_like(ours)
        torch.testing.assert_close(*(torch.autograd.grad(y, x, grad)[0] for y in (ours, expected)))


@pytest.mark.oracle("rational arithmetic")
def test_bins_are_floor_and_ceiling_cover_everything_and_overlap_by_at_most_one():
    from fractions import Fraction
    from math import ceil, floor

    for n_in in range(1, 30):
        for n_out in range(1, 30):
            bins = adaptive_bins(n_in, n_out)
            assert bins == [(floor(Fraction(i * n_in, n_out)), ceil(Fraction((i + 1) * n_in, n_out))) for i in range(n_out)]
            assert {j for a, b in bins for j in range(a, b)} == set(range(n_in))
            assert all(a <= end_before and end_before - a <= 1 for (_, end_before), (a, _) in zip(bins, bins[1:]))
            widths = {b - a for a, b in bins}
            assert max(widths) - min(widths) <= 1 or n_in % n_out, "equal where it divides"


def test_widths_of_bins_differ_by_at_most_one_for_every_size_up_to_64():
    for n_in in range(1, 65):
        for n_out in range(1, 65):
            widths = [b - a for a, b in adaptive_bins(n_in, n_out)]
            assert max(widths) - min(widths) <= 1, (n_in, n_out)


@pytest.mark.oracle("ordinary pooling with window and stride n/o")
@pytest.mark.parametrize("out", [1, 2, 3, 4, 6, 12])
def test_sizes_that_divide_give_ordinary_pooling(out):
    x, k = torch.randn(2, 3, 12, 12, dtype=D), 12 // out
    torch.testing.assert_close(AdaptivePool2d(out)(x), F.avg_pool2d(x, k))
    torch.testing.assert_close(AdaptivePool2d(out, "max")(x), F.max_pool2d(x, k))


def test_one_bin_is_global_and_as_many_as_pixels_is_the_identity_and_more_repeat():
    x = torch.randn(2, 3, 4, 6, dtype=D)
    torch.testing.assert_close(AdaptivePool2d(1)(x)[..., 0, 0], x.mean((2, 3)))
    assert torch.equal(AdaptivePool2d((4, 6))(x), x) and torch.equal(AdaptivePool2d((4, 6), "max")(x), x)
    assert torch.equal(AdaptivePool2d((8, 12))(x), x.repeat_interleave(2, 2).repeat_interleave(2, 3))


def test_overlapping_bins_weigh_pixels_differently():
    x = torch.randn(1, 1, 1, 7, dtype=D, requires_grad=True)
    AdaptivePool2d((1, 3))(x).mean().backward()
    shares = x.grad.flatten() * 9
    assert shares.tolist() == pytest.approx([1, 1, 2, 1, 2, 1, 1]), "the mean of the outputs is not that of the inputs"


def test_erratum_a_fixed_output_size_fixes_the_shape_and_not_the_scale_of_what_is_seen():
    """A widely copied recommendation, output (7, 7) for variable inputs: objects twice as large answer other filters."""
    picture = torch.zeros(1, 1, 28, 28, dtype=D)
    picture[..., 8:12, 8:12] = 1.0
    twice = picture.repeat_interleave(2, 2).repeat_interleave(2, 3)
    pool, edge = AdaptivePool2d(7), torch.tensor([[[[-1.0, 0.0, 1.0]]]], dtype=D)
    torch.testing.assert_close(pool(picture), pool(twice), msg="raw pixels pool to the same")
    small, large = (pool(F.conv2d(x, edge, padding=(0, 1)).abs()) for x in (picture, twice))
    assert small.shape == large.shape and (large.sum() / small.sum()).item() == pytest.approx(0.5), "an edge covers half the share"


@pytest.mark.parametrize("output_size", [0, (0, 3), (3, 0), (3,), (1, 2, 3)])
def test_other_sizes_are_refused(output_size):
    with pytest.raises(ValueError, match="is no number and no pair of numbers from 1 upwards"):
        AdaptivePool2d(output_size)


def test_wrong_arguments_and_inputs_are_named():
    with pytest.raises(ValueError, match="mode='mean' is neither 'avg' nor 'max'"):
        AdaptivePool2d(1, "mean")
    with pytest.raises(ValueError, match="n_in=0 is below 1"):
        adaptive_bins(0, 1)
    with pytest.raises(ValueError, match="n_out=0 is below 1"):
        adaptive_bins(1, 0)
    with pytest.raises(ValueError, match=r"x has shape \(3, 8, 8\); expected \(batch, channels, height, width\)"):
        AdaptivePool2d(1)(torch.zeros(3, 8, 8))
    for shape in [(1, 1, 0, 2), (1, 1, 2, 0)]:
        with pytest.raises(ValueError, match="there is no pixel to pool"):
            AdaptivePool2d(1)(torch.zeros(shape))
    with pytest.raises(TypeError, match="x is a list"):
        AdaptivePool2d(1)([1.0])
    assert repr(AdaptivePool2d((1, 2), "max")) == "AdaptivePool2d((1, 2), mode='max')"


@pytest.mark.parametrize("out", [(2, 3), (5, 9)])
def test_numpy_variant_agrees(agree, out):
    x = torch.randn(1, 1, 5, 7, dtype=D)
    for mode, reduce in (("avg", np.mean), ("max", np.max)):
        ours = numpy_variant.adaptive_pool(numpy_variant.adaptive_pool(x[0, 0].numpy(), out[0], reduce, 0), out[1], reduce, 1)
        agree(ours, AdaptivePool2d(out, mode)(x)[0, 0])


def test_demo_overlaps_only_where_sizes_do_not_divide():
    assert "0 of 12 inputs are read more than once" in numpy_variant.show(n_in=12, n_out=4)[-1]["caption"]
    assert "3 of 11 inputs are read more than once" in numpy_variant.show(n_in=11, n_out=4)[-1]["caption"]
