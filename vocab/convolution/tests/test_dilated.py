import itertools

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from snippets.convolution.dilated import dilated_conv2d, paths
from vocab.convolution.dilated import ASPP, DilatedConv2d, receptive_field, seen_offsets


def example():
    """For the contract suite: a small instance and its inputs."""
    return DilatedConv2d(2, 3, kernel_size=3, dilation=2).double(), (torch.randn(2, 2, 7, 6).double(),)


def stack(kernel_size, dilations):
    """Layers whose weights are all one, so that a gradient counts paths."""
    layers = [DilatedConv2d(1, 1, kernel_size, d, padding="valid", bias=False).double() for d in dilations]
    for layer in layers:
        nn.init.ones_(layer.weight)
    return nn.Sequential(*layers)


def gradient_support(kernel_size, dilations):
    """How often each input pixel counts in the single output pixel of a window as large as the receptive field."""
    size = receptive_field(kernel_size, dilations)
    x = torch.zeros(1, 1, size, size, dtype=torch.float64, requires_grad=True)
    y = stack(kernel_size, dilations)(x)
    assert y.numel() == 1, "the window is exactly one output large"
    y.sum().backward()
    return x.grad[0, 0]


@pytest.mark.oracle("dense convolution with zeros between the taps")
@pytest.mark.parametrize(("k", "r"), [(1, 3), (2, 3), (3, 1), (3, 2), (3, 5), (5, 2)])
def test_equals_a_dense_kernel_with_zeros_between_the_taps(k, r):
    module = DilatedConv2d(2, 3, k, r, padding="valid").double()
    spread = torch.zeros(3, 2, k + (k - 1) * (r - 1), k + (k - 1) * (r - 1), dtype=torch.float64)
    spread[..., ::r, ::r] = module.weight.detach()
    x = torch.randn(2, 2, 17, 14, dtype=torch.float64)
    torch.testing.assert_close(module(x), F.conv2d(x, spread, module.bias))


@pytest.mark.oracle("dense convolution of each polyphase sub-image")
@pytest.mark.parametrize("r", [2, 3])
def test_equals_dense_convolution_of_every_rth_pixel_interleaved(r):
    module = DilatedConv2d(2, 3, 3, r).double()
    x = torch.randn(2, 2, 11, 10, dtype=torch.float64)
    y = torch.full((2, 3, 11, 10), torch.nan, dtype=torch.float64)
    for a, b in itertools.product(range(r), repeat=2):
        y[..., a::r, b::r] = F.conv2d(x[..., a::r, b::r], module.weight, module.bias, padding=1)
    torch.testing.assert_close(module(x), y)


@pytest.mark.oracle("torch.nn.Conv2d")
@pytest.mark.parametrize("k", [1, 2, 3, 4])
@pytest.mark.parametrize("r", [1, 2, 3])
@pytest.mark.filterwarnings("ignore:Using padding='same'")
def test_starts_and_computes_as_torch_conv2d_does(k, r):
    for padding in ("same", "valid"):
        torch.manual_seed(3)
        module = DilatedConv2d(2, 3, k, r, padding=padding).double()
        torch.manual_seed(3)
        library = nn.Conv2d(2, 3, k, dilation=r, padding=padding).double()
        torch.testing.assert_close(dict(module.named_parameters()), dict(library.named_parameters()))
        x = torch.randn(2, 2, 12, 11, dtype=torch.float64)
        torch.testing.assert_close(module(x), library(x))


def test_defaults_are_three_taps_two_pixels_apart_with_a_bias():
    module = DilatedConv2d(1, 1)
    assert module.weight.shape == (1, 1, 3, 3) and module.bias.shape == (1,)
    nn.init.ones_(module.weight), nn.init.zeros_(module.bias)
    impulse = torch.zeros(1, 1, 9, 9)
    impulse[..., 4, 4] = 1
    assert module(impulse)[0, 0, 4].tolist() == [0, 0, 1, 0, 1, 0, 1, 0, 0]


@pytest.mark.oracle("gradient support of one output pixel")
@pytest.mark.parametrize(("k", "rates"), [(3, [2, 2, 2]), (3, [1, 2, 5]), (2, [1, 2, 4]), (5, [1, 3]), (3, [4]), (3, [])])
def test_receptive_field_and_holes_are_those_of_the_gradient(k, rates):
    support = gradient_support(k, rates)
    assert support[[0, -1]].any(), "the window is not too large"
    assert (support > 0).any(0).nonzero().flatten().tolist() == seen_offsets(k, rates)


