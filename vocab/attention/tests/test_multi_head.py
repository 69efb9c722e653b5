import numpy as np
import pytest
import torch

from snippets.attention import multi_head as numpy_variant
from vocab.attention.masks import causal_mask
from vocab.attention.multi_head import MultiHeadAttention, merge_heads, split_heads
from vocab.inference.kv_cache import KVCache

D = torch.float64


def example():
    return MultiHeadAttention(12, 3).double(), (torch.randn(2, 5, 12, dtype=D),)


def pytorchs(module):
    """torch.nn.MultiheadAttention with the same weights."""
    wide = module.d_context != module.d_model
    theirs = torch.nn.MultiheadAttention(module.d_model, module.n_heads, bias=module.q_proj.bias is not None, batch_first=True,
                                         kdim=module.d_context if wide else None, vdim=module.d_context if wide else None).double()
    parts = [module.q_proj, module.k_proj, module.v_proj]
    with torch.no_grad():
        if wide:
            for name, part in zip("qkv", parts):
                getattr(theirs, f"{name}_proj_weight").copy_(part.weight)
        else:
            theirs.in_proj_weight.copy_(torch.cat([p.weight for p in parts]))
        theirs.out_proj.weight.copy_(module.o_proj.weight)
        if module.q_proj.bias is not None:
            theirs.in_proj_bias.copy_(torch.cat([p.bias for p in parts]))
            theirs.out_proj.bias.copy_(module.o_proj.bias)
    return theirs


@pytest.mark.oracle("torch.nn.MultiheadAttention, values and gradients")
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("context", [False, True])
def test_equals_pytorchs_layer(context, bias):
    module = MultiHeadAttention(12, 3, d_context=7 if context else None, bias=bias).double()
    theirs, x = pytorchs(module), torch.randn(2, 5, 12, dtype=D)
    other = torch.randn(2, 4, 7, dtype=D) if context else None
    ours, weights = module(x, other, return_weights=True)
    source = x if other is None else other
    expected, their_weights = theirs(x, source, source, average_attn_weights=False)
    torch.testing.assert_close(ours, expected)
    torch.testing.assert_close(weights, their_weights)
    upstream = torch.randn_like(ours)
    ours.backward(upstream), expected.backward(upstream)
    torch.testing.assert_close(module.o_proj.weight.grad, theirs.out_proj.weight.grad)
    if not context:
        grads = torch.cat([p.weight.grad for p in (module.q_proj, module.k_proj, module.v_proj)])
        torch.testing.assert_close(grads, theirs.in_proj_weight.grad)
    # PyTorch averages over heads unless told otherwise, and its boolean masks mean the opposite.
    torch.testing.assert_close(weights.mean(1), theirs(x, source, source)[1])


@pytest.mark.oracle("torch.nn.MultiheadAttention with masks, whose meaning is the opposite")
def test_masks_mean_what_is_seen():
    module, (x,) = example()
    theirs, seen = pytorchs(module), causal_mask(5)
    torch.testing.assert_close(module(x, is_causal=True), theirs(x, x, x, attn_mask=~seen)[0])
    padding = torch.tensor([[True] * 5, [True, True, True, False, False]])
    expected = theirs(x, x, x, attn_mask=~seen, key_padding_mask=~padding)[0]
    torch.testing.assert_close(module(x, attn_mask=padding[:, None, None], is_causal=True), expected)
    bias = torch.randn(5, 5, dtype=D)
    expected = theirs(x, x, x, attn_mask=bias.masked_fill(~seen, -torch.inf))[0]
    torch.testing.assert_close(module(x, attn_mask=bias, is_causal=True), expected)


@pytest.mark.oracle("the sum over heads, each with its own rows of the projections")
def test_equals_the_sum_over_heads():
    module = MultiHeadAttention(12, 3, head_dim=5, bias=False).double()
    x, total = torch.randn(2, 5, 12, dtype=D), 0
    for h in range(3):
        q, k, v = (x @ p.weight[5 * h : 5 * h + 5].T for p in (module.q_proj, module.k_proj, module.v_proj))
        weights = torch.einsum("btd,bsd->bts", q, k).div(5**0.5).softmax(-1)
        total = total + weights @ v @ module.o_proj.weight[:, 5 * h : 5 * h + 5].T
    torch.testing.assert_close(module(x), total)


