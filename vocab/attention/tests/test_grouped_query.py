import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from snippets.attention.grouped_query import grouped_query_attention, pool, show
from snippets.inference.kv_cache import cache_bytes as numpy_cache_bytes
from vocab.attention.grouped_query import GroupedQueryAttention, mean_pool_kv
from vocab.inference.kv_cache import KVCache, cache_bytes
from vocab.positional.rope import RotaryEmbedding

D = torch.float64


def example():
    rotary = RotaryEmbedding(4, base=20.0)
    module = GroupedQueryAttention(d_model=24, n_heads=6, n_kv_heads=2, bias=True, rotary=rotary).double()
    return module, (torch.randn(2, 7, 24, dtype=D),)


def one_by_one(module, x, is_causal):
    """Head by head, from the definition: no batched attention, no repeated tensors."""
    outputs = []
    for i in range(module.n_heads):
        group, d = i // (module.n_heads // module.n_kv_heads), module.head_dim
        q = x @ module.q_proj.weight[i * d : (i + 1) * d].T
        k = x @ module.k_proj.weight[group * d : (group + 1) * d].T
        v = x @ module.v_proj.weight[group * d : (group + 1) * d].T
        scores = q @ k.transpose(1, 2) / d**0.5
        if is_causal:
            scores = scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), -torch.inf)
        outputs.append(scores.softmax(-1) @ v)
    return torch.cat(outputs, -1) @ module.o_proj.weight.T


@pytest.mark.oracle("the definition, head by head")
@pytest.mark.parametrize("is_causal", [True, False])
@pytest.mark.parametrize("n_kv_heads", [1, 2, 3, 6])
def test_equals_the_definition_head_by_head(n_kv_heads, is_causal):
    module = GroupedQueryAttention(24, 6, n_kv_heads, head_dim=5).double()
    x = torch.randn(2, 7, 24, dtype=D)
    torch.testing.assert_close(module(x, is_causal=is_causal), one_by_one(module, x, is_causal))


@pytest.mark.oracle("scaled_dot_product_attention with repeat_interleave")
def test_repeating_each_head_for_its_group_gives_the_same_and_tiling_does_not():
    """`repeat` deals the key/value heads out as k0 k1 k0 k1; the groups need k0 k0 k1 k1. Both have the right shape."""
    module, x = GroupedQueryAttention(24, 6, 2).double(), torch.randn(2, 7, 24, dtype=D)
    q, k, v = (p(x).unflatten(-1, (-1, 4)).transpose(1, 2) for p in (module.q_proj, module.k_proj, module.v_proj))

    def attend(k, v):
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return module.o_proj(out.transpose(1, 2).flatten(2))

    torch.testing.assert_close(module(x), attend(k.repeat_interleave(3, 1), v.repeat_interleave(3, 1)))
    tiled = attend(k.repeat(1, 3, 1, 1), v.repeat(1, 3, 1, 1))
    assert tiled.shape == (2, 7, 24) and (tiled - module(x)).abs().max() > 0.01


@pytest.mark.oracle("torch.nn.MultiheadAttention")
@pytest.mark.parametrize("bias", [False, True])
def test_as_many_kv_heads_as_heads_is_multi_head_attention(bias):
    module = GroupedQueryAttention(24, 6, 6, bias=bias).double()
    mha = torch.nn.MultiheadAttention(24, 6, bias=bias, batch_first=True).double()
    parts = [module.q_proj, module.k_proj, module.v_proj]
    with torch.no_grad():
        mha.in_proj_weight.copy_(torch.cat([p.weight for p in parts]))
        mha.out_proj.weight.copy_(module.o_proj.weight)
        if bias:
            mha.in_proj_bias.copy_(torch.cat([p.bias for p in parts]))
            mha.out_proj.bias.copy_(module.o_proj.bias)
    x = torch.randn(2, 7, 24, dtype=D)
    torch.testing.assert_close(module(x, is_causal=False), mha(x, x, x, need_weights=False)[0])


@pytest.mark.oracle("multi-query attention: all queries in one product with the only key head")
def test_a_single_kv_head_is_multi_query_attention():
    module, x = GroupedQueryAttention(24, 6, 1).double(), torch.randn(2, 5, 24, dtype=D)
    q, k, v = module.q_proj(x).unflatten(-1, (6, 4)), module.k_proj(x), module.v_proj(x)
    weights = (torch.einsum("bthd,bsd->bths", q, k) / 2).softmax(-1)
    out = module.o_proj(torch.einsum("bths,bsd->bthd", weights, v).flatten(2))
    torch.testing.assert_close(module(x, is_causal=False), out)


