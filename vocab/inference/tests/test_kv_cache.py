import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from snippets.inference.kv_cache import MODELS, cache_bytes as numpy_cache_bytes, decode, decode_without_cache, show
from vocab.attention.grouped_query import GroupedQueryAttention
from vocab.inference.kv_cache import KVCache, cache_bytes, causal_mask
from vocab.positional.rope import RotaryEmbedding

D = torch.float64
POLICIES = ["static", "rolling", "paged"]


def example():
    """All three policies, filled twice."""

    def fill(k, v):
        seen = []
        for policy in POLICIES:
            cache = KVCache(1, 2, 2, 3, 6, D, policy=policy, block_size=2, device=getattr(k, "device", None))
            seen.extend(cache.update(0, k, v))
            seen.extend(cache.update(0, v, k))
        return tuple(seen)

    return fill, (torch.randn(2, 2, 3, 3, dtype=D), torch.randn(2, 2, 3, 3, dtype=D))


class Decoder(nn.Module):
    """Two layers of rotary grouped-query attention: enough for old hidden states to matter."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(11, 24)
        self.layers = nn.ModuleList(GroupedQueryAttention(24, 6, 2, rotary=RotaryEmbedding(4)) for _ in range(2))

    def forward(self, ids, cache=None, **options):
        x = self.embedding(ids)
        for i, layer in enumerate(self.layers):
            x = x + layer(x, cache=cache, layer=i, **options)
        return x @ self.embedding.weight.T


def new(policy, dtype=torch.float32, max_len=12, batch=2, **options):
    return KVCache(2, batch, 2, 4, max_len, dtype, policy=policy, block_size=4, **options)


@pytest.mark.oracle("logits of the full recomputation, for every prefix")
@pytest.mark.parametrize("chunks", [[1] * 12, [5] + [1] * 7, [3, 4, 5], [12]])
@pytest.mark.parametrize("policy", POLICIES)
def test_logits_are_those_of_the_full_recomputation(policy, chunks):
    model, ids = Decoder(), torch.randint(0, 11, (2, 12))
    cache, start = new(policy), 0
    for chunk in chunks:
        logits = model(ids[:, start : start + chunk], cache)
        start += chunk
        torch.testing.assert_close(logits, model(ids[:, :start])[:, -chunk:], rtol=1e-5, atol=1e-5)
    assert cache.lengths == [12, 12]


@pytest.mark.oracle("transformers LlamaForCausalLM: DynamicCache, StaticCache, and ours plugged in")
@pytest.mark.parametrize("policy", ["static", "paged"])
def test_a_llama_of_transformers_gives_the_same_logits_with_this_cache(policy):
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=17, hidden_size=24, intermediate_size=20, num_hidden_layers=2, num_attention_heads=6,
        num_key_value_heads=2,
    )
    model, ids = transformers.LlamaForCausalLM(config).eval(), torch.randint(0, 17, (2, 9))
    ours = new(policy, max_len=9)

    class Layer(transformers.cache_utils.DynamicLayer):
        def __init__(self, index):
            super().__init__()
            self.index = index

        def update(self, k, v, *_, **__):
            return ours.update(self.index, k, v)

        def get_seq_length(self):
            return ours.lengths[self.index]

        def get_mask_sizes(self, query_length):
            return ours.lengths[self.index] + query_length, 0

    caches = [
        transformers.cache_utils.Cache(layers=[Layer(0), Layer(1)]),
        transformers.DynamicCache(config=config),
        transformers.StaticCache(config=config, max_cache_len=9),
    ]
    with torch.no_grad():
        full = model(ids, use_cache=False).logits
        for start, end in ((0, 4), (4, 5), (5, 8), (8, 9)):
            plugged_in, dynamic, static = (model(ids[:, start:end], past_key_values=cache).logits for cache in caches)
            torch.testing.assert_close(plugged_in, dynamic, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(plugged_in, static, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(plugged_in, full[:, start:end], rtol=1e-5, atol=1e-5)
    assert ours.lengths == [9, 9]


@pytest.mark.oracle("transformers DynamicLayer and DynamicSlidingWindowLayer")
@pytest.mark.parametrize("policy", POLICIES)
def test_returns_what_the_layers_of_transformers_return(policy):
    utils = pytest.importorskip("transformers.cache_utils")
    theirs = utils.DynamicSlidingWindowLayer(sliding_window=6) if policy == "rolling" else utils.DynamicLayer()
    ours = new(policy, max_len=6 if policy == "rolling" else 20)
    for t in (4, 1, 3, 1, 1, 8, 2):
        k, v = torch.randn(2, 2, t, 4), torch.randn(2, 2, t, 4)
        torch.testing.assert_close(ours.update(0, k, v), theirs.update(k, v), rtol=0, atol=0)


@pytest.mark.oracle("attention under a sliding-window mask, without a cache")
@pytest.mark.parametrize("chunks", [[1] * 12, [5, 1, 2, 4], [12]])
def test_rolling_cache_is_sliding_window_attention(chunks):
    """Also past the window: positions go on counting, and a chunk's first token sees what its last one overwrites."""
    layer, x = GroupedQueryAttention(24, 6, 2, rotary=RotaryEmbedding(4)).double(), torch.randn(2, 12, 24, dtype=D)
    cache = KVCache(1, 2, 2, 4, 4, D, policy="rolling")
    found = torch.cat([layer(part, cache=cache) for part in x.split(chunks, 1)], 1)
    q, k, v = (p(x).unflatten(-1, (-1, 4)).transpose(1, 2) for p in (layer.q_proj, layer.k_proj, layer.v_proj))
    q, k = layer.rotary(q, k)
    distance = torch.arange(12)[:, None] - torch.arange(12)
    out = F.scaled_dot_product_attention(
        q, k.repeat_interleave(3, 1), v.repeat_interleave(3, 1), (distance >= 0) & (distance < 4)
    )
    torch.testing.assert_close(found, layer.o_proj(out.transpose(1, 2).flatten(2)))
    assert cache.lengths == [12]


