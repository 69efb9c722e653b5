import copy

import numpy as np
import pytest
import torch
from torch import nn

from snippets.adapters.bottleneck_adapter import adapt, gradients, moons
from vocab.adapters.bottleneck_adapter import Adapted, BottleneckAdapter, insert_adapters
from vocab.blocks.transformer_block import TransformerBlock
from vocab.positional.nope import NoPEDecoderBlock

D = torch.float64


def made(**settings):
    adapter = BottleneckAdapter(5, **{"bottleneck": 2, "init_scale": 0.5, **settings}).to(D)
    nn.init.normal_(adapter.up.bias)
    return adapter


def example():
    """For the contract suite: an adapter and its input."""
    return made(), (torch.randn(3, 5, dtype=D),)


def model():
    return nn.Sequential(NoPEDecoderBlock(8, 2), NoPEDecoderBlock(8, 2), nn.Linear(8, 11)).to(D)


@pytest.mark.oracle("torch.nn.functional, written out")
@pytest.mark.parametrize(("name", "function"), [("gelu", nn.functional.gelu), ("relu", torch.relu)])
def test_adds_a_narrow_network_to_its_input(name, function):
    adapter, x = made(activation=name, scale=0.3), torch.randn(4, 5, dtype=D)
    expected = x + 0.3 * (function(x @ adapter.down.weight.T + adapter.down.bias) @ adapter.up.weight.T + adapter.up.bias)
    torch.testing.assert_close(adapter(x), expected)


def test_with_a_zero_start_the_adapted_model_is_the_frozen_one_bit_for_bit():
    plain, x = model(), torch.randn(2, 6, 8, dtype=D)
    adapted = copy.deepcopy(plain)
    assert insert_adapters(adapted, 8, bottleneck=3, init_scale=0.0) == ["0.attention", "0.feed_forward", "1.attention", "1.feed_forward"]
    assert torch.equal(adapted(x), plain(x))
    near = copy.deepcopy(plain)
    insert_adapters(near, 8, bottleneck=3)
    gap = (near(x) - plain(x)).abs().max() / plain(x).abs().max()
    assert 0 < gap < 0.01


def test_pytorchs_usual_start_is_not_the_identity():
    """Erratum: a widely copied module leaves the second layer as PyTorch draws it."""
    adapter, x = BottleneckAdapter(64, 16), torch.randn(100, 64)
    assert (adapter(x) - x).norm() / x.norm() < 0.01
    nn.Linear.reset_parameters(adapter.up)
    assert (adapter(x) - x).norm() / x.norm() > 0.1


@pytest.mark.oracle("singular values of the Jacobian minus the identity")
def test_without_a_bend_the_update_is_linear_of_rank_m():
    adapter = made(bottleneck=2)
    adapter.activation = nn.Identity()
    jacobian = torch.func.jacrev(adapter)(torch.randn(5, dtype=D))
    assert torch.linalg.matrix_rank(jacobian - torch.eye(5), rtol=1e-10) == 2
    torch.testing.assert_close(jacobian, torch.eye(5, dtype=D) + adapter.up.weight @ adapter.down.weight)


@pytest.mark.oracle("closed form 2 D m + D + m")
def test_counts():
    for d, m in ((768, 64), (5, 1)):
        assert sum(p.numel() for p in BottleneckAdapter(d, m).parameters()) == 2 * d * m + d + m
    assert sum(p.numel() for p in BottleneckAdapter(768).parameters()) == 99_136


def test_only_adapters_and_norms_are_trained():
    adapted = model()
    insert_adapters(adapted, 8, bottleneck=2)
    adapted(torch.randn(1, 4, 8, dtype=D)).square().sum().backward()
    trained = {n for n, p in adapted.named_parameters() if p.grad is not None}
    assert all("adapter" in n or "norm" in n for n in trained)
    assert sum("norm" in n for n in trained) == 8, "weight and bias of four norms"
    assert {n for n, p in adapted.named_parameters() if p.requires_grad} == trained


