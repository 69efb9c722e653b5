from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from snippets.attention import attention_sink as numpy_variant
from vocab.attention.attention_sink import StreamingCache, sink_attention
from vocab.attention.masks import causal_mask
from vocab.positional.rope import RotaryEmbedding

D = torch.float64


def qkv(T=5, S=7):
    return (torch.randn(2, 3, n, 4, dtype=D) for n in (T, S, S))


def example():
    return sink_attention, (*qkv(), torch.randn(3, dtype=D))


@pytest.mark.oracle("torch.nn.functional.scaled_dot_product_attention with one more key of value 0")
@pytest.mark.parametrize("setting", [dict(), dict(window=2), dict(is_causal=False), dict(scale=0.3)])
def test_equals_attention_to_one_more_key_that_says_nothing(setting):
    q, k, v = qkv()
    sink = torch.randn(3, dtype=D)
    seen = causal_mask(5, 7, setting.get("window")) if setting.get("is_causal", True) else torch.ones(5, 7, dtype=torch.bool)
    bias = torch.zeros(3, 5, 8, dtype=D)
    bias[..., :7] = torch.zeros(5, 7, dtype=D).masked_fill(~seen, -torch.inf)
    bias[..., 7] = sink[:, None]
    more_k, more_v = (torch.cat((x, torch.zeros(2, 3, 1, 4, dtype=D)), 2) for x in (k, v))
    expected = F.scaled_dot_product_attention(q, more_k, more_v, attn_mask=bias, scale=setting.get("scale"))
    torch.testing.assert_close(sink_attention(q, k, v, sink, **setting), expected)


@pytest.mark.oracle("transformers, the eager attention of GptOssAttention")
def test_is_the_attention_of_gpt_oss():
    gpt_oss = pytest.importorskip("transformers.models.gpt_oss.modeling_gpt_oss")
    q, k, v = qkv(7, 7)
    sink = torch.randn(3, dtype=D)
    module = SimpleNamespace(sinks=sink, num_key_value_groups=1, training=False)
    for window in (None, 3):
        mask = torch.zeros(1, 1, 7, 7, dtype=D).masked_fill(~causal_mask(7, window=window), torch.finfo(D).min)
        theirs, weights = gpt_oss.eager_attention_forward(module, q, k, v, mask, scaling=0.5)
        ours, our_weights = sink_attention(q, k, v, sink, window=window, return_weights=True)
        torch.testing.assert_close(ours, theirs.transpose(1, 2))
        torch.testing.assert_close(our_weights, weights)


def test_without_a_sink_it_is_the_usual_softmax():
    q, k, v = qkv()
    none = torch.full((3,), -torch.inf, dtype=D)
    torch.testing.assert_close(sink_attention(q, k, v, none), F.scaled_dot_product_attention(q, k, v, causal_mask(5, 7)))


@pytest.mark.oracle("closed form: exp(x_i) / (1 + sum_j exp(x_j)), and weights that sum to 1 less the sink's share")
def test_a_sink_of_zero_is_the_softmax_plus_one():
    q, k, v = qkv()
    scores = q @ k.mT / 2
    expected = scores.exp() / (1 + scores.exp().sum(-1, keepdim=True))
    _, weights = sink_attention(q, k, v, torch.zeros(3, dtype=D), is_causal=False, return_weights=True)
    torch.testing.assert_close(weights, expected)
    sink = torch.tensor([1.0, -2.0, 3.0], dtype=D)
    _, weights = sink_attention(q, k, v, sink, is_causal=False, return_weights=True)
    share = sink.exp()[:, None] / (sink.exp()[:, None] + scores.exp().sum(-1))
    torch.testing.assert_close(weights.sum(-1), 1 - share)


def test_a_large_sink_silences_the_head():
    q, k, v = qkv()
    out = sink_attention(q, k, v, torch.tensor([0.0, 1000.0, 0.0], dtype=D))
    assert (out[:, 1] == 0).all() and (out[:, 0] != 0).all()


def test_each_head_has_its_own_sink_and_learns_it():
    q, k, v = qkv()
    sink = torch.zeros(3, dtype=D, requires_grad=True)
    sink_attention(q, k, v, sink)[:, 1].square().sum().backward()
    assert (sink.grad != 0).tolist() == [False, True, False]


