import pytest
import torch
from torch import nn
from torch.nn import functional as F

from snippets.convolution.depthwise_separable import nearest_separable as numpy_nearest
from snippets.convolution.depthwise_separable import separable
from vocab.convolution.conv2d import Conv2d
from vocab.convolution.depthwise_separable import DepthwiseSeparableConv2d, nearest_separable

D = torch.float64


def example():
    """For the contract suite: a small instance and its inputs."""
    return DepthwiseSeparableConv2d(2, 3, stride=2, norm_act=True).double(), (torch.randn(2, 2, 6, 5, dtype=D),)


@pytest.mark.oracle("torch.nn.functional.conv2d with the outer products as weights")
@pytest.mark.parametrize("multiplier", [1, 3])
def test_equals_a_full_convolution_whose_weights_are_outer_products(multiplier):
    module = DepthwiseSeparableConv2d(4, 5, 3, stride=2, padding=2, dilation=2, multiplier=multiplier).double()
    d, p = module[0].weight.unflatten(0, (4, multiplier))[:, :, 0], module[1].weight.unflatten(1, (4, multiplier))[..., 0, 0]
    full = sum(p[:, :, n, None, None] * d[None, :, n] for n in range(multiplier))
    x = torch.randn(2, 4, 9, 8, dtype=D)
    torch.testing.assert_close(module(x), F.conv2d(x, full, module[1].bias, 2, 2, 2))


def test_by_default_a_3_by_3_window_keeps_the_size():
    module, x = DepthwiseSeparableConv2d(4, 5).double(), torch.randn(1, 4, 6, 6, dtype=D)
    full = module[1].weight * module[0].weight[:, 0]
    torch.testing.assert_close(module(x), F.conv2d(x, full, module[1].bias, padding=1))


@pytest.mark.oracle("cost ratio 1 / O + 1 / k²")
@pytest.mark.parametrize(("c", "o", "k"), [(64, 128, 3), (7, 5, 5), (3, 32, 3), (4, 4, 1)])
def test_cost_beside_the_full_layer_is_one_over_o_plus_one_over_k_squared(c, o, k):
    ours = sum(w.numel() for w in DepthwiseSeparableConv2d(c, o, k, padding=0).parameters() if w.ndim > 1)
    full = Conv2d(c, o, k, bias=False).weight.numel()
    assert ours * o * k * k == full * (k * k + o)
    if (c, o, k) == (64, 128, 3):
        assert (ours, full) == (8768, 73_728) and full / ours == pytest.approx(8.4, abs=0.01)


@pytest.mark.oracle("torch.nn.Sequential of MobileNet's six layers")
@pytest.mark.parametrize("training", [False, True])
def test_with_norm_and_activation_it_is_mobilenets_block(training):
    module = DepthwiseSeparableConv2d(4, 6, stride=2, norm_act=True).double()
    library = nn.Sequential(
        nn.Conv2d(4, 4, 3, 2, 1, groups=4, bias=False), nn.BatchNorm2d(4), nn.ReLU(),
        nn.Conv2d(4, 6, 1, bias=False), nn.BatchNorm2d(6), nn.ReLU(),
    ).double()
    for norm in (library[1], library[4]):
        for tensor in (norm.weight, norm.bias, norm.running_mean):
            nn.init.normal_(tensor)
    module.load_state_dict(library.state_dict())
    x = torch.randn(3, 4, 7, 8, dtype=D)
    torch.testing.assert_close(module.train(training)(x), library.train(training)(x))


@pytest.mark.oracle("singular values: what a rank-1 matrix per channel leaves over")
def test_a_full_kernel_can_be_had_exactly_if_every_channels_matrix_has_the_rank():
    outer = torch.randn(5, 3, 1, 1, dtype=D) * torch.randn(1, 3, 3, 3, dtype=D)
    two = outer + torch.randn(5, 3, 1, 1, dtype=D) * torch.randn(1, 3, 3, 3, dtype=D)
    for weight, multiplier, exact in [(outer, 1, True), (two, 1, False), (two, 2, True)]:
        x = torch.randn(1, 3, 6, 6, dtype=D)
        module = DepthwiseSeparableConv2d(3, 5, multiplier=multiplier).double()
        nn.init.zeros_(module[1].bias)
        d, p = nearest_separable(weight, multiplier)
        module.load_state_dict({"0.weight": d, "1.weight": p, "1.bias": module[1].bias})
        error = (module(x) - F.conv2d(x, weight, padding=1)).abs().max()
        assert (error < 1e-12) == exact
        assert exact or error > 0.1


