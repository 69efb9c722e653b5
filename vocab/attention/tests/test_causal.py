import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.attention.bias import causal_lower_right

from snippets.attention import causal as numpy_variant
from vocab.attention.causal import CausalSelfAttention, causal_mask
from vocab.attention.multi_head import split_heads
from vocab.inference.kv_cache import KVCache

D = torch.float64


def example():
    return CausalSelfAttention(8, 2, max_len=6).double(), (torch.randn(2, 6, 8, dtype=D),)


@pytest.mark.oracle("torch.nn.functional.scaled_dot_product_attention with is_causal=True")
def test_equals_pytorchs_causal_attention():
    module, (x,) = example()
    q, k, v = (split_heads(p(x), 4) for p in (module.q_proj, module.k_proj, module.v_proj))
    out = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
    torch.testing.assert_close(module(x), module.o_proj(out))


@pytest.mark.oracle("Jacobian: exactly zero for every later token, nonzero for all others")
def test_no_output_depends_on_a_later_token():
    module, (x,) = example()
    jacobian = torch.autograd.functional.jacobian(module, x).abs().sum((2, 5))
    assert torch.equal(jacobian[0, :, 0] > 0, torch.ones(6, 6, dtype=torch.bool).tril())


@pytest.mark.oracle("prefix: the outputs of the first t tokens alone")
@pytest.mark.parametrize("t", [1, 3, 5])
def test_a_prefix_does_not_know_what_follows(t):
    module, (x,) = example()
    torch.testing.assert_close(module(x[:, :t]), module(x)[:, :t])


def test_the_first_token_reads_only_itself():
    module, (x,) = example()
    torch.testing.assert_close(module(x)[:, 0], module.o_proj(module.v_proj(x[:, 0])))


@pytest.mark.oracle("torch.nn.attention.bias.causal_lower_right")
@pytest.mark.parametrize(("t", "s"), [(1, 5), (3, 5), (5, 5)])
def test_with_a_longer_past_the_diagonal_ends_in_the_lower_right(t, s):
    q, k = torch.randn(t, 4, dtype=D), torch.randn(s, 4, dtype=D)
    theirs = F.scaled_dot_product_attention(q, k, k, causal_lower_right(t, s)._materialize())
    torch.testing.assert_close(F.scaled_dot_product_attention(q, k, k, causal_mask(t, s)), theirs)
    if t < s:  # what is_causal=True does instead
        assert (F.scaled_dot_product_attention(q, k, k, is_causal=True) - theirs).abs().max() > 0.01


@pytest.mark.oracle("torch.nn.MultiheadAttention, Transformer.generate_square_subsequent_mask")
def test_three_conventions_mean_the_same():
    """A widely copied pair of helpers has one additive mask and one with true = hidden, and uses 1 = seen elsewhere."""
    keep, block, additive = (causal_mask(5, convention=c) for c in ("keep", "block", "additive"))
    torch.testing.assert_close(additive, nn.Transformer.generate_square_subsequent_mask(5), rtol=0, atol=0)
    q = torch.randn(2, 5, 8, dtype=D)
    theirs = nn.MultiheadAttention(8, 1, batch_first=True).double()
    for mask in (block, additive.double()):
        torch.testing.assert_close(theirs(q, q, q, attn_mask=mask)[0], theirs(q, q, q, attn_mask=~keep)[0])
    for mask in (keep, ~block, additive.double()):
        torch.testing.assert_close(F.scaled_dot_product_attention(q, q, q, mask), F.scaled_dot_product_attention(q, q, q, is_causal=True))
    swapped = F.scaled_dot_product_attention(q, q, q, block)
    torch.testing.assert_close(swapped[:, 0], F.scaled_dot_product_attention(q, q[:, 1:], q[:, 1:])[:, 0])  # sees just the future


def test_a_mask_without_the_diagonal_leaves_the_first_row_empty():
    scores = torch.zeros(4, 4)
    off_by_one = scores.masked_fill(torch.ones(4, 4, dtype=torch.bool).triu(0), -torch.inf).softmax(-1)
    assert off_by_one[0].isnan().all() and not off_by_one[1:].isnan().any()
    assert causal_mask(4).any(-1).all()


def test_masking_after_the_softmax_leaks_the_future_through_the_sum():
    scores, other = torch.randn(4, 4, dtype=D), None
    other = scores.clone()
    other[:, 3] += 2.0  # another last key
    seen = causal_mask(4)
    late = [s.softmax(-1) * seen for s in (scores, other)]
    assert (late[0][:3] - late[1][:3]).abs().max() > 0.01
    early = [s.masked_fill(~seen, -torch.inf).softmax(-1) for s in (scores, other)]
    torch.testing.assert_close(early[0][:3], early[1][:3], rtol=0, atol=0)