@pytest.mark.oracle("bookkeeping: the first n tokens and the latest w, for every cut of the stream")
@pytest.mark.parametrize("sizes", [[1] * 12, [3, 1, 3, 2, 3], [2] * 6])
@pytest.mark.parametrize("n_sink", [0, 2, 4])
def test_the_cache_keeps_the_first_and_the_latest(sizes, n_sink):
    cache, seen = StreamingCache(n_sink, window=3), 0
    for size in sizes:
        tokens = torch.arange(seen, seen + size, dtype=D).view(1, 1, -1, 1)
        seen += size
        k, v, positions = cache.append(tokens, tokens + 100)
        expected = [t for t in range(seen) if t < n_sink or t >= seen - 3]
        assert k.flatten().tolist() == expected and v.flatten().tolist() == [t + 100 for t in expected]
        assert positions.tolist() == list(range(len(expected))) and cache.length == seen


def test_positions_are_places_in_the_cache():
    """With the text's positions, distances to the first tokens would grow for ever, past all that was trained."""
    rotary, cache = RotaryEmbedding(4), StreamingCache(1, window=3)
    stream = torch.randn(1, 1, 20, 4)
    for t in range(20):
        k, _, positions = cache.append(stream[:, :, t : t + 1], stream[:, :, t : t + 1])
    score = (rotary.rotate(stream[:, :, 19:], positions[-1:]) * rotary.rotate(k, positions)[:, :, :1]).sum()
    near = (rotary.rotate(stream[:, :, 19:], torch.tensor([3])) * rotary.rotate(stream[:, :, :1], torch.tensor([0]))).sum()
    torch.testing.assert_close(score, near)
    far = (rotary.rotate(stream[:, :, 19:], torch.tensor([19])) * rotary.rotate(stream[:, :, :1], torch.tensor([0]))).sum()
    assert (score - far).abs() > 1e-3


def test_bad_input_is_named():
    q, k, v = qkv()
    sink = torch.zeros(3, dtype=D)
    for given, message in [
        ((q[0], k, v, sink), "q has shape"), ((q, k[:, :2], v, sink), r"k has shape .* heads=3"), ((q, k[:1], v, sink), r"k has shape .*batch=2"),
        ((q, k[..., :3], v, sink), r"k has shape .* width=4"), ((q, k, v[:, :, :6], sink), r"v has shape .* keys=7"),
        ((q, k, v[:, :2], sink), r"v has shape .* heads=3"), ((q, k, v[:1], sink), r"v has shape .*batch=2"),
        ((q, k, v, sink[:2]), r"sink_logits has shape \(2,\); expected \(heads=3\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            sink_attention(*given)
    with pytest.raises(ValueError, match="window=2 without is_causal=True"):
        sink_attention(q, k, v, sink, is_causal=False, window=2)
    for given, message in [(dict(n_sink=-1, window=2), "n_sink=-1 is negative"), (dict(window=0), "window=0 is not positive")]:
        with pytest.raises(ValueError, match=message):
            StreamingCache(**given)
    cache = StreamingCache(window=3)
    assert cache.n_sink == 4
    with pytest.raises(ValueError, match="5 new tokens at once are more than window=3"):
        cache.append(q, q)
    for k_, v_, name in [(q[0], q[0], "k"), (q[:, :, :2], q[:, :2, :2], "v"), (q[:, :, :2], q[:1, :, :2], "v"), (q[:, :, :2], q[:, :, :1], "v"), (q[:, :, :2], q[:, :, :2, :3], "v")]:
        with pytest.raises(ValueError, match=f"{name} has shape"):
            cache.append(k_, v_)


@pytest.mark.parametrize("sink", [-3.0, 0.0, 2.0])
def test_numpy_variant_agrees(agree, sink):
    q, k, v = (x[0, 0] for x in qkv())
    expected = sink_attention(q[None, None], k[None, None], v[None, None], torch.tensor([sink], dtype=D), is_causal=False)
    agree(numpy_variant.sink_attention(q.numpy(), k.numpy(), v.numpy(), sink), expected[0, 0])


def test_numpy_keeps_the_same_tokens():
    assert numpy_variant.kept(12, 2, 3).tolist() == [0, 1, 9, 10, 11] and numpy_variant.kept(4, 2, 3).tolist() == [0, 1, 2, 3]


def test_demo_evicting_the_sink_redistributes_its_weight():
    weights = numpy_variant.show(sink=6.0, evicted=1)[0]["series"]
    assert weights["before"][0] > 0.5 and weights["after"][0] == 0 and np.nansum(weights["after"]) == pytest.approx(1, abs=0.01)
