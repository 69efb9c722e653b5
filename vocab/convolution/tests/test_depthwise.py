import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from snippets.convolution.depthwise import depthwise
from vocab.convolution.conv2d import Conv2d
from vocab.convolution.depthwise import DepthwiseConv2d
from vocab.convolution.pointwise import PointwiseConv2d

D = torch.float64


def example():
    """For the contract suite: a small instance and its inputs."""
    module = DepthwiseConv2d(2, 3, multiplier=2, stride=2, padding=1, bias=True).double()
    return module, (torch.randn(2, 2, 5, 4, dtype=D),)


@pytest.mark.oracle("torch.nn.Conv2d with groups = channels")
@pytest.mark.parametrize(("k", "m", "stride", "padding", "dilation"), [
    (3, 1, 1, "same", 1), (1, 2, 1, 0, 1), (3, 2, 2, 1, 1), ((2, 5), 1, (1, 3), (2, 0), (3, 1)), (5, 3, 1, "same", 2)])
@pytest.mark.parametrize("bias", [True, False])
def test_starts_and_computes_as_torch_with_one_group_per_channel(k, m, stride, padding, dilation, bias):
    torch.manual_seed(4)
    module = DepthwiseConv2d(3, k, multiplier=m, stride=stride, padding=padding, dilation=dilation, bias=bias).double()
    torch.manual_seed(4)
    library = nn.Conv2d(3, 3 * m, k, stride, padding, dilation, groups=3, bias=bias).double()
    torch.testing.assert_close(module.state_dict(), library.state_dict())
    x = torch.randn(2, 3, 9, 10, dtype=D)
    torch.testing.assert_close(module(x), library(x))


@pytest.mark.oracle("scipy.signal.correlate2d, channel by channel")
def test_is_a_stack_of_single_channel_filters():
    correlate2d = pytest.importorskip("scipy.signal").correlate2d
    module, x = DepthwiseConv2d(3, 3).double(), torch.randn(1, 3, 6, 7, dtype=D)
    pairs = zip(x[0].numpy(), module.weight[:, 0].detach().numpy())
    expected = np.stack([correlate2d(image, kernel, mode="same") for image, kernel in pairs])
    np.testing.assert_allclose(module(x)[0].detach().numpy(), expected, rtol=1e-10)


@pytest.mark.oracle("product of Fourier transforms")
def test_circular_padding_gives_a_product_of_spectra():
    module, x = DepthwiseConv2d(2, 3, padding=0).double(), torch.randn(1, 2, 6, 8, dtype=D)
    kernel = torch.zeros(2, 6, 8, dtype=D)
    kernel[:, :3, :3] = module.weight[:, 0].detach()
    spectrum = torch.fft.fft2(x[0]) * torch.fft.fft2(kernel.roll((-1, -1), (1, 2))).conj()
    torch.testing.assert_close(module(F.pad(x, (1, 1, 1, 1), mode="circular"))[0], torch.fft.ifft2(spectrum).real)


def test_a_channel_gets_no_gradient_from_any_other():
    module, x = DepthwiseConv2d(4, 3, multiplier=2), torch.randn(1, 4, 5, 5, requires_grad=True)
    y = module(x)
    for out in range(8):
        (gradient,) = torch.autograd.grad(y[:, out].sum(), x, retain_graph=True)
        assert gradient.abs().sum((0, 2, 3)).nonzero().flatten().tolist() == [out // 2]


@pytest.mark.parametrize("k", [1, 3, 4, 7])
def test_a_kernel_with_a_single_one_is_the_identity(k):
    module, x = DepthwiseConv2d(2, k).double(), torch.randn(1, 2, 8, 8, dtype=D)
    with torch.no_grad():
        module.weight.zero_()[:, 0, (k - 1) // 2, (k - 1) // 2] = 1
    torch.testing.assert_close(module(x), x, rtol=0, atol=0)


def test_a_pointwise_layer_behind_it_lets_channels_meet():
    x = torch.randn(1, 3, 4, 4, dtype=D, requires_grad=True)
    y = PointwiseConv2d(3, 2).double()(DepthwiseConv2d(3, 3).double()(x))
    (gradient,) = torch.autograd.grad(y[0, 0].sum(), x)
    assert gradient[0].abs().sum((1, 2)).all()


def test_a_line_without_padding_shrinks_the_map_by_two_pixels_each_time():
    """A widely copied line is nn.Conv2d(C, C, kernel_size=3, groups=C): no padding."""
    copied, module, x = nn.Conv2d(4, 4, kernel_size=3, groups=4), DepthwiseConv2d(4, 3), torch.zeros(1, 4, 14, 14)
    for size in (12, 10, 8):
        x = copied(x)
        assert x.shape[2:] == (size, size)
    assert module(x).shape == x.shape


def test_it_has_a_cth_of_the_weights_of_the_full_kernel():
    assert DepthwiseConv2d(256, 3).weight.numel() == 2304
    assert Conv2d(256, 256, 3).weight.numel() == 256 * 2304 == 589_824


def test_numpy_variant_agrees(agree):
    for k, d in [(3, 1), (2, 3), (5, 2), (1, 1)]:
        module, x = DepthwiseConv2d(3, k, dilation=d).double(), torch.randn(3, 9, 10, dtype=D)
        agree(depthwise(x.numpy(), module.weight[:, 0].detach().numpy(), d), module(x[None])[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(multiplier=0), "multiplier=0 is below 1"),
        (dict(channels=0), "channels=0 is below 1"),
        (dict(stride=2), "padding='same' with stride=2: a stride above 1 cannot keep the size"),
        (dict(kernel_size=0), "kernel_size=0 is below 1"),
    ],
)
def test_bad_settings_say_which_and_why(arguments, message):
    with pytest.raises(ValueError, match=message):
        DepthwiseConv2d(**{**dict(channels=2, kernel_size=3), **arguments})


def test_wrong_inputs_are_named():
    module = DepthwiseConv2d(3, 3, padding=0)
    with pytest.raises(ValueError, match=r"x has shape \(1, 4, 8, 8\); expected \(batch, in_channels=3, height, width\)"):
        module(torch.zeros(1, 4, 8, 8))
    with pytest.raises(ValueError, match="the input has 2 positions and 0 of padding per side; the kernel spans 3"):
        module(torch.zeros(1, 3, 2, 8))
