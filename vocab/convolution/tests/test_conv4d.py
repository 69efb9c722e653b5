from itertools import product

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from snippets.convolution.conv4d import conv4d
from vocab.convolution.conv1d import convolve
from vocab.convolution.conv3d import Conv3d
from vocab.convolution.conv4d import Conv4d

D = torch.float64


def example():
    """For the contract suite: a small instance and its inputs."""
    return Conv4d(2, 2, (2, 1, 2, 3), padding=(1, 0, 0, 1)).double(), (torch.randn(2, 2, 2, 2, 2, 3, dtype=D),)


@pytest.mark.oracle("sum over the time taps of torch 3D convolutions of shifted frames")
@pytest.mark.parametrize(("k", "padding", "d"), [(3, 0, 1), (3, 1, 1), ((2, 3, 1, 2), (1, 0, 2, 0), (3, 1, 2, 1))])
def test_is_a_sum_of_3d_convolutions_of_neighbouring_volumes(k, padding, d):
    module, x = Conv4d(2, 3, k, padding=padding, dilation=d).double(), torch.randn(2, 2, 5, 4, 5, 3, dtype=D)
    pt, *p = module.padding and [side for side, _ in module.padding]
    (kt, *_), (dt, *rest) = module.kernel_size, module.dilation
    padded = F.pad(x, (0, 0) * 3 + (pt, pt))
    times = range(padded.shape[2] - dt * (kt - 1))
    frames = [sum(F.conv3d(padded[:, :, t + dt * i], module.weight[:, :, i], None, 1, p, rest) for i in range(kt)) for t in times]
    torch.testing.assert_close(module(x), torch.stack(frames, 2) + module.bias[:, None, None, None, None])


@pytest.mark.oracle("scipy.signal.correlate and scipy.ndimage.correlate")
def test_one_channel_is_the_correlation_of_signal_processing():
    signal, ndimage = pytest.importorskip("scipy.signal"), pytest.importorskip("scipy.ndimage")
    module, x = Conv4d(1, 1, 3, bias=False).double(), torch.randn(1, 1, 5, 4, 6, 5, dtype=D)
    image, kernel, y = x[0, 0].numpy(), module.weight[0, 0].detach().numpy(), module(x)[0, 0].detach().numpy()
    np.testing.assert_allclose(y, signal.correlate(image, kernel, mode="valid", method="direct"), rtol=1e-10)
    np.testing.assert_allclose(y, ndimage.correlate(image, kernel)[1:-1, 1:-1, 1:-1, 1:-1], rtol=1e-10)


@pytest.mark.oracle("one matrix product over all windows")
def test_equals_a_matrix_of_all_windows_times_the_weights():
    module, x = Conv4d(2, 3, 2, dilation=(1, 2, 1, 2)).double(), torch.randn(1, 2, 3, 4, 3, 4, dtype=D)
    torch.testing.assert_close(module(x), convolve(x, module.weight, module.bias, dilation=(1, 2, 1, 2)))


def test_one_tap_along_time_is_the_3d_layer_volume_by_volume():
    module, flat = Conv4d(2, 3, (1, 3, 3, 3), padding=(0, 1, 1, 1)).double(), Conv3d(2, 3, 3, padding=1).double()
    flat.load_state_dict({"weight": module.weight[:, :, 0], "bias": module.bias})
    x = torch.randn(2, 2, 3, 3, 4, 4, dtype=D)
    torch.testing.assert_close(module(x), torch.stack([flat(volume) for volume in x.unbind(2)], 2))


@pytest.mark.oracle("four one-dimensional passes")
def test_a_kernel_that_is_an_outer_product_is_four_passes():
    module, x = Conv4d(1, 1, (2, 3, 2, 3), bias=False).double(), torch.randn(1, 1, 4, 5, 4, 5, dtype=D)
    rows = [torch.randn(k, dtype=D) for k in (2, 3, 2, 3)]
    module.weight = nn.Parameter(torch.einsum("a,b,c,d->abcd", *rows)[None, None])
    y = x[0, 0]
    for axis, row in enumerate(rows):
        y = torch.stack([F.conv1d(line[None, None], row[None, None])[0, 0] for line in y.movedim(axis, -1).reshape(-1, y.shape[axis])]) \
            .view(*y.movedim(axis, -1).shape[:-1], -1).movedim(-1, axis)
    torch.testing.assert_close(module(x)[0, 0], y)


def test_is_linear_in_the_kernel():
    x, layers = torch.randn(1, 2, 3, 3, 3, 3, dtype=D), [Conv4d(2, 3, 2, bias=False).double() for _ in range(3)]
    layers[2].weight = nn.Parameter(2 * layers[0].weight - 3 * layers[1].weight)
    torch.testing.assert_close(layers[2](x), 2 * layers[0](x) - 3 * layers[1](x))


