import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from snippets.convolution.pointwise import pointwise
from vocab.convolution.pointwise import PointwiseConv2d

D = torch.float64


def example():
    """For the contract suite: a small instance and its inputs."""
    return PointwiseConv2d(4, 6, stride=2, groups=2).double(), (torch.randn(2, 4, 3, 4, dtype=D),)


def mobilenet():
    """Multiply-adds and weights of MobileNet v1 at 224 pixels, by kind of layer."""
    pairs = [(32, 64, 112), (64, 128, 56), (128, 128, 56), (128, 256, 28), (256, 256, 28), (256, 512, 14),
             *[(512, 512, 14)] * 5, (512, 1024, 7), (1024, 1024, 7)]  # channels in, channels out, side of the output
    weights = {"stem": 27 * 32, "depthwise": sum(9 * c for c, _, _ in pairs), "pointwise": sum(c * o for c, o, _ in pairs),
               "classifier": 1024 * 1000}
    work = {"stem": 27 * 32 * 112**2, "depthwise": sum(9 * c * n**2 for c, _, n in pairs),
            "pointwise": sum(c * o * n**2 for c, o, n in pairs), "classifier": 1024 * 1000}
    return weights, work


@pytest.mark.oracle("torch.nn.Linear on the channel axis")
def test_is_a_linear_layer_on_the_channels_of_every_pixel():
    module, linear = PointwiseConv2d(5, 3).double(), nn.Linear(5, 3).double()
    linear.load_state_dict({"weight": module.weight[:, :, 0, 0], "bias": module.bias})
    x = torch.randn(2, 5, 4, 7, dtype=D)
    torch.testing.assert_close(module(x), linear(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))


@pytest.mark.oracle("torch.nn.Conv2d with kernel size 1")
@pytest.mark.parametrize(("stride", "groups", "bias"), list(itertools.product([1, 2, 3], [1, 2], [True, False])))
def test_starts_and_computes_as_torch_conv2d_with_kernel_size_1(stride, groups, bias):
    torch.manual_seed(2)
    module = PointwiseConv2d(4, 6, stride=stride, groups=groups, bias=bias).double()
    torch.manual_seed(2)
    library = nn.Conv2d(4, 6, 1, stride=stride, groups=groups, bias=bias).double()
    torch.testing.assert_close(module.state_dict(), library.state_dict())
    x = torch.randn(2, 4, 7, 6, dtype=D)
    torch.testing.assert_close(module(x), library(x))


def test_by_default_every_pixel_and_every_channel_counts_and_there_is_a_bias():
    module, x = PointwiseConv2d(4, 6).double(), torch.randn(2, 4, 3, 3, dtype=D)
    torch.testing.assert_close(module(x), F.conv2d(x, module.weight, module.bias))


@pytest.mark.oracle("Jacobian, block-diagonal over pixels")
def test_a_pixel_depends_on_itself_only():
    module, x = PointwiseConv2d(3, 2).double(), torch.randn(1, 3, 2, 3, dtype=D)
    jacobian = torch.autograd.functional.jacobian(module, x)[0, :, :, :, 0]  # (O, H, W, C, H, W)
    for i, j, u, v in itertools.product(range(2), range(3), range(2), range(3)):
        block = jacobian[:, i, j, :, u, v]
        torch.testing.assert_close(block, module.weight[:, :, 0, 0] * ((i, j) == (u, v)), rtol=0, atol=0)


def test_an_orthogonal_matrix_keeps_the_length_of_every_pixel():
    module, x = PointwiseConv2d(6, 6, bias=False).double(), torch.randn(2, 6, 4, 4, dtype=D)
    nn.init.orthogonal_(module.weight)
    torch.testing.assert_close(module(x).norm(dim=1), x.norm(dim=1))


@pytest.mark.oracle("product of the two matrices")
def test_two_in_a_row_without_a_nonlinearity_are_one_with_the_product_matrix():
    first, second, both = (PointwiseConv2d(c, o).double() for c, o in [(4, 2), (2, 5), (4, 5)])
    product = second.weight[:, :, 0, 0] @ first.weight[:, :, 0, 0]
    both.load_state_dict({"weight": product[:, :, None, None], "bias": second(first.bias[None, :, None, None]).flatten()})
    x = torch.randn(2, 4, 3, 3, dtype=D)
    torch.testing.assert_close(second(first(x)), both(x))
    assert torch.linalg.matrix_rank(product) == 2, "what the narrow one dropped does not come back"


def test_a_stride_of_2_reads_a_quarter_of_the_pixels():
    x = torch.randn(1, 2, 6, 6, dtype=D, requires_grad=True)
    PointwiseConv2d(2, 3, stride=2).double()(x).sum().backward()
    assert (x.grad[0, 0] != 0).sum() == 9 and x.grad[0, 0, ::2, ::2].all()


@pytest.mark.oracle("MobileNet's table 2 (Howard et al. 2017): 94.86 % of the multiply-adds, 74.59 % of the weights")
def test_most_of_mobilenet_is_pointwise():
    weights, work = mobilenet()
    assert work["pointwise"] / sum(work.values()) == pytest.approx(0.9486, abs=1e-3)
    assert weights["pointwise"] / sum(weights.values()) == pytest.approx(0.7459, abs=5e-3)
    assert work["depthwise"] / sum(work.values()) == pytest.approx(0.0306, abs=1e-3)
    assert sum(work.values()) == pytest.approx(569e6, rel=0.002)


def test_numpy_variant_agrees(agree):
    module, x = PointwiseConv2d(3, 4).double(), torch.randn(3, 5, 6, dtype=D)
    agree(pointwise(x.numpy(), module.weight[:, :, 0, 0].detach().numpy(), module.bias.detach().numpy()), module(x[None])[0])


def test_wrong_arguments_are_named():
    module = PointwiseConv2d(3, 4)
    with pytest.raises(ValueError, match=r"x has shape \(1, 5, 6, 3\), its 3 channels on the last axis"):
        module(torch.zeros(1, 5, 6, 3))
    with pytest.raises(ValueError, match=r"x has shape \(1, 4, 5, 6\); expected \(batch, in_channels=3, height, width\)"):
        module(torch.zeros(1, 4, 5, 6))
    with pytest.raises(ValueError, match="groups=2 does not divide in_channels=3 and out_channels=4"):
        PointwiseConv2d(3, 4, groups=2)
    with pytest.raises(ValueError, match="stride=0 is below 1"):
        PointwiseConv2d(3, 4, stride=0)
