import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from snippets.convolution.octave import cost as numpy_cost
from snippets.convolution.octave import octave_conv2d, split
from vocab.convolution.conv2d import Conv2d
from vocab.convolution.octave import OctConv2d, cost

D = torch.float64


def example():
    """For the contract suite: a small instance and its inputs."""
    return OctConv2d(4, 4).double(), (torch.randn(2, 2, 4, 6, dtype=D), torch.randn(2, 2, 2, 3, dtype=D))


def pair(batch, high, low, H, W):
    return (torch.randn(batch, high, H, W, dtype=D) if high else None, torch.randn(batch, low, H // 2, W // 2, dtype=D) if low else None)


@pytest.mark.oracle("torch.nn.Conv2d, for a share of 0")
@pytest.mark.parametrize("bias", [True, False])
def test_without_a_low_part_it_starts_and_computes_as_torch_conv2d(bias):
    torch.manual_seed(8)
    module = OctConv2d(3, 5, alpha_in=0, alpha_out=0, bias=bias).double()
    torch.manual_seed(8)
    library = nn.Conv2d(3, 5, 3, padding=1, bias=bias).double()
    torch.testing.assert_close(module.state_dict(), library.state_dict())
    x = torch.randn(2, 3, 6, 8, dtype=D)
    high, low = module(x)
    torch.testing.assert_close(high, library(x))
    assert low is None
    only_low = OctConv2d(3, 5, alpha_in=1, alpha_out=1, bias=bias).double()
    only_low.load_state_dict(library.state_dict())
    high, low = only_low(None, x)
    torch.testing.assert_close(low, library(x))
    assert high is None


@pytest.mark.oracle("the four paths, with torch's convolution, pooling and interpolation")
@pytest.mark.parametrize(("alpha_in", "alpha_out", "k", "stride"), [(0.5, 0.5, 3, 1), (0.25, 0.5, 5, 1), (0.5, 0.25, 3, 2), (0, 0.5, 3, 1), (0.5, 0, 1, 1)])
def test_equals_the_four_paths(alpha_in, alpha_out, k, stride):
    module = OctConv2d(8, 4, k, alpha_in=alpha_in, alpha_out=alpha_out, stride=stride, padding=k // 2).double()
    cl, ol = int(8 * alpha_in), int(4 * alpha_out)
    high, low = pair(2, 8 - cl, cl, 8, 12)
    found_high, found_low = module(high, low)
    if stride == 2:
        high, low = F.avg_pool2d(high, 2), F.avg_pool2d(low, 2)
    w, b = module.weight, module.bias
    blocks = {(o, c): w[slice(None, 4 - ol) if o == "h" else slice(4 - ol, None)][:, slice(None, 8 - cl) if c == "h" else slice(8 - cl, None)]
              for o in "hl" for c in "hl"}
    conv = lambda x, weight: F.conv2d(x, weight, padding=k // 2)  # noqa: E731
    y_high = conv(high, blocks["h", "h"]) + b[: 4 - ol, None, None]
    y_low = conv(F.avg_pool2d(high, 2), blocks["l", "h"]) + b[4 - ol :, None, None] if ol else None
    if cl:
        y_high = y_high + F.interpolate(conv(low, blocks["h", "l"]), scale_factor=2, mode="nearest")
        y_low = y_low + conv(low, blocks["l", "l"]) if ol else None
    torch.testing.assert_close(found_high, y_high)
    if ol:
        torch.testing.assert_close(found_low, y_low)
    else:
        assert found_low is None


@pytest.mark.oracle("1 by 1 layer at full resolution: it commutes with pooling and upsampling")
def test_with_one_tap_it_is_an_ordinary_layer_seen_at_two_resolutions():
    module, (high, low) = OctConv2d(6, 4, 1, padding=0).double(), pair(2, 3, 3, 4, 6)
    full = F.conv2d(torch.cat([high, F.interpolate(low, scale_factor=2)], 1), module.weight, module.bias)
    y_high, y_low = module(high, low)
    torch.testing.assert_close(y_high, full[:, :2])
    torch.testing.assert_close(y_low, F.avg_pool2d(full[:, 2:], 2))


@pytest.mark.oracle("torch.utils.flop_counter")
@pytest.mark.parametrize(("alpha", "work", "memory"), [(0.25, 0.67, 0.81), (0.5, 0.44, 0.625), (0.0, 1, 1), (0.75, None, None)])
def test_work_and_memory_are_what_the_formula_says(alpha, work, memory):
    """A widely copied page has no formula for it, only a comment."""
    module, inputs = OctConv2d(16, 16, alpha_in=alpha, alpha_out=alpha), pair(1, 16 - int(16 * alpha), int(16 * alpha), 16, 16)
    with FlopCounterMode(display=False) as ours:
        y = module.double()(*inputs)
    with FlopCounterMode(display=False) as full:
        Conv2d(16, 16, 3, padding=1).double()(torch.zeros(1, 16, 16, 16, dtype=D))
    assert ours.get_total_flops() / full.get_total_flops() == cost(alpha)[0]
    assert sum(part.numel() for part in y if part is not None) / 16**3 == cost(alpha)[1]
    if work:
        assert cost(alpha) == pytest.approx((work, memory), abs=0.005)


def test_the_four_weights_are_blocks_of_one_kernel_whatever_the_share():
    full = sum(p.numel() for p in nn.Conv2d(10, 7, 3).parameters())
    for alpha in (0, 0.1, 0.25, 0.5, 1):
        module = OctConv2d(10, 7, alpha_in=alpha, alpha_out=alpha)
        assert sum(p.numel() for p in module.parameters()) == full
        assert (module.low_in, module.low_out) == (int(10 * alpha), int(7 * alpha))


def test_averaging_keeps_the_two_grids_aligned_and_a_stride_moves_the_map_by_half_a_pixel():
    ramp = torch.arange(16.0, dtype=D).expand(1, 1, 16, 16)
    inside = slice(2, -2)
    pooled, strided = F.avg_pool2d(ramp, 2), F.conv2d(ramp, torch.full((1, 1, 3, 3), 1 / 9, dtype=D), stride=2, padding=1)
    shift = [(F.interpolate(y, scale_factor=2) - ramp)[..., inside, inside].mean().item() for y in (pooled, strided)]
    assert shift == pytest.approx([0.0, -0.5])


def test_numpy_variant_agrees(agree):
    module, (high, low) = OctConv2d(6, 4, 3, bias=False).double(), pair(1, 3, 3, 6, 8)
    found = octave_conv2d(high[0].numpy(), low[0].numpy(), module.weight.detach().numpy(), 2)
    for ours, theirs in zip(found, module(high, low)):
        agree(ours, theirs[0])
    agree(numpy_cost(0.3), cost(0.3))


def test_numpy_split_loses_nothing_and_its_parts_share_no_energy(agree):
    x = torch.randn(8, 8, dtype=D).numpy()
    low, rest = split(x)
    agree(low, F.interpolate(F.avg_pool2d(torch.from_numpy(x)[None, None], 2), scale_factor=2)[0, 0])
    assert abs(low + rest - x).max() < 1e-15 and abs((low * rest).sum()) < 1e-12


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(in_channels=0), "in_channels=0 is below 1"),
        (dict(out_channels=0), "out_channels=0 is below 1"),
        (dict(kernel_size=0), "kernel_size=0 is below 1"),
        (dict(stride=0), "stride=0 is below 1"),
        (dict(padding=-1), "padding=-1 is below 0"),
        (dict(alpha_in=-0.1), "alpha_in=-0.1 is not from 0 to 1"),
        (dict(alpha_out=1.1), "alpha_out=1.1 is not from 0 to 1"),
    ],
)
def test_bad_settings_say_which_and_why(arguments, message):
    with pytest.raises(ValueError, match=message):
        OctConv2d(**{**dict(in_channels=4, out_channels=4), **arguments})


@pytest.mark.parametrize(
    ("high", "low", "message"),
    [
        ((1, 2, 4, 4), None, "low is None; this layer takes 2 channels there"),
        (None, (1, 2, 2, 2), "high is None; this layer takes 2 channels there"),
        ((1, 3, 4, 4), (1, 2, 2, 2), r"high has shape \(1, 3, 4, 4\); expected \(batch, channels=2, height, width\)"),
        ((1, 2, 5, 4), (1, 2, 2, 2), r"high is 5 by 4 pixels; both must be multiples of 2 \(2 · stride\)"),
        ((1, 2, 4, 5), (1, 2, 2, 2), "high is 4 by 5 pixels"),
        ((1, 2, 4, 4), (1, 2, 4, 2), r"low has shape \(1, 2, 4, 2\); expected \(batch=1, channels, height=2, width=2\)"),
        ((1, 2, 4, 4), (1, 2, 2, 4), "expected .*width=2"),
        ((2, 2, 4, 4), (1, 2, 2, 2), "expected .*batch=2"),
    ],
)
def test_parts_that_do_not_fit_are_named(high, low, message):
    parts = [None if shape is None else torch.zeros(shape) for shape in (high, low)]
    with pytest.raises(ValueError, match=message):
        OctConv2d(4, 4)(*parts)


def test_a_stride_needs_whole_squares_and_a_layer_without_a_low_part_takes_none():
    with pytest.raises(ValueError, match="high is 6 by 8 pixels; both must be multiples of 4"):
        OctConv2d(4, 4, stride=2)(torch.zeros(1, 2, 6, 8), torch.zeros(1, 2, 3, 4))
    with pytest.raises(ValueError, match="low is given; this layer takes 0 channels there"):
        OctConv2d(4, 4, alpha_in=0)(torch.zeros(1, 4, 4, 4), torch.zeros(1, 2, 2, 2))
    for size in [(3, 4), (4, 3)]:
        with pytest.raises(ValueError, match=f"low is {size[0]} by {size[1]} pixels; both must be multiples of stride=2"):
            OctConv2d(4, 4, alpha_in=1, stride=2)(None, torch.zeros(1, 4, *size))
    for bad in (-0.1, 1.1):
        with pytest.raises(ValueError, match=f"alpha={bad} is not from 0 to 1"):
            cost(bad)
