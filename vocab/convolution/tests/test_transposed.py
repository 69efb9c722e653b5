import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from snippets.convolution.transposed import bilinear, transposed_conv2d
from vocab.convolution.conv1d import unfold
from vocab.convolution.transposed import ConvTranspose2d, bilinear_kernel, fold

D = torch.float64
# kernel, stride, padding, output padding, dilation, groups
SETTINGS = [(3, 1, 0, 0, 1, 1), (4, 2, 1, 0, 1, 2), (3, 2, 1, 1, 1, 1), ((2, 3), (3, 2), (0, 1), (2, 1), (1, 2), 2), (1, 3, 0, 2, 1, 1), (3, 1, 2, 1, 2, 1)]


def example():
    """For the contract suite: a small instance and its inputs."""
    return ConvTranspose2d(4, 2, 3, 2, 1, 1, groups=2).double(), (torch.randn(2, 4, 2, 3, dtype=D),)


@pytest.mark.oracle("torch.nn.ConvTranspose2d and its gradients")
@pytest.mark.parametrize("arguments", SETTINGS)
def test_starts_and_computes_as_torch_conv_transpose2d(arguments):
    torch.manual_seed(6)
    module = ConvTranspose2d(4, 6, *arguments).double()
    torch.manual_seed(6)
    k, s, p, op, d, g = arguments
    library = nn.ConvTranspose2d(4, 6, k, s, p, op, g, dilation=d).double()
    torch.testing.assert_close(module.state_dict(), library.state_dict())
    x = torch.randn(2, 4, 5, 4, dtype=D, requires_grad=True)
    ours, theirs = module(x), library(x)
    torch.testing.assert_close(ours, theirs)
    v = torch.randn_like(theirs)
    for a, b in zip(torch.autograd.grad(ours, (x, *module.parameters()), v),
                    torch.autograd.grad(theirs, (x, *library.parameters()), v), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.oracle("adjoint of torch.nn.functional.conv2d, and its vector-Jacobian product")
@pytest.mark.parametrize(("k", "s", "p", "d", "g"), [(3, 1, 1, 1, 1), (3, 2, 1, 1, 2), (4, 3, 0, 1, 1), (2, 2, 1, 3, 2)])
def test_is_the_adjoint_of_the_convolution_with_the_same_weights(k, s, p, d, g):
    module = ConvTranspose2d(4, 2, k, s, p, dilation=d, groups=g, bias=False).double()
    x = torch.randn(1, 2, 11, 10, dtype=D, requires_grad=True)
    y = F.conv2d(x, module.weight, None, s, p, d, g)
    v = torch.randn_like(y)
    back = module(v, output_size=x.shape[2:])
    torch.testing.assert_close((y * v).sum(), (x * back).sum())
    torch.testing.assert_close(torch.autograd.grad(y, x, v)[0], back)


@pytest.mark.oracle("zeros between the pixels, then a convolution with the flipped kernel")
@pytest.mark.parametrize(("k", "s", "p", "more"), [(3, 2, 1, 1), (4, 2, 1, 0), (3, 3, 0, 2), (5, 1, 2, 0)])
def test_equals_a_convolution_of_the_map_with_zeros_between_its_pixels(k, s, p, more):
    module, x = ConvTranspose2d(3, 2, k, s, p, more).double(), torch.randn(2, 3, 4, 5, dtype=D)
    spread = torch.zeros(2, 3, 3 * s + 1 + more, 4 * s + 1 + more, dtype=D)
    spread[..., : 3 * s + 1 : s, : 4 * s + 1 : s] = x
    flipped = module.weight.flip(2, 3).transpose(0, 1)
    torch.testing.assert_close(module(x), F.conv2d(spread, flipped, module.bias, padding=k - 1 - p))


@pytest.mark.oracle("torch.nn.functional.interpolate, nearest")
@pytest.mark.parametrize("s", [1, 2, 3])
def test_a_kernel_of_ones_as_wide_as_the_stride_repeats_every_pixel(s):
    module, x = ConvTranspose2d(1, 1, s, s, bias=False).double(), torch.randn(1, 1, 4, 3, dtype=D)
    nn.init.ones_(module.weight)
    torch.testing.assert_close(module(x), F.interpolate(x, scale_factor=s, mode="nearest"))


@pytest.mark.oracle("torch.nn.functional.interpolate, bilinear")
@pytest.mark.parametrize("s", [1, 2, 3, 4, 5])
def test_the_bilinear_kernel_interpolates_and_continues_a_ramp(s):
    kernel = bilinear_kernel(s, dtype=D)
    assert kernel.shape == (2 * s - s % 2,) * 2 and kernel.sum().item() == pytest.approx(s * s)
    module = ConvTranspose2d(1, 1, len(kernel), s, s // 2, bias=False).double()
    module.weight = nn.Parameter(kernel[None, None])
    inside = slice(s, -s)
    x = torch.randn(1, 1, 6, 7, dtype=D)
    expected = F.interpolate(x, scale_factor=s, mode="bilinear", align_corners=False)
    torch.testing.assert_close(module(x)[..., inside, inside], expected[..., inside, inside])
    ramp = module(torch.arange(7.0, dtype=D).expand(1, 1, 6, 7))[0, 0, inside, inside]
    torch.testing.assert_close(ramp[:, 1:] - ramp[:, :-1], torch.full_like(ramp[:, 1:], 1 / s))


@pytest.mark.oracle("count of the stamps that meet in a pixel")
@pytest.mark.parametrize(("k", "s"), list(itertools.product([1, 2, 3, 4, 5, 6], [1, 2, 3, 4])))
def test_stamps_overlap_evenly_only_if_the_stride_divides_the_kernel(k, s):
    """A widely copied page does not mention it: constant in, checkerboard out."""
    module = ConvTranspose2d(1, 1, k, s, bias=False).double()
    nn.init.ones_(module.weight)
    y = module(torch.ones(1, 1, 20, 20, dtype=D))[0, 0, 8:-8, 8:-8]
    assert (y == y[0, 0]).all() == (k % s == 0)


def test_size_times_stride_comes_out_only_of_matching_kernel_padding_and_output_padding():
    """A widely copied statement: it maps H to H·s."""
    x = torch.zeros(1, 1, 7, 7)
    for (k, s, p, more), size in {(3, 2, 1, 0): 13, (3, 2, 1, 1): 14, (4, 2, 1, 0): 14, (2, 2, 0, 0): 14, (3, 2, 0, 0): 15}.items():
        assert ConvTranspose2d(1, 1, k, s, p, more)(x).shape[2:] == (size, size)
        assert (size == 14) == (k + more - 2 * p == s)


def test_it_inverts_the_size_and_not_the_values():
    x = torch.randn(1, 1, 8, 8, dtype=D)
    module = ConvTranspose2d(1, 1, 4, 2, 1, bias=False).double()
    back = module(F.conv2d(x, module.weight, stride=2, padding=1))
    assert back.shape == x.shape and not torch.allclose(back, x, atol=0.1)


def test_output_padding_shows_more_of_the_stamps_and_adds_zeros_only_behind_them():
    wide, cut = ConvTranspose2d(1, 1, 3, 2, 0, bias=False).double(), ConvTranspose2d(1, 1, 3, 2, 1, 1, bias=False).double()
    cut.load_state_dict(wide.state_dict())
    x = torch.randn(1, 1, 4, 4, dtype=D)
    torch.testing.assert_close(cut(x), wide(x)[..., 1:, 1:])
    behind = ConvTranspose2d(1, 1, 2, 2, 0, 1, bias=False).double()(x)
    assert not behind[..., -1].any() and behind[..., -2].any()


@pytest.mark.oracle("torch.nn.functional.fold")
def test_fold_is_torchs_and_the_transpose_of_unfold():
    x, windows = torch.randn(2, 3, 9, 11, dtype=D), torch.randn(2, 3, 3, 4, 3, 2, dtype=D)
    theirs = F.fold(windows.movedim((4, 5), (2, 3)).flatten(4).flatten(1, 3), (9, 11), (3, 2), dilation=(2, 1), stride=(2, 3))
    ours = fold(windows, (2, 3), (2, 1))
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close((unfold(x, (3, 2), (2, 3), (2, 1)) * windows).sum(), (x * ours).sum())


def test_output_size_chooses_among_the_sizes_that_the_convolution_maps_to_one():
    module, x = ConvTranspose2d(1, 1, 3, 3, 1).double(), torch.randn(1, 1, 4, 4, dtype=D)
    library = nn.ConvTranspose2d(1, 1, 3, 3, 1).double()
    library.load_state_dict(module.state_dict())
    for size in [(10, 10), (12, 11), (11, 12)]:
        torch.testing.assert_close(module(x, output_size=size), library(x, output_size=size))
    for bad in [(9, 10), (10, 13)]:
        with pytest.raises(ValueError, match=rf"output_size=\({bad[0]}, {bad[1]}\) for an input of \(4, 4\): output_padding=.* is not from 0 to below"):
            module(x, output_size=bad)


def test_numpy_variant_agrees(agree):
    for k, s, p, more in [(3, 2, 1, 1), (4, 2, 1, 0), (2, 3, 0, 2), (5, 1, 2, 0)]:
        module, x = ConvTranspose2d(2, 3, k, s, p, more, bias=False).double(), torch.randn(2, 4, 5, dtype=D)
        agree(transposed_conv2d(x.numpy(), module.weight.detach().numpy(), s, (p, p), (more, more)), module(x[None])[0])


def test_numpy_bilinear_kernel_agrees(agree):
    for s in (1, 2, 3, 4):
        row = bilinear(2 * s - s % 2)
        agree(row[:, None] * row, bilinear_kernel(s, dtype=D))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(in_channels=0), "in_channels=0 is below 1"),
        (dict(out_channels=0), "out_channels=0 is below 1"),
        (dict(groups=0), "groups=0 is below 1"),
        (dict(groups=2), "groups=2 does not divide in_channels=3 and out_channels=4"),
        (dict(groups=3), "groups=3 does not divide"),
        (dict(kernel_size=0), "kernel_size=0 is below 1"),
        (dict(stride=0), "stride=0 is below 1"),
        (dict(dilation=0), "dilation=0 is below 1"),
        (dict(padding=-1), "padding=-1 is below 0"),
        (dict(output_padding=-1), "output_padding=-1 is below 0"),
        (dict(output_padding=1), r"output_padding=\(1, 1\) is not from 0 to below stride or dilation, 1"),
        (dict(output_padding=(0, 2), stride=2), r"output_padding=\(0, 2\) is not from 0 to below stride or dilation, 2"),
    ],
)
def test_bad_settings_say_which_and_why(arguments, message):
    with pytest.raises(ValueError, match=message):
        ConvTranspose2d(**{**dict(in_channels=3, out_channels=4, kernel_size=3), **arguments})


def test_wrong_inputs_are_named():
    module = ConvTranspose2d(3, 1, 1, padding=1)
    with pytest.raises(ValueError, match=r"x has shape \(1, 4, 8, 8\); expected \(batch, in_channels=3, height, width\)"):
        module(torch.zeros(1, 4, 8, 8))
    with pytest.raises(ValueError, match=r"padding=\(1, 1\) leaves nothing of the output for an input of \(3, 2\)"):
        module(torch.zeros(1, 3, 3, 2))
    assert module(torch.zeros(1, 3, 3, 3)).shape == (1, 1, 1, 1)
    with pytest.raises(ValueError, match=r"windows has shape \(1, 1, 3, 3\); expected"):
        fold(torch.zeros(1, 1, 3, 3))
    with pytest.raises(ValueError, match="stride=0 is below 1"):
        bilinear_kernel(0)
