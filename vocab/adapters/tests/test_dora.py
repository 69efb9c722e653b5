import numpy as np
import pytest
import torch
from torch import nn

from snippets.adapters.dora import compose, gradients
from vocab.adapters.dora import DoRALinear

D = torch.float64


def made(bias=True, **settings):
    layer = DoRALinear(nn.Linear(5, 4, bias=bias).to(D), 2, 3.0, **settings)
    nn.init.normal_(layer.B), nn.init.uniform_(layer.magnitude, 0.5, 2.0)
    return layer


def example():
    """For the contract suite: a layer with a change, and its input."""
    return made(), (torch.randn(3, 5, dtype=D),)


def test_at_the_start_it_is_the_frozen_layer():
    base = nn.Linear(6, 3).to(D)
    x = torch.randn(4, 6, dtype=D)
    expected = base(x)
    layer = DoRALinear(base, 2)
    torch.testing.assert_close(layer(x), expected, rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(layer.magnitude, base.weight.norm(dim=1))


@pytest.mark.oracle("peft LoraConfig(use_dora=True)")
def test_equals_peft_with_its_gradients():
    peft = pytest.importorskip("peft")
    model = nn.Sequential(nn.Linear(6, 5)).to(D)
    ours = DoRALinear(nn.Linear(6, 5).to(D), 3, 7.0)
    ours.base.load_state_dict(model[0].state_dict())
    nn.init.normal_(ours.B), nn.init.uniform_(ours.magnitude, 0.5, 2.0)
    theirs = peft.get_peft_model(model, peft.LoraConfig(r=3, lora_alpha=7.0, target_modules=["0"], use_dora=True)).to(D)
    layer = theirs.base_model.model[0]
    with torch.no_grad():
        layer.lora_A["default"].weight.copy_(ours.A), layer.lora_B["default"].weight.copy_(ours.B)
        layer.lora_magnitude_vector["default"].weight.copy_(ours.magnitude)
    x = torch.randn(4, 6, dtype=D)
    torch.testing.assert_close(ours(x), theirs(x))
    ours(x).square().sum().backward(), theirs(x).square().sum().backward()
    torch.testing.assert_close(ours.A.grad, layer.lora_A["default"].weight.grad)
    torch.testing.assert_close(ours.B.grad, layer.lora_B["default"].weight.grad)
    torch.testing.assert_close(ours.magnitude.grad, layer.lora_magnitude_vector["default"].weight.grad)


@pytest.mark.parametrize("bias", [True, False])
def test_every_row_of_the_merged_weight_has_the_trained_length(bias):
    layer, x = made(bias), torch.randn(3, 5, dtype=D)
    expected, before = layer(x), layer.base.weight.clone()
    direction = before + layer.change()
    torch.testing.assert_close(layer.merge()(x), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(layer.base.weight.norm(dim=1), layer.magnitude.abs())
    cosine = torch.cosine_similarity(layer.base.weight, direction, dim=1)
    torch.testing.assert_close(cosine, torch.ones_like(cosine))
    merged = layer.merge().base.weight.clone()
    assert torch.equal(layer.merge().base.weight, merged), "a second time changes nothing"
    assert torch.equal(layer.unmerge().base.weight, before)
    torch.testing.assert_close(layer.unmerge()(x), expected)


def test_lengths_alone_rescale_the_rows():
    layer, x = DoRALinear(nn.Linear(5, 4).to(D), 2), torch.randn(3, 5, dtype=D)
    with torch.no_grad():
        layer.magnitude.mul_(torch.tensor([1.0, 2.0, 0.5, -1.0]))
    expected = (layer.base(x) - layer.base.bias) * torch.tensor([1.0, 2.0, 0.5, -1.0]) + layer.base.bias
    torch.testing.assert_close(layer(x), expected)


def test_a_longer_change_of_direction_does_not_make_the_output_louder():
    layer = made()
    with torch.no_grad():
        layer.base.weight.zero_()
    x = torch.randn(3, 5, dtype=D)
    before = layer(x)
    with torch.no_grad():
        layer.B.mul_(10)
    torch.testing.assert_close(layer(x), before)


def test_the_norm_as_a_constant_changes_the_gradient_and_not_the_output():
    exact, short = made(detach_norm=False), made()
    short.load_state_dict(exact.state_dict())
    x = torch.randn(3, 5, dtype=D)
    torch.testing.assert_close(short(x), exact(x))
    for layer in (exact, short):
        layer(x).square().sum().backward()
    assert not torch.allclose(exact.B.grad, short.B.grad)
    torch.testing.assert_close(exact.magnitude.grad, short.magnitude.grad)


def test_the_other_axis_is_another_method():
    """Lengths of columns would belong to inputs; there are as many lengths as outputs."""
    layer = DoRALinear(nn.Linear(5, 4), 2)
    assert layer.magnitude.shape == (4,)
    assert sum(p.numel() for p in layer.parameters() if p.requires_grad) == 2 * (5 + 4) + 4
    usual = DoRALinear(nn.Linear(64, 64))
    assert usual.A.shape == (8, 64) and usual.scaling == 2.0


def test_dropout_acts_on_the_change_only():
    layer, x = made(dropout=0.5), torch.ones(100, 5, dtype=D)
    assert layer.eval()(x).std(0).max() < 1e-12
    assert layer.train()(x).std(0).max() > 0.1


@pytest.mark.parametrize(("call", "error", "message"), [
    (lambda: DoRALinear(nn.Identity()), TypeError, "base is a Identity; expected torch.nn.Linear"),
    (lambda: DoRALinear(nn.Linear(3, 2), 3), ValueError, "r=3 is not from 1 to 2"),
    (lambda: made()(torch.zeros(2, 4, dtype=D)), ValueError, r"x has shape \(2, 4\); expected \(..., in_features=5\)"),
])
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_numpy_variant_agrees(agree):
    layer = made(bias=False)
    agree(compose(*(p.detach().numpy() for p in (layer.base.weight, layer.change(), layer.magnitude))), layer(torch.eye(5, dtype=D)).T)


def test_the_demos_gradients_are_autograds(agree):
    layer, target = made(bias=False, detach_norm=False), torch.randn(4, 5, dtype=D)
    (0.5 * (layer(torch.eye(5, dtype=D)).T - target).square().sum()).backward()
    arrays = [p.detach().numpy() for p in (layer.base.weight, layer.A, layer.B, layer.magnitude)]
    for found, p in zip(gradients(*arrays, layer.scaling, target.numpy()), (layer.A, layer.B, layer.magnitude)):
        agree(found, p.grad)
    assert np.isfinite(found).all()