@pytest.mark.oracle("Eckart-Young: the error is the root of the sum of the squares of the dropped singular values")
@pytest.mark.parametrize("multiplier", [1, 2, 4])
def test_no_separable_layer_is_nearer(multiplier):
    weight = torch.randn(6, 2, 3, 3, dtype=D)
    d, p = nearest_separable(weight, multiplier)
    assert d.shape == (2 * multiplier, 1, 3, 3) and p.shape == (6, 2 * multiplier, 1, 1)
    rebuilt = torch.einsum("ocm,cmij->ocij", p.view(6, 2, multiplier), d.view(2, multiplier, 3, 3))
    dropped = torch.linalg.svdvals(weight.transpose(0, 1).flatten(2))[:, multiplier:]
    torch.testing.assert_close((rebuilt - weight).norm(), dropped.norm())


def test_mobilenet_with_full_convolutions_has_29_million_weights_and_with_separable_ones_4():
    pairs = [(32, 64), (64, 128), (128, 128), (128, 256), (256, 256), (256, 512), *[(512, 512)] * 5, (512, 1024), (1024, 1024)]
    rest = 3 * 32 * 9 + 1024 * 1000
    separable_ = sum(sum(w.numel() for w in DepthwiseSeparableConv2d(c, o).parameters() if w.ndim > 1) for c, o in pairs)
    assert separable_ + rest == pytest.approx(4.2e6, rel=0.01)
    assert sum(9 * c * o for c, o in pairs) + rest == pytest.approx(29.3e6, rel=0.005)


def test_nothing_stands_between_the_two_layers_unless_asked_for():
    module = DepthwiseSeparableConv2d(3, 4).double()
    x, y = torch.randn(2, 1, 3, 5, 5, dtype=D)
    zero = module(torch.zeros_like(x))
    torch.testing.assert_close(module(x + y) - zero, module(x) + module(y) - 2 * zero)
    assert module[0].bias is None and module[1].bias is not None
    block = DepthwiseSeparableConv2d(3, 4, norm_act=True)
    assert block[0].bias is None and block[3].bias is None


def test_two_lines_without_padding_and_norm_are_not_mobilenets_block():
    """A widely copied version: nn.Conv2d(C, C, 3, groups=C), then nn.Conv2d(C, O, 1)."""
    copied = nn.Sequential(nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 16, 1))
    x = torch.randn(2, 8, 12, 12)
    assert copied(x).shape[2:] == (10, 10)
    module = DepthwiseSeparableConv2d(8, 16, norm_act=True)
    assert module(x).shape[2:] == (12, 12)
    assert module(x).min() == 0 and copied(x).min() < 0


def test_efficientnets_block_is_not_a_plain_separable_convolution():
    """A widely copied list names EfficientNet as a user: its block widens first and gates its channels."""
    pytest.importorskip("transformers")
    from transformers import EfficientNetConfig
    from transformers.models.efficientnet.modeling_efficientnet import EfficientNetBlock

    block = EfficientNetBlock(EfficientNetConfig(), 16, 24, 1, expand_ratio=6, kernel_size=3, drop_rate=0.0, id_skip=True, adjust_padding=False)
    assert block.expansion.expand_conv.out_channels == 6 * 16
    assert block.squeeze_excite is not None


def test_numpy_variant_agrees(agree):
    module, x = DepthwiseSeparableConv2d(3, 4, 5, padding=2, multiplier=2).double(), torch.randn(3, 7, 8, dtype=D)
    nn.init.zeros_(module[1].bias)
    d, p = module[0].weight.detach().view(3, 2, 5, 5).numpy(), module[1].weight.detach()[..., 0, 0].numpy()
    agree(separable(x.numpy(), d, p), module(x[None])[0])


def test_numpy_nearest_agrees(agree):
    weight = torch.randn(6, 2, 3, 3, dtype=D)
    d, p = nearest_separable(weight, 2)
    numpy_d, numpy_p = numpy_nearest(weight.numpy(), 2)
    both = torch.einsum("ocm,cmij->ocij", p.view(6, 2, 2), d.view(2, 2, 3, 3))  # signs are free; the product is not
    agree(torch.einsum("ocm,cmij->ocij", torch.from_numpy(numpy_p).view(6, 2, 2), torch.from_numpy(numpy_d)), both)


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match=r"x has shape \(1, 4, 8, 8\); expected \(batch, in_channels=3, height, width\)"):
        DepthwiseSeparableConv2d(3, 4)(torch.zeros(1, 4, 8, 8))
    with pytest.raises(ValueError, match="multiplier=0 is below 1"):
        DepthwiseSeparableConv2d(3, 4, multiplier=0)
    for bad, most in [(0, 4), (5, 4), (10, 9)]:
        with pytest.raises(ValueError, match=f"multiplier={bad} is not from 1 to {most}"):
            nearest_separable(torch.zeros(most if most < 9 else 20, 2, 3, 3), bad)
    with pytest.raises(ValueError, match=r"weight has shape \(4, 2, 3\); expected"):
        nearest_separable(torch.zeros(4, 2, 3))