@pytest.mark.oracle("adjoint identity: every output stamps the kernel back")
def test_backward_is_the_adjoint():
    module, x = Conv4d(2, 3, 2, bias=False, dilation=(2, 1, 1, 1)).double(), torch.randn(1, 2, 4, 3, 3, 3, dtype=D, requires_grad=True)
    y = module(x)
    v, back = torch.randn_like(y), torch.zeros_like(x)
    for t, d, i, j in product(range(2), repeat=4):
        stamp = torch.einsum("oc,botdij->bctdij", module.weight[:, :, t, d, i, j], v)
        back[:, :, 2 * t : 2 * t + 2, d : d + 2, i : i + 2, j : j + 2] += stamp.detach()
    torch.testing.assert_close((y * v).sum(), (x * back).sum())
    torch.testing.assert_close(torch.autograd.grad(y, x, v)[0], back)


def test_a_3_by_3_by_3_by_3_kernel_has_81_positions_and_a_dilated_one_reaches_further():
    """A widely copied count is 27."""
    module = Conv4d(1, 1, 3, dilation=2, bias=False).double()
    nn.init.ones_(module.weight)
    x = torch.randn(1, 1, 5, 5, 5, 5, dtype=D, requires_grad=True)
    module(x).sum().backward()
    assert module.weight[0, 0].numel() == (x.grad != 0).sum() == 81
    assert Conv4d(1, 1, 5).weight.numel() == 625
    support = x.grad[0, 0].nonzero()
    assert (support.max(0).values - support.min(0).values + 1).tolist() == [3 + 2 * (2 - 1)] * 4


def test_five_axes_are_three_dimensions_and_not_four():
    """A widely copied "4D dilated convolution" takes (B, C, D, H, W) and calls nn.Conv3d."""
    copied = nn.Conv3d(2, 3, 3, dilation=2)
    x = torch.randn(1, 2, 6, 6, 6)
    assert copied.weight[0, 0].numel() == 27 and copied(x).ndim == 5
    with pytest.raises(ValueError, match=r"x has shape \(1, 2, 6, 6, 6\); expected \(batch, in_channels, time, depth, height, width\)"):
        Conv4d(2, 3, 3)(x)


def test_branches_with_other_dilations_and_no_padding_cannot_be_added():
    """A widely copied class sums branches with dilations 1, 2, 4, 8 and no padding."""
    x = torch.randn(1, 2, 18, 18, 18)
    branches = [nn.Conv3d(2, 2, 3, dilation=d)(x) for d in (1, 2, 4, 8)]
    assert [b.shape[-1] for b in branches] == [16, 14, 10, 2]
    with pytest.raises(RuntimeError, match="must match the size"):
        sum(branches)
    x = torch.randn(1, 1, 3, 4, 3, 4)
    ours = [Conv4d(1, 1, 3, dilation=d, padding="same")(x) for d in (1, 2)]
    assert sum(ours).shape == x.shape


def test_activations_explode_with_the_fourth_power():
    assert 64 * 16**4 * 2 == pytest.approx(8.4e6, rel=0.01) and 64 * 32**4 * 2 == pytest.approx(134e6, rel=0.01)


def test_starts_within_one_over_the_root_of_the_fan_in():
    weight = Conv4d(3, 50, (2, 3, 1, 2)).weight
    assert weight.shape == (50, 3, 2, 3, 1, 2)
    assert 0.98 * 36**-0.5 < weight.abs().max() <= 36**-0.5


def test_numpy_variant_agrees(agree):
    for k, d in [((2, 3, 1, 2), 1), ((2, 2, 2, 2), 2)]:
        module, x = Conv4d(2, 3, k, dilation=d, bias=False).double(), torch.randn(2, 4, 3, 4, 3, dtype=D)
        agree(conv4d(x.numpy(), module.weight.detach().numpy(), d), module(x[None])[0])


def test_wrong_arguments_are_named():
    module = Conv4d(2, 3, 3)
    with pytest.raises(ValueError, match=r"x has shape \(1, 3, 4, 4, 4, 4\); expected \(batch, in_channels=2, time, depth, height, width\)"):
        module(torch.zeros(1, 3, 4, 4, 4, 4))
    for size in [(2, 3, 3, 3), (3, 3, 3, 2)]:
        with pytest.raises(ValueError, match="the input has 2 positions and 0 of padding per side; the kernel spans 3"):
            module(torch.zeros(1, 2, *size))
    with pytest.raises(ValueError, match=r"kernel_size=\(3, 3, 3\) has 3 numbers; expected one, or 4"):
        Conv4d(2, 3, (3, 3, 3))
