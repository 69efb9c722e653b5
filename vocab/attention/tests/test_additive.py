import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from snippets.attention import additive as numpy_variant
from vocab.attention.additive import AdditiveAttention, LuongAttention

D = torch.float64
MASK = torch.tensor([[True] * 5, [True, False, True, True, False]])


def example():
    inputs = torch.randn(2, 3, dtype=D), torch.randn(2, 5, 4, dtype=D), torch.randn(2, 5, 2, dtype=D), MASK
    return AdditiveAttention(3, 4, 6).double(), inputs


@pytest.mark.oracle("the formula v . tanh(W q + U k_j), one key at a time")
@pytest.mark.parametrize("masked", [False, True])
def test_equals_the_formula_key_by_key(masked):
    module, (query, keys, values, mask) = example()
    context, weights = module(query, keys, values, mask if masked else None)
    W, b, U, v = module.query_proj.weight, module.query_proj.bias, module.key_proj.weight, module.score.weight[0]
    W, b, U, v = (p.detach() for p in (W, b, U, v))
    for n in range(2):
        scores = [float(v @ torch.tanh(W @ query[n] + b + U @ keys[n, j])) for j in range(5)]
        terms = [math.exp(s) if not masked or MASK[n, j] else 0.0 for j, s in enumerate(scores)]
        expected = torch.tensor(terms, dtype=D) / sum(terms)
        torch.testing.assert_close(weights[n], expected)
        torch.testing.assert_close(context[n], expected @ values[n])


def test_weights_sum_to_one_and_masked_keys_get_nothing():
    module, (query, keys, values, mask) = example()
    weights = module(query, keys, values, mask)[1]
    torch.testing.assert_close(weights.sum(1), torch.ones(2, dtype=D))
    assert torch.equal(weights > 0, mask)
    nothing = module(query, keys, values, mask & torch.tensor([[True], [False]]))
    assert (nothing[0][1] == 0).all() and (nothing[1][1] == 0).all()


@pytest.mark.oracle("linear regime: for small weights the query adds the same to all scores and cancels")
def test_without_the_bend_the_query_would_not_matter():
    module, (query, keys, *_ ) = example()
    changes = []
    for size in (1.0, 1e-3):
        with torch.no_grad():
            module.query_proj.weight.mul_(size), module.query_proj.bias.mul_(size), module.key_proj.weight.mul_(size)
        first, other = (module(q, keys)[1] for q in (query, -query))
        changes.append((first - other).abs().max())
        linear = module.score((module.key_proj(keys))).squeeze(-1).softmax(-1)
    assert changes[0] > 1e-2 and changes[1] < 1e-8
    torch.testing.assert_close(first, linear, rtol=1e-6, atol=1e-9)


@pytest.mark.oracle("torch.nn.functional.scaled_dot_product_attention with scale 1")
@pytest.mark.parametrize("method", ["dot", "general"])
def test_luongs_products_are_dot_product_attention_without_the_scale(method):
    width = 4 if method == "dot" else 3
    module, (query, keys) = LuongAttention(width, 4, method).double(), (torch.randn(2, width, dtype=D), torch.randn(2, 5, 4, dtype=D))
    projected = query if method == "dot" else query @ module.key_proj.weight
    expected = F.scaled_dot_product_attention(projected[:, None], keys, keys, MASK[:, None], scale=1.0)
    torch.testing.assert_close(module(query, keys, mask=MASK)[0], expected[:, 0])


@pytest.mark.oracle("one matrix on the concatenation of query and key")
def test_concat_is_the_additive_score():
    module, (query, keys, values, _) = LuongAttention(3, 4, "concat").double(), example()[1]
    inner = module.additive
    joint = torch.cat((inner.query_proj.weight, inner.key_proj.weight), 1)
    both = torch.cat((query[:, None].expand(2, 5, 3), keys), 2)
    scores = torch.tanh(both @ joint.T + inner.query_proj.bias) @ inner.score.weight[0]
    torch.testing.assert_close(module(query, keys, values)[1], scores.softmax(-1))


