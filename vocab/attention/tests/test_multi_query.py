import numpy as np
import pytest
import torch
from torch.nn import functional as F

from snippets.attention import multi_query as numpy_variant
from vocab.attention.grouped_query import GroupedQueryAttention
from vocab.attention.multi_head import MultiHeadAttention, split_heads
from vocab.attention.multi_query import MultiQueryAttention
from vocab.inference.kv_cache import KVCache, cache_bytes
from vocab.positional.rope import RotaryEmbedding

D = torch.float64


def example():
    return MultiQueryAttention(12, 3, bias=True, rotary=RotaryEmbedding(4, base=20.0)).double(), (torch.randn(2, 5, 12, dtype=D),)


@pytest.mark.oracle("GroupedQueryAttention with one group, itself tested against transformers")
def test_is_grouped_query_attention_with_one_group():
    module, (x,) = example()
    grouped = GroupedQueryAttention(12, 3, 1, bias=True, rotary=RotaryEmbedding(4, base=20.0)).double()
    grouped.load_state_dict(module.state_dict())
    torch.testing.assert_close(module(x), grouped(x), rtol=0, atol=0)


@pytest.mark.oracle("torch.nn.functional.scaled_dot_product_attention, the shared head expanded or copied")
@pytest.mark.parametrize("copied", [False, True])
def test_equals_attention_with_the_shared_head_given_to_all(copied):
    module, x = MultiQueryAttention(12, 3, head_dim=5).double(), torch.randn(2, 5, 12, dtype=D)
    q, k, v = split_heads(module.q_proj(x), 5), module.k_proj(x)[:, None], module.v_proj(x)[:, None]
    k, v = (y.expand(2, 3, 5, 5) for y in (k, v))
    assert k.stride(1) == 0, "expanded: no memory of its own"
    if copied:
        k, v = k.contiguous(), v.contiguous()
    out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    torch.testing.assert_close(module(x), module.o_proj(out.transpose(1, 2).flatten(2)))


def test_all_queries_can_go_in_one_product_with_the_only_key_head():
    """Heads become rows: (H T, d) @ (d, S). This is what makes it fast on a matrix unit."""
    module, x = MultiQueryAttention(12, 3).double(), torch.randn(1, 5, 12, dtype=D)
    q, k, v = module.q_proj(x).view(15, 4), module.k_proj(x)[0], module.v_proj(x)[0]
    weights = (q @ k.T / 2).softmax(-1)
    torch.testing.assert_close(module(x, is_causal=False), module.o_proj((weights @ v).view(1, 5, 12)))


@pytest.mark.oracle("multi-head attention with tied key and value weights: the sum of its gradients over heads")
def test_gradient_of_the_shared_head_is_the_sum_over_all_heads():
    module, x = MultiQueryAttention(12, 3).double(), torch.randn(2, 5, 12, dtype=D)
    tied = MultiHeadAttention(12, 3, bias=False).double()
    state = module.state_dict()
    for name in ("k_proj.weight", "v_proj.weight"):
        state[name] = state[name].repeat(3, 1)
    tied.load_state_dict(state)
    upstream = torch.randn(2, 5, 12, dtype=D)
    module(x).backward(upstream)
    tied(x, is_causal=True).backward(upstream)
    for name in ("k_proj", "v_proj"):
        per_head = getattr(tied, name).weight.grad.unflatten(0, (3, 4))
        torch.testing.assert_close(getattr(module, name).weight.grad, per_head.sum(0))


@pytest.mark.oracle("closed form: 2·(H − 1)·d numbers saved per token and layer")
@pytest.mark.parametrize("n_heads", [2, 8])
def test_the_cache_is_smaller_by_the_number_of_heads(n_heads):
    """A widely copied count saves (H − 1)·d: the keys are counted, the values are not."""
    module, x = MultiQueryAttention(16, n_heads), torch.randn(1, 7, 16)
    cache = KVCache(1, 1, 1, module.head_dim, 7)
    with torch.no_grad():
        module(x, cache=cache)
    full = cache_bytes(1, n_heads, module.head_dim, 7, bytes_per_number=4)
    assert full == n_heads * cache.store.numel() * 4
    assert full - cache.store.numel() * 4 == 2 * (n_heads - 1) * module.head_dim * 7 * 4


def test_all_query_heads_stay():
    """A widely copied note says that it reduces attention to one head: it keeps every query head and shares what is read."""
    module, (x,) = example()
    before = module(x)
    for h in range(3):
        changed = MultiQueryAttention(12, 3, bias=True, rotary=RotaryEmbedding(4, base=20.0)).double()
        changed.load_state_dict(module.state_dict())
        with torch.no_grad():
            changed.q_proj.weight[4 * h : 4 * h + 4] += torch.randn(4, 12, dtype=D)
        assert (changed(x) - before).abs().max() > 1e-3


@pytest.mark.parametrize("d_model", [12, 48])
def test_projections_shrink_to_two_narrow_ones(d_model):
    d = d_model // 3
    assert sum(p.numel() for p in MultiQueryAttention(d_model, 3).parameters()) == 2 * d_model**2 + 2 * d_model * d


@pytest.mark.oracle("the full pass over all tokens")
def test_decoding_with_a_cache_equals_the_full_pass():
    module, (x,) = example()
    cache = KVCache(1, 2, 1, 4, 5, D)
    found = torch.cat([module(part, cache=cache) for part in x.split([2, 1, 2], 1)], 1)
    torch.testing.assert_close(found, module(x))


def test_settings_are_passed_on():
    module, x = MultiQueryAttention(12, 3, bias=True, dropout=1.0).double(), torch.randn(2, 5, 12, dtype=D)
    torch.testing.assert_close(module(x), module.o_proj.bias.expand(2, 5, 12))
    assert MultiQueryAttention(12, 3).q_proj.bias is None
    with pytest.raises(ValueError, match="d_model=12 is not a multiple of n_heads=5; give head_dim"):
        MultiQueryAttention(12, 5)
    with pytest.raises(ValueError, match=r"x has shape .* d_model=12"):
        module(torch.zeros(2, 5, 11, dtype=D))


def test_numpy_variant_agrees(agree):
    module, x = MultiQueryAttention(12, 3).double(), torch.randn(1, 5, 12, dtype=D)
    w = [p.weight.detach().numpy().T for p in (module.q_proj, module.k_proj, module.v_proj, module.o_proj)]
    agree(numpy_variant.multi_query_attention(x[0].numpy(), *w), module(x)[0])


@pytest.mark.oracle("closed form: a step reads the weights once and every sequence's cache")
def test_numpy_step_time_is_what_has_to_be_read():
    weights, cache, sums = numpy_variant.step_seconds(7e9, 2 * 32 * 8 * 128 * 4096 * 2, batch=16, bandwidth=2e12, flops=5e14)
    assert weights == pytest.approx(14e9 / 2e12) and cache == pytest.approx(16 * 2 * 32 * 8 * 128 * 4096 * 2 / 2e12)
    assert sums == pytest.approx(2 * 7e9 * 16 / 5e14)


def test_demo_shrinks_the_cache_and_not_the_weights():
    slow, fast = (numpy_variant.show(kind=kind)[0]["series"]["cache"] for kind in ("multi-head", "multi-query"))
    assert slow == fast, "the figure compares all three, whatever is chosen"
    mha, gqa, mqa = slow
    assert mha == pytest.approx(32 * mqa, rel=1e-3) and gqa == pytest.approx(8 * mqa, rel=1e-3)
    assert np.isfinite(slow).all()