def test_order_matters_without_any_positions():
    """Unlike full self-attention: how many tokens a row may read tells where it stands."""
    module, (x,) = example()
    order = torch.tensor([1, 0, 2, 3, 4, 5])
    assert (module(x[:, order]) - module(x)[:, order]).abs().max() > 0.01


@pytest.mark.oracle("closed form: the entropy of row i is at most log(i + 1)")
def test_entropy_of_a_row_is_bounded_by_what_it_sees():
    module, (x,) = example()
    P = module(x, return_weights=True)[1]
    entropy = -(P * P.clamp_min(1e-300).log()).sum(-1)
    assert (entropy <= torch.arange(1, 7).log() + 1e-12).all()
    with torch.no_grad():
        module.q_proj.weight.zero_(), module.q_proj.bias.zero_()
    P = module(x, return_weights=True)[1]
    entropy = -(P * P.clamp_min(1e-300).log()).sum(-1)
    torch.testing.assert_close(entropy, torch.arange(1, 7).double().log().expand(2, 2, 6))


@pytest.mark.oracle("the full pass over all tokens")
def test_decoding_with_a_cache_equals_the_full_pass():
    module, (x,) = example()
    cache = KVCache(2, 2, 2, 4, 6, D)
    found = torch.cat([module(part, cache, layer=1) for part in x.split([3, 1, 2], 1)], 1)
    torch.testing.assert_close(found, module(x))


def test_too_long_is_refused_before_anything_is_cached():
    module, (x,) = example()
    with pytest.raises(ValueError, match="x has 7 tokens after 0 cached ones, more than max_len=6"):
        module(torch.zeros(2, 7, 8, dtype=D))
    cache = KVCache(1, 2, 2, 4, 20, D)
    module(x, cache)
    with pytest.raises(ValueError, match="x has 1 tokens after 6 cached ones"):
        module(x[:, :1], cache)
    assert cache.lengths == [6]
    assert CausalSelfAttention(8, 2).double()(torch.zeros(1, 50, 8, dtype=D)).isfinite().all()


def test_dropout_and_bias_are_passed_on():
    module, x = CausalSelfAttention(8, 2, dropout=1.0).double(), torch.randn(2, 6, 8, dtype=D)
    torch.testing.assert_close(module(x), module.o_proj.bias.expand(2, 6, 8))
    assert CausalSelfAttention(8, 2, bias=False).q_proj.bias is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (dict(n_queries=3, n_keys=2), "n_queries=3 is not from 1 to n_keys=2"),
        (dict(n_queries=0), "n_queries=0 is not from 1"),
        (dict(n_queries=3, window=0), "window=0 hides every key"),
        (dict(n_queries=3, convention="1 = seen"), "convention='1 = seen' is not 'keep', 'block' or 'additive'"),
    ],
)
def test_masks_that_cannot_be_say_why(given, message):
    with pytest.raises(ValueError, match=message):
        causal_mask(**given)
    assert causal_mask(3, window=1).int().tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]


def test_wrong_input_shape_names_the_expected_one():
    for shape in [(6, 8), (2, 6, 7)]:
        with pytest.raises(ValueError, match=r"expected \(batch, time, d_model=8\)"):
            example()[0](torch.zeros(shape, dtype=D))


@pytest.mark.parametrize("new", [6, 2])
def test_numpy_variant_agrees(agree, new):
    module, x = CausalSelfAttention(8, 1, bias=False).double(), torch.randn(1, 6, 8, dtype=D)
    w = [p.weight.detach().numpy().T for p in (module.q_proj, module.k_proj, module.v_proj, module.o_proj)]
    past = numpy_variant.causal_self_attention(x[0, : 6 - new].numpy(), *w)[1] if new < 6 else None
    agree(numpy_variant.causal_self_attention(x[0, 6 - new :].numpy(), *w, past)[0], module(x)[0, 6 - new :])
    for window in (None, 2):
        np.testing.assert_array_equal(numpy_variant.causal_mask(new, 6, window), causal_mask(new, 6, window).numpy())


def test_demo_leaks_exactly_where_the_mask_is_wrong():
    assert numpy_variant.show()[3]["caption"].startswith("Nothing leaks")
    for mask in ("after the softmax", "none"):
        assert numpy_variant.show(mask=mask, token=5)[3]["caption"].startswith("5 of the 5")
    sums = numpy_variant.show(mask="after the softmax")[2]["series"][""]
    assert max(sums[:-1]) < 0.95 and sums[-1] == 1
