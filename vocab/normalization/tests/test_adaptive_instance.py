import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from snippets.normalization import adaptive_instance as numpy_variant
from vocab.normalization.adaptive_instance import AdaIN, adain

D = torch.float64


def example():
    return AdaIN(3, 4, eps=0.01).double(), (torch.randn(2, 3, 4, 5, dtype=D), torch.randn(2, 4, dtype=D))


def images():
    return 2 + 3 * torch.randn(2, 3, 6, 5, dtype=D), -1 + 0.5 * torch.randn(2, 3, 4, 7, dtype=D)


@pytest.mark.oracle("the statistics of the style")
def test_every_channel_has_the_mean_and_deviation_of_the_style():
    content, style = images()
    y = adain(content, style, eps=1e-9)
    torch.testing.assert_close(y.mean((2, 3)), style.mean((2, 3)), rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(y.std((2, 3), correction=0), style.std((2, 3), correction=0), rtol=1e-6, atol=1e-9)


@pytest.mark.oracle("torch.nn.functional.instance_norm, then the style's deviation and mean")
@pytest.mark.parametrize("eps", [1e-5, 0.1])
def test_equals_instance_norm_with_the_styles_numbers(eps):
    content, style = images()
    std = (style.var((2, 3), correction=0, keepdim=True) + eps).sqrt()
    expected = F.instance_norm(content, eps=eps) * std + style.mean((2, 3), keepdim=True)
    torch.testing.assert_close(adain(content, style, eps=eps), expected)


def test_an_image_in_its_own_style_is_itself():
    content, _ = images()
    torch.testing.assert_close(adain(content, content), content)
    torch.testing.assert_close(adain(content, content, eps=0.5), content)


def test_alpha_goes_in_a_straight_line_from_the_content_to_the_transfer():
    content, style = images()
    full = adain(content, style)
    torch.testing.assert_close(adain(content, style, alpha=0.0), content)
    torch.testing.assert_close(adain(content, style, alpha=1.0), full)
    torch.testing.assert_close(adain(content, style, alpha=0.3), content + 0.3 * (full - content))


@pytest.mark.oracle("idempotence")
def test_doing_it_twice_changes_nothing_more():
    content, style = images()
    once = adain(content, style, eps=0.0)
    torch.testing.assert_close(adain(once, style, eps=0.0), once)
    other = adain(adain(content, 5 * style, eps=0.0), style, eps=0.0)
    torch.testing.assert_close(other, once, msg="what was put in before is gone")


@pytest.mark.oracle("invariance to the order of the style's pixels and to the content's contrast")
def test_only_mean_and_deviation_of_the_style_count():
    content, style = images()
    shuffled = style.flatten(2)[:, :, torch.randperm(28)].view_as(style)
    torch.testing.assert_close(adain(content, shuffled), adain(content, style))
    torch.testing.assert_close(adain(7 * content + 3, style, eps=0.0), adain(content, style, eps=0.0))


def test_a_constant_channel_becomes_the_styles_mean_and_no_division_by_zero():
    content, style = images()
    content[:, 1] = 4.0
    y = adain(content, style)
    torch.testing.assert_close(y[:, 1], style[:, 1].mean((1, 2))[:, None, None].expand(2, 6, 5))
    assert adain(content, style, eps=0.0).isnan().any()


def test_half_precision_keeps_its_dtype_and_sums_in_single():
    content = torch.tensor([-300.0, 300.0], dtype=torch.float16).view(1, 1, 1, 2)
    y = adain(content, content / 100)
    assert y.dtype == torch.float16 and y.flatten().tolist() == [-3.0, 3.0]
    layer = AdaIN(1, 2)
    assert layer(content, torch.zeros(1, 2)).flatten().tolist() == [-1.0, 1.0] and layer(content, torch.zeros(1, 2)).dtype == torch.float16


@pytest.mark.oracle("torch.nn.functional.instance_norm with a gain and a shift per image")
def test_the_layer_is_instance_norm_with_gain_and_shift_from_the_style():
    layer, (x, s) = example()
    nn.init.normal_(layer.from_style.bias)
    scale, shift = (s @ layer.from_style.weight.T + layer.from_style.bias).split(3, 1)
    for i in range(2):
        torch.testing.assert_close(layer(x, s)[i : i + 1], F.instance_norm(x[i : i + 1], weight=1 + scale[i], bias=shift[i], eps=0.01))


def test_a_fresh_layer_without_a_style_passes_the_normalised_signal_on():
    layer = AdaIN(3, 4).double()
    x = torch.randn(2, 3, 4, 5, dtype=D)
    torch.testing.assert_close(layer(x, torch.zeros(2, 4, dtype=D)), F.instance_norm(x))
    assert sum(p.numel() for p in layer.parameters()) == 2 * 3 * (4 + 1)


def test_a_gain_predicted_around_zero_would_kill_the_signal():
    torch.manual_seed(0)
    x, s = torch.randn(8, 3, 5, 5, dtype=D), 0.1 * torch.randn(8, 4, dtype=D)
    signal, without = x, x
    for _ in range(6):
        layer = AdaIN(3, 4).double()
        scale, shift = layer.from_style(s)[:, :, None, None].chunk(2, 1)
        signal, without = layer(signal, s), F.instance_norm(without) * scale + shift
    inside = without - without.mean((2, 3), keepdim=True)
    assert signal.std() > 0.9 and inside.std() < 0.1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(num_features=0, style_dim=1), "num_features=0 is below 1"),
        (dict(num_features=1, style_dim=0), "style_dim=0 is below 1"),
        (dict(num_features=1, style_dim=1, eps=-0.1), "eps=-0.1 is negative"),
        (dict(num_features=1, style_dim=1, eps=float("nan")), "eps=nan"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        AdaIN(**arguments)


def test_wrong_inputs_are_named():
    content, style = images()
    for alpha in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match=f"alpha={alpha} is not from 0 to 1"):
            adain(content, style, alpha=alpha)
    with pytest.raises(ValueError, match=r"style has shape \(2, 2, 4, 7\); expected \(batch=2, channels=3, height, width\)"):
        adain(content, style[:, :2])
    with pytest.raises(ValueError, match=r"style has shape \(1, 3, 4, 7\); expected \(batch=2"):
        adain(content, style[:1])
    with pytest.raises(ValueError, match=r"content has shape \(3, 6, 5\)"):
        adain(content[0], style[0])
    with pytest.raises(TypeError, match="content is a list"):
        adain([1.0], style)
    layer, (x, s) = example()
    with pytest.raises(ValueError, match=r"x has shape \(2, 2, 4, 5\); expected \(batch, num_features=3, height, width\)"):
        layer(x[:, :2], s)
    with pytest.raises(ValueError, match=r"s has shape \(1, 4\); expected \(batch=2, style_dim=4\)"):
        layer(x, s[:1])
    with pytest.raises(ValueError, match=r"s has shape \(2, 3\); expected \(batch=2, style_dim=4\)"):
        layer(x, s[:, :3])


def test_smallest_arguments_are_allowed():
    assert AdaIN(1, 1, eps=0.0)(torch.tensor([1.0, 3.0]).view(1, 1, 1, 2), torch.zeros(1, 1)).flatten().tolist() == [-1.0, 1.0]


@pytest.mark.parametrize("alpha", [1.0, 0.4])
def test_numpy_variant_agrees(agree, alpha):
    content, style = images()
    agree(numpy_variant.adain(content[0].numpy(), style[0].numpy(), alpha, 0.1), adain(content, style, alpha, eps=0.1)[0])


@pytest.mark.parametrize("style", ["sunset", "deep sea", "snow", "neon"])
def test_demo_does_not_see_the_order_of_the_styles_pixels(style):
    pixels = [np.array(numpy_variant.show(style=style, shuffle=s)[0]["pixels"]) for s in (False, True)]
    size = pixels[0].shape[0]
    assert np.abs(pixels[0][:, -size:].astype(int) - pixels[1][:, -size:]).max() <= 1
    assert (pixels[0][:, size:-size] != pixels[1][:, size:-size]).any()
