import pytest
import torch
from torch import nn
from torch.nn import functional as F

from snippets.blocks.dense import channels, dense_block, weights
from vocab.blocks.dense import DenseBlock, TransitionLayer
from vocab.blocks.tests.test_residual import shaken

D = torch.float64


def example():
    """For the contract suite: a small instance and its inputs."""
    return DenseBlock(2, 2, 2, bn_size=2).double(), (torch.randn(2, 2, 3, 4, dtype=D),)


def norm(m, x):
    return F.batch_norm(x, m.running_mean, m.running_var, m.weight, m.bias)


@pytest.mark.oracle("the block written out with torch.nn.functional")
def test_equals_a_loop_that_concatenates_everything_so_far():
    block, x = shaken(DenseBlock(3, 4, 2, bn_size=3)).eval(), torch.randn(2, 4, 5, 6, dtype=D)
    y = x
    for mix, look in zip(block.mix, block.look):
        h = F.conv2d(norm(mix[0], y).relu(), mix[2].weight)
        y = torch.cat([y, F.conv2d(norm(look[0], h).relu(), look[2].weight, padding=1)], 1)
    torch.testing.assert_close(block(x), y)
    assert torch.equal(block(x)[:, :4], x), "the input is there to the last bit"


@pytest.mark.oracle("gradient support between every pair of layers")
def test_every_layer_reads_every_earlier_one():
    block = shaken(DenseBlock(4, 3, 8)).eval()
    outputs = []
    for look in block.look:
        look.register_forward_hook(lambda _, __, y: outputs.append(y))
    x = torch.randn(1, 3, 8, 8, dtype=D, requires_grad=True)
    block(x)
    connections = 0
    for later, y in enumerate(outputs):
        sources = [x, *outputs[:later]]
        gradients = torch.autograd.grad(y.square().sum(), sources, retain_graph=True)
        connections += sum(bool(g.any()) for g in gradients)
    assert connections == 4 * 5 / 2
    assert [mix[2].in_channels for mix in block.mix] == [3, 11, 19, 27]


@pytest.mark.oracle("same gradients, and fewer numbers kept for the backward pass")
def test_checkpoints_change_memory_and_nothing_else():
    x, kept, results = torch.randn(2, 4, 6, 6, dtype=D), {}, {}
    for checkpoint in (False, True):
        torch.manual_seed(0)
        block, sizes = DenseBlock(12, 4, 4, bn_size=1, checkpoint=checkpoint).double(), {}
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.update({t.data_ptr(): t.numel()}) or t, lambda t: t):
            y = block(x)
        kept[checkpoint] = sum(sizes.values())
        y.square().sum().backward()
        results[checkpoint] = [y, *(p.grad for p in block.parameters())]
    torch.testing.assert_close(results[True], results[False], rtol=0, atol=0)
    assert kept[True] < 0.5 * kept[False]


@pytest.mark.oracle("published count of DenseNet-121: 7,978,856 parameters")
def test_densenet_121_made_of_these_blocks_has_the_published_number_of_parameters():
    """A widely copied block has no 1 by 1 convolution and no transitions: it is not that of the networks that it names."""
    parts, width = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)], 64
    for n in (6, 12, 24, 16):
        parts.append(DenseBlock(n, width))
        width += 32 * n
        if n != 16:
            parts.append(TransitionLayer(width))
            width //= 2
    parts += [nn.BatchNorm2d(width), nn.Linear(width, 1000)]
    assert sum(p.numel() for part in parts for p in part.parameters()) == 7_978_856


def test_the_transition_halves_channels_and_sides():
    layer, x = shaken(TransitionLayer(6, 0.5)).eval(), torch.randn(2, 6, 7, 8, dtype=D)
    torch.testing.assert_close(layer(x), F.avg_pool2d(F.conv2d(norm(layer[0], x).relu(), layer[2].weight), 2))
    assert layer(x).shape == (2, 3, 3, 4)
    assert TransitionLayer(7)[2].out_channels == 3 and TransitionLayer(7, 1)[2].out_channels == 7


def test_features_are_not_changed_by_later_layers():
    """An in-place ReLU on shared features would cut them for all that follow."""
    x = torch.randn(2, 3, 4, 4)
    kept = x.clone()
    y = DenseBlock(3, 3, 2)(x)
    assert torch.equal(x, kept) and torch.equal(y[:, :3], kept) and y[:, :3].min() < 0


def test_dropout_falls_on_what_a_layer_adds():
    block, x = DenseBlock(2, 3, 4, dropout=1.0), torch.randn(2, 3, 4, 4)
    y = block(x)
    assert torch.equal(y[:, :3], x) and not y[:, 3:].any()
    assert block.eval()(x)[:, 3:].abs().max() > 0 and DenseBlock(2, 3, 4)(x)[:, 3:].abs().max() > 0


def test_numpy_variant_agrees(agree):
    block, x = DenseBlock(3, 4, 2, bn_size=2).double().eval(), torch.randn(4, 5, 6, dtype=D)
    for m in block.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.eps = 1e-30  # nothing in float64; some versions of torch refuse 0
    layers = [(mix[2].weight[..., 0, 0].detach().numpy(), look[2].weight.detach().numpy()) for mix, look in zip(block.mix, block.look)]
    agree(dense_block(x.numpy(), layers), block(x[None])[0])


def test_numpy_counts_agree(agree):
    block = DenseBlock(5, 24, 8)
    agree(channels(5, 24, 8), [*(mix[2].in_channels for mix in block.mix), 64])
    agree(sum(weights(5, 24, 8)), sum(p.numel() for p in block.parameters() if p.ndim == 4))


def test_by_default_nothing_is_dropped_and_nothing_computed_twice():
    block, x = DenseBlock(2, 3, 4), torch.randn(2, 3, 4, 4)
    assert torch.equal(block(x), block(x))
    seen = []
    block.mix[0][2].register_forward_hook(lambda *_: seen.append(1))
    block(x).sum().backward()
    assert len(seen) == 1


def test_one_of_everything_is_enough():
    x = torch.randn(2, 1, 3, 3)
    y = DenseBlock(1, 1, 1, bn_size=1)(x)
    assert y.shape[1] == 2 and torch.equal(y[:, :1], x)
    assert DenseBlock(1, 1).mix[0][2].out_channels == 4 * 32 and DenseBlock(1, 1).look[0][2].out_channels == 32


def test_wrong_arguments_are_named():
    for arguments, message in [
        (dict(num_layers=0), "num_layers=0 is below 1"), (dict(in_channels=0), "in_channels=0 is below 1"),
        (dict(growth_rate=0), "growth_rate=0 is below 1"), (dict(bn_size=0), "bn_size=0 is below 1"),
        (dict(dropout=-0.1), "dropout=-0.1 is not from 0 to 1"), (dict(dropout=1.1), "dropout=1.1 is not from 0 to 1"),
    ]:
        with pytest.raises(ValueError, match=message):
            DenseBlock(**{**dict(num_layers=2, in_channels=3), **arguments})
    for compression in (0, 1.1):
        with pytest.raises(ValueError, match=f"compression={compression} is not above 0 and at most 1"):
            TransitionLayer(4, compression)
    with pytest.raises(ValueError, match="compression=0.3 of in_channels=3 leaves no channel"):
        TransitionLayer(3, 0.3)
    for module in (DenseBlock(1, 3), TransitionLayer(3)):
        with pytest.raises(ValueError, match=r"x has shape \(1, 4, 4, 4\); expected \(batch, in_channels=3, height, width\)"):
            module(torch.zeros(1, 4, 4, 4))
