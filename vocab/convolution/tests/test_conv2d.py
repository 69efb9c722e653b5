import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from snippets.convolution.conv2d import conv2d as numpy_conv2d
from snippets.convolution.conv2d import kernel
from snippets.convolution.conv2d import receptive_field as numpy_receptive_field
from vocab.convolution.conv2d import Conv2d, receptive_field

D = torch.float64


def example():
    """For the contract suite: a small instance and its inputs."""
    return Conv2d(2, 3, (3, 2), stride=(1, 2), padding=1).double(), (torch.randn(2, 2, 5, 6, dtype=D),)


@pytest.mark.oracle("torch.nn.Conv2d and its gradients")
@pytest.mark.parametrize(("k", "stride"), list(itertools.product([(3, 3), (2, 5), (1, 1)], [1, (2, 3)])))
@pytest.mark.parametrize(("padding", "dilation", "groups"), [(0, 1, 1), ((2, 1), (1, 2), 2), (2, 2, 1)])
def test_starts_and_computes_as_torch_conv2d(k, stride, padding, dilation, groups):
    arguments = 4, 6, k, stride, padding, dilation, groups
    torch.manual_seed(1)
    module = Conv2d(*arguments).double()
    torch.manual_seed(1)
    library = nn.Conv2d(*arguments).double()
    torch.testing.assert_close(module.state_dict(), library.state_dict())
    x = torch.randn(2, 4, 9, 12, dtype=D, requires_grad=True)
    ours, theirs = module(x), library(x)
    torch.testing.assert_close(ours, theirs)
    g = torch.randn_like(theirs)
    for a, b in zip(torch.autograd.grad(ours, (x, *module.parameters()), g),
                    torch.autograd.grad(theirs, (x, *library.parameters()), g), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
def test_padding_goes_to_the_axis_it_is_meant_for(mode):
    module = Conv2d(1, 1, (3, 5), padding=(1, 2), padding_mode=mode).double()
    library = nn.Conv2d(1, 1, (3, 5), padding=(1, 2), padding_mode=mode).double()
    library.load_state_dict(module.state_dict())
    x = torch.randn(1, 1, 6, 7, dtype=D)
    torch.testing.assert_close(module(x), library(x))


@pytest.mark.oracle("scipy.signal.correlate2d")
def test_one_channel_is_the_cross_correlation_of_signal_processing():
    correlate2d = pytest.importorskip("scipy.signal").correlate2d
    module, x = Conv2d(1, 1, (3, 4), bias=False).double(), torch.randn(1, 1, 8, 9, dtype=D)
    expected = correlate2d(x[0, 0].numpy(), module.weight[0, 0].detach().numpy(), mode="valid")
    np.testing.assert_allclose(module(x)[0, 0].detach().numpy(), expected, rtol=1e-12)


@pytest.mark.oracle("torch.nn.functional.unfold (im2col) times the weights as a matrix")
def test_equals_a_matrix_of_windows_times_the_weights():
    module, x = Conv2d(3, 5, 3, stride=2, padding=1, dilation=2).double(), torch.randn(2, 3, 9, 10, dtype=D)
    columns = F.unfold(x, 3, dilation=2, padding=1, stride=2)
    y = module.weight.flatten(1) @ columns + module.bias[:, None]
    torch.testing.assert_close(module(x).flatten(2), y)


@pytest.mark.oracle("adjoint identity with torch.nn.functional.conv_transpose2d")
def test_the_transposed_convolution_carries_the_gradient_back():
    module, x = Conv2d(2, 3, 3, stride=2, padding=1, bias=False).double(), torch.randn(1, 2, 7, 9, dtype=D)
    y = module(x)
    v = torch.randn_like(y)
    back = F.conv_transpose2d(v, module.weight, stride=2, padding=1)
    torch.testing.assert_close((y * v).sum(), (x * back).sum())


@pytest.mark.oracle("shift equivariance")
def test_a_circular_image_moves_with_its_output():
    module, x = Conv2d(2, 3, 3, padding=1, padding_mode="circular").double(), torch.randn(1, 2, 6, 7, dtype=D)
    torch.testing.assert_close(module(x.roll((2, -3), (2, 3))), module(x).roll((2, -3), (2, 3)))


@pytest.mark.oracle("two one-dimensional passes")
def test_a_kernel_that_is_an_outer_product_is_two_passes():
    u, v, x = (torch.randn(n, dtype=D) for n in ((3, 1), (1, 4), (1, 1, 8, 9)))
    both, rows, columns = Conv2d(1, 1, (3, 4), bias=False), Conv2d(1, 1, (3, 1), bias=False), Conv2d(1, 1, (1, 4), bias=False)
    for module, weight in [(both, u * v), (rows, u), (columns, v)]:
        module.weight = nn.Parameter(weight[None, None])
    torch.testing.assert_close(both(x), columns(rows(x)))


def test_a_kernel_whose_weights_sum_to_zero_ignores_a_constant_image():
    module = Conv2d(1, 1, 3, bias=False).double()
    with torch.no_grad():
        module.weight -= module.weight.mean()
    assert module(torch.full((1, 1, 6, 6), 5.0, dtype=D)).abs().max() < 1e-14


STACKS = {
    "VGG's two 3 by 3": [(3, 1, 1), (3, 1, 1)],
    "ResNet stem": [(7, 2, 3), (3, 2, 1)],
    "dilated after a stride": [(3, 2, 0), (3, 1, 2, 2), (2, 2, 0)],
    "even kernels": [(4, 2, 1), (2,), (1, 3)],
    "nothing": [],
}


@pytest.mark.oracle("support of the input gradient of one output pixel")
@pytest.mark.parametrize("layers", STACKS.values(), ids=STACKS)
def test_receptive_field_is_where_the_gradient_is(layers):
    modules = []
    for layer in layers:
        modules.append(Conv2d(1, 1, *layer, bias=False).double())
        nn.init.ones_(modules[-1].weight)
    x = torch.ones(1, 1, 60, 60, dtype=D, requires_grad=True)
    y = nn.Sequential(*modules)(x)
    j = y.shape[-1] // 2
    y[0, 0, j, j].backward()
    seen = x.grad[0, 0].any(0).nonzero().flatten()
    size, stride, offset = receptive_field(layers)
    assert seen[-1] - seen[0] + 1 == size
    assert (seen[-1] + seen[0]) / 2 == offset + stride * j
    assert stride == math.prod(layer[1] if len(layer) > 1 else 1 for layer in layers)


def test_receptive_fields_of_known_networks():
    assert receptive_field([(3,), (3,)])[0] == 5 and 2 * 3**2 == 18 < 5**2
    assert receptive_field([(3,)] * 3)[0] == 7
    vgg16 = [*[(3, 1, 1)] * 2, (2, 2), *[(3, 1, 1)] * 2, (2, 2)] + 3 * [*[(3, 1, 1)] * 3, (2, 2)]
    assert receptive_field(vgg16)[:2] == (212, 32)
    assert receptive_field([(3, 1, 1)] * 20) == (41, 1, 0.0)


@pytest.mark.oracle("variance of n-fold convolution: n (k² − 1) / 12")
def test_the_effective_field_grows_with_the_root_of_the_depth():
    n, k = 20, 3
    x = torch.zeros(1, 1, 1, 41, dtype=D, requires_grad=True)
    layer = Conv2d(1, 1, (1, k), bias=False).double()
    nn.init.ones_(layer.weight)
    y = x
    for _ in range(n):
        y = layer(y)
    y.sum().backward()
    share = x.grad.flatten() / x.grad.sum()
    at = torch.arange(-20, 21)
    assert (share * at**2).sum().item() == pytest.approx(n * (k**2 - 1) / 12) == pytest.approx(3.65**2, abs=0.02)
    assert share[at.abs() <= 7].sum().item() == pytest.approx(0.96, abs=0.005)


def test_zero_padding_shows_at_the_border():
    module = Conv2d(1, 1, 3, padding=1, bias=False).double()
    nn.init.ones_(module.weight)
    y = module(torch.ones(1, 1, 5, 5, dtype=D))[0, 0]
    assert [y[0, 0].item(), y[0, 2].item(), y[2, 2].item()] == [4, 6, 9]


def test_a_stride_shifts_the_map_by_whole_strides_only():
    module, x = Conv2d(1, 1, 3, stride=2, padding=1, padding_mode="circular").double(), torch.randn(1, 1, 8, 8, dtype=D)
    torch.testing.assert_close(module(x.roll(2, -1)), module(x).roll(1, -1))
    assert not any(torch.allclose(module(x.roll(1, -1)), module(x).roll(n, -1)) for n in range(4))


def test_odd_maps_and_stride_2_do_not_come_back_to_their_size():
    x = torch.zeros(1, 1, 15, 15)
    small = Conv2d(1, 1, 3, stride=2, padding=1)(x)
    assert small.shape[-1] == 8 and F.interpolate(small, scale_factor=2).shape[-1] == 16
    # the last row of an even image is not read by a window without padding
    x = torch.zeros(1, 1, 16, 16, requires_grad=True)
    Conv2d(1, 1, 3, stride=2)(x).sum().backward()
    assert not x.grad[0, 0, -1].any() and x.grad[0, 0, -2].any()


def test_a_bias_before_batch_normalization_does_nothing():
    module, norm = Conv2d(2, 3, 3).double(), nn.BatchNorm2d(3).double()
    x = torch.randn(4, 2, 6, 6, dtype=D)
    with_bias = norm(module(x))
    nn.init.constant_(module.bias, 7.0)
    torch.testing.assert_close(norm(module(x)), with_bias)


def test_weights_are_stored_output_channel_first():
    """A widely copied layout is (k_h, k_w, C, O), TensorFlow's, beside PyTorch code."""
    assert Conv2d(3, 64, 7).weight.shape == nn.Conv2d(3, 64, 7).weight.shape == (64, 3, 7, 7)
    assert Conv2d(3, 64, 7, bias=False).weight.numel() == 9408
    assert Conv2d(6, 4, (3, 5), groups=2).weight.shape == (4, 3, 3, 5)


def test_numpy_variant_agrees(agree):
    for k, s, p, d in [(3, 1, 1, 1), (2, 2, 0, 1), (5, 1, 2, 2), (3, 3, 3, 2)]:
        module, x = Conv2d(2, 3, k, s, p, d, bias=False).double(), torch.randn(2, 10, 11, dtype=D)
        agree(numpy_conv2d(x.numpy(), module.weight.detach().numpy(), s, p, d), module(x[None])[0])


def test_numpy_receptive_field_agrees(agree):
    for layers in ([(3, 1, 1)] * 4, [(7, 2, 1), (3, 2, 1), (3, 1, 2)], [(2, 3, 4), (4, 1, 1)]):
        agree(numpy_receptive_field(layers), receptive_field([(k, s, 0, d) for k, s, d in layers])[0])


def test_the_presets_are_the_known_kernels():
    assert kernel("Sobel x", 3).tolist() == [[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]]
    assert kernel("Sobel y", 3).tolist() == [[-1, -2, -1], [0, 0, 0], [1, 2, 1]]
    for k in range(1, 8):
        assert kernel("blur", k).sum() == pytest.approx(1) == kernel("sharpen", k).sum()
    for k in range(2, 8):
        assert kernel("Sobel x", k).sum() == 0 and (kernel("Sobel x", k) == kernel("Sobel y", k).T).all()


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([()], r"layers\[0\]=\(\) is not \(kernel_size, stride, padding, dilation\)"),
        ([(3,), (3, 1, 1, 1, 1)], r"layers\[1\]=\(3, 1, 1, 1, 1\) is not"),
        ([(0,)], r"layers\[0\]=\(0,\): kernel_size, stride and dilation are at least 1, padding 0"),
        ([(3, 0)], "stride and dilation are at least 1"),
        ([(3, 1, -1)], "padding 0"),
        ([(3, 1, 1, 0)], "dilation are at least 1"),
    ],
)
def test_bad_layers_say_which_and_why(layers, message):
    with pytest.raises(ValueError, match=message):
        receptive_field(layers)


def test_wrong_inputs_are_named():
    module = Conv2d(3, 1, 3)
    with pytest.raises(ValueError, match=r"its 3 channels on the last axis; expected \(batch, in_channels=3, height, width\)"):
        module(torch.zeros(2, 10, 10, 3))
    with pytest.raises(ValueError, match=r"x has shape \(3, 8, 8\); expected \(batch, in_channels, height, width\)"):
        module(torch.zeros(3, 8, 8))
    with pytest.raises(ValueError, match="the input has 2 positions and 0 of padding per side; the kernel spans 3"):
        module(torch.zeros(1, 3, 8, 2))
    with pytest.raises(ValueError, match=r"kernel_size=\(3, 3, 3\) has 3 numbers; expected one, or 2"):
        Conv2d(1, 1, (3, 3, 3))
