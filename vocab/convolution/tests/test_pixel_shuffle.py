import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from snippets.convolution.pixel_shuffle import pixel_shuffle as numpy_shuffle
from snippets.convolution.pixel_shuffle import pixel_unshuffle as numpy_unshuffle
from snippets.convolution.pixel_shuffle import sub_pixel_conv2d
from vocab.convolution.pixel_shuffle import SubPixelConv2d, pixel_shuffle, pixel_unshuffle

D = torch.float64


def example():
    """For the contract suite: a small instance and its inputs."""
    return SubPixelConv2d(2, 2, 2, icnr=False).double(), (torch.randn(2, 2, 3, 2, dtype=D),)


@pytest.mark.oracle("torch.nn.functional.pixel_shuffle and pixel_unshuffle")
@pytest.mark.parametrize("r", [1, 2, 3])
def test_both_directions_are_torchs(r):
    x = torch.randn(2, 2 * r * r, 3, 5)
    assert torch.equal(pixel_shuffle(x, r), F.pixel_shuffle(x, r))
    y = torch.randn(2, 2, 3 * r, 5 * r)
    assert torch.equal(pixel_unshuffle(y, r), F.pixel_unshuffle(y, r))


@pytest.mark.parametrize("r", [2, 3])
def test_one_undoes_the_other_to_the_last_bit(r):
    x, y = torch.randn(2, 3 * r * r, 4, 5), torch.randn(2, 3, 4 * r, 5 * r)
    assert torch.equal(pixel_unshuffle(pixel_shuffle(x, r), r), x)
    assert torch.equal(pixel_shuffle(pixel_unshuffle(y, r), r), y)


@pytest.mark.oracle("the definition, pixel by pixel")
def test_every_channel_goes_to_its_place():
    x, r = torch.randn(1, 18, 2, 3), 3
    y = pixel_shuffle(x, r)
    for c, i, j, h, w in np.ndindex(2, 3, 3, 2, 3):
        assert y[0, c, h * r + i, w * r + j] == x[0, c * 9 + i * 3 + j, h, w]


