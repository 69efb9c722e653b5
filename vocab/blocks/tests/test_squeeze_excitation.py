import numpy as np
import pytest
import torch
from torch import nn

from snippets.blocks.squeeze_excitation import learn, squeeze_excite
from vocab.blocks.squeeze_excitation import SqueezeExcitation

D = torch.float64


def example():
    """For the contract suite: a small instance and its inputs."""
    return SqueezeExcitation(4, 2, activation="silu").double(), (torch.randn(2, 4, 3, 2, dtype=D),)


def copied(module, reduce, expand):
    for ours, theirs in [(module.reduce, reduce), (module.expand, expand)]:
        ours.load_state_dict({"weight": theirs.weight.flatten(1), "bias": theirs.bias})
    return module


@pytest.mark.oracle("transformers RegNetSELayer with copied weights")
def test_equals_the_layer_of_regnet():
    layers = pytest.importorskip("transformers.models.regnet.modeling_regnet")
    library = layers.RegNetSELayer(32, 8).double()
    module = copied(SqueezeExcitation(32, 4).double(), library.attention[0], library.attention[2])
    x = torch.randn(3, 32, 5, 4, dtype=D)
    torch.testing.assert_close(module(x), library(x))


@pytest.mark.oracle("transformers EfficientNetSqueezeExciteLayer with copied weights")
def test_equals_the_layer_of_efficientnet():
    layers = pytest.importorskip("transformers.models.efficientnet.modeling_efficientnet")
    from transformers import EfficientNetConfig

    library = layers.EfficientNetSqueezeExciteLayer(EfficientNetConfig(), 16, 96, expand=True).double()
    module = copied(SqueezeExcitation(96, hidden_channels=4, activation="silu").double(), library.reduce, library.expand)
    x = torch.randn(2, 96, 5, 4, dtype=D)
    torch.testing.assert_close(module(x), library(x))


@pytest.mark.parametrize("gate", ["sigmoid", "hardsigmoid"])
def test_without_weights_every_channel_is_halved_and_a_high_bias_lets_all_through(gate):
    module, x = SqueezeExcitation(16, gate=gate), torch.randn(2, 16, 4, 4)
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    assert torch.equal(module(x), 0.5 * x)
    nn.init.constant_(module.expand.bias, 100.0)
    assert torch.equal(module(x), x)
    nn.init.constant_(module.expand.bias, -100.0)
    assert module(x).abs().max() < 1e-30


def test_the_two_gates_differ_in_between():
    soft, hard = (SqueezeExcitation(8, gate=gate).double() for gate in ("sigmoid", "hardsigmoid"))
    hard.load_state_dict(soft.state_dict())
    nn.init.constant_(hard.expand.weight, 0), nn.init.constant_(hard.expand.bias, 1.5)
    x = torch.rand(1, 8, 2, 2, dtype=D)
    torch.testing.assert_close(hard(x), 0.75 * x)
    soft.load_state_dict(hard.state_dict())
    torch.testing.assert_close(soft(x), x / (1 + torch.tensor(-1.5, dtype=D).exp()))


def test_the_gate_does_not_depend_on_where_things_are():
    module, x = SqueezeExcitation(8, 2).double(), torch.randn(2, 8, 4, 5, dtype=D)
    order = torch.randperm(20)
    shuffled = x.flatten(2)[..., order].view_as(x)
    torch.testing.assert_close(module(shuffled), module(x).flatten(2)[..., order].view_as(x))
    gates = (module(x) / x).flatten(2)
    torch.testing.assert_close(gates, gates[..., :1].expand_as(gates))
    assert gates[0, :, 0].std() > 0.01 and ((gates > 0) & (gates < 1)).all()


def test_a_channel_that_changes_moves_the_gates_of_the_others():
    module, x = SqueezeExcitation(8, 1).double(), torch.randn(1, 8, 3, 3, dtype=D)
    other = x.clone()
    other[:, 0] += 3
    assert not torch.allclose(module(other)[:, 1:], module(x)[:, 1:])


