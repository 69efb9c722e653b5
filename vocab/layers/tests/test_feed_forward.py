import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from snippets.activations.gelu import gelu
from snippets.activations.relu import relu
from snippets.layers.feed_forward import feed_forward, parts
from vocab.layers.feed_forward import FeedForward, activation_function

D = torch.float64


def example():
    return FeedForward(4, 6).double(), (torch.randn(2, 5, 4, dtype=D),)


def copied(layer, act):
    d_ff, d_model = layer.up.weight.shape
    bias = layer.up.bias is not None
    net = nn.Sequential(nn.Linear(d_model, d_ff, bias), act, nn.Linear(d_ff, d_model, bias)).double()
    net.load_state_dict({f"{i}.{k}": v for i, part in [(0, layer.up), (2, layer.down)] for k, v in part.state_dict().items()})
    return net


@pytest.mark.oracle("torch.nn.Sequential(Linear, activation, Linear)")
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("name", "act"),
    [("relu", nn.ReLU()), ("gelu", nn.GELU()), ("gelu_tanh", nn.GELU("tanh")), ("silu", nn.SiLU()),
     ("sigmoid", nn.Sigmoid()), ("tanh", nn.Tanh()), ("identity", nn.Identity())],
)
def test_equals_two_linear_layers_and_an_activation(name, act, bias):
    layer, x = FeedForward(4, 6, activation=name, bias=bias).double(), torch.randn(2, 5, 4, dtype=D)
    torch.testing.assert_close(layer(x), copied(layer, act)(x))


@pytest.mark.oracle("two torch.nn.functional.conv1d of kernel size 1")
def test_equals_two_convolutions_of_width_one_over_time():
    layer, x = FeedForward(4, 6, activation="relu").double(), torch.randn(2, 5, 4, dtype=D)
    hidden = F.relu(F.conv1d(x.transpose(1, 2), layer.up.weight[..., None], layer.up.bias))
    y = F.conv1d(hidden, layer.down.weight[..., None], layer.down.bias).transpose(1, 2)
    torch.testing.assert_close(layer(x), y)


def test_a_token_never_sees_another():
    layer, x = FeedForward(3, 5).double(), torch.randn(1, 4, 3, dtype=D)
    jacobian = torch.autograd.functional.jacobian(layer, x)[0, :, :, 0]  # output token, feature, input token, feature
    for i in range(4):
        for j in range(4):
            assert (jacobian[i, :, j].abs().max() > 1e-3) == (i == j)
            assert i == j or jacobian[i, :, j].abs().max() == 0
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(layer(x[:, order]), layer(x)[:, order])


def test_without_a_nonlinearity_it_is_one_linear_map():
    layer, x = FeedForward(4, 6, activation="identity", bias=False).double(), torch.randn(2, 5, 4, dtype=D)
    torch.testing.assert_close(layer(x), F.linear(x, layer.down.weight @ layer.up.weight))


def test_hidden_units_are_keys_that_release_values():
    """A token that matches one key only writes that unit's value, in proportion to the match."""
    layer = FeedForward(4, 4, activation="relu", bias=False).double()
    layer.up.weight.data = torch.eye(4, dtype=D)
    for i in range(4):
        x = torch.zeros(1, 1, 4, dtype=D)
        x[..., i] = 2.5
        torch.testing.assert_close(layer(x)[0, 0], 2.5 * layer.down.weight[:, i])


@pytest.mark.oracle("parameter counts of published models")
def test_widths_and_weights_of_known_models():
    """The hidden layer is the widest place of a model; a widely copied description gives that name to the residual stream."""
    with torch.device("meta"):
        gpt3 = FeedForward(12288)
        plain = FeedForward(512, bias=False)
    assert gpt3.up.out_features == 49152
    weights = sum(p.numel() for p in plain.parameters())
    assert weights == 8 * 512**2
    assert weights / (weights + 4 * 512**2) == pytest.approx(2 / 3)  # attention: four square matrices
    for d_model, d_ff in [(512, 2048), (4096, 11008), (12288, 49152)]:  # Transformer base, LLaMA 7B, GPT-3
        assert 2.6 < d_ff / d_model <= 4


def test_dropout_silences_hidden_units_in_training_only():
    layer, x = FeedForward(4, 4000, activation="relu", bias=False, dropout=0.25).double(), torch.ones(1, 1, 4, dtype=D)
    layer.up.weight.data.fill_(1)
    layer.down.weight.data.fill_(1)
    kept = layer(x)[0, 0, 0] / (4 / 0.75)  # each unit that is left adds 4 / 0.75
    assert abs(kept / 4000 - 0.75) < 0.03 and abs(kept - kept.round()) < 1e-6
    assert layer.eval()(x)[0, 0, 0] == 16000
    assert FeedForward(4).dropout == 0 and FeedForward(4).up.bias is not None


def test_the_default_is_the_exact_gelu():
    layer, x = FeedForward(4).double(), torch.randn(2, 5, 4, dtype=D)
    torch.testing.assert_close(layer(x), copied(layer, nn.GELU())(x), rtol=1e-12, atol=1e-14)


def test_numpy_variant_agrees(agree):
    for name, act in (("relu", relu), ("gelu", gelu)):
        layer, x = FeedForward(4, 6, activation=name).double(), torch.randn(2, 5, 4, dtype=D)
        w1, b1, w2, b2 = (p.detach().numpy() for p in layer.parameters())
        agree(feed_forward(x.numpy(), w1, b1, w2, b2, act), layer(x))
        agree(parts(x.numpy(), w1, b1, w2, act).sum(-2) + b2, layer(x))


def test_a_scalar_relu_network_is_straight_between_its_bends():
    rng = np.random.default_rng(1)
    w1, b1, w2 = rng.normal(size=(5, 1)), rng.normal(size=5), rng.normal(size=(1, 5))
    bends = np.sort(-b1 / w1[:, 0])
    for left, right in zip(bends, bends[1:]):
        x = np.linspace(left, right, 9)[:, None]
        np.testing.assert_allclose(np.diff(feed_forward(x, w1, b1, w2, 0.3)[:, 0], 2), 0, atol=1e-12)
    across = bends[2] + np.array([-1e-3, 0, 1e-3])[:, None]
    assert abs(np.diff(feed_forward(across, w1, b1, w2, 0.3)[:, 0], 2)[0]) > 1e-5


def test_bad_settings_and_shapes_say_which_and_why():
    for arguments, message in [
        (dict(activation="relux"), "activation='relux' is none of relu, gelu, gelu_tanh, silu, sigmoid, tanh, identity"),
        (dict(dropout=1.0), "dropout=1.0 is not from 0 to below 1"),
        (dict(dropout=-0.1), "dropout=-0.1 is not from 0 to below 1"),
        (dict(d_ff=0), "out_features=0 is below 1"),
    ]:
        with pytest.raises(ValueError, match=message):
            FeedForward(4, **arguments)
    for shape in [(5, 4), (2, 5, 3)]:
        with pytest.raises(ValueError, match=r"expected \(batch, time, d_model=4\)"):
            FeedForward(4)(torch.zeros(shape))
    with pytest.raises(ValueError, match="activation='step' is none of"):
        activation_function("step")