@pytest.mark.oracle("transformers LlamaAttention, with rotary positions")
def test_is_the_attention_of_llama():
    llama = pytest.importorskip("transformers.models.llama.modeling_llama")
    shape = dict(hidden_size=24, num_attention_heads=6, num_key_value_heads=2)
    config = llama.LlamaConfig(**shape, attn_implementation="eager")
    theirs = llama.LlamaAttention(config, 0).double()
    ours = GroupedQueryAttention(24, 6, 2, rotary=RotaryEmbedding(4)).double()
    ours.load_state_dict(theirs.state_dict())
    x, positions = torch.randn(2, 7, 24, dtype=D), torch.stack((torch.arange(7), torch.arange(30, 37)))
    future = torch.full((7, 7), -torch.inf, dtype=D).triu(1)
    angles = llama.LlamaRotaryEmbedding(config)(x, positions)
    torch.testing.assert_close(ours(x, position_ids=positions), theirs(x, angles, future)[0], rtol=1e-5, atol=1e-6)


@pytest.mark.oracle("the full pass over all tokens")
@pytest.mark.parametrize("rotary", [False, True])
@pytest.mark.parametrize("chunks", [[1] * 7, [4, 1, 2], [7]])
def test_decoding_with_a_cache_equals_the_full_pass(chunks, rotary):
    module = GroupedQueryAttention(24, 6, 2, rotary=RotaryEmbedding(4) if rotary else None).double()
    x, cache = torch.randn(2, 7, 24, dtype=D), KVCache(3, 2, 2, 4, 7, D)
    found = torch.cat([module(part, cache=cache, layer=1) for part in x.split(chunks, 1)], 1)
    torch.testing.assert_close(found, module(x))
    assert cache.lengths == [0, 7, 0]


