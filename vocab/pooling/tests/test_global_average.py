import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from snippets.pooling import global_average as numpy_variant
from vocab.pooling.global_average import GlobalAvgPool2d, class_activation_map, masked_mean

D = torch.float64


def example():
    return GlobalAvgPool2d(), (torch.randn(2, 3, 4, 5, dtype=D),)


@pytest.mark.oracle("torch.nn.AdaptiveAvgPool2d(1)")
@pytest.mark.parametrize("size", [(1, 1), (3, 7), (8, 4)])
def test_equals_adaptive_average_pooling_to_one(size):
    x = torch.randn(2, 3, *size, dtype=D)
    torch.testing.assert_close(GlobalAvgPool2d(keepdim=True)(x), nn.AdaptiveAvgPool2d(1)(x))
    torch.testing.assert_close(GlobalAvgPool2d()(x), nn.AdaptiveAvgPool2d(1)(x).flatten(1))


@pytest.mark.oracle("invariance to every permutation of the pixels")
def test_the_order_of_pixels_does_not_matter():
    x = torch.randn(2, 3, 4, 5, dtype=D)
    shuffled = x.flatten(2)[:, :, torch.randperm(20)].view_as(x)
    torch.testing.assert_close(GlobalAvgPool2d()(shuffled), GlobalAvgPool2d()(x))


def test_gradient_is_one_over_the_number_of_pixels_everywhere():
    x = torch.randn(1, 2, 4, 5, dtype=D, requires_grad=True)
    GlobalAvgPool2d()(x).backward(torch.tensor([[1.0, 3.0]], dtype=D))
    torch.testing.assert_close(x.grad, torch.tensor([1 / 20, 3 / 20], dtype=D)[None, :, None, None].expand(1, 2, 4, 5))


@pytest.mark.oracle("a 1×1 convolution before the average")
def test_a_linear_layer_after_it_equals_a_1_by_1_convolution_before_it():
    x, linear = torch.randn(2, 3, 4, 5, dtype=D), nn.Linear(3, 7).double()
    before = F.conv2d(x, linear.weight[:, :, None, None], linear.bias)
    torch.testing.assert_close(linear(GlobalAvgPool2d()(x)), GlobalAvgPool2d()(before))


@pytest.mark.oracle("the logit")
def test_a_class_activation_map_averages_to_the_logit_without_bias():
    features, linear = torch.randn(3, 4, 5, dtype=D), nn.Linear(3, 7).double()
    logits = linear(GlobalAvgPool2d()(features[None]))[0]
    for k in range(7):
        cam = class_activation_map(features, linear.weight, k)
        torch.testing.assert_close(cam.mean() + linear.bias[k], logits[k])
        torch.testing.assert_close(cam, F.conv2d(features[None], linear.weight[k][None, :, None, None])[0, 0])


@pytest.mark.oracle("each sequence on its own, without its padding")
def test_masked_mean_is_the_mean_of_the_unpadded_part_and_ignores_what_the_padding_holds():
    x, lengths = torch.randn(3, 6, 4, dtype=D), (1, 4, 6)
    mask = torch.arange(6) < torch.tensor(lengths)[:, None]
    expected = torch.stack([row[:n].mean(0) for row, n in zip(x, lengths)])
    torch.testing.assert_close(masked_mean(x, mask), expected)
    for junk in (1e9, torch.nan, torch.inf):
        torch.testing.assert_close(masked_mean(x.masked_fill(~mask[..., None], junk), mask), expected)
    assert (x.mean(1) - expected)[:2].abs().min() > 1e-4, "the plain mean is shifted by the padding"
    x[0, 0, 0] = torch.nan
    assert masked_mean(x, mask)[0, 0].isnan(), "a NaN that counts is not hidden"


