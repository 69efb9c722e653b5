import pytest
import torch
from torch import nn
from torch.nn import functional as F

from snippets.convolution.grouped import channel_shuffle as numpy_shuffle
from snippets.convolution.grouped import grouped_conv2d, reach
from vocab.convolution.conv2d import Conv2d
from vocab.convolution.depthwise import DepthwiseConv2d
from vocab.convolution.grouped import GroupedConv2d, channel_shuffle
from vocab.convolution.pointwise import PointwiseConv2d

D = torch.float64


def example():
    """For the contract suite: a small instance and its inputs."""
    return GroupedConv2d(4, 6, 3, 2, stride=2, padding=1, shuffle=True).double(), (torch.randn(2, 4, 5, 4, dtype=D),)


@pytest.mark.oracle("independent torch convolutions of the channel slices")
@pytest.mark.parametrize("groups", [1, 2, 3, 6])
def test_is_several_convolutions_side_by_side(groups):
    module, x = GroupedConv2d(6, 12, 3, groups, stride=2, padding=1).double(), torch.randn(2, 6, 7, 8, dtype=D)
    parts = zip(x.chunk(groups, 1), module.weight.chunk(groups), module.bias.chunk(groups))
    torch.testing.assert_close(module(x), torch.cat([F.conv2d(*part, stride=2, padding=1) for part in parts], 1))


@pytest.mark.oracle("torch.nn.Conv2d with groups")
@pytest.mark.parametrize(("groups", "bias"), [(1, True), (2, False), (4, True)])
def test_starts_and_computes_as_torch_conv2d_with_groups(groups, bias):
    torch.manual_seed(5)
    module = GroupedConv2d(4, 8, (3, 2), groups, bias=bias).double()
    torch.manual_seed(5)
    library = nn.Conv2d(4, 8, (3, 2), groups=groups, bias=bias).double()
    torch.testing.assert_close(module.state_dict(), library.state_dict())
    x = torch.randn(2, 4, 6, 6, dtype=D)
    torch.testing.assert_close(module(x), library(x))


@pytest.mark.oracle("full convolution with a block-diagonal weight")
def test_equals_a_full_convolution_whose_other_weights_are_zero():
    module, x = GroupedConv2d(6, 9, 3, 3).double(), torch.randn(1, 6, 5, 5, dtype=D)
    full = torch.zeros(9, 6, 3, 3, dtype=D)
    for b in range(3):
        full[3 * b : 3 * b + 3, 2 * b : 2 * b + 2] = module.weight[3 * b : 3 * b + 3].detach()
    torch.testing.assert_close(module(x), F.conv2d(x, full, module.bias))


def test_one_group_is_the_full_layer_and_as_many_as_channels_is_depthwise():
    x = torch.randn(2, 4, 6, 6, dtype=D)
    for module, other in [
        (GroupedConv2d(4, 5, 3, 1), Conv2d(4, 5, 3)),
        (GroupedConv2d(4, 8, 3, 4, padding="same"), DepthwiseConv2d(4, 3, multiplier=2, bias=True)),
    ]:
        other.load_state_dict(module.state_dict())
        torch.testing.assert_close(module.double()(x), other.double()(x))