@pytest.mark.oracle("torch.nn.functional.scaled_dot_product_attention, heads repeated")
@pytest.mark.parametrize("shape", [(7, 7), (6, 7, 7), (2, 1, 7, 7), (2, 6, 7, 7), (1, 1, 1, 7)])
@pytest.mark.parametrize("n_kv_heads", [1, 2, 6])
def test_masks_of_batch_and_heads_meet_batch_and_heads(shape, n_kv_heads):
    """With heads cut into groups, a mask (B, 1, T, S) would meet the groups instead of the batch, which may even fit."""
    module, x = GroupedQueryAttention(24, 6, n_kv_heads).double(), torch.randn(2, 7, 24, dtype=D)
    mask = torch.rand(shape) < 0.6
    mask[..., 0] = True
    q, k, v = (p(x).unflatten(-1, (-1, 4)).transpose(1, 2) for p in (module.q_proj, module.k_proj, module.v_proj))
    k, v = (y.repeat_interleave(6 // n_kv_heads, 1) for y in (k, v))
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask.expand(2, 6, 7, 7))
    torch.testing.assert_close(module(x, is_causal=False, attn_mask=mask), module.o_proj(out.transpose(1, 2).flatten(2)))


def test_given_positions_replace_the_count():
    module, (x,) = example()
    torch.testing.assert_close(module(x), module(x, position_ids=torch.arange(7)), rtol=0, atol=0)
    torch.testing.assert_close(module(x), module(x, position_ids=torch.arange(90, 97)))
    assert (module(x) - module(x, position_ids=2 * torch.arange(7))).abs().max() > 1e-3


@pytest.mark.oracle("the sum of the gradients of the query heads that share it")
def test_gradient_of_a_shared_head_is_the_sum_over_its_group():
    grouped = GroupedQueryAttention(24, 6, 2).double()
    expanded = GroupedQueryAttention(24, 6, 6).double()
    state = grouped.state_dict()
    for name in ("k_proj.weight", "v_proj.weight"):
        state[name] = state[name].unflatten(0, (2, 1, 4)).expand(2, 3, 4, 24).flatten(0, 2)
    expanded.load_state_dict(state)
    x, upstream = torch.randn(2, 7, 24, dtype=D), torch.randn(2, 7, 24, dtype=D)
    for module in (grouped, expanded):
        module(x).backward(upstream)
    for name in ("k_proj", "v_proj"):
        per_query_head = getattr(expanded, name).weight.grad.unflatten(0, (2, 3, 4))
        torch.testing.assert_close(getattr(grouped, name).weight.grad, per_query_head.sum(1).flatten(0, 1))


@pytest.mark.oracle("Jacobian: zero for later tokens, nonzero for all others")
def test_causal_by_default_and_tokens_really_mix():
    module, (x,) = example()
    jacobian = torch.autograd.functional.jacobian(lambda v: module(v)[0].sum(-1), x)[:, 0].abs().sum(-1)
    assert torch.equal(jacobian > 0, torch.ones(7, 7, dtype=torch.bool).tril())


def test_dropout_hits_the_weights_and_only_in_training():
    module, x = GroupedQueryAttention(24, 6, 2, bias=True, dropout=1.0).double(), torch.randn(2, 7, 24, dtype=D)
    torch.testing.assert_close(module(x), module.o_proj.bias.expand(2, 7, 24))
    plain = GroupedQueryAttention(24, 6, 2, bias=True).double()
    plain.load_state_dict(module.state_dict())
    torch.testing.assert_close(module.eval()(x), plain(x))
    torch.testing.assert_close(plain(x), plain(x), rtol=0, atol=0)


@pytest.mark.oracle("a multi-head layer whose heads are equal within each group")
def test_pooling_heads_that_are_equal_within_a_group_loses_nothing():
    grouped = GroupedQueryAttention(24, 6, 2, bias=True).double()
    many = dict(grouped.state_dict())
    for name in ("k_proj", "v_proj"):
        for kind in ("weight", "bias"):
            heads = many[f"{name}.{kind}"].unflatten(0, (2, 1, 4))
            many[f"{name}.{kind}"] = heads.expand(2, 3, *heads.shape[2:]).flatten(0, 2)
    multi_head = GroupedQueryAttention(24, 6, 6, bias=True).double()
    multi_head.load_state_dict(many)
    pooled = GroupedQueryAttention(24, 6, 2, bias=True).double()
    pooled.load_state_dict(mean_pool_kv(multi_head.state_dict(), 2, head_dim=4))
    x = torch.randn(2, 7, 24, dtype=D)
    torch.testing.assert_close(pooled(x), multi_head(x))


def test_pooling_averages_neighbours_and_leaves_the_rest():
    state = {f"layers.0.attn.{p}_proj.weight": torch.randn(6 * 4, 24, dtype=D) for p in "qkvo"}
    state["norm.weight"] = torch.ones(24)
    kept = {name: x.clone() for name, x in state.items()}
    pooled = mean_pool_kv(state, 3, head_dim=4)
    for name, x in state.items():
        assert torch.equal(x, kept[name]), "the given state dict stays as it is"
        if "k_proj" in name or "v_proj" in name:
            heads = x.split(4)
            torch.testing.assert_close(pooled[name], torch.cat([(heads[i] + heads[i + 1]) / 2 for i in (0, 2, 4)]))
        else:
            assert pooled[name] is x
    torch.testing.assert_close(mean_pool_kv(state, 1, head_dim=4)["layers.0.attn.k_proj.weight"],
                               sum(state["layers.0.attn.k_proj.weight"].split(4)) / 6)


@pytest.mark.oracle("published size: Llama 2 70B, 320 KiB per token instead of 2.5 MiB")
def test_llama_2_70b_caches_320_kib_per_token():
    """A widely copied formula has G·d numbers per token: the keys are counted, the values and the layers are not."""
    assert cache_bytes(80, 8, 128, 1) == numpy_cache_bytes(80, 8, 128, 1) == 320 * 1024
    assert cache_bytes(80, 64, 128, 1) == 2.5 * 2**20
    assert cache_bytes(1, 8, 128, 1, bytes_per_number=1) == 2 * 8 * 128


@pytest.mark.oracle("closed form 2·L·G·d·S·B·bytes")
@pytest.mark.parametrize("n_kv_heads", [1, 2, 6])
def test_the_cache_shrinks_with_the_kv_heads(n_kv_heads):
    module = GroupedQueryAttention(24, 6, n_kv_heads)
    cache = KVCache(5, 2, n_kv_heads, module.head_dim, 9)
    with torch.no_grad():
        for layer in range(5):
            module(torch.randn(2, 9, 24), cache=cache, layer=layer)
    closed_form = 2 * 5 * n_kv_heads * 4 * 9 * 2 * 4
    assert cache.store.numel() * 4 == cache_bytes(5, n_kv_heads, 4, 9, batch=2, bytes_per_number=4) == closed_form
    assert cache.store.abs().amin() > 0, "all of it is used"


def test_narrow_heads_are_what_many_heads_in_a_small_model_mean():
    """A widely copied class has defaults of 512 and 32 heads: each would be 16 wide. `head_dim` decides apart."""
    assert GroupedQueryAttention(512, 32, 8).head_dim == 16
    wide = GroupedQueryAttention(512, 32, 8, head_dim=64)
    assert wide.q_proj.weight.shape == (2048, 512) and wide.k_proj.weight.shape == (512, 512)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(d_model=24, n_heads=6, n_kv_heads=4), "n_heads=6 is not a multiple of n_kv_heads=4"),
        (dict(d_model=24, n_heads=6, n_kv_heads=0), "n_kv_heads=0"),
        (dict(d_model=25, n_heads=6, n_kv_heads=2), "d_model=25 is not a multiple of n_heads=6; give head_dim"),
        (dict(d_model=24, n_heads=6, n_kv_heads=2, dropout=1.1), "dropout=1.1 is not from 0 to 1"),
        (dict(d_model=24, n_heads=6, n_kv_heads=2, dropout=-0.1), "dropout=-0.1 is not from 0 to 1"),
    ],
)
def test_settings_that_cannot_be_say_which_and_why(arguments, message):
    with pytest.raises(ValueError, match=message):
        GroupedQueryAttention(**arguments)


