import pytest
import torch
from torch import nn
from torch.nn import functional as F

from snippets.blocks.convnext import convnext_block, weights
from vocab.blocks.convnext import ConvNeXtBlock, GlobalResponseNorm

D = torch.float64


def example():
    """For the contract suite: a small instance and its inputs."""
    module = ConvNeXtBlock(2, kernel_size=3, expansion=2, layer_scale=0.7, drop_path=0.2, grn=True).double()
    nn.init.normal_(module.grn.weight)
    return module, (torch.randn(3, 2, 3, 4, dtype=D),)


def copied(module, library):
    names = {"dwconv": module.depthwise, "layernorm": module.norm, "pwconv1": module.widen, "pwconv2": module.narrow}
    with torch.no_grad():
        for name, ours in names.items():
            theirs = getattr(library, name)
            ours.weight.copy_(theirs.weight)
            ours.bias.copy_(theirs.bias)
        if module.grn is not None:
            module.grn.weight.copy_(library.grn.weight.flatten()), module.grn.bias.copy_(library.grn.bias.flatten())
        if module.scale is not None:
            module.scale.copy_(library.layer_scale_parameter)
    return module


@pytest.mark.oracle("transformers ConvNextLayer with copied weights")
def test_equals_the_layer_of_convnext():
    layers = pytest.importorskip("transformers.models.convnext.modeling_convnext")
    from transformers import ConvNextConfig

    library = layers.ConvNextLayer(ConvNextConfig(layer_scale_init_value=0.5), 8).double()
    for parameter in library.parameters():
        nn.init.normal_(parameter, std=0.5)
    module, x = copied(ConvNeXtBlock(8).double(), library), torch.randn(2, 8, 9, 10, dtype=D)
    torch.testing.assert_close(module(x), library(x))


@pytest.mark.oracle("transformers ConvNextV2Layer with copied weights")
def test_equals_the_layer_of_convnext_v2():
    layers = pytest.importorskip("transformers.models.convnextv2.modeling_convnextv2")
    from transformers import ConvNextV2Config

    library = layers.ConvNextV2Layer(ConvNextV2Config(), 8).double()
    for parameter in library.parameters():
        nn.init.normal_(parameter, std=0.5)
    module, x = copied(ConvNeXtBlock(8, layer_scale=None, grn=True).double(), library), torch.randn(2, 8, 9, 10, dtype=D)
    torch.testing.assert_close(module(x), library(x))


def test_a_scale_of_zero_is_the_identity_and_the_usual_start_nearly():
    x = torch.randn(2, 8, 9, 9)
    assert torch.equal(ConvNeXtBlock(8, layer_scale=0.0)(x), x)
    assert 0 < (ConvNeXtBlock(8)(x) - x).abs().max() < 1e-4
    assert (ConvNeXtBlock(8).scale == 1e-6).all() and ConvNeXtBlock(8, layer_scale=None).scale is None


@pytest.mark.oracle("1 by 1 convolutions, channels first")
def test_the_linear_layers_are_pointwise_convolutions():
    module, x = ConvNeXtBlock(6, kernel_size=5, expansion=3, layer_scale=None).double(), torch.randn(2, 6, 7, 8, dtype=D)
    y = F.conv2d(x, module.depthwise.weight, module.depthwise.bias, padding=2, groups=6)
    mean, var = y.mean(1, keepdim=True), y.var(1, unbiased=False, keepdim=True)
    y = (y - mean) / (var + 1e-6).sqrt() * module.norm.weight[:, None, None] + module.norm.bias[:, None, None]
    y = F.gelu(F.conv2d(y, module.widen.weight[..., None, None], module.widen.bias))
    torch.testing.assert_close(module(x), x + F.conv2d(y, module.narrow.weight[..., None, None], module.narrow.bias))


def test_each_pixel_is_normalized_over_its_channels_and_not_over_the_image():
    """nn.GroupNorm(1, C) takes one mean over channels and space: another normalization."""
    x = torch.randn(2, 6, 5, 5)
    over_channels = F.layer_norm(x.permute(0, 2, 3, 1), (6,)).permute(0, 3, 1, 2)
    assert over_channels.mean(1).abs().max() < 1e-6
    assert F.group_norm(x, 1).mean(1).abs().max() > 0.1