@pytest.mark.oracle("torch.nn.functional.channel_shuffle")
@pytest.mark.parametrize(("channels", "groups"), [(12, 3), (12, 4), (12, 1), (12, 12), (10, 2)])
def test_shuffle_is_torchs_and_another_shuffle_undoes_it(channels, groups):
    x = torch.randn(2, channels, 3, 4)
    shuffled = channel_shuffle(x, groups)
    assert torch.equal(shuffled, F.channel_shuffle(x, groups))
    assert torch.equal(channel_shuffle(shuffled, channels // groups), x)
    assert torch.equal(channel_shuffle(x[..., 0, 0], groups), shuffled[..., 0, 0]), "a batch of vectors has channels too"


def test_the_layer_shuffles_its_output_and_only_if_asked():
    plain, shuffled = GroupedConv2d(4, 6, 1, 2), GroupedConv2d(4, 6, 1, 2, shuffle=True)
    shuffled.load_state_dict(plain.state_dict())
    x = torch.randn(1, 4, 3, 3)
    assert torch.equal(shuffled(x), F.channel_shuffle(plain(x), 2)) and not torch.equal(shuffled(x), plain(x))


@pytest.mark.oracle("Jacobian of two layers")
@pytest.mark.parametrize(("groups", "shuffle"), [(1, False), (2, True), (3, False), (3, True), (4, True), (6, True), (12, True)])
def test_groups_meet_after_a_shuffle_and_all_of_them_if_a_group_has_as_many_channels_as_there_are_groups(groups, shuffle):
    layers = [GroupedConv2d(12, 12, 1, groups, shuffle=shuffle, bias=False).double() for _ in range(2)]
    for layer in layers:
        nn.init.ones_(layer.weight)
    paths = torch.autograd.functional.jacobian(nn.Sequential(*layers), torch.zeros(1, 12, 1, 1, dtype=D)).view(12, 12)
    assert (paths > 0).sum(1).eq(min(12, 12 // groups * (min(groups, 12 // groups) if shuffle else 1))).all()
    assert (paths > 0).all() == (groups == 1 or (shuffle and 12 // groups >= groups))


def test_without_a_shuffle_a_pointwise_layer_lets_groups_meet():
    x = torch.zeros(1, 6, 1, 1, dtype=D)
    layers = nn.Sequential(GroupedConv2d(6, 6, 1, 3), PointwiseConv2d(6, 6)).double()
    assert torch.autograd.functional.jacobian(layers, x).abs().view(6, 6).gt(0).all()


def test_weights_and_work_are_a_gth():
    assert Conv2d(64, 128, 3, bias=False).weight.numel() == 73_728
    assert GroupedConv2d(64, 128, 3, 4).weight.numel() == 18_432
    # ResNeXt-50 32x4d, first stage: 32 groups of 4 channels; a full layer of width 23 has 4,761
    assert GroupedConv2d(128, 128, 3, 32).weight.numel() == 4608 == 128 * 4 * 9


def test_numpy_variant_agrees(agree):
    for groups, shuffle in [(1, False), (2, True), (3, False)]:
        module, x = GroupedConv2d(6, 12, 3, groups, padding=1, bias=False, shuffle=shuffle).double(), torch.randn(6, 5, 7, dtype=D)
        y = grouped_conv2d(x.numpy(), module.weight.detach().numpy(), groups, padding=1)
        agree(numpy_shuffle(y, groups) if shuffle else y, module(x[None])[0])


def test_numpy_reach_is_the_jacobian(agree):
    layers = [GroupedConv2d(12, 12, 1, 4, shuffle=True, bias=False).double() for _ in range(2)]
    for layer in layers:
        nn.init.ones_(layer.weight)
    paths = torch.autograd.functional.jacobian(nn.Sequential(*layers), torch.zeros(1, 12, 1, 1, dtype=D)).view(12, 12)
    agree(reach(12, 4, True, 2), paths)


def test_wrong_arguments_are_named():
    for groups, channels in [(4, (6, 8)), (4, (8, 6))]:
        with pytest.raises(ValueError, match=f"groups=4 does not divide in_channels={channels[0]} and out_channels={channels[1]}"):
            GroupedConv2d(*channels, 3, groups)
    with pytest.raises(ValueError, match=r"x has shape \(1, 4, 8, 8\); expected \(batch, in_channels=6, height, width\)"):
        GroupedConv2d(6, 6, 3, 2)(torch.zeros(1, 4, 8, 8))
    for groups in (0, 4):
        with pytest.raises(ValueError, match=f"groups={groups} does not divide the 6 channels of x"):
            channel_shuffle(torch.zeros(1, 6, 2), groups)
    with pytest.raises(ValueError, match=r"x has shape \(6,\); expected \(batch, channels, ...\)"):
        channel_shuffle(torch.zeros(6), 2)
    with pytest.raises(TypeError, match="x is a list"):
        channel_shuffle([1.0], 1)