@pytest.mark.oracle("invariance: blocks in any order")
def test_a_permuted_block_pool_changes_nothing():
    k, v = torch.randn(2, 2, 11, 4), torch.randn(2, 2, 11, 4)
    found = []
    for order in (range(6), [4, 0, 5, 2, 1, 3]):
        cache = new("paged")
        cache.free = list(order)
        found.append([torch.stack(cache.update(0, k[:, :, [t]], v[:, :, [t]])) for t in range(11)])
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)
    torch.testing.assert_close(found[0][-1], torch.stack((k, v)), rtol=0, atol=0)
    block = cache.table[1, 2] * 4  # tokens 8 to 11 of the second sequence, of which 8 to 10 are there
    torch.testing.assert_close(cache.store[0, 0, block : block + 3], k[1, :, 8:].transpose(0, 1), rtol=0, atol=0)
    assert sorted(cache.table.flatten().tolist()) == [0, 1, 2, 3, 4, 5], "no block belongs to two sequences"


def test_blocks_are_taken_when_they_are_needed_and_given_back():
    cache, one = new("paged"), torch.zeros(2, 2, 1, 4)
    taken = []
    for _ in range(9):
        cache.update(0, one, one)
        cache.update(1, one, one)  # layers share the table: the second one takes nothing
        taken.append(cache.table.numel())
    assert taken == [2, 2, 2, 2, 4, 4, 4, 4, 6] and len(cache.free) == 0
    cache.reset()
    assert len(cache.free) == 6 and cache.table.numel() == 0


def test_a_pool_may_be_smaller_than_the_worst_case_and_says_when_it_is_empty():
    cache = new("paged", n_blocks=5)
    cache.update(0, torch.zeros(2, 2, 8, 4), torch.zeros(2, 2, 8, 4))
    with pytest.raises(ValueError, match="2 blocks are needed and 1 of 5 are free"):
        cache.update(0, torch.zeros(2, 2, 1, 4), torch.zeros(2, 2, 1, 4))
    assert len(cache.free) == 1 and cache.lengths == [8, 0], "a failed update leaves the cache as it was"


@pytest.mark.parametrize("policy", POLICIES)
def test_reset_forgets_everything(policy):
    cache, k = new(policy), torch.randn(2, 2, 5, 4)
    cache.update(0, torch.randn(2, 2, 9, 4), torch.randn(2, 2, 9, 4))
    cache.reset()
    seen, _ = cache.update(0, k, k)
    assert torch.equal(seen, k) and cache.lengths == [5, 0]


@pytest.mark.parametrize("policy", POLICIES)
def test_layers_do_not_share(policy):
    """A widely copied version keeps one list for all layers, so each layer appends to the keys of the one before."""
    cache, a, b = new(policy), torch.randn(2, 2, 3, 4), torch.randn(2, 2, 3, 4)
    assert torch.equal(cache.update(0, a, a)[0], a)
    assert torch.equal(cache.update(1, b, b)[0], b)
    assert torch.equal(cache.update(0, b, b)[0], torch.cat((a, b), 2))


def test_static_cache_never_moves_old_tokens():
    """A widely copied version concatenates: T steps copy T (T + 1) / 2 tokens instead of T."""
    cache, one = new("static"), torch.randn(2, 2, 1, 4)
    first, _ = cache.update(0, one, one)
    second, _ = cache.update(0, one, one)
    assert first.data_ptr() == second.data_ptr() == cache.store.data_ptr()
    grown, copied = one[:, :, :0], 0
    for _ in range(10):
        grown = torch.cat((grown, one), 2)
        copied += grown.shape[2]
    assert copied == 55