def test_one_pixel_more_than_the_receptive_field_leaves_that_pixel_without_gradient():
    x = torch.zeros(1, 1, 18, 18, dtype=torch.float64, requires_grad=True)
    stack(3, [1, 2, 5])(x)[0, 0, 0, 0].backward()
    used = x.grad[0, 0] > 0
    assert used[:17, :17].all() and not used[17].any() and not used[:, 17].any()


@pytest.mark.oracle("gridding: 49 of 169 pixels at rates 2, 2, 2 and all 289 at 1, 2, 5")
def test_equal_rates_see_49_of_169_pixels_and_rates_1_2_5_see_all_289():
    for rates, window, seen in [([2, 2, 2], 169, 49), ([1, 2, 5], 289, 289)]:
        assert receptive_field(3, rates) ** 2 == window
        assert len(seen_offsets(3, rates)) ** 2 == seen
        assert (gradient_support(3, rates) > 0).sum() == seen


@pytest.mark.oracle("hybrid dilated convolution: rates 1, 2, 5 fill the window, 1, 2, 9 do not (Wang et al. 2018)")
def test_the_published_good_and_bad_rates():
    assert len(seen_offsets(3, [1, 2, 5])) == receptive_field(3, [1, 2, 5])
    assert len(seen_offsets(3, [1, 2, 9])) < receptive_field(3, [1, 2, 9])


def test_no_hole_exactly_where_no_rate_exceeds_the_field_of_the_smaller_ones():
    for k in (2, 3, 5):
        for rates in itertools.product(range(1, 8), repeat=3):
            ordered = sorted(rates)
            rule = all(r <= receptive_field(k, ordered[:i]) for i, r in enumerate(ordered))
            assert (len(seen_offsets(k, list(rates))) == receptive_field(k, list(rates))) == rule, (k, rates)


def test_rates_with_a_common_factor_always_leave_holes():
    for rates in ([2, 4, 8], [3, 6], [2, 2, 4]):
        assert len(seen_offsets(3, rates)) < receptive_field(3, rates)


@pytest.mark.parametrize("k", [2, 3, 5])
def test_rates_that_are_powers_of_the_kernel_reach_every_pixel_by_exactly_one_path(k):
    support = gradient_support(k, [1, k, k**2])
    assert support.shape == (k**3, k**3)
    assert torch.equal(support, torch.ones_like(support))


@pytest.mark.oracle("WaveNet: ten layers, 1,024 samples")
def test_ten_doubling_layers_of_two_taps_see_1024_samples_without_a_hole():
    rates = [2**i for i in range(10)]
    assert receptive_field(2, rates) == 1024
    assert seen_offsets(2, rates) == list(range(1024))


def test_an_output_needs_k_minus_1_times_r_earlier_samples_besides_its_own():
    x = torch.zeros(1, 1, 3, 20, dtype=torch.float64, requires_grad=True)
    layer = DilatedConv2d(1, 1, 3, 4, padding="valid").double()
    layer(F.pad(x, (0, 0, 3, 3)))[0, 0, 0, -1].backward()
    newest, oldest = x.grad[0, 0].any(0).nonzero().flatten()[[-1, 0]].tolist()
    assert newest - oldest == (3 - 1) * 4


