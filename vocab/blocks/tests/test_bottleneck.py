import pytest
import torch
from torch import nn
from torch.nn import functional as F

from snippets.blocks.bottleneck import bottleneck, rank_of_middle_taps, weights
from vocab.blocks.bottleneck import BottleneckBlock
from vocab.blocks.tests.test_residual import shaken

D = torch.float64


def example():
    """For the contract suite: a small instance and its inputs."""
    return BottleneckBlock(3, 2, stride=2, groups=2, expansion=2).double(), (torch.randn(3, 3, 4, 5, dtype=D),)


@pytest.mark.oracle("transformers ResNetBottleNeckLayer with copied weights")
@pytest.mark.parametrize(("channels", "stride", "late"), [((8, 8), 1, True), ((4, 8), 1, True), ((4, 8), 2, True), ((8, 8), 2, False)])
@pytest.mark.parametrize("training", [False, True])
def test_equals_the_bottleneck_layer_of_transformers(channels, stride, late, training):
    """Both places of the stride: checkpoints of version 1 and 1.5 differ in nothing else."""
    layers = pytest.importorskip("transformers.models.resnet.modeling_resnet")
    library = shaken(layers.ResNetBottleNeckLayer(*channels, stride, downsample_in_bottleneck=not late))
    module = BottleneckBlock(channels[0], 2, stride=stride, stride_in_3x3=late).double()
    for i in range(3):
        module.sum.branch[3 * i].load_state_dict(library.layer[i].convolution.state_dict())
        module.sum.branch[3 * i + 1].load_state_dict(library.layer[i].normalization.state_dict())
    if module.sum.shortcut:
        module.sum.shortcut[0].load_state_dict(library.shortcut.convolution.state_dict())
        module.sum.shortcut[1].load_state_dict(library.shortcut.normalization.state_dict())
    x = torch.randn(3, channels[0], 7, 6, dtype=D)
    torch.testing.assert_close(module.train(training)(x.clone()), library.train(training)(x.clone()))


@pytest.mark.oracle("sum of the paths of single groups (Xie et al. 2017, figure 3a)")
def test_groups_are_a_sum_of_narrow_paths():
    module, x = shaken(BottleneckBlock(6, 32, 6, groups=32)).eval(), torch.randn(2, 6, 5, 5, dtype=D)
    a, na, _, b, nb, _, c, nc = module.sum.branch
    norm = lambda m, y, part=slice(None): F.batch_norm(y, m.running_mean[part], m.running_var[part], m.weight[part], m.bias[part])  # noqa: E731
    total = 0
    for g in range(32):
        part = slice(g, g + 1)
        y = norm(na, F.conv2d(x, a.weight[part]), part).relu()
        y = norm(nb, F.conv2d(y, b.weight[part], padding=1), part).relu()
        total = total + F.conv2d(y, c.weight[:, part])
    torch.testing.assert_close(module(x), F.relu(norm(nc, total) + x))


def test_it_is_not_affine_and_three_bare_convolutions_are():
    """A widely copied version has neither normalization nor ReLU: one affine map of limited rank."""
    bare = nn.Sequential(nn.Conv2d(8, 2, 1), nn.Conv2d(2, 2, 3, padding=1), nn.Conv2d(2, 8, 1)).double()
    copied = lambda x: bare(x) + x  # noqa: E731
    module = shaken(BottleneckBlock(8, 2)).eval()
    x, y = torch.randn(2, 1, 8, 5, 5, dtype=D)
    for function, affine in [(copied, True), (module, False)]:
        rest = function(x + y) - function(x) - function(y) + function(torch.zeros_like(x))
        assert (rest.abs().max() < 1e-12) == affine
    assert rest.abs().max() > 0.1


@pytest.mark.oracle("weights counted by hand: 69,632 and 1,179,648")
def test_it_has_a_seventeenth_of_the_weights_of_two_full_layers():
    count = lambda m: sum(w.numel() for w in m.parameters() if w.ndim == 4)  # noqa: E731
    assert count(BottleneckBlock(256, 64)) == 256 * 64 + 9 * 64 * 64 + 64 * 256 == 69_632
    assert 2 * 9 * 256 * 256 == 1_179_648
    assert count(BottleneckBlock(256, 128, 256, groups=32)) == 2 * 256 * 128 + 9 * 128 * 4 == 70_144  # ResNeXt-50 32x4d
    assert count(BottleneckBlock(64, 64)) == 64 * 64 + 9 * 64 * 64 + 64 * 256 + 64 * 256
    assert count(BottleneckBlock(64, 16, expansion=2)) == 64 * 16 + 9 * 256 + 16 * 32 + 64 * 32


