import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from snippets.blocks.inverted_residual import inverted_residual, through_relu
from vocab.blocks.inverted_residual import InvertedResidual
from vocab.blocks.residual import Residual
from vocab.blocks.tests.test_residual import shaken

D = torch.float64


def example():
    """For the contract suite: a small instance and its inputs."""
    return InvertedResidual(2, 2, expansion=2, se_ratio=0.5, activation="silu").double(), (torch.randn(3, 2, 4, 3, dtype=D),)


def layers_of(module):
    return [m for m in module.modules() if isinstance(m, (nn.Conv2d, nn.BatchNorm2d, nn.Linear))]


def copy(module, library):
    """The layers come in the same order; a 1 by 1 convolution of theirs may be a linear layer of ours."""
    for ours, theirs in zip(layers_of(module), layers_of(library), strict=True):
        state = dict(theirs.state_dict())
        if isinstance(ours, nn.Linear):
            state["weight"] = state["weight"].flatten(1)
        ours.load_state_dict(state)
        if isinstance(ours, nn.BatchNorm2d):
            ours.eps, ours.momentum = theirs.eps, theirs.momentum
    return module


@pytest.mark.oracle("transformers MobileNetV2InvertedResidual with copied weights")
@pytest.mark.parametrize(("channels", "stride"), [((8, 8), 1), ((8, 16), 1), ((8, 8), 2), ((8, 16), 2)])
@pytest.mark.parametrize("training", [False, True])
def test_equals_the_block_of_mobilenet_v2(channels, stride, training):
    layers = pytest.importorskip("transformers.models.mobilenet_v2.modeling_mobilenet_v2")
    from transformers import MobileNetV2Config

    library = shaken(layers.MobileNetV2InvertedResidual(MobileNetV2Config(tf_padding=False), *channels, stride))
    module = copy(InvertedResidual(*channels, stride=stride).double(), library)
    x = 3 * torch.randn(3, 8, 7, 6, dtype=D)
    torch.testing.assert_close(module.train(training)(x), library.train(training)(x))


@pytest.mark.oracle("transformers EfficientNetBlock with copied weights")
@pytest.mark.parametrize(("out", "expansion", "k"), [(8, 6, 3), (12, 6, 5), (8, 1, 3)])
def test_equals_the_block_of_efficientnet(out, expansion, k):
    layers = pytest.importorskip("transformers.models.efficientnet.modeling_efficientnet")
    from transformers import EfficientNetConfig

    library = shaken(layers.EfficientNetBlock(EfficientNetConfig(), 8, out, 1, expand_ratio=expansion, kernel_size=k, drop_rate=0.0,
                                              id_skip=out != 8, adjust_padding=False)).eval()
    module = copy(InvertedResidual(8, out, expansion=expansion, kernel_size=k, se_ratio=0.25, activation="silu").double(), library).eval()
    x = torch.randn(2, 8, 6, 6, dtype=D)
    torch.testing.assert_close(module(x), library(x))


@pytest.mark.oracle("torch.nn.Sequential of MobileNetV3's layers")
def test_hardswish_comes_with_a_hard_gate():
    module, x = shaken(InvertedResidual(4, 6, expansion=3, se_ratio=0.5, activation="hardswish")).eval(), torch.randn(1, 4, 5, 5, dtype=D)
    a, b, gate, c = module.layers[:3], module.layers[3:6], module.layers[6], module.layers[7:]
    y = b(a(x))
    torch.testing.assert_close(F.hardswish(module.layers[:2](x)), a(x))
    g = F.hardsigmoid(F.linear(F.relu(F.linear(y.mean((2, 3)), gate.reduce.weight, gate.reduce.bias)), gate.expand.weight, gate.expand.bias))
    torch.testing.assert_close(module(x), c(y * g[..., None, None]))
    assert gate.reduce.out_features == 2


def test_nothing_follows_the_projection():
    """Linear bottleneck: the result takes both signs and is linear in the last weights."""
    module, x = InvertedResidual(4, 6).double().eval(), torch.randn(2, 4, 6, 6, dtype=D)
    y = module(x)
    assert y.min() < 0 < y.max()
    with torch.no_grad():
        module.layers[-2].weight *= -3
    torch.testing.assert_close(module(x), -3 * y)


def test_what_came_in_is_added_only_if_size_and_channels_stay():
    """A widely copied version has no stride and adds whenever channels match; with stride 2 that sum fails."""
    x = torch.randn(1, 4, 6, 6)
    for (out, stride), added in {(4, 1): True, (6, 1): False, (4, 2): False, (6, 2): False}.items():
        module = InvertedResidual(4, out, stride=stride).eval()
        nn.init.zeros_(layers_of(module)[-1].weight)
        y = module(x)
        assert isinstance(module.layers, Residual) == added
        assert torch.equal(y, x) if added else not y.any()
    with pytest.raises(RuntimeError):
        x + nn.Conv2d(4, 4, 3, stride=2, padding=1)(x)


