import pytest
import torch
from torch import nn

from snippets.adapters.ia3 import attention as numpy_attention
from vocab.adapters.ia3 import IA3Linear
from vocab.attention.scaled_dot_product import scaled_dot_product_attention
from vocab.positional.rope import RotaryEmbedding

D = torch.float64


def made(feedforward=False, bias=True):
    layer = IA3Linear(nn.Linear(5, 4, bias=bias).to(D), feedforward=feedforward)
    nn.init.uniform_(layer.scale, 0.5, 2.0)
    return layer


def example():
    """For the contract suite: a layer with factors, and its input."""
    return made(), (torch.randn(3, 5, dtype=D),)


@pytest.mark.parametrize("feedforward", [False, True])
def test_at_the_start_it_is_the_frozen_layer_bit_for_bit(feedforward):
    base, x = nn.Linear(5, 4), torch.randn(3, 5)
    expected = base(x)
    layer = IA3Linear(base, feedforward=feedforward)
    assert torch.equal(layer(x), expected)
    assert [n for n, p in layer.named_parameters() if p.requires_grad] == ["scale"]


@pytest.mark.oracle("peft IA3Config")
@pytest.mark.parametrize("feedforward", [False, True])
def test_equals_peft(feedforward):
    peft = pytest.importorskip("peft")
    model = nn.Sequential(nn.Linear(6, 5)).to(D)
    ours = IA3Linear(nn.Linear(6, 5).to(D), feedforward=feedforward)
    ours.base.load_state_dict(model[0].state_dict())
    nn.init.uniform_(ours.scale, 0.5, 2.0)
    config = peft.IA3Config(target_modules=["0"], feedforward_modules=["0"] if feedforward else [])
    theirs = peft.get_peft_model(model, config).to(D)
    with torch.no_grad():
        vector = theirs.base_model.model[0].ia3_l["default"]
        vector.copy_(ours.scale.view_as(vector))
    x = torch.randn(4, 6, dtype=D)
    torch.testing.assert_close(ours(x), theirs(x))
    torch.testing.assert_close(ours.merge()(x), theirs.merge_and_unload()[0](x))


@pytest.mark.oracle("diag(l) W and W diag(l)")
@pytest.mark.parametrize("bias", [True, False])
def test_merged_weights_are_rows_or_columns_times_their_factor(bias):
    for feedforward in (False, True):
        layer, x = made(feedforward, bias), torch.randn(3, 5, dtype=D)
        before, merged = layer.base.weight.clone(), layer.merge()
        factor = torch.diag(layer.scale)
        torch.testing.assert_close(merged.weight, before @ factor if feedforward else factor @ before)
        torch.testing.assert_close(merged(x), layer(x))
        assert type(merged) is nn.Linear and torch.equal(layer.base.weight, before)


def test_a_transformer_layer_has_as_many_factors_as_keys_values_and_hidden_units():
    d_k, d_v, d_model, d_ff = 6, 8, 10, 40
    layers = IA3Linear(nn.Linear(d_model, d_k)), IA3Linear(nn.Linear(d_model, d_v)), IA3Linear(nn.Linear(d_ff, d_model), feedforward=True)
    assert sum(layer.scale.numel() for layer in layers) == d_k + d_v + d_ff


def test_the_wrong_side_is_another_method():
    square = nn.Linear(4, 4).to(D)
    outside, inside = IA3Linear(square), IA3Linear(square, feedforward=True)
    with torch.no_grad():
        outside.scale.copy_(torch.tensor([1.0, 2.0, 3.0, 4.0])), inside.scale.copy_(outside.scale)
    x = torch.randn(3, 4, dtype=D)
    assert not torch.allclose(outside(x), inside(x))


def test_factors_do_not_commute_with_a_rotation_unless_pairs_share_them():
    k = torch.randn(1, 1, 5, 4, dtype=D)
    rotate = RotaryEmbedding(4).rotate  # pairs are (0, 2) and (1, 3)
    free, shared = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=D), torch.tensor([1.0, 2.0, 1.0, 2.0], dtype=D)
    assert not torch.allclose(rotate(k * free), rotate(k) * free)
    torch.testing.assert_close(rotate(k * shared), rotate(k) * shared)


def test_examples_of_several_tasks_go_through_one_batch_unmerged():
    layer, x = made(), torch.randn(3, 5, dtype=D)
    factors = torch.rand(3, 4, dtype=D)  # one vector for each example
    together = layer.base(x) * factors
    for i in range(3):
        with torch.no_grad():
            layer.scale.copy_(factors[i])
        torch.testing.assert_close(layer(x[i]), together[i])


@pytest.mark.parametrize(("call", "error", "message"), [
    (lambda: IA3Linear(nn.Embedding(2, 2)), TypeError, "base is a Embedding; expected torch.nn.Linear"),
    (lambda: made()(torch.zeros(2, 4, dtype=D)), ValueError, r"x has shape \(2, 4\); expected \(..., in_features=5\)"),
])
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_numpy_variant_agrees(agree):
    q, k, v = torch.randn(3, 5, 4, dtype=D).unbind(0)
    keys, values = IA3Linear(nn.Linear(4, 4, bias=False).to(D)), IA3Linear(nn.Linear(4, 4, bias=False).to(D))
    with torch.no_grad():
        keys.base.weight.copy_(torch.eye(4)), values.base.weight.copy_(torch.eye(4))
        keys.scale.uniform_(0, 3), values.scale.uniform_(0, 3)
    out, _ = numpy_attention(*(t.numpy() for t in (q, k, v)), keys.scale.detach().numpy(), values.scale.detach().numpy())
    agree(out, scaled_dot_product_attention(q, keys(k), values(v)))