def test_small_networks_keep_eight_hidden_numbers():
    """A widely copied version divides by 16 without a bound: below 16 channels no hidden unit is left."""
    assert [SqueezeExcitation(c).reduce.out_features for c in (512, 128, 64, 16, 4)] == [32, 8, 8, 8, 4]
    with pytest.warns(UserWarning, match="zero-element"):
        dead = nn.Sequential(nn.Linear(8, 8 // 16), nn.ReLU(), nn.Linear(8 // 16, 8), nn.Sigmoid())
    assert (dead(torch.randn(5, 8)) == 0.5).all()
    assert SqueezeExcitation(8)(torch.ones(1, 8, 1, 1)).std() > 1e-3


@pytest.mark.oracle("weights counted for ResNet-50 (Hu et al. 2018: about 10 % more)")
def test_resnet_50_gets_two_and_a_half_million_weights():
    assert sum(p.numel() for p in SqueezeExcitation(256, 16).parameters()) == 2 * 256 * 256 // 16 + 16 + 256
    stages = [(3, 256), (4, 512), (6, 1024), (3, 2048)]
    added = sum(n * sum(p.numel() for p in SqueezeExcitation(c).parameters() if p.ndim > 1) for n, c in stages)
    assert added == 2_514_944 and added / 25.6e6 == pytest.approx(0.098, abs=0.001)


def test_numpy_variant_agrees(agree):
    module, x = SqueezeExcitation(8, 2).double(), torch.randn(8, 4, 5, dtype=D)
    parameters = [p.detach().numpy() for p in (module.reduce.weight, module.reduce.bias, module.expand.weight, module.expand.bias)]
    y, gate = squeeze_excite(x.numpy(), *parameters)
    agree(y, module(x[None])[0])
    agree(gate, (module(x[None]) / x)[0, :, 0, 0])


def test_one_step_of_the_numpy_learner_is_a_step_of_gradient_descent(agree):
    rng = np.random.default_rng(0)
    means, target = rng.normal(size=(12, 8)), rng.integers(0, 2, 12).astype(float)
    start = [rng.normal(size=s) for s in ((4, 8), (4,), (8, 4), (8,))]
    torch_parameters = [torch.from_numpy(p.copy()).requires_grad_() for p in start]
    w1, b1, w2, b2 = torch_parameters
    m = torch.from_numpy(means)
    gate = torch.sigmoid(torch.relu(m @ w1.T + b1) @ w2.T + b2)
    loss = nn.functional.binary_cross_entropy_with_logits(4 * (gate * m).sum(1), torch.from_numpy(target))
    loss.backward()
    for ours, theirs in zip(learn(means, target, start, steps=1, rate=0.1), torch_parameters):
        agree(ours, theirs.detach() - 0.1 * theirs.grad)


def test_one_channel_and_one_hidden_number_are_enough():
    module, x = SqueezeExcitation(1, 1), torch.randn(1, 1, 2, 2)
    assert module.reduce.weight.shape == SqueezeExcitation(1, hidden_channels=1).reduce.weight.shape == (1, 1)
    assert 0 < (module(x) / x).mean() < 1


def test_wrong_arguments_are_named():
    for arguments, message in [
        (dict(channels=0), "channels=0 is below 1"), (dict(reduction=0), "reduction=0 is below 1"),
        (dict(hidden_channels=0), "hidden_channels=0 is below 1"), (dict(gate="tanh"), "gate='tanh' is not 'sigmoid' or 'hardsigmoid'"),
        (dict(activation="gelu"), "activation='gelu' is not 'relu' or 'silu'"),
    ]:
        with pytest.raises(ValueError, match=message):
            SqueezeExcitation(**{**dict(channels=8), **arguments})
    with pytest.raises(ValueError, match=r"x has shape \(1, 4, 3, 3\); expected \(batch, channels=8, height, width\)"):
        SqueezeExcitation(8)(torch.zeros(1, 4, 3, 3))