def test_without_activations_the_whole_block_is_linear():
    """A widely copied version contains neither batch normalization nor activation."""
    copied = nn.Sequential(nn.Conv2d(4, 24, 1), nn.Conv2d(24, 24, 3, padding=1, groups=24), nn.Conv2d(24, 4, 1)).double()
    module = shaken(InvertedResidual(4, 4)).eval()
    x, y = torch.randn(2, 1, 4, 5, 5, dtype=D)
    for function, affine in [(lambda x: x + copied(x), True), (module, False)]:
        rest = function(x + y) - function(x) - function(y) + function(torch.zeros_like(x))
        assert (rest.abs().max() < 1e-12) == affine
    assert rest.abs().max() > 0.1


@pytest.mark.oracle("weights counted by hand: t C² + t C k² + t C O")
@pytest.mark.parametrize(("c", "o", "t", "k"), [(24, 32, 6, 3), (16, 24, 6, 5), (32, 16, 1, 3), (8, 8, 2, 3)])
def test_weights_are_those_of_the_three_layers(c, o, t, k):
    weights = sum(w.numel() for w in InvertedResidual(c, o, expansion=t, kernel_size=k).parameters() if w.ndim == 4)
    norms = sum(w.numel() for w in InvertedResidual(c, o, expansion=t, kernel_size=k).parameters() if w.ndim == 1)
    assert weights == (t * c * c if t > 1 else 0) + t * c * k * k + t * c * o
    assert norms == (2 * t * c if t > 1 else 0) + 2 * t * c + 2 * o
    if (c, o, t, k) == (24, 32, 6, 3):
        assert weights == 9_360 and norms == 640


def test_the_gate_counts_from_the_input_channels_and_has_at_least_one_number():
    assert InvertedResidual(16, 16, se_ratio=0.25).layers.branch[6].reduce.weight.shape == (4, 96)
    assert InvertedResidual(3, 3, se_ratio=0.25).layers.branch[6].reduce.weight.shape == (1, 18)


def test_numpy_variant_agrees(agree):
    for channels, out in [(4, 4), (4, 5)]:
        module, x = InvertedResidual(channels, out, expansion=3).double().eval(), 4 * torch.randn(channels, 6, 5, dtype=D)
        convs = []
        for layer in layers_of(module):
            if isinstance(layer, nn.BatchNorm2d):
                layer.eps = 1e-30  # nothing in float64; some versions of torch refuse 0
            else:
                convs.append(layer.weight.detach().numpy())
        found = inverted_residual(x.numpy(), convs[0][..., 0, 0], convs[1][:, 0], convs[2][..., 0, 0])
        agree(found, module(x[None])[0])


def test_a_point_survives_the_relu_if_two_of_its_numbers_do():
    """The paper's experiment: with two numbers left a point of the plane can be computed back."""
    rng = np.random.default_rng(0)
    points, matrix = rng.normal(size=(50, 2)), rng.normal(size=(4, 2))
    back, kept = through_relu(points, matrix)
    for p, k in zip(points, kept):
        alive = matrix @ p > 0
        assert k == (alive.sum() >= 2)
        if k:
            np.testing.assert_allclose(np.linalg.lstsq(matrix[alive], (matrix @ p)[alive], rcond=None)[0], p)
    assert 0 < kept.sum() < 50
    linear, all_kept = through_relu(points, matrix, relu=False)
    np.testing.assert_allclose(linear, points)
    assert all_kept.all() and np.abs(back - points).max() > 0.1


def test_one_channel_and_one_tap_are_enough():
    module, x = InvertedResidual(1, 1, expansion=1, kernel_size=1).eval(), torch.randn(1, 1, 3, 3)
    assert len(layers_of(module)) == 4
    nn.init.zeros_(layers_of(module)[-1].weight)
    assert torch.equal(module(x), x)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(in_channels=0), "in_channels=0 is below 1"), (dict(out_channels=0), "out_channels=0 is below 1"),
        (dict(stride=0), "stride=0 is below 1"), (dict(expansion=0), "expansion=0 is below 1"),
        (dict(kernel_size=0), "kernel_size=0 is below 1"), (dict(kernel_size=4), "kernel_size=4 is even"),
        (dict(se_ratio=-0.1), "se_ratio=-0.1 is below 0"), (dict(activation="gelu"), "activation='gelu' is not one of 'relu', 'relu6'"),
    ],
)
def test_bad_settings_say_which_and_why(arguments, message):
    with pytest.raises(ValueError, match=message):
        InvertedResidual(**{**dict(in_channels=4, out_channels=4), **arguments})


def test_wrong_inputs_are_named():
    with pytest.raises(ValueError, match=r"x has shape \(1, 3, 4, 4\); expected \(batch, in_channels=4, height, width\)"):
        InvertedResidual(4, 4)(torch.zeros(1, 3, 4, 4))