@pytest.mark.oracle("transposed convolution with stride r and kernel k·r, its weights rearranged")
@pytest.mark.parametrize(("r", "k"), [(2, 3), (3, 1), (2, 5), (3, 3)])
def test_equals_a_transposed_convolution_with_a_kernel_r_times_as_large(r, k):
    module, x = SubPixelConv2d(3, 2, r, k, icnr=False).double(), torch.randn(2, 3, 4, 5, dtype=D)
    weight = torch.zeros(3, 2, k * r, k * r, dtype=D)
    for o, i, j, u, v in np.ndindex(2, r, r, k, k):
        weight[:, o, i + r * (k - 1 - u), j + r * (k - 1 - v)] = module.conv.weight[o * r * r + i * r + j, :, u, v].detach()
    bare = F.conv_transpose2d(x, weight, stride=r, padding=r * (k // 2))
    bias = F.pixel_shuffle(module.conv.bias.view(1, -1, 1, 1), r).repeat(1, 1, 4, 5)
    torch.testing.assert_close(module(x), bare + bias)


@pytest.mark.oracle("torch.nn.functional.interpolate, nearest, of an ordinary convolution")
@pytest.mark.parametrize("r", [2, 3])
def test_with_icnr_the_first_output_is_a_convolution_with_every_pixel_repeated(r):
    module, x = SubPixelConv2d(3, 2, r).double(), torch.randn(1, 3, 5, 4, dtype=D)
    small = F.conv2d(x, module.conv.weight[:: r * r], module.conv.bias[:: r * r], padding=1)
    torch.testing.assert_close(module(x), F.interpolate(small, scale_factor=r))
    assert module.conv.weight[:: r * r].unique().numel() == 2 * 27, "different output channels start differently"


def test_without_icnr_neighbouring_pixels_differ_from_the_start():
    flat = torch.ones(1, 3, 6, 6)
    assert SubPixelConv2d(3, 1, 2)(flat)[..., 2:-2, 2:-2].std() < 1e-6
    assert SubPixelConv2d(3, 1, 2, icnr=False)(flat)[..., 2:-2, 2:-2].std() > 0.05


def test_starts_at_the_scale_of_an_ordinary_convolution():
    torch.manual_seed(3)
    module = SubPixelConv2d(4, 2, 2, icnr=False)
    torch.manual_seed(3)
    torch.testing.assert_close(module.conv.state_dict(), nn.Conv2d(4, 8, 3, padding=1).state_dict())
    assert 0.9 / 6 < SubPixelConv2d(4, 8, 2).conv.weight.abs().max() <= 1 / 6


def test_tensorflows_depth_to_space_orders_the_channels_differently():
    x, r, C = torch.randn(2, 8, 3, 5), 2, 2
    channels_last = x.permute(0, 2, 3, 1).reshape(2, 3, 5, r, r, C)  # TensorFlow: the pixel's place first, then the channel
    theirs = channels_last.permute(0, 1, 3, 2, 4, 5).reshape(2, 6, 10, C).permute(0, 3, 1, 2)
    assert not torch.equal(pixel_shuffle(x, r), theirs)
    reordered = x.view(2, r * r, C, 3, 5).transpose(1, 2).flatten(1, 2)
    assert torch.equal(pixel_shuffle(reordered, r), theirs)


def test_patch_merging_and_focus_are_the_inverse_in_another_order():
    x = torch.randn(1, 3, 6, 8)
    slices = [x[..., i::2, j::2] for j in (0, 1) for i in (0, 1)]  # top left, below it, right of it, the last
    ours = pixel_unshuffle(x, 2).view(1, 3, 2, 2, 3, 4)
    for number, (j, i) in enumerate(np.ndindex(2, 2)):
        assert torch.equal(slices[number], ours[:, :, i, j])


def test_numpy_variant_agrees(agree):
    for r, k in [(2, 3), (3, 1), (2, 5)]:
        module, x = SubPixelConv2d(2, 3, r, k, icnr=False).double(), torch.randn(2, 4, 5, dtype=D)
        nn.init.zeros_(module.conv.bias)
        agree(sub_pixel_conv2d(x.numpy(), module.conv.weight.detach().numpy(), r), module(x[None])[0])
        y = torch.randn(r * r * 2, 3, 4, dtype=D)
        agree(numpy_shuffle(y.numpy(), r), pixel_shuffle(y[None], r)[0])
        agree(numpy_unshuffle(numpy_shuffle(y.numpy(), r), r), y)


def test_wrong_arguments_are_named():
    for scale, channels in [(2, 6), (0, 4), (3, 4)]:
        with pytest.raises(ValueError, match=rf"x has {channels} channels; expected a multiple of scale² with scale={scale} at least 1"):
            pixel_shuffle(torch.zeros(1, channels, 2, 2), scale)
    for scale, size in [(2, (4, 3)), (2, (3, 4)), (0, (4, 4))]:
        with pytest.raises(ValueError, match=rf"x is {size[0]} by {size[1]} pixels; expected multiples of scale={scale}"):
            pixel_unshuffle(torch.zeros(1, 1, *size), scale)
    for function in (pixel_shuffle, pixel_unshuffle):
        with pytest.raises(ValueError, match=r"x has shape \(4, 2, 2\); expected \(batch, channels, height, width\)"):
            function(torch.zeros(4, 2, 2), 2)
    with pytest.raises(ValueError, match="scale=0 is below 1"):
        SubPixelConv2d(1, 1, 0)
    assert SubPixelConv2d(1, 1, 1)(torch.zeros(1, 1, 2, 2)).shape == (1, 1, 2, 2)
    with pytest.raises(ValueError, match=r"x has shape \(1, 3, 4, 4\); expected \(batch, in_channels=2, height, width\)"):
        SubPixelConv2d(2, 1, 2)(torch.zeros(1, 3, 4, 4))