def attends_across_heads(module, x):
    """A widely copied forward pass: queries and keys stay (B, T, H, d), so that the product is over heads."""
    q, k, v = (p(x).unflatten(-1, (module.n_heads, -1)) for p in (module.q_proj, module.k_proj, module.v_proj))
    weights = (q @ k.transpose(-2, -1) * module.d_model**-0.5).softmax(-1)  # (B, T, H, H)
    return module.o_proj((weights @ v).transpose(1, 2).reshape(x.shape))


def influence(f, x):
    """(T, T): whether output i moves with input j; and whether anything crosses from one sequence to another."""
    jacobian = torch.autograd.functional.jacobian(f, x).abs().sum((2, 5))  # (B, T, B, T)
    return jacobian[0, :, 0] > 0, jacobian[0, :, 1].abs().max()


@pytest.mark.oracle("Jacobian: every token reaches every token, no sequence another")
def test_every_token_reads_every_token_and_a_popular_version_only_a_few():
    """A widely copied module attends over heads instead of tokens; its output has the right shape."""
    module, (x,) = example()
    reached, crossed = influence(module, x)
    assert reached.all() and crossed == 0
    reached, _ = influence(lambda y: attends_across_heads(module, y), x)
    assert attends_across_heads(module, x).shape == x.shape
    assert reached[0].tolist() == [True, True, True, False, False], "token 0 reads the first few only, scrambled by the reshape"


def test_the_scale_belongs_to_the_head_not_to_the_model():
    """A widely copied module divides by the root of the model's width; with 3 heads the scores are 1.7 times too small."""
    module, (x,) = example()
    q, k = (split_heads(p(x), 4) for p in (module.q_proj, module.k_proj))
    weights = module(x, return_weights=True)[1]
    torch.testing.assert_close(weights, (q @ k.mT / 4**0.5).softmax(-1))
    assert (weights - (q @ k.mT / 12**0.5).softmax(-1)).abs().max() > 0.01


def test_permuting_heads_together_with_their_outputs_changes_nothing():
    module, (x,) = example()
    expected, order = module(x), torch.tensor([2, 0, 1])
    with torch.no_grad():
        for p in (module.q_proj, module.k_proj, module.v_proj):
            p.weight.copy_(p.weight.unflatten(0, (3, 4))[order].flatten(0, 1))
            p.bias.copy_(p.bias.unflatten(0, (3, 4))[order].flatten())
        columns = module.o_proj.weight.unflatten(1, (3, 4))
        module.o_proj.weight.copy_(columns[:, order].flatten(1))
    torch.testing.assert_close(module(x), expected)


@pytest.mark.oracle("scaled_dot_product_attention on the whole width")
def test_one_head_is_single_head_attention():
    module, x = MultiHeadAttention(12, 1).double(), torch.randn(2, 5, 12, dtype=D)
    out = torch.nn.functional.scaled_dot_product_attention(module.q_proj(x), module.k_proj(x), module.v_proj(x), scale=12**-0.5)
    torch.testing.assert_close(module(x), module.o_proj(out))


@pytest.mark.parametrize("n_heads", [1, 3, 12])
def test_parameters_do_not_depend_on_the_number_of_heads(n_heads):
    assert sum(p.numel() for p in MultiHeadAttention(12, n_heads).parameters()) == 4 * 12 * 12 + 4 * 12


@pytest.mark.oracle("the full pass over all tokens")
@pytest.mark.parametrize("chunks", [[1] * 5, [3, 2]])
def test_decoding_with_a_cache_equals_the_full_pass(chunks):
    module, (x,) = example()
    cache = KVCache(2, 2, 3, 4, 5, D)
    found = torch.cat([module(part, is_causal=True, cache=cache, layer=1) for part in x.split(chunks, 1)], 1)
    torch.testing.assert_close(found, module(x, is_causal=True))
    assert cache.lengths == [0, 5]


def test_the_second_half_alone_takes_queries_keys_and_values():
    module, (x,) = example()
    q, k, v = split_heads(module.q_proj(x), 4), *module.keys_and_values(x)
    torch.testing.assert_close(module.attend(q, k, v), module(x))
    cache = KVCache(2, 2, 3, 4, 5, D)
    module.attend(q, k, v, is_causal=True, cache=cache)
    assert cache.lengths == [5, 0]


def test_a_rolling_cache_is_a_window():
    module, (x,) = example()
    cache = KVCache(1, 2, 3, 4, 3, D, policy="rolling")
    found = torch.cat([module(part, is_causal=True, cache=cache) for part in x.split([2, 3], 1)], 1)
    torch.testing.assert_close(found, module(x, attn_mask=causal_mask(5, window=3)))