def test_keys_projected_once_serve_all_steps():
    module, (query, keys, values, mask) = example()
    once = module.key_proj(keys)
    for step in (query, -query):
        torch.testing.assert_close(module(step, keys, values, mask, projected_keys=once), module(step, keys, values, mask))


def test_without_values_the_keys_are_averaged():
    module, (query, keys, *_) = example()
    torch.testing.assert_close(module(query, keys), module(query, keys, keys))


def test_wide_vectors_saturate_the_bare_product_and_not_the_additive_score():
    """Why dot-product attention is scaled: its scores grow with the width, those of a tanh are bounded by sum |v|."""
    query, keys = torch.randn(50, 512), torch.randn(50, 8, 512)
    bare = LuongAttention(512, 512, "dot")(query, keys)[1].amax(1).mean()
    additive = AdditiveAttention(512, 512, 64)(query, keys)[1].amax(1).mean()
    assert bare > 0.9 and additive < 0.4


def test_bad_input_is_named():
    module, (query, keys, values, mask) = example()
    for given, message in [
        ((query[:, :2], keys), r"query has shape .* d_query=3"),
        ((query, keys[..., :3]), r"keys has shape .* d_key=4"),
        ((query, keys[:1]), r"keys has shape .*batch=2"),
        ((query, keys, values[:, :4]), r"values has shape .* keys=5"),
        ((query, keys, values[:1]), r"values has shape .*batch=2"),
        ((query, keys, values, mask[:, :4]), r"mask has shape .* keys=5"),
        ((query, keys, values, mask[:1]), r"mask has shape .*batch=2"),
    ]:
        for m in (module, LuongAttention(3, 4).double(), LuongAttention(3, 4, "concat").double()):
            with pytest.raises(ValueError, match=message):
                m(*given)
    for bad in (torch.zeros(2, 5, 5, dtype=D), torch.zeros(2, 4, 6, dtype=D), torch.zeros(1, 5, 6, dtype=D)):
        with pytest.raises(ValueError, match=r"projected_keys has shape .* \(batch=2, keys=5, d_attn=6\)"):
            module(query, keys, projected_keys=bad)
    with pytest.raises(ValueError, match="method='bilinear' is not 'dot', 'general' or 'concat'"):
        LuongAttention(3, 4, "bilinear")
    with pytest.raises(ValueError, match="method='dot' needs equal widths, not d_query=3 and d_key=4"):
        LuongAttention(3, 4, "dot")
    with pytest.raises(ValueError, match="d_attn=0 is not positive"):
        AdditiveAttention(3, 4, 0)
    assert LuongAttention(3, 4).method == "general" and AdditiveAttention(3, 4, 1).score.bias is None
    assert LuongAttention(3, 4).key_proj.bias is None and AdditiveAttention(3, 4, 1).key_proj.bias is None


@pytest.mark.parametrize("masked", [False, True])
def test_numpy_variant_agrees(agree, masked):
    module, (query, keys, values, mask) = example()
    w = [p.detach().numpy() for p in (module.query_proj.weight.T, module.key_proj.weight.T, module.score.weight[0], module.query_proj.bias)]
    ours = numpy_variant.additive_attention(query[1].numpy(), keys[1].numpy(), values[1].numpy(), *w, mask=mask[1].numpy() if masked else None)
    context, weights = module(query, keys, values, mask if masked else None)
    agree(ours[0], context[1])
    agree(ours[1], weights[1])


def test_demo_scores_bend_and_products_do_not():
    curves = numpy_variant.show(query=2.0)[0]["series"]
    product = np.array(curves["dot product"])[:, 1]
    bent = np.array(curves["additive"])[:, 1]
    np.testing.assert_allclose(np.diff(product, 2), 0, atol=1e-9)
    assert np.abs(np.diff(bent, 2)).max() > 1e-3