def test_pfeiffer_places_one_adapter_a_layer():
    adapted = model()
    assert insert_adapters(adapted, 8, "pfeiffer", bottleneck=2) == ["0.feed_forward", "1.feed_forward"]
    assert isinstance(adapted[0].feed_forward, Adapted) and not isinstance(adapted[0].attention, Adapted)


def test_it_stands_before_the_residual_addition():
    """Erratum: the adapter sees what the sublayer adds, not the stream that goes from layer to layer."""
    block = NoPEDecoderBlock(8, 2).to(D)
    insert_adapters(nn.ModuleDict({"block": block}), 8, bottleneck=2, init_scale=1.0)
    x = torch.randn(1, 3, 8, dtype=D)
    between = x + block.attention.adapter(block.attention.module(block.attention_norm(x)))
    expected = between + block.feed_forward.adapter(block.feed_forward.module(block.feed_forward_norm(between)))
    torch.testing.assert_close(block(x), expected)


def test_where_a_module_holds_its_own_sum_the_module_inside_is_named():
    block, x = nn.Sequential(TransformerBlock(8, 2)).to(D), torch.randn(1, 3, 8, dtype=D)
    expected = block(x)
    found = insert_adapters(block, 8, bottleneck=2, init_scale=0.0, attention="sublayer", feed_forward="sublayer")
    assert found == ["0.attention.sublayer", "0.feed_forward.sublayer"] and torch.equal(block(x), expected)


def test_in_parallel_it_is_another_method():
    adapter, layer, x = made(), nn.Linear(5, 5).to(D), torch.randn(3, 5, dtype=D)
    in_sequence, in_parallel = adapter(layer(x)), layer(x) + (adapter(x) - x)
    assert not torch.allclose(in_sequence, in_parallel)


def test_of_several_results_the_first_is_adapted():
    class Two(nn.Module):
        def forward(self, x, *, factor):
            return factor * x, x

    x, adapter = torch.randn(2, 5, dtype=D), made()
    first, second = Adapted(Two(), adapter)(x, factor=2.0)
    torch.testing.assert_close(first, adapter(2 * x))
    assert second is x


@pytest.mark.parametrize(("call", "message"), [
    (lambda: BottleneckAdapter(8, 0), "bottleneck=0 is below 1"),
    (lambda: BottleneckAdapter(0, 2), "d_model=0 is below 1"),
    (lambda: BottleneckAdapter(8, init_scale=-1.0), "init_scale=-1.0 is negative"),
    (lambda: insert_adapters(model(), 8, "both"), "placement='both' is not 'houlsby' or 'pfeiffer'"),
    (lambda: insert_adapters(nn.Sequential(nn.Linear(2, 2)), 2), "no module is called attention or feed_forward; name them"),
    (lambda: made()(torch.zeros(2, 4, dtype=D)), r"x has shape \(2, 4\); expected \(..., d_model=5\)"),
])
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_numpy_variant_agrees(agree):
    adapter, x = made(activation="relu"), torch.randn(6, 5, dtype=D)
    arrays = [p.detach().numpy() for p in (adapter.down.weight, adapter.down.bias, adapter.up.weight)]
    agree(adapt(x.numpy(), *arrays) + adapter.up.bias.detach().numpy(), adapter(x))


def test_the_demos_gradients_are_autograds(agree):
    h, y = torch.randn(20, 4, dtype=D), torch.randint(0, 2, (20,)).to(D)
    down, bias, up, read = (torch.randn(*s, dtype=D, requires_grad=True) for s in ((3, 4), (3,), (4, 3), (4,)))
    logits = (h + torch.relu(h @ down.T + bias) @ up.T) @ read
    loss = nn.functional.binary_cross_entropy_with_logits(logits, y)
    expected = torch.autograd.grad(loss, (down, bias, up))
    found, value = gradients(h.numpy(), y.numpy(), read.detach().numpy(), *(p.detach().numpy() for p in (down, bias, up)))
    for a, b in zip(found, expected):
        agree(a, b)
    agree(value, loss)
    points, labels = moons(50)
    assert points.shape == (100, 2) and labels.mean() == 0.5 and np.abs(points).max() < 3