def test_symmetric_padding_by_half_the_reach_changes_the_size_only_for_even_kernels_at_odd_rates():
    """A widely copied rule gives r(k - 1) / 2 for every kernel; where that is no whole number the size changes."""
    x = torch.zeros(1, 1, 20, 20)
    for k, r in itertools.product(range(1, 6), range(1, 6)):
        kept = F.conv2d(x, torch.zeros(1, 1, k, k), padding=r * (k - 1) // 2, dilation=r).shape == x.shape
        assert kept == (k % 2 == 1 or r % 2 == 0)
        assert DilatedConv2d(1, 1, k, r)(x).shape == x.shape


def test_a_rate_as_large_as_the_map_sees_padding_only():
    x = torch.randn(1, 2, 6, 6, dtype=torch.float64)
    module = DilatedConv2d(2, 3, 3, dilation=6).double()
    torch.testing.assert_close(module(x), F.conv2d(x, module.weight[..., 1:2, 1:2], module.bias))


@pytest.mark.oracle("transformers.MobileViTASPP")
@pytest.mark.parametrize("training", [False, True])
def test_aspp_equals_transformers_with_copied_weights(training):
    pytest.importorskip("transformers")
    from transformers import MobileViTConfig
    from transformers.models.mobilevit.modeling_mobilevit import MobileViTASPP

    config = MobileViTConfig(neck_hidden_sizes=[1, 1, 1, 1, 1, 5, 1], aspp_out_channels=4, aspp_dropout_prob=0.0)
    library, module = MobileViTASPP(config).double(), ASPP(5, 4).double()
    theirs = [*library.convs[:-1], library.convs[-1].conv_1x1, library.project]
    with torch.no_grad():
        for ours, other in zip([module.pixel, *module.pyramid, module.image, module.project], theirs, strict=True):
            ours[0].weight.copy_(other.convolution.weight)
            for statistic in (other.normalization.running_mean, other.normalization.bias):
                statistic.normal_()
            ours[1].load_state_dict(other.normalization.state_dict())
    x = torch.randn(2, 5, 40, 37, dtype=torch.float64)
    torch.testing.assert_close(module.train(training)(x), library.train(training)(x))


def test_aspp_needs_two_images_in_training_and_one_afterwards():
    x = torch.randn(1, 2, 8, 8)
    with pytest.raises(ValueError, match="x holds one image; in training .* needs two"):
        ASPP(2, 3)(x)
    assert ASPP(2, 3).eval()(x).isfinite().all()


def test_aspp_has_one_branch_per_rate_and_no_bias_before_a_normalization():
    module = ASPP(2, 4, rates=(3, 5))
    assert [branch[0].dilation for branch in module.pyramid] == [3, 5]
    assert [branch[0].dilation for branch in ASPP(2, 4).pyramid] == [6, 12, 18]
    assert all(block[0].bias is None for block in (module.pixel, module.image, module.project, *module.pyramid))
    torch.manual_seed(0)
    module.double()(torch.randn(2, 2, 9, 9, dtype=torch.float64)).square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in module.parameters())


def test_numpy_variant_agrees(agree):
    for k, r in [(3, 2), (2, 3), (5, 1)]:
        module = DilatedConv2d(2, 3, k, r, bias=False).double()
        x = torch.randn(2, 9, 8, dtype=torch.float64)
        agree(dilated_conv2d(x.numpy(), module.weight.detach().numpy(), r), module(x[None])[0])


def test_numpy_paths_are_the_gradient_of_a_stack_of_ones(agree):
    for k, rates in [(3, [2, 2, 2]), (2, [1, 3, 4]), (5, [1, 2])]:
        agree(np.outer(paths(k, rates), paths(k, rates)), gradient_support(k, rates))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(in_channels=0, out_channels=1), "in_channels=0 is below 1"),
        (dict(in_channels=1, out_channels=0), "out_channels=0 is below 1"),
        (dict(in_channels=1, out_channels=1, kernel_size=0), "kernel_size=0 is below 1"),
        (dict(in_channels=1, out_channels=1, dilation=0), "dilation=0 is below 1"),
        (dict(in_channels=1, out_channels=1, padding="causal"), "padding='causal' is neither 'same' nor 'valid'"),
    ],
)
def test_bad_sizes_say_which_and_why(arguments, message):
    with pytest.raises(ValueError, match=message):
        DilatedConv2d(**arguments)


def test_wrong_inputs_are_named():
    with pytest.raises(ValueError, match=r"x has shape \(1, 3, 8, 8\); expected \(batch, in_channels=2, height, width\)"):
        DilatedConv2d(2, 1)(torch.zeros(1, 3, 8, 8))
    with pytest.raises(ValueError, match=r"expected \(batch, in_channels=2, height, width\)"):
        ASPP(2, 1)(torch.zeros(2, 3, 8, 8))
    with pytest.raises(ValueError, match=r"x has shape \(2, 8, 8\); expected \(batch, in_channels=2, height, width\)"):
        ASPP(2, 1)(torch.zeros(2, 8, 8))
    with pytest.raises(ValueError, match="rates is empty"):
        ASPP(2, 1, rates=())
    for function in (receptive_field, seen_offsets):
        with pytest.raises(ValueError, match="dilation=0"):
            function(3, [1, 0])


def test_a_valid_window_that_does_not_fit_is_an_error_and_one_that_just_fits_is_not():
    module = DilatedConv2d(1, 1, 3, 4, padding="valid")
    assert module(torch.zeros(1, 1, 9, 9)).numel() == 1
    for height, width in [(9, 8), (8, 9)]:
        with pytest.raises(ValueError, match=f"x is {height} by {width} pixels; the kernel spans 9"):
            module(torch.zeros(1, 1, height, width))