@pytest.mark.parametrize("shape", [(7, 24), (2, 7, 23), (2, 3, 7, 24)])
def test_wrong_input_shape_names_the_expected_one(shape):
    with pytest.raises(ValueError, match=r"expected \(batch, time, d_model=24\)"):
        example()[0](torch.zeros(shape, dtype=D))


def test_what_does_not_go_together_is_refused():
    module, (x,) = example()
    with pytest.raises(ValueError, match="is_causal=False with a cache"):
        module(x, is_causal=False, cache=KVCache(1, 2, 2, 4, 7, D))
    with pytest.raises(ValueError, match="no rotary embedding"):
        GroupedQueryAttention(24, 6, 2).double()(x, position_ids=torch.arange(7))


def test_pooling_rejects_heads_that_do_not_divide():
    for rows, n_kv_heads in [(24, 4), (24, 0), (25, 2)]:
        with pytest.raises(ValueError, match=f"k_proj.weight has {rows} rows, not n_kv_heads={n_kv_heads} groups"):
            mean_pool_kv({"k_proj.weight": torch.zeros(rows, 12)}, n_kv_heads, head_dim=4)
    with pytest.raises(ValueError, match="no k_proj or v_proj"):
        mean_pool_kv({"c_attn.weight": torch.zeros(24, 12)}, 2, head_dim=4)


@pytest.mark.parametrize("new_tokens", [5, 2, 1])
def test_numpy_variant_agrees(agree, new_tokens):
    """Also with a past: the module decodes from a cache, the variant is given all keys at once."""
    module, x = GroupedQueryAttention(24, 6, 2).double(), torch.randn(1, 5, 24, dtype=D)
    module.o_proj = torch.nn.Identity()
    cache = KVCache(1, 1, 2, 4, 5, D)
    if new_tokens < 5:
        module(x[:, :-new_tokens], cache=cache)
    expected = module(x[:, -new_tokens:], cache=cache)[0]
    projections = (module.q_proj, module.k_proj, module.v_proj)
    q, k, v = (p(x)[0].unflatten(-1, (-1, 4)).transpose(0, 1).detach().numpy() for p in projections)
    ours = grouped_query_attention(np.ascontiguousarray(q[:, -new_tokens:]), k, v)
    agree(ours.transpose(1, 0, 2).reshape(new_tokens, 24), expected)


def test_numpy_pooling_agrees():
    weight = torch.randn(6 * 4, 5, dtype=D)
    pooled = mean_pool_kv({"k_proj.weight": weight}, 2, head_dim=4)["k_proj.weight"]
    np.testing.assert_allclose(pool(weight.unflatten(0, (6, 4)).numpy(), 2).reshape(8, 5), pooled.numpy())


def test_numpy_variant_rejects_uneven_groups():
    with pytest.raises(ValueError, match="6 query heads cannot share 4"):
        grouped_query_attention(np.zeros((6, 3, 2)), np.zeros((4, 3, 2)), np.zeros((4, 3, 2)))


def test_demo_loses_nothing_where_nothing_is_shared_or_all_heads_are_equal():
    errors = [y for _, y in show(alike=1.0)[2]["series"]["after pooling"]]
    assert max(errors) < 1e-12
    errors = [y for _, y in show(alike=0.0)[2]["series"]["after pooling"]]
    assert math.isclose(errors[-1], 0, abs_tol=1e-12) and errors == sorted(errors, reverse=True)
    with pytest.raises(ValueError, match="cannot share"):
        show(n_heads=4, n_kv_heads=8)
