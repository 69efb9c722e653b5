import inspect

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from snippets.convolution.deformable import deform_conv2d as numpy_deform
from snippets.convolution.deformable import sample as numpy_sample
from vocab.convolution.conv2d import Conv2d
from vocab.convolution.deformable import DeformConv2d, deform_conv2d, sample

D = torch.float64


def example():
    """For the contract suite: a small instance whose taps have moved, and its inputs."""
    module = DeformConv2d(2, 3, stride=2, offset_groups=2).double()
    nn.init.normal_(module.predict.weight, std=0.1), nn.init.normal_(module.predict.bias, std=0.4)
    return module, (torch.randn(1, 2, 4, 5, dtype=D),)


def zeros(x, weight, **steps):
    """Offsets of the regular grid."""
    size = F.conv2d(x, weight, **steps).shape[2:]
    return x.new_zeros(len(x), 2 * weight[0, 0].numel(), *size)


@pytest.mark.oracle("torch.nn.functional.conv2d, for taps that have not moved")
@pytest.mark.parametrize("steps", [dict(), dict(stride=2, padding=1), dict(padding=2, dilation=2), dict(stride=(1, 2), padding=(0, 3), dilation=(2, 1))])
def test_without_offsets_it_is_an_ordinary_convolution(steps):
    x, weight, bias = torch.randn(2, 3, 7, 8, dtype=D), torch.randn(4, 3, 3, 2, dtype=D), torch.randn(4, dtype=D)
    offset = zeros(x, weight, **steps)
    expected = F.conv2d(x, weight, bias, **steps)
    torch.testing.assert_close(deform_conv2d(x, offset, weight, bias, **steps), expected)
    ones = torch.ones(2, 6, *expected.shape[2:], dtype=D)
    torch.testing.assert_close(deform_conv2d(x, offset, weight, bias, mask=ones, **steps), expected)


@pytest.mark.oracle("torch convolution of the shifted image")
@pytest.mark.parametrize(("down", "right"), [(1, 0), (0, 1), (-2, 1), (3, -3)])
def test_whole_offsets_are_a_shift_of_the_image_and_outside_it_is_zero(down, right):
    x, weight = torch.randn(1, 2, 6, 7, dtype=D), torch.randn(3, 2, 3, 3, dtype=D)
    offset = zeros(x, weight, padding=1)
    offset[:, 0::2], offset[:, 1::2] = down, right
    # taps that left the padded image must find zeros, so the shift is of an image with a wide frame
    wide = F.pad(x, (4,) * 4)
    expected = F.conv2d(wide[..., 3 + down : 11 + down, 3 + right : 12 + right], weight)
    torch.testing.assert_close(deform_conv2d(x, offset, weight, padding=1), expected)