def test_dropout_only_in_training():
    module, x = MultiHeadAttention(12, 3, dropout=1.0).double(), torch.randn(2, 5, 12, dtype=D)
    torch.testing.assert_close(module(x), module.o_proj.bias.expand(2, 5, 12))
    plain = MultiHeadAttention(12, 3).double()
    plain.load_state_dict(module.state_dict())
    torch.testing.assert_close(module.eval()(x), plain(x))
    assert (plain(x) != plain.o_proj.bias).all()


@pytest.mark.oracle("einops.rearrange")
def test_splitting_and_merging_heads_is_the_usual_rearrangement():
    einops = pytest.importorskip("einops")
    x = torch.randn(2, 5, 12)
    split = split_heads(x, 4)
    torch.testing.assert_close(split, einops.rearrange(x, "b t (h d) -> b h t d", d=4), rtol=0, atol=0)
    torch.testing.assert_close(merge_heads(split), x, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(d_model=12, n_heads=5), "d_model=12 is not a multiple of n_heads=5; give head_dim"),
        (dict(d_model=12, n_heads=0), "n_heads=0 is not positive"),
        (dict(d_model=12, n_heads=3, dropout=1.1), "dropout=1.1 is not from 0 to 1"),
        (dict(d_model=12, n_heads=3, dropout=-0.1), "dropout=-0.1 is not from 0 to 1"),
    ],
)
def test_settings_that_cannot_be_say_why(settings, message):
    with pytest.raises(ValueError, match=message):
        MultiHeadAttention(**settings)
    assert MultiHeadAttention(12, 1).n_heads == 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (dict(x=torch.zeros(2, 5, 11, dtype=D)), r"x has shape \(2, 5, 11\); expected \(batch, time, d_model=12\)"),
        (dict(context=torch.zeros(2, 5, 11, dtype=D)), r"context has shape .* d_context=12\)"),
        (dict(context=torch.zeros(3, 5, 12, dtype=D)), r"context has shape .* \(batch=2, keys"),
        (dict(context=torch.zeros(2, 5, 12, dtype=D), is_causal=True), "is_causal=True with a context"),
        (dict(cache=KVCache(1, 2, 3, 4, 5, D)), "is_causal=False with a cache"),
        (dict(attn_mask=torch.ones(4, 5, dtype=torch.bool)), "attn_mask has"),
    ],
)
def test_bad_input_is_named(given, message):
    module, (x,) = example()
    with pytest.raises(ValueError, match=message):
        module(**{"x": x, **given})


def test_a_missing_context_and_a_mask_of_integers_are_refused():
    with pytest.raises(ValueError, match="context is missing: .* width 7"):
        MultiHeadAttention(12, 3, d_context=7)(torch.zeros(2, 5, 12))
    module, (x,) = example()
    with pytest.raises(TypeError, match="attn_mask has dtype torch.int64"):
        module(x, attn_mask=torch.ones(5, 5).long(), is_causal=True)


@pytest.mark.parametrize("cross", [False, True])
def test_numpy_variant_agrees(agree, cross):
    module = MultiHeadAttention(12, 3, d_context=7 if cross else None, bias=False).double()
    x, other = torch.randn(1, 5, 12, dtype=D), torch.randn(1, 6, 7, dtype=D) if cross else None
    mask = torch.rand(5, 6 if cross else 5) < 0.7
    out, weights = module(x, other, attn_mask=mask, return_weights=True)
    w = [p.weight.detach().numpy().T for p in (module.q_proj, module.k_proj, module.v_proj, module.o_proj)]
    ours = numpy_variant.multi_head_attention(x[0].numpy(), *w, 4, None if other is None else other[0].numpy(), mask.numpy())
    agree(ours[0], out[0])
    agree(ours[1], weights[0])


def test_demo_takes_a_head_out_and_its_contribution_is_what_is_missing():
    assert numpy_variant.show.function(n_heads=1, ablated=1)[2].endswith("changes by 100 % of its length.")
    with pytest.raises(ValueError, match="there are 2 heads"):
        numpy_variant.show(n_heads=2, ablated=5)
    weights = np.array(numpy_variant.show(n_heads=1, temperature=0.2)[0]["values"])
    np.testing.assert_allclose(weights, np.eye(8)[[0, 0, 1, 2, 3, 4, 5, 6]], atol=1e-6)
