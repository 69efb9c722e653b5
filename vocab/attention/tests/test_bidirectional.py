import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from snippets.attention import bidirectional as numpy_variant
from vocab.attention.bidirectional import BidirectionalAttention, padding_mask
from vocab.attention.causal import CausalSelfAttention
from vocab.attention.multi_head import split_heads

D = torch.float64


def example():
    mask = torch.tensor([[True] * 5, [True, True, True, False, False]])
    return BidirectionalAttention(8, 2).double(), (torch.randn(2, 5, 8, dtype=D), mask)


@pytest.mark.oracle("torch.nn.functional.scaled_dot_product_attention without a mask")
def test_equals_pytorchs_attention():
    module, (x, _) = example()
    q, k, v = (split_heads(p(x), 4) for p in (module.q_proj, module.k_proj, module.v_proj))
    torch.testing.assert_close(module(x), module.o_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)))


@pytest.mark.oracle("each sequence alone, without its padding")
def test_padding_changes_nothing_for_the_tokens():
    module, (x, _) = example()
    lengths = torch.tensor([5, 3])
    y = module(x, padding_mask(lengths, 5)[:, 0, 0])
    for b, n in enumerate(lengths.tolist()):
        torch.testing.assert_close(y[b, :n], module(x[b : b + 1, :n])[0])


@pytest.mark.oracle("torch.nn.MultiheadAttention with key_padding_mask, which means the opposite")
def test_equals_pytorchs_layer_with_its_mask_turned_round():
    module, (x, mask) = example()
    theirs = nn.MultiheadAttention(8, 2, batch_first=True).double()
    parts = [module.q_proj, module.k_proj, module.v_proj]
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([p.weight for p in parts]))
        theirs.in_proj_bias.copy_(torch.cat([p.bias for p in parts]))
        theirs.out_proj.weight.copy_(module.o_proj.weight)
        theirs.out_proj.bias.copy_(module.o_proj.bias)
    expected, weights = theirs(x, x, x, key_padding_mask=~mask, average_attn_weights=False)
    ours = module(x, mask, return_weights=True)
    torch.testing.assert_close(ours[0], expected)
    torch.testing.assert_close(ours[1], weights)


@pytest.mark.oracle("Jacobian: dense over the tokens, exactly zero for the padding")
def test_every_output_depends_on_every_token_and_on_no_padding():
    """A widely copied entry for this mode has no hyperparameters and no mask; without it, padding is read like text."""
    module, (x, mask) = example()
    jacobian = torch.autograd.functional.jacobian(lambda y: module(y, mask), x).abs().sum((2, 5))
    read = torch.stack([jacobian[b, :, b] for b in range(2)]) > 0
    expected = mask[:, None, :].expand(2, 5, 5).clone()
    expected[1, 3:] |= torch.eye(5, dtype=torch.bool)[3:]  # a padded place is still a query
    assert torch.equal(read & mask[:, None], expected & mask[:, None]) and not (read[1, :3, 3:]).any()
    unmasked = torch.autograd.functional.jacobian(module, x).abs().sum((2, 5))
    assert (unmasked[1, :3, 1, 3:] > 0).all()


def test_reversing_the_tokens_reverses_the_outputs():
    module, (x, _) = example()
    torch.testing.assert_close(module(x.flip(1)), module(x).flip(1))


def test_a_new_token_changes_all_old_outputs_so_nothing_can_be_cached():
    """Said of one image model in a widely copied note; it is so in every model with this attention, and in no causal one."""
    module, (x, _) = example()
    causal = CausalSelfAttention(8, 2).double()
    causal.load_state_dict(module.state_dict())
    longer = torch.cat((x, torch.randn(2, 1, 8, dtype=D)), 1)
    assert ((module(longer)[:, :5] - module(x)).abs().amax(-1) > 1e-3).all()
    torch.testing.assert_close(causal(longer)[:, :5], causal(x))


def test_settings_are_passed_on():
    module, x = BidirectionalAttention(8, 2, dropout=1.0).double(), torch.randn(2, 5, 8, dtype=D)
    torch.testing.assert_close(module(x), module.o_proj.bias.expand(2, 5, 8))
    assert BidirectionalAttention(8, 2, bias=False).q_proj.bias is None


def test_bad_input_is_named():
    module, (x, mask) = example()
    for shape in [(2, 4), (1, 5)]:
        with pytest.raises(ValueError, match=r"key_mask has shape .* expected \(batch=2, time=5\)"):
            module(x, torch.ones(shape, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"x has shape \(5, 8\); expected \(batch, time, d_model=8\)"):
        module(x[0], mask[:1])
    with pytest.raises(TypeError, match="key_mask has dtype torch.int64; expected torch.bool"):
        module(x, mask.long())
    for lengths in ([0, 3], [3, 6]):
        with pytest.raises(ValueError, match=rf"lengths are from {lengths[0]} to {lengths[1]}; allowed are 1 to n_keys=5"):
            padding_mask(torch.tensor(lengths), 5)
    assert padding_mask(torch.tensor([5, 1]), 5).sum((1, 2, 3)).tolist() == [5, 1]


@pytest.mark.parametrize("length", [5, 3])
def test_numpy_variant_agrees(agree, length):
    module, x = BidirectionalAttention(8, 2, bias=False).double(), torch.randn(1, 5, 8, dtype=D)
    w = [p.weight.detach().numpy().T for p in (module.q_proj, module.k_proj, module.v_proj, module.o_proj)]
    out, weights = module(x, torch.arange(5)[None] < length, return_weights=True)
    ours = numpy_variant.bidirectional_attention(x[0].numpy(), *w, 4, length=length)
    agree(ours[0], out[0])
    agree(ours[1], weights[0])


def test_demo_moves_all_old_outputs_or_none():
    moved = numpy_variant.show()[1]["series"][""]
    assert min(moved) > 0 and numpy_variant.show(causal=True)[1]["series"][""] == [0] * 6
    assert np.array(numpy_variant.show()[0]["values"]).shape == (7, 14)
