import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from snippets.convolution.conv3d import convolve as numpy_convolve
from snippets.convolution.conv3d import moving_kernel
from vocab.convolution.conv2d import Conv2d
from vocab.convolution.conv3d import Conv2Plus1d, Conv3d, inflate

D = torch.float64


def example():
    """For the contract suite: a small instance and its inputs."""
    return Conv3d(2, 3, (2, 3, 2), stride=(1, 2, 1), padding=(1, 0, 1)).double(), (torch.randn(2, 2, 3, 4, 3, dtype=D),)


@pytest.mark.oracle("torch.nn.Conv3d and its gradients")
@pytest.mark.parametrize(("k", "stride", "padding", "dilation", "groups"), [
    (3, 1, 1, 1, 1), ((1, 2, 3), (1, 2, 3), (0, 1, 2), (3, 2, 1), 2), (2, 1, 0, 2, 1), (1, 2, 0, 1, 2)])
def test_starts_and_computes_as_torch_conv3d(k, stride, padding, dilation, groups):
    arguments = 4, 6, k, stride, padding, dilation, groups
    torch.manual_seed(7)
    module = Conv3d(*arguments).double()
    torch.manual_seed(7)
    library = nn.Conv3d(*arguments).double()
    torch.testing.assert_close(module.state_dict(), library.state_dict())
    x = torch.randn(2, 4, 5, 6, 7, dtype=D, requires_grad=True)
    ours, theirs = module(x), library(x)
    torch.testing.assert_close(ours, theirs)
    v = torch.randn_like(theirs)
    for a, b in zip(torch.autograd.grad(ours, (x, *module.parameters()), v),
                    torch.autograd.grad(theirs, (x, *library.parameters()), v), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.oracle("sum over the depth taps of torch 2D convolutions of shifted frames")
def test_is_a_sum_of_2d_convolutions_of_neighbouring_frames():
    module, x = Conv3d(2, 3, (3, 2, 2), bias=False).double(), torch.randn(2, 2, 6, 5, 5, dtype=D)
    frames = [sum(F.conv2d(x[:, :, t + i], module.weight[:, :, i]) for i in range(3)) for t in range(4)]
    torch.testing.assert_close(module(x), torch.stack(frames, 2))


@pytest.mark.oracle("scipy.ndimage.correlate")
def test_one_channel_is_the_correlation_of_signal_processing():
    correlate = pytest.importorskip("scipy.ndimage").correlate
    module, x = Conv3d(1, 1, 3, padding=1, bias=False).double(), torch.randn(1, 1, 5, 6, 7, dtype=D)
    expected = correlate(x[0, 0].numpy(), module.weight[0, 0].detach().numpy(), mode="constant")
    np.testing.assert_allclose(module(x)[0, 0].detach().numpy(), expected, rtol=1e-10, atol=1e-14)


def test_a_kernel_of_depth_1_is_the_2d_layer_frame_by_frame():
    module, flat = Conv3d(2, 3, (1, 3, 3), padding=(0, 1, 1)).double(), Conv2d(2, 3, 3, padding=1).double()
    flat.load_state_dict({"weight": module.weight[:, :, 0], "bias": module.bias})
    x = torch.randn(2, 2, 4, 5, 5, dtype=D)
    torch.testing.assert_close(module(x), torch.stack([flat(frame) for frame in x.unbind(2)], 2))


@pytest.mark.oracle("full 3D kernel of the low rank that space and time leave")
def test_space_then_time_without_the_relu_is_a_3d_kernel_of_low_rank():
    split, x = Conv2Plus1d(2, 3, 2).double(), torch.randn(1, 2, 4, 5, 5, dtype=D)
    full = torch.einsum("omt,mcuv->octuv", split[2].weight[..., 0, 0], split[0].weight[:, :, 0])
    torch.testing.assert_close(split[2](split[0](x)), F.conv3d(x, full, split[2].bias, padding=1))
    assert not torch.allclose(split(x), F.conv3d(x, full, split[2].bias, padding=1))


@pytest.mark.oracle("torch.nn.Sequential of two Conv3d and a ReLU")
@pytest.mark.parametrize("k", [3, 5])
def test_the_split_is_space_relu_time(k):
    split, x = Conv2Plus1d(2, 3, kernel_size=k).double(), torch.randn(2, 2, 4, 5, 6, dtype=D)
    space = F.conv3d(x, split[0].weight, padding=(0, k // 2, k // 2)).relu()
    torch.testing.assert_close(split(x), F.conv3d(space, split[2].weight, split[2].bias, padding=(k // 2, 0, 0)))


@pytest.mark.oracle("equal number of weights (Tran et al. 2018, section 3.5)")
@pytest.mark.parametrize(("c", "o", "k"), [(64, 64, 3), (64, 128, 3), (16, 48, 5)])
def test_by_default_the_split_has_the_weights_of_the_full_kernel(c, o, k):
    split = Conv2Plus1d(c, o, kernel_size=k)
    weights, full = (sum(w.numel() for w in m.parameters() if w.ndim > 1) for m in (split, Conv3d(c, o, k)))
    assert 0 <= full - weights < k * k * c + k * o, "one channel more would be too many"
    if (c, o, k) == (64, 64, 3):
        assert split[0].weight.shape[0] == 144 and weights == full == 110_592


@pytest.mark.oracle("a static video must give what its image gives (Carreira and Zisserman 2017)")
@pytest.mark.parametrize("depth", [1, 3, 4])
def test_an_inflated_kernel_sees_in_a_static_video_what_the_2d_kernel_sees_in_the_image(depth):
    image, weight = torch.randn(1, 3, 7, 7, dtype=D), torch.randn(5, 3, 3, 3, dtype=D)
    module = Conv3d(3, 5, (depth, 3, 3), bias=False).double()
    module.load_state_dict({"weight": inflate(weight, depth)})
    video = image[:, :, None].expand(-1, -1, 6, -1, -1)
    flat = F.conv2d(image, weight)
    torch.testing.assert_close(module(video), flat[:, :, None].expand(-1, -1, 7 - depth, -1, -1))


def test_a_kernel_tuned_to_a_motion_answers_most_to_that_motion():
    t, x = torch.arange(8.0, dtype=D), torch.arange(24.0, dtype=D)
    answers = {}
    for speed in (-1.0, 0.0, 1.0):
        video = torch.exp(-((x - 12 - (t[:, None] - 3.5)) ** 2) / 2).view(1, 1, 8, 1, 24)  # moves one pixel per frame
        kernel = torch.from_numpy(moving_kernel(speed, 5))[None, None, :, 2:3]
        answers[speed] = F.conv3d(video, kernel).square().sum().item()
    assert answers[1.0] > answers[0.0] > answers[-1.0]


def test_cost_and_memory_of_the_third_dimension():
    assert Conv3d(64, 64, 3, bias=False).weight.numel() == 3 * Conv2d(64, 64, 3, bias=False).weight.numel()
    assert 64 * 32 * 112 * 112 * 2 == pytest.approx(51.4e6, rel=1e-3)


def test_numpy_variant_agrees(agree):
    for k, d in [((3, 2, 2), 1), ((1, 3, 3), 1), ((2, 2, 2), 2)]:
        module, x = Conv3d(2, 3, k, dilation=d, bias=False).double(), torch.randn(2, 5, 6, 6, dtype=D)
        agree(numpy_convolve(x.numpy(), module.weight.detach().numpy(), d), module(x[None])[0])


def test_wrong_arguments_are_named():
    module = Conv3d(3, 4, 3)
    with pytest.raises(ValueError, match=r"x has shape \(2, 8, 3, 16, 16\), its 3 channels behind time as video loaders give them; "
                                         r"expected \(batch, in_channels=3, depth, height, width\): x.transpose\(1, 2\)"):
        module(torch.zeros(2, 8, 3, 16, 16))
    with pytest.raises(ValueError, match="its 3 channels on the last axis"):
        module(torch.zeros(2, 8, 16, 16, 3))
    with pytest.raises(ValueError, match=r"x has shape \(2, 4, 8, 16, 16\); expected \(batch, in_channels=3, depth, height, width\)"):
        module(torch.zeros(2, 4, 8, 16, 16))
    with pytest.raises(ValueError, match=r"expected \(batch, in_channels, depth, height, width\)"):
        module(torch.zeros(2, 3, 16, 16))
    assert module(torch.zeros(2, 3, 3, 4, 5)).shape == (2, 4, 1, 2, 3), "three frames and three channels are no mistake"
    with pytest.raises(ValueError, match="the input has 2 positions and 0 of padding per side; the kernel spans 3"):
        module(torch.zeros(2, 3, 2, 16, 16))
    for k in (0, 2):
        with pytest.raises(ValueError, match=f"kernel_size={k} is not odd and at least 1"):
            Conv2Plus1d(3, 4, kernel_size=k)
    with pytest.raises(ValueError, match="depth=0 is below 1"):
        inflate(torch.zeros(1, 1, 3, 3), 0)
    with pytest.raises(ValueError, match=r"weight has shape \(1, 3, 3\); expected"):
        inflate(torch.zeros(1, 3, 3), 2)
