import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from snippets.pooling import average as numpy_variant
from vocab.pooling.average import AvgPool2d

D = torch.float64
SETTINGS = [
    dict(kernel_size=2),
    dict(kernel_size=3, stride=2),
    dict(kernel_size=3, stride=2, padding=1),
    dict(kernel_size=2, stride=3, ceil_mode=True),
    dict(kernel_size=4, stride=3, padding=2, ceil_mode=True),
    dict(kernel_size=5, stride=4, padding=2, ceil_mode=True),
    dict(kernel_size=3, stride=1, padding=1, divisor_override=5),
]


def example():
    return AvgPool2d(3, stride=2, padding=1, count_include_pad=False), (torch.randn(2, 2, 5, 6, dtype=D),)


@pytest.mark.oracle("torch.nn.functional.avg_pool2d")
@pytest.mark.parametrize("count_include_pad", [True, False])
@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("size", [(7, 6), (8, 9)])
def test_equals_torch_average_pool_with_gradients(settings, size, count_include_pad):
    x = torch.randn(2, 3, *size, dtype=D, requires_grad=True)
    ours, theirs = AvgPool2d(**settings, count_include_pad=count_include_pad)(x), F.avg_pool2d(x, **settings, count_include_pad=count_include_pad)
    torch.testing.assert_close(ours, theirs)
    grad = torch.randn_like(ours)
    torch.testing.assert_close(*(torch.autograd.grad(y, x, grad)[0] for y in (ours, theirs)))


def test_defaults_are_those_of_torch():
    x = torch.randn(1, 1, 5, 5)
    torch.testing.assert_close(AvgPool2d(3, padding=1)(x), nn.AvgPool2d(3, padding=1)(x))


@pytest.mark.oracle("a depthwise convolution with weights 1/k²")
@pytest.mark.parametrize(("k", "s"), [(2, 2), (3, 1), (3, 2)])
def test_equals_a_depthwise_convolution_with_equal_weights(k, s):
    x = torch.randn(2, 3, 9, 8, dtype=D)
    weight = torch.full((3, 1, k, k), 1 / k**2, dtype=D)
    torch.testing.assert_close(AvgPool2d(k, s)(x), F.conv2d(x, weight, stride=s, groups=3))
    torch.testing.assert_close(AvgPool2d(k, s, padding=k // 2)(x), F.conv2d(x, weight, stride=s, padding=k // 2, groups=3))


@pytest.mark.oracle("linearity")
def test_it_is_linear():
    pool, (x, y) = AvgPool2d(3, 2, padding=1), torch.randn(2, 1, 2, 7, 7, dtype=D)
    torch.testing.assert_close(pool(2 * x - 3 * y), 2 * pool(x) - 3 * pool(y))


def test_the_mean_stays_where_windows_tile_the_image_and_not_where_they_do_not():
    x = torch.randn(2, 3, 6, 9, dtype=D)
    torch.testing.assert_close(AvgPool2d(3)(x).mean((2, 3)), x.mean((2, 3)))
    assert (AvgPool2d(2)(x).mean((2, 3)) - x.mean((2, 3))).abs().max() > 0.01


@pytest.mark.oracle("the adjoint: nearest upsampling over k²")
def test_gradient_is_the_same_for_all_of_a_window():
    x, grad = torch.randn(1, 2, 6, 6, dtype=D, requires_grad=True), torch.randn(1, 2, 2, 2, dtype=D)
    AvgPool2d(3)(x).backward(grad)
    torch.testing.assert_close(x.grad, F.interpolate(grad, scale_factor=3, mode="nearest") / 9)


def test_a_constant_image_stays_constant_unless_padding_counts():
    x = torch.ones(1, 1, 6, 6)
    assert torch.equal(AvgPool2d(3, 2)(x), torch.ones(1, 1, 2, 2))
    assert torch.equal(AvgPool2d(3, 2, padding=1, count_include_pad=False)(x), torch.ones(1, 1, 3, 3))
    y = AvgPool2d(3, 2, padding=1)(x)[0, 0]
    assert y[0, 0].item() == pytest.approx(4 / 9) and y[0, 1].item() == pytest.approx(6 / 9) and y[1, 1].item() == 1


@pytest.mark.oracle("closed form: the variance of a mean")
@pytest.mark.parametrize("k", [2, 4])
def test_noise_keeps_one_over_k_squared_of_its_variance(k):
    assert AvgPool2d(k)(torch.randn(1, 1, 400, 400, dtype=D)).var().item() == pytest.approx(1 / k**2, rel=0.05)


def test_a_single_strong_feature_is_diluted():
    x = torch.zeros(1, 1, 4, 4)
    x[..., 1, 1] = 16.0
    assert AvgPool2d(4)(x).item() == 1.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(kernel_size=0), "kernel_size=0 is below 1"),
        (dict(kernel_size=2, stride=0), "stride=0 is below 1"),
        (dict(kernel_size=3, padding=2), "padding=2 is more than half of kernel_size=3"),
        (dict(kernel_size=3, divisor_override=0), "divisor_override=0 would divide by zero"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        AvgPool2d(**arguments)


def test_wrong_inputs_are_named():
    with pytest.raises(ValueError, match=r"x has shape \(3, 8, 8\); expected \(batch, channels, height, width\)"):
        AvgPool2d(2)(torch.zeros(3, 8, 8))
    with pytest.raises(ValueError, match="x has a side of 2, with padding 2; a window spans 3"):
        AvgPool2d(3)(torch.zeros(1, 1, 4, 2))
    with pytest.raises(TypeError, match="x has dtype torch.int64"):
        AvgPool2d(2)(torch.zeros(1, 1, 4, 4, dtype=torch.int64))
    assert repr(AvgPool2d(3, 2, 1)) == "AvgPool2d(3, stride=2, padding=1, count_include_pad=True)"


@pytest.mark.parametrize("include", [True, False])
@pytest.mark.parametrize(("k", "s", "p"), [(2, 2, 0), (3, 2, 1), (5, 3, 2)])
def test_numpy_variant_agrees(agree, k, s, p, include):
    x = torch.randn(1, 1, 7, 8, dtype=D)
    agree(numpy_variant.average_pool(x[0, 0].numpy(), k, s, p, include), AvgPool2d(k, s, p, count_include_pad=include)(x)[0, 0])


def test_demo_darkens_the_border_only_if_zeros_count():
    assert "comes out as 0.562" in numpy_variant.show(include=True)[-1]["caption"]
    assert "comes out as 1.000" in numpy_variant.show(include=False)[-1]["caption"]
    with pytest.raises(ValueError, match="more than half"):
        numpy_variant.show(kernel=2, padding=2)
    assert np.ptp([v for v in numpy_variant.show(kind="checkerboard", kernel=4, stride=4, padding=0)[0]["values"][0]]) == 0