@pytest.mark.oracle("definition of the response norm: relative lengths of 1 on average")
def test_global_response_norm_compares_each_channel_with_the_average_one():
    norm, x = GlobalResponseNorm(5).double(), torch.randn(3, 4, 6, 5, dtype=D) * torch.tensor([0.1, 1, 2, 3, 4], dtype=D)
    assert torch.equal(norm(x), x)
    nn.init.ones_(norm.weight)
    raised = (norm(x) / x - 1)[:, 0, 0]
    torch.testing.assert_close(raised.mean(-1), torch.ones(3, dtype=D), rtol=1e-5, atol=0)
    lengths = x.square().sum((1, 2)).sqrt()
    torch.testing.assert_close(raised[:, 4] / raised[:, 1], lengths[:, 4] / lengths[:, 1])
    torch.testing.assert_close(norm(1000 * x), 1000 * norm(x), rtol=1e-5, atol=0)
    nn.init.constant_(norm.bias, 2.0)
    assert (norm(torch.zeros(1, 2, 2, 5, dtype=D)) == 2).all()


def test_a_dropped_branch_leaves_its_sample_alone_and_the_mean_stays():
    block, x = ConvNeXtBlock(4, layer_scale=1.0, drop_path=0.75), torch.randn(1, 4, 7, 7).expand(4000, -1, -1, -1)
    with torch.no_grad():
        whole = block.eval()(x[:1]) - x[:1]
        found = block.train()(x) - x
    dropped = (found == 0).flatten(1).all(1)
    assert dropped.float().mean().item() == pytest.approx(0.75, abs=0.03)
    torch.testing.assert_close(found[~dropped][:1], 4 * whole, rtol=1e-4, atol=1e-5)


@pytest.mark.oracle("parameters counted by hand: k² C + C + 2 C + 8 C² + 5 C + C")
@pytest.mark.parametrize(("c", "k"), [(96, 7), (10, 3)])
def test_parameters(c, k):
    assert sum(p.numel() for p in ConvNeXtBlock(c, kernel_size=k).parameters()) == k * k * c + c + 2 * c + 8 * c * c + 5 * c + c
    if k == 7:
        assert k * k * c / (k * k * c + 8 * c * c) == pytest.approx(0.06, abs=0.001)


def test_one_block_sees_its_kernel_and_all_channels():
    block, x = ConvNeXtBlock(3, layer_scale=1.0).double(), torch.randn(1, 3, 13, 13, dtype=D, requires_grad=True)
    (gradient,) = torch.autograd.grad(block(x)[0, 0, 6, 6], x)
    seen = gradient[0] != 0
    assert seen.all(0).sum() == 49 and seen.any(0).sum() == 49


def test_numpy_variant_agrees(agree):
    block, x = ConvNeXtBlock(4, kernel_size=5, expansion=2, layer_scale=None).double(), torch.randn(4, 7, 8, dtype=D)
    nn.init.zeros_(block.depthwise.bias), nn.init.zeros_(block.widen.bias), nn.init.zeros_(block.narrow.bias)
    arrays = (block.depthwise.weight[:, 0], block.widen.weight, block.narrow.weight)
    agree(convnext_block(x.numpy(), *(a.detach().numpy() for a in arrays)), block(x[None])[0])
    counted = [block.depthwise.weight.numel(), block.widen.weight.numel() + block.narrow.weight.numel()]
    agree(weights(4, 5, 2), counted)


def test_one_channel_and_one_tap_are_enough():
    block, x = ConvNeXtBlock(1, kernel_size=1, expansion=1, layer_scale=1.0).double(), torch.randn(1, 1, 2, 2, dtype=D)
    # a single channel is normalized to zero: what is left of the branch is the same at every pixel
    torch.testing.assert_close(block(x) - x, (block(x) - x)[..., :1, :1].expand_as(x))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(dim=0), "dim=0 is below 1"), (dict(kernel_size=0), "kernel_size=0 is below 1"), (dict(expansion=0), "expansion=0 is below 1"),
        (dict(kernel_size=4), "kernel_size=4 is even"), (dict(drop_path=1.0), "drop_path=1.0 is not from 0 to below 1"),
        (dict(drop_path=-0.1), "drop_path=-0.1 is not"),
    ],
)
def test_bad_settings_say_which_and_why(arguments, message):
    with pytest.raises(ValueError, match=message):
        ConvNeXtBlock(**{**dict(dim=4), **arguments})


def test_wrong_inputs_are_named():
    with pytest.raises(ValueError, match=r"x has shape \(1, 3, 4, 4\); expected \(batch, dim=4, height, width\)"):
        ConvNeXtBlock(4)(torch.zeros(1, 3, 4, 4))
    with pytest.raises(ValueError, match=r"x has shape \(1, 4, 4, 3\); expected \(batch, height, width, dim=4\)"):
        GlobalResponseNorm(4)(torch.zeros(1, 4, 4, 3))
