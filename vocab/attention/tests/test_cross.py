import numpy as np
import pytest
import torch
from torch import nn

from snippets.attention import cross as numpy_variant
from vocab.attention.cross import CrossAttention
from vocab.attention.multi_head import MultiHeadAttention

D = torch.float64


def example():
    return CrossAttention(8, 2, d_context=6).double(), (torch.randn(2, 3, 8, dtype=D), torch.randn(2, 5, 6, dtype=D))


A_MASK = torch.tensor([[True] * 5, [True, True, False, True, False]])


@pytest.mark.oracle("torch.nn.MultiheadAttention with kdim and vdim")
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_equals_pytorchs_layer(bias, masked):
    module = CrossAttention(8, 2, d_context=6, bias=bias).double()
    x, context = example()[1]
    theirs = nn.MultiheadAttention(8, 2, bias=bias, kdim=6, vdim=6, batch_first=True).double()
    with torch.no_grad():
        for name in "qkv":
            getattr(theirs, f"{name}_proj_weight").copy_(getattr(module, f"{name}_proj").weight)
        theirs.out_proj.weight.copy_(module.o_proj.weight)
        if bias:
            theirs.in_proj_bias.copy_(torch.cat([p.bias for p in (module.q_proj, module.k_proj, module.v_proj)]))
            theirs.out_proj.bias.copy_(module.o_proj.bias)
    expected, weights = theirs(x, context, context, key_padding_mask=~A_MASK if masked else None, average_attn_weights=False)
    ours = module(x, context, context_mask=A_MASK if masked else None, return_weights=True)
    torch.testing.assert_close(ours[0], expected)
    torch.testing.assert_close(ours[1], weights)


@pytest.mark.oracle("multi-head self-attention")
def test_reading_from_itself_is_self_attention():
    module, x = CrossAttention(8, 2).double(), torch.randn(2, 3, 8, dtype=D)
    same = MultiHeadAttention(8, 2, bias=False).double()
    same.load_state_dict(module.state_dict())
    torch.testing.assert_close(module(x, x), same(x))


@pytest.mark.oracle("invariance: the context permuted together with its mask")
def test_the_order_of_the_context_does_not_matter():
    module, (x, context) = example()
    order = torch.tensor([4, 2, 0, 3, 1])
    expected = module(x, context, context_mask=A_MASK)
    torch.testing.assert_close(module(x, context[:, order], context_mask=A_MASK[:, order]), expected)


def test_masked_places_get_exactly_no_gradient():
    module, (x, context) = example()
    module(x, context.requires_grad_(), context_mask=A_MASK).sum().backward()
    assert torch.equal(context.grad.abs().sum(-1) > 0, A_MASK)


def test_a_context_of_one_token_is_handed_to_every_query():
    module, (x, context) = example()
    expected = module.o_proj(module.v_proj(context[:, :1])).expand(2, 3, 8)
    torch.testing.assert_close(module(x, context[:, :1]), expected)


@pytest.mark.oracle("all tokens and the context at once")
def test_keys_and_values_computed_once_serve_every_step():
    module, (x, context) = example()
    once = module.keys_and_values(context)
    steps = [module(x[:, t : t + 1], kv_cache=once, context_mask=A_MASK) for t in range(3)]
    torch.testing.assert_close(torch.cat(steps, 1), module(x, context, context_mask=A_MASK))


def test_keys_and_values_have_projections_of_their_own():
    """A widely copied version takes the encoder's output itself as K and V: nothing to learn, and widths must be equal."""
    module, (x, context) = example()
    k, v = module.keys_and_values(context)
    assert (k - v).abs().max() > 0.1 and module.k_proj.weight.shape == (8, 6)
    with torch.no_grad():
        module.v_proj.weight.zero_()
    assert (module(x, context) == 0).all(), "what is read goes through v_proj"


@pytest.mark.filterwarnings("ignore:The use of")
def test_t_fails_for_batches():
    """A widely copied line writes `q @ K.T` for tensors with a batch axis."""
    q, k = torch.randn(2, 3, 4), torch.randn(2, 5, 4)
    with pytest.raises(RuntimeError):
        q @ k.T
    assert (q @ k.mT).shape == (2, 3, 5)


def test_an_empty_context_reads_zeros():
    module, (x, context) = example()
    nothing = A_MASK & torch.tensor([[True], [False]])
    out = module(x, context, context_mask=nothing)
    assert (out[1] == 0).all() and (out[0] != 0).any()


def test_dropout_is_passed_on():
    module, (x, context) = CrossAttention(8, 2, d_context=6, bias=True, dropout=1.0).double(), example()[1]
    torch.testing.assert_close(module(x, context), module.o_proj.bias.expand(2, 3, 8))


def test_bad_input_is_named():
    module, (x, context) = example()
    with pytest.raises(ValueError, match=r"context has shape \(2, 5, 8\); expected \(batch=2, keys, d_context=6\)"):
        module(x, torch.zeros(2, 5, 8, dtype=D))
    with pytest.raises(ValueError, match="batch=2"):
        module(x, context[:1])
    with pytest.raises(ValueError, match=r"x has shape .* d_model=8"):
        module(context, context)
    for both in (dict(), dict(context=context, kv_cache=module.keys_and_values(context))):
        with pytest.raises(ValueError, match="give either context or kv_cache"):
            module(x, **both)
    for shape in [(2, 4), (1, 5)]:
        with pytest.raises(ValueError, match=r"context_mask has shape .* expected \(batch=2, keys=5\)"):
            module(x, context, context_mask=torch.ones(shape, dtype=torch.bool))
    with pytest.raises(TypeError, match="context_mask has dtype torch.float64; expected torch.bool"):
        module(x, context, context_mask=A_MASK.double())


@pytest.mark.parametrize("masked", [False, True])
def test_numpy_variant_agrees(agree, masked):
    module, (x, context) = example()
    wq, wk, wv, wo = (p.weight.detach().numpy().T for p in (module.q_proj, module.k_proj, module.v_proj, module.o_proj))
    kv = numpy_variant.read_once(context[1].numpy(), wk, wv, 4)
    ours = numpy_variant.cross_attention(x[1].numpy(), kv, wq, wo, A_MASK[1].numpy() if masked else None)
    out, weights = module(x, context, context_mask=A_MASK if masked else None, return_weights=True)
    agree(ours[0], out[1])
    agree(ours[1], weights[1])


def test_demo_aligns_crosswise_and_the_masked_word_gets_nothing():
    weights = np.array(numpy_variant.show()[0]["values"])
    assert weights.argmax(1).tolist() == [0, 2, 1, 3]
    assert numpy_variant.show(word="cat", masked=2)[1]["series"][""][1] == 0