@pytest.mark.parametrize("stride", [1, 2])
def test_with_the_last_scale_at_zero_it_starts_as_its_shortcut(stride):
    module, x = BottleneckBlock(8, 2, stride=stride, zero_init=True).eval(), torch.randn(1, 8, 6, 6)
    around = x if stride == 1 else module.sum.shortcut(x)
    assert torch.equal(module(x), around.relu())
    assert not module.sum.branch[7].weight.any() and module.sum.branch[6].weight.all(), "one zero, or nothing would ever move"
    assert not torch.equal(BottleneckBlock(8, 2).eval()(x), x.relu())


def test_the_inverted_residual_has_the_opposite_shape():
    """A widely copied list names MobileNetV2 as a user: its middle is wider than its ends."""
    layers = pytest.importorskip("transformers.models.mobilenet_v2.modeling_mobilenet_v2")
    from transformers import MobileNetV2Config

    inverted = layers.MobileNetV2InvertedResidual(MobileNetV2Config(), 32, 32, 1)
    assert inverted.expand_1x1.convolution.out_channels > 32 > BottleneckBlock(32, 8).sum.branch[0].out_channels


def test_numpy_variant_agrees(agree):
    module, x = BottleneckBlock(8, 4, 8, groups=2).double().eval(), torch.randn(8, 5, 6, dtype=D)
    norms = [module.sum.branch[i] for i in (1, 4, 7)]
    for n in norms:
        n.eps = 1e-30  # statistics of the start: mean 0, variance 1. Some versions of torch refuse 0
    a, b, c = (module.sum.branch[i].weight.detach().numpy() for i in (0, 3, 6))
    agree(bottleneck(x.numpy(), a[..., 0, 0], b, c[..., 0, 0], 2), module(x[None])[0])
    counted = [module.sum.branch[i].weight.numel() for i in (0, 3, 6)]
    agree(list(weights(8, 4, 2).values()), counted)


def test_the_middle_taps_of_the_linearized_block_have_the_rank_of_the_middle():
    assert rank_of_middle_taps(12, 3, 1) == 3
    assert rank_of_middle_taps(12, 6, 3) == 6


def test_by_default_the_3_by_3_strides_and_so_every_pixel_is_read():
    x = torch.randn(1, 4, 6, 6, requires_grad=True)
    for late, read in [({}, 36), (dict(stride_in_3x3=False), 9)]:
        branch = BottleneckBlock(4, 4, stride=2, expansion=1, **late).eval().sum.branch
        (gradient,) = torch.autograd.grad(branch[3](branch[0](x)).square().sum(), x)
        assert (gradient[0].abs().sum(0) > 0).sum() == read


def test_one_channel_everywhere_is_enough():
    x = torch.randn(2, 1, 4, 4)
    assert torch.equal(BottleneckBlock(1, 1, expansion=1, zero_init=True)(x), x.relu())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(in_channels=0), "in_channels=0 is below 1"),
        (dict(mid_channels=0), "mid_channels=0 is below 1"),
        (dict(out_channels=0), "out_channels=0 is below 1"),
        (dict(stride=0), "stride=0 is below 1"),
        (dict(groups=0), "groups=0 is below 1"),
        (dict(groups=4), "groups=4 does not divide mid_channels=6"),
    ],
)
def test_bad_settings_say_which_and_why(arguments, message):
    with pytest.raises(ValueError, match=message):
        BottleneckBlock(**{**dict(in_channels=8, mid_channels=6), **arguments})


def test_wrong_inputs_are_named():
    with pytest.raises(ValueError, match=r"x has shape \(1, 3, 4, 4\); expected \(batch, in_channels=8, height, width\)"):
        BottleneckBlock(8, 2)(torch.zeros(1, 3, 4, 4))
