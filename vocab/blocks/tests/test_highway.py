import pytest
import torch
from torch import nn
from torch.nn import functional as F

from snippets.blocks.highway import gradient_norms, highway
from vocab.blocks.highway import HighwayLayer

D = torch.float64


def example():
    """For the contract suite: a small instance and its inputs."""
    return HighwayLayer(3, activation="tanh").double(), (torch.randn(2, 4, 3, dtype=D),)


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_a_closed_gate_is_the_identity_to_the_last_bit_and_an_open_one_the_plain_layer(activation):
    layer, x = HighwayLayer(5, activation=activation, gate_bias=-1e4).double(), torch.randn(7, 5, dtype=D)
    assert torch.equal(layer(x), x)
    nn.init.constant_(layer.gate.bias, 1e4)
    plain = getattr(torch, activation)(F.linear(x, layer.transform.weight, layer.transform.bias))
    torch.testing.assert_close(layer(x), plain, rtol=0, atol=0)


def test_every_number_lies_between_what_came_in_and_what_the_layer_made_of_it():
    layer, x = HighwayLayer(6, gate_bias=0.0).double(), 3 * torch.randn(50, 6, dtype=D)
    made, y = layer.transform(x).relu(), layer(x)
    assert ((y >= torch.minimum(x, made) - 1e-12) & (y <= torch.maximum(x, made) + 1e-12)).all()
    share = (y - x) / (made - x)
    torch.testing.assert_close(share, torch.sigmoid(layer.gate(x)))


@pytest.mark.oracle("closed form of the Jacobian, with its term (1 − T) I")
def test_the_jacobian_has_a_part_that_is_the_identity():
    layer, x = HighwayLayer(4, activation="tanh", gate_bias=-1.0).double(), torch.randn(4, dtype=D)
    h, t = torch.tanh(layer.transform(x)), torch.sigmoid(layer.gate(x))
    expected = (
        torch.diag(1 - t)
        + (t * (1 - h**2))[:, None] * layer.transform.weight
        + (t * (1 - t) * (h - x))[:, None] * layer.gate.weight
    )
    torch.testing.assert_close(torch.autograd.functional.jacobian(layer, x), expected.detach())


@pytest.mark.oracle("torch.nn.GRUCell with its reset gate open and no input")
def test_is_one_step_of_a_gru_that_gets_nothing_to_read():
    layer, cell, x = HighwayLayer(4, activation="tanh").double(), nn.GRUCell(1, 4).double(), torch.randn(3, 4, dtype=D)
    with torch.no_grad():
        cell.weight_ih.zero_(), cell.bias_ih.zero_()
        cell.weight_hh.copy_(torch.cat([torch.zeros(4, 4), -layer.gate.weight, layer.transform.weight]))
        cell.bias_hh.copy_(torch.cat([torch.full((4,), 1e4), -layer.gate.bias, layer.transform.bias]))
    torch.testing.assert_close(layer(x), cell(torch.zeros(3, 1, dtype=D), x))


@pytest.mark.parametrize(("bias", "low", "high"), [(-4.0, 0.3, 3.0), (0.0, 0.0, 0.05)])
def test_fifty_layers_keep_the_gradient_if_the_gates_start_closed(bias, low, high):
    layers = [HighwayLayer(16, activation="tanh", gate_bias=bias).double() for _ in range(50)]
    x = torch.randn(8, 16, dtype=D, requires_grad=True)
    g = torch.randn(8, 16, dtype=D)
    (gradient,) = torch.autograd.grad(nn.Sequential(*layers)(x), x, g)
    assert low <= gradient.norm() / g.norm() <= high


def test_it_has_twice_the_weights_of_a_plain_layer_and_starts_at_the_given_bias():
    layer = HighwayLayer(10)
    assert sum(p.numel() for p in layer.parameters()) == 2 * (10 * 10 + 10)
    assert (layer.gate.bias == -2).all() and layer.transform.bias.abs().max() < 10**-0.5


def test_numpy_variant_agrees(agree):
    layer, x = HighwayLayer(5, activation="tanh").double(), torch.randn(5, dtype=D)
    weights = [p.detach().numpy() for p in (layer.transform.weight, layer.gate.weight)]
    nn.init.zeros_(layer.transform.bias)
    y, gate = highway(x.numpy(), *weights, gate_bias=-2.0)
    agree(y, layer(x))
    agree(gate, torch.sigmoid(layer.gate(x)))


def test_numpy_gradient_norms_agree(agree):
    layers, x = [HighwayLayer(6, activation="tanh", gate_bias=-1.0).double() for _ in range(4)], torch.randn(6, dtype=D)
    for layer in layers:
        nn.init.zeros_(layer.transform.bias)
    states = [x.requires_grad_()]
    for layer in layers:
        states.append(layer(states[-1]))
    expected = torch.stack([g.norm() for g in torch.autograd.grad(states[-1].sum(), states)])
    weights = [(layer.transform.weight.detach().numpy(), layer.gate.weight.detach().numpy()) for layer in layers]
    agree(gradient_norms(x.detach().numpy(), weights, "highway", -1.0), expected)


def test_one_number_is_enough():
    assert HighwayLayer(1, gate_bias=-1e4)(torch.tensor([[3.0]])).item() == 3


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="dim=0 is below 1"):
        HighwayLayer(0)
    with pytest.raises(ValueError, match="activation='gelu' is not 'relu' or 'tanh'"):
        HighwayLayer(2, activation="gelu")
    with pytest.raises(ValueError, match=r"x has shape \(2, 3\); expected \(..., dim=4\)"):
        HighwayLayer(4)(torch.zeros(2, 3))