@pytest.mark.oracle("torch.nn.functional.grid_sample for each tap, then a matrix product")
@pytest.mark.parametrize("masked", [False, True])
def test_equals_bilinear_sampling_tap_by_tap(masked):
    x, weight = torch.randn(2, 3, 6, 5, dtype=D), torch.randn(4, 3, 3, 3, dtype=D)
    offset = zeros(x, weight, padding=1, stride=2).normal_(std=1.5)
    mask = torch.rand(2, 9, *offset.shape[2:], dtype=D) if masked else None
    expected = 0
    for tap in range(9):
        i, j = torch.meshgrid(*(2.0 * torch.arange(n, dtype=D) - 1 for n in offset.shape[2:]), indexing="ij")
        y, at = i + tap // 3 + offset[:, 2 * tap], j + tap % 3 + offset[:, 2 * tap + 1]
        grid = torch.stack([2 * at / 4 - 1, 2 * y / 5 - 1], -1)
        seen = F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=True)
        seen = seen if mask is None else seen * mask[:, tap : tap + 1]
        expected = expected + torch.einsum("oc,bchw->bohw", weight[:, :, tap // 3, tap % 3], seen)
    torch.testing.assert_close(deform_conv2d(x, offset, weight, stride=2, padding=1, mask=mask), expected)


@pytest.mark.oracle("closed form on a linear ramp")
def test_on_a_ramp_a_fraction_of_a_pixel_is_worth_its_exact_value_and_down_comes_before_right():
    """A widely made mistake is (dx, dy): it trains and is wrong."""
    ramp = 3.0 * torch.arange(8, dtype=D)[:, None] + 0.5 * torch.arange(9, dtype=D)
    x, weight = ramp[None, None], torch.rand(1, 1, 3, 3, dtype=D)
    offset = zeros(x, weight)
    offset[:, 0::2], offset[:, 1::2] = 0.3, -0.8
    moved = deform_conv2d(x, offset, weight) - F.conv2d(x, weight)
    inside = moved[..., 1:-1, 1:-1]
    torch.testing.assert_close(inside, torch.full_like(inside, (3 * 0.3 - 0.5 * 0.8) * weight.sum().item()))


@pytest.mark.oracle("finite differences")
def test_gradients_with_respect_to_offsets_mask_weights_and_image():
    x, weight = torch.randn(1, 2, 4, 4, dtype=D), torch.randn(2, 2, 3, 3, dtype=D)
    offset = zeros(x, weight, padding=1).uniform_(0.2, 0.8) - torch.randint(2, (1, 18, 4, 4))
    mask = torch.rand(1, 9, 4, 4, dtype=D)
    inputs = [t.requires_grad_() for t in (x, offset, weight, mask)]
    assert torch.autograd.gradcheck(lambda x, o, w, m: deform_conv2d(x, o, w, padding=1, mask=m), inputs)


def test_offset_groups_move_their_channels_on_their_own():
    x, weight = torch.randn(2, 6, 5, 5, dtype=D), torch.randn(4, 6, 3, 3, dtype=D)
    offset = torch.randn(2, 3 * 18, 3, 3, dtype=D)
    mask = torch.rand(2, 27, 3, 3, dtype=D)
    parts = [deform_conv2d(x[:, 2 * g : 2 * g + 2], offset[:, 18 * g : 18 * g + 18], weight[:, 2 * g : 2 * g + 2],
                           mask=mask[:, 9 * g : 9 * g + 9]) for g in range(3)]
    torch.testing.assert_close(deform_conv2d(x, offset, weight, mask=mask), sum(parts))


@pytest.mark.oracle("torch.nn.functional.grid_sample")
def test_sampling_is_grid_samples_also_at_and_beyond_the_border():
    x = torch.randn(2, 3, 4, 6, dtype=D)
    rows = torch.tensor([[0.0, 3.0, -0.5, 3.5, -1.0, 4.0, 9.0, 1.25]], dtype=D).repeat(2, 1)
    columns = torch.tensor([[0.0, 5.0, 5.25, -0.75, 2.0, 2.0, -7.0, 3.5]], dtype=D).repeat(2, 1)
    grid = torch.stack([2 * columns / 5 - 1, 2 * rows / 3 - 1], -1)[:, None]
    torch.testing.assert_close(sample(x, rows, columns), F.grid_sample(x, grid, align_corners=True)[:, :, 0])


@pytest.mark.parametrize(("modulated", "share", "channels"), [(False, 1.0, 18), (True, 0.5, 27)])
def test_the_layer_starts_on_the_regular_grid(modulated, share, channels):
    torch.manual_seed(9)
    module = DeformConv2d(3, 4, modulated=modulated).double()
    torch.manual_seed(9)
    plain = Conv2d(3, 4, 3, padding=1).double()
    x = torch.randn(2, 3, 6, 6, dtype=D)
    bias = plain.bias[:, None, None]
    torch.testing.assert_close(module(x) - bias, share * (plain(x) - bias))
    assert module.predict.weight.shape[0] == channels
    assert DeformConv2d(4, 4, 5, offset_groups=2, modulated=modulated).predict.weight.shape[0] == 2 * 25 * (2 + modulated)


@pytest.mark.parametrize("modulated", [True, False])
def test_the_layer_predicts_offsets_from_its_input(modulated):
    module = DeformConv2d(2, 3, stride=2, padding=2, dilation=2, modulated=modulated).double()
    nn.init.normal_(module.predict.weight), nn.init.normal_(module.predict.bias)
    x = torch.randn(2, 2, 7, 7, dtype=D)
    predicted = F.conv2d(x, module.predict.weight, module.predict.bias, 2, 2, 2)
    mask = torch.sigmoid(predicted[:, 18:]) if modulated else None
    expected = deform_conv2d(x, predicted[:, :18], module.conv.weight, module.conv.bias, stride=2, padding=2, dilation=2, mask=mask)
    torch.testing.assert_close(module(x), expected)


def test_the_operation_needs_offsets_and_learns_none():
    """A widely copied example uses torchvision's layer like an ordinary one: its forward needs an offset tensor."""
    parameters = inspect.signature(deform_conv2d).parameters
    assert parameters["offset"].default is inspect.Parameter.empty
    module, x = DeformConv2d(2, 3).double(), torch.randn(1, 2, 5, 5, dtype=D)
    module(x).sum().backward()
    assert module.predict.bias.grad[:18].abs().sum() > 0, "here a convolution of its own predicts and learns them"


def test_numpy_variant_agrees(agree):
    x, weight = torch.randn(2, 6, 5, dtype=D), torch.randn(3, 2, 3, 3, dtype=D)
    offset, mask = torch.randn(1, 18, 4, 3, dtype=D), torch.rand(1, 9, 4, 3, dtype=D)
    found = numpy_deform(x.numpy(), offset[0].view(9, 2, 4, 3).numpy(), weight.numpy(), mask[0].numpy())
    agree(found, deform_conv2d(x[None], offset, weight, mask=mask)[0])
    points = torch.randn(2, 1, 12, dtype=D) * 4
    agree(numpy_sample(x.numpy(), *points[:, 0].numpy()), sample(x[None], *points)[0])


def test_wrong_arguments_are_named():
    x, weight = torch.zeros(1, 4, 5, 5), torch.zeros(2, 4, 3, 3)
    for channels in (9, 17, 54):  # less than a group, not whole taps, three groups for four channels
        with pytest.raises(ValueError, match=f"offset has {channels} channels; expected 2 · 9 taps = 18, or a multiple"):
            deform_conv2d(x, torch.zeros(1, channels, 3, 3), weight)
    with pytest.raises(ValueError, match=r"offset has shape \(1, 18, 5, 5\); expected \(batch=1, channels, height=3, width=3\)"):
        deform_conv2d(x, torch.zeros(1, 18, 5, 5), weight)
    with pytest.raises(ValueError, match=r"mask has shape \(1, 18, 3, 3\); expected \(batch=1, taps=9, height=3, width=3\)"):
        deform_conv2d(x, torch.zeros(1, 18, 3, 3), weight, mask=torch.zeros(1, 18, 3, 3))
    with pytest.raises(ValueError, match=r"x has shape \(1, 3, 5, 5\); expected \(batch, in_channels=4, height, width\)"):
        deform_conv2d(x[:, :3], torch.zeros(1, 18, 3, 3), weight)
    with pytest.raises(ValueError, match=r"bias has shape \(3,\); expected \(out_channels=2\)"):
        deform_conv2d(x, torch.zeros(1, 18, 3, 3), weight, torch.zeros(3))
    with pytest.raises(ValueError, match=r"columns has shape \(1, 3\); expected \(batch=1, points=2\)"):
        sample(x, torch.zeros(1, 2), torch.zeros(1, 3))
    for groups in (0, 3):
        with pytest.raises(ValueError, match=f"offset_groups={groups} does not divide in_channels=4"):
            DeformConv2d(4, 2, offset_groups=groups)
    with pytest.raises(ValueError, match=r"x has shape \(1, 3, 5, 5\); expected \(batch, in_channels=4, height, width\)"):
        DeformConv2d(4, 2)(x[:, :3])