def test_wrong_positions_corrupt_silently():
    """The same cache, the same tokens: only the positions start again at 0 for each new token."""
    model, ids = Decoder().double(), torch.randint(0, 11, (2, 8))
    right, wrong = new("static", D), new("static", D)
    model(ids[:, :7], right), model(ids[:, :7], wrong)
    last = model(ids[:, 7:], right)
    torch.testing.assert_close(last, model(ids)[:, -1:])
    restarted = model(ids[:, 7:], wrong, position_ids=torch.tensor([0]))
    assert restarted.shape == last.shape and (restarted - last).abs().max() > 1e-3


def test_left_padding_that_is_not_masked_corrupts_silently():
    model, ids = Decoder().double(), torch.randint(1, 11, (1, 5))
    padded = torch.cat((torch.zeros(1, 3, dtype=torch.long), ids), 1)
    alone, with_padding = model(ids)[:, -1], model(padded, new("static", D, batch=1))[:, -1]
    assert (alone - with_padding).abs().max() > 1e-3


def test_keys_turned_in_the_cache_can_be_moved():
    """Dropping the first tokens and counting again from 0 needs the cached keys turned back by as much."""
    rotary, k = RotaryEmbedding(4), torch.randn(1, 2, 9, 4, dtype=D)
    cache = KVCache(1, 1, 2, 4, 4, D, policy="rolling")
    for t in range(9):
        seen, _ = cache.update(0, rotary.rotate(k[:, :, [t]], torch.tensor([t])), k[:, :, [t]])
    moved = rotary.rotate(seen, torch.full((4,), -5))
    torch.testing.assert_close(moved, rotary.rotate(k[:, :, 5:], torch.arange(4)))


def test_a_bidirectional_layer_changes_its_old_outputs():
    """Why a cache needs a causal model: without the mask, a new token changes every earlier hidden state."""
    layer, x = GroupedQueryAttention(24, 6, 2).double(), torch.randn(1, 6, 24, dtype=D)
    torch.testing.assert_close(layer(x)[:, :5], layer(x[:, :5]))
    assert (layer(x, is_causal=False)[:, :5] - layer(x[:, :5], is_causal=False)).abs().max() > 1e-3


@pytest.mark.oracle("torch.nn.attention.bias.causal_lower_right")
@pytest.mark.parametrize(("t", "s"), [(1, 1), (1, 6), (3, 6), (6, 6)])
def test_mask_ends_in_the_lower_right_corner(t, s):
    from torch.nn.attention.bias import causal_lower_right

    q, k = torch.randn(1, 1, t, 8, dtype=D), torch.randn(1, 1, s, 8, dtype=D)
    expected = F.scaled_dot_product_attention(q, k, k, causal_lower_right(t, s)._materialize())
    torch.testing.assert_close(F.scaled_dot_product_attention(q, k, k, causal_mask(t, s)), expected)
    upper_left = F.scaled_dot_product_attention(q, k, k, is_causal=True)
    assert torch.allclose(upper_left, expected) == (t == s), "is_causal=True is right only without a past"


def test_mask_with_a_window_counts_the_query_itself():
    assert causal_mask(2, 5, 3).int().tolist() == [[0, 1, 1, 1, 0], [0, 0, 1, 1, 1]]


@pytest.mark.parametrize(("t", "s"), [(0, 3), (4, 3)])
def test_mask_needs_at_least_as_many_keys_as_queries(t, s):
    with pytest.raises(ValueError, match=f"n_queries={t} is not from 1 to n_keys={s}"):
        causal_mask(t, s)


@pytest.mark.oracle("published sizes: Llama 2 7B and 70B, bytes per token in 16 bit")
def test_bytes_per_token_of_published_models():
    """A widely copied formula counts query heads, and leaves out the batch and the bytes per number."""
    for of in (cache_bytes, numpy_cache_bytes):
        assert of(80, 8, 128, 1) == 327_680 and of(32, 32, 128, 1) == 524_288
        assert of(80, 8, 128, 4096, batch=3, bytes_per_number=0.5) == 3 * 4096 * 327_680 // 4
    assert isinstance(cache_bytes(80, 8, 128, 1, bytes_per_number=0.5), int)
    assert cache_bytes(80, 64, 128, 1) == 8 * cache_bytes(80, 8, 128, 1), "counting query heads: eight times too much"


@pytest.mark.parametrize("policy", POLICIES)
def test_bytes_are_what_the_tensors_take(policy):
    cache = KVCache(3, 2, 2, 4, 10, torch.float16, policy=policy, block_size=5)
    assert cache.store.numel() * cache.store.element_size() == cache_bytes(3, 2, 4, 10, batch=2)


