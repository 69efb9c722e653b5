import numpy as np
import pytest
import torch
from torch.nn import functional as F

from snippets.attention import oscillating as numpy_variant
from vocab.attention.causal import CausalSelfAttention
from vocab.attention.oscillating import OscillatingAttention, direction_mask

D = torch.float64


def example():
    return OscillatingAttention(8, 2, 3).double(), (torch.randn(2, 5, 8, dtype=D),)


@pytest.mark.oracle("torch.nn.functional.scaled_dot_product_attention, layer by layer with its mask")
def test_every_layer_is_attention_with_its_mask():
    """A widely copied class stores names of patterns and builds masks; it contains no attention."""
    module, (x,) = OscillatingAttention(8, 2, 4).double(), example()[1]
    expected, full = x, torch.ones(5, 5, dtype=torch.bool)
    for mask, layer in zip((full, full.tril(), full.triu(), full), module.layers):
        q, k, v = (p(expected).unflatten(-1, (2, 4)).transpose(1, 2) for p in (layer.q_proj, layer.k_proj, layer.v_proj))
        expected = layer.o_proj(F.scaled_dot_product_attention(q, k, v, mask).transpose(1, 2).flatten(2))
    torch.testing.assert_close(module(x), expected)


def test_the_two_directions_mirror_each_other():
    forward, backward = direction_mask(5, "forward"), direction_mask(5, "backward")
    assert torch.equal(forward.T, backward) and torch.equal(forward.flip(0, 1), backward)
    assert forward.diagonal().all() and backward.diagonal().all() and direction_mask(5, "bidirectional").all()
    ahead, back = (OscillatingAttention(8, 2, 1, cycle=(kind,)).double() for kind in ("backward", "forward"))
    back.load_state_dict(ahead.state_dict())
    x = example()[1][0]
    torch.testing.assert_close(ahead(x.flip(1)).flip(1), back(x))


@pytest.mark.oracle("boolean product and Jacobian: one layer each way reaches everything")
def test_one_forward_and_one_backward_layer_see_everything():
    product = direction_mask(5, "forward").double() @ direction_mask(5, "backward").double()
    assert (product > 0).all()
    module, (x,) = OscillatingAttention(8, 2, 2, cycle=("forward", "backward")).double(), example()[1]
    assert (torch.autograd.functional.jacobian(module, x).abs().sum((2, 5))[0, :, 0] > 0).all()


@pytest.mark.oracle("a stack of causal layers")
def test_only_forward_layers_are_a_causal_stack():
    module, (x,) = OscillatingAttention(8, 2, 2, cycle=("forward",)).double(), example()[1]
    stack = torch.nn.Sequential(CausalSelfAttention(8, 2), CausalSelfAttention(8, 2)).double()
    stack.load_state_dict({name.removeprefix("layers."): w for name, w in module.state_dict().items()})
    torch.testing.assert_close(module(x), stack(x))


@pytest.mark.oracle("Jacobian: does an output depend on a later token?")
@pytest.mark.parametrize("cycle", [("forward",), ("backward",), ("bidirectional",), ("forward", "backward"), ("bidirectional", "forward", "backward")])
def test_the_only_cycle_that_does_not_leak_is_all_forward(cycle):
    """A widely copied text offers the scheme for language models; with any other layer in the cycle the answer is in the input."""
    module, (x,) = OscillatingAttention(8, 2, 3, cycle=cycle).double(), example()[1]
    jacobian = torch.autograd.functional.jacobian(module, x).abs().sum((2, 5))[0, :, 0]
    leaks = (jacobian.triu(1) > 0).any().item()
    assert leaks == (cycle != ("forward",)) and module.predicts_next_tokens == (not leaks)


def test_a_backward_mask_without_the_diagonal_leaves_the_last_row_empty():
    scores = torch.zeros(4, 4).masked_fill(~torch.ones(4, 4, dtype=torch.bool).triu(1), -torch.inf)
    assert scores.softmax(-1)[-1].isnan().all()


def test_settings_are_passed_on():
    module, x = OscillatingAttention(8, 2, 2, dropout=1.0).double(), torch.randn(2, 5, 8, dtype=D)
    torch.testing.assert_close(module(x), module.layers[1].o_proj.bias.expand(2, 5, 8))
    assert (module.eval()(x) != module.layers[1].o_proj.bias).all()
    torch.testing.assert_close(module(x), module(x), rtol=0, atol=0)
    assert OscillatingAttention(8, 2, 1, bias=False).layers[0].q_proj.bias is None
    assert OscillatingAttention(8, 2, 4).directions == ["bidirectional", "forward", "backward", "bidirectional"]
    plain = OscillatingAttention(8, 2, 1).double()
    torch.testing.assert_close(plain(x), plain(x), rtol=0, atol=0)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="kind='sideways' is not 'bidirectional', 'forward' or 'backward'"):
        OscillatingAttention(8, 2, 1, cycle=("forward", "sideways"))
    with pytest.raises(ValueError, match="n_layers=0 is not positive"):
        OscillatingAttention(8, 2, 0)
    with pytest.raises(ValueError, match="cycle is empty"):
        OscillatingAttention(8, 2, 1, cycle=())
    with pytest.raises(ValueError, match=r"x has shape .* d_model=8"):
        example()[0](torch.zeros(2, 5, 7, dtype=D))


def test_numpy_variant_agrees(agree):
    module, x = OscillatingAttention(8, 2, 3, bias=False).double(), torch.randn(1, 5, 8, dtype=D)
    layers = [[p.weight.detach().numpy().T for p in (a.q_proj, a.k_proj, a.v_proj, a.o_proj)] for a in module.layers]
    ours = numpy_variant.oscillating_attention(x[0].numpy(), layers, 4, ("bidirectional", "forward", "backward"))
    agree(ours, module(x)[0])
    for kind in ("bidirectional", "forward", "backward"):
        np.testing.assert_array_equal(numpy_variant.direction_mask(5, kind), direction_mask(5, kind).numpy())


def test_demo_says_who_may_write():
    assert "yes" in numpy_variant.show(first="forward", second="forward", third="forward")[2]["caption"]
    assert "no" in numpy_variant.show()[2]["caption"] and "yes" not in numpy_variant.show()[2]["caption"]