@pytest.mark.oracle("sentence-transformers' formula: mask as numbers, sum clamped")
def test_masked_mean_equals_the_formula_of_sentence_embeddings():
    x, mask = torch.randn(3, 6, 4, dtype=D), torch.rand(3, 6) < 0.5
    mask[0] = True
    expected = torch.einsum("btd,bt->bd", x, mask.to(D)) / mask.sum(1).clamp(min=1)[:, None]
    torch.testing.assert_close(masked_mean(x, mask), expected)


def test_an_empty_mask_gives_zeros_with_zero_gradient():
    x = torch.randn(2, 3, 4, dtype=D, requires_grad=True)
    mask = torch.tensor([[False] * 3, [True] * 3])
    y = masked_mean(x, mask)
    assert y[0].tolist() == [0.0] * 4
    y.sum().backward()
    assert x.grad[0].abs().sum() == 0 and x.grad.isfinite().all()


@pytest.mark.oracle("arithmetic: VGG-16 has 138 million parameters, 103 of them in one layer")
def test_the_dense_layer_that_it_replaces_is_most_of_vgg_16():
    channels = [3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]
    convolutions = sum(9 * a * b + b for a, b in zip(channels, channels[1:]))
    first, rest = 512 * 7 * 7 * 4096 + 4096, 4096 * 4096 + 4096 + 4096 * 1000 + 1000
    assert round(first / 1e6) == 103 and round((convolutions + first + rest) / 1e6) == 138


def test_wrong_inputs_are_named():
    x, mask = torch.zeros(2, 3, 4), torch.ones(2, 3, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"x has shape \(2, 3, 4\); expected \(batch, channels, height, width\)"):
        GlobalAvgPool2d()(x)
    for shape in [(2, 3, 0, 4), (2, 3, 4, 0)]:
        with pytest.raises(ValueError, match="there is no pixel to average"):
            GlobalAvgPool2d()(torch.zeros(shape))
    with pytest.raises(TypeError, match="mask has dtype torch.int64; expected torch.bool"):
        masked_mean(x, mask.long())
    with pytest.raises(ValueError, match=r"mask has shape \(2, 2\); expected \(batch=2, time=3\)"):
        masked_mean(x, mask[:, :2])
    with pytest.raises(ValueError, match=r"mask has shape \(1, 3\)"):
        masked_mean(x, mask[:1])
    with pytest.raises(ValueError, match=r"x has shape \(3, 4\)"):
        masked_mean(x[0], mask)
    with pytest.raises(ValueError, match=r"fc_weight has shape \(7, 2\); expected \(classes, channels=3\)"):
        class_activation_map(torch.zeros(3, 4, 5), torch.zeros(7, 2), 0)
    with pytest.raises(ValueError, match=r"features has shape \(1, 3, 4, 5\)"):
        class_activation_map(torch.zeros(1, 3, 4, 5), torch.zeros(7, 3), 0)
    for k in (-1, 7):
        with pytest.raises(ValueError, match=f"class_id={k} is not from 0 to 6"):
            class_activation_map(torch.zeros(3, 4, 5), torch.zeros(7, 3), k)


def test_numpy_variant_agrees(agree):
    x, weight = torch.randn(3, 4, 5, dtype=D), torch.randn(7, 3, dtype=D)
    agree(numpy_variant.global_average(x.numpy()), GlobalAvgPool2d()(x[None])[0])
    agree(numpy_variant.class_activation_map(x.numpy(), weight[2].numpy()), class_activation_map(x, weight, 2))
    tokens, mask = torch.randn(4, 5, dtype=D), torch.tensor([True, False, True, True])
    agree(numpy_variant.masked_mean(tokens.numpy(), mask.numpy()), masked_mean(tokens[None], mask[None])[0])


def test_demo_has_the_same_logits_wherever_the_blob_is():
    said = [numpy_variant.show(position=p)[1]["series"][""] for p in (0, 5, 15)]
    np.testing.assert_allclose(said[0], said[1]), np.testing.assert_allclose(said[0], said[2])
    assert numpy_variant.show(position=0)[0]["values"] != numpy_variant.show(position=15)[0]["values"]