def test_paged_pool_rounds_up_to_whole_blocks():
    cache = KVCache(1, 3, 2, 4, 17, policy="paged")
    assert cache.n_blocks == 6 and cache.store.numel() == 2 * 6 * 16 * 2 * 4


@pytest.mark.oracle("count: T³/3 score products without a cache, T²/2 with it")
def test_recomputing_everything_costs_a_power_more():
    T = 300
    without, cached = sum(t * t for t in range(1, T + 1)), sum(range(1, T + 1))
    assert without == pytest.approx(T**3 / 3, rel=0.01) and cached == pytest.approx(T**2 / 2, rel=0.01)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(policy="dynamic"), "policy='dynamic' is not 'static', 'rolling' or 'paged'"),
        (dict(max_len=0), "max_len=0 is not positive"),
        (dict(block_size=0), "block_size=0 is not positive"),
        (dict(n_kv_heads=0), "n_kv_heads=0 is not positive"),
    ],
)
def test_settings_that_cannot_be_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        KVCache(**{**dict(n_layers=1, batch=1, n_kv_heads=1, head_dim=1, max_len=1), **options})


@pytest.mark.parametrize("policy", ["static", "paged"])
def test_overrun_raises_and_writes_nothing(policy):
    cache, k = new(policy), torch.randn(2, 2, 12, 4)
    cache.update(0, k[:, :, :11], k[:, :, :11])
    before = cache.store.clone()
    with pytest.raises(ValueError, match="11 tokens and 2 new ones are more than max_len=12"):
        cache.update(0, k[:, :, :2], k[:, :, :2])
    assert torch.equal(cache.store, before) and cache.lengths == [11, 0]
    cache.update(0, k[:, :, :1], k[:, :, :1])


@pytest.mark.parametrize(
    ("k", "v", "message"),
    [
        ((1, 2, 3, 4), (1, 2, 3, 4), r"k has shape .*batch=2"),
        ((2, 6, 3, 4), (2, 6, 3, 4), r"k has shape .*n_kv_heads=2"),
        ((2, 2, 3, 5), (2, 2, 3, 5), r"k has shape .*head_dim=4"),
        ((2, 2, 3, 4), (2, 2, 2, 4), r"v has shape .*time=3"),
        ((2, 2, 3, 4), (2, 1, 3, 4), r"v has shape .*n_kv_heads=2"),
    ],
)
def test_shapes_that_do_not_fit_are_named(k, v, message):
    with pytest.raises(ValueError, match=message):
        new("static").update(0, torch.zeros(k), torch.zeros(v))


def test_dtype_and_layer_are_checked():
    k = torch.zeros(2, 2, 1, 4)
    with pytest.raises(TypeError, match="v has dtype torch.float64; the cache holds torch.float32"):
        new("static").update(0, k, k.double())
    for layer in (2, -1):
        with pytest.raises(ValueError, match=f"layer={layer} is not one of the 2 layers"):
            new("static").update(layer, k, k)


def test_numpy_variant_agrees(agree):
    x, wq, wk, wv = torch.randn(7, 6, dtype=D), *torch.randn(3, 6, 4, dtype=D)
    cache, steps = KVCache(1, 1, 1, 4, 7, D), []
    for t in range(7):
        token = x[None, None, [t]]
        k, v = cache.update(0, token @ wk, token @ wv)
        steps.append(F.scaled_dot_product_attention(token @ wq, k, v)[0, 0])
    arrays = [a.numpy() for a in (x, wq, wk, wv)]
    agree(decode(*arrays), torch.cat(steps))
    agree(decode_without_cache(*arrays), torch.cat(steps))


@pytest.mark.oracle("parameter counts of transformers' Llama on the meta device")
def test_the_calculator_knows_its_models():
    transformers = pytest.importorskip("transformers")
    shapes = {
        "Llama 2 7B": dict(),
        "Llama 2 70B": dict(
            hidden_size=8192, intermediate_size=28672, num_hidden_layers=80, num_attention_heads=64, num_key_value_heads=8
        ),
        "Llama 3 8B": dict(vocab_size=128256, intermediate_size=14336, num_key_value_heads=8),
    }
    for name, (layers, heads, kv_heads, width, parameters) in MODELS.items():
        config = transformers.LlamaConfig(**shapes[name])
        assert (layers, heads) == (config.num_hidden_layers, config.num_attention_heads)
        assert (kv_heads, width) == (config.num_key_value_heads, config.hidden_size // config.num_attention_heads)
        with torch.device("meta"):
            assert parameters == sum(p.numel() for p in transformers.LlamaForCausalLM(config).parameters())


def test_demo_says_the_published_number():
    assert show(model="Llama 2 70B")[-1]["caption"].startswith("320 KiB per token")
    with pytest.raises(ValueError, match="cannot share"):
        show(model="Llama 2 7B", kv_heads=64)
