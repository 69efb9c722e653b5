import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from snippets.adapters.prefix_tuning import attend as numpy_attend
from snippets.adapters.prefix_tuning import with_prefix as numpy_with_prefix
from vocab.adapters.prefix_tuning import PrefixTuning
from vocab.attention.causal import CausalSelfAttention
from vocab.attention.masks import causal_mask
from vocab.attention.multi_head import merge_heads, split_heads
from vocab.attention.scaled_dot_product import scaled_dot_product_attention
from vocab.inference.kv_cache import KVCache

D = torch.float64


class Read(nn.Module):
    """Attention over a prefix and a text: what the contract suite runs."""

    def __init__(self):
        super().__init__()
        self.prefix = PrefixTuning(1, 2, 3, 2, reparam_hidden=4).double()

    def forward(self, q):
        if not isinstance(q, torch.Tensor) or not q.is_floating_point():
            raise TypeError(f"q is a {type(q).__name__}")
        k, v = self.prefix(len(q))[0]
        return scaled_dot_product_attention(q, torch.cat((k, q), 2), torch.cat((v, q), 2))


def example():
    """For the contract suite: attention with a prefix, and its input."""
    return Read(), (torch.randn(2, 2, 4, 3, dtype=D),)


def pieces():
    q, k, v = torch.randn(3, 2, 4, 6, 8, dtype=D).unbind(0)
    prefix = PrefixTuning(1, 4, 8, 3, reparam_hidden=None).double()
    nn.init.normal_(prefix.prefix)
    return q, k, v, *prefix(2)[0]


@pytest.mark.oracle("torch.nn.functional.scaled_dot_product_attention over joined keys")
def test_attention_reads_the_prefix_as_more_keys_and_values():
    q, k, v, pk, pv = pieces()
    mask = torch.cat((torch.ones(6, 3, dtype=torch.bool), causal_mask(6)), 1)
    expected = F.scaled_dot_product_attention(q, torch.cat((pk, k), 2), torch.cat((pv, v), 2), attn_mask=mask)
    found = scaled_dot_product_attention(q, torch.cat((pk, k), 2), torch.cat((pv, v), 2), is_causal=True)
    torch.testing.assert_close(found, expected)


@pytest.mark.oracle("convex mixture of two attentions (He et al. 2022, equation 7)")
def test_it_is_a_mixture_of_reading_the_text_and_reading_the_prefix():
    q, k, v, pk, pv = pieces()
    scores_text, scores_prefix = (q @ x.transpose(-2, -1) / 8**0.5 for x in (k, pk))
    lam = (scores_prefix.logsumexp(-1) - torch.cat((scores_prefix, scores_text), -1).logsumexp(-1)).exp()[..., None]
    text, prefix = scaled_dot_product_attention(q, k, v), scaled_dot_product_attention(q, pk, pv)
    whole = scaled_dot_product_attention(q, torch.cat((pk, k), 2), torch.cat((pv, v), 2))
    torch.testing.assert_close(whole, (1 - lam) * text + lam * prefix)
    assert 0 < lam.min() and lam.max() < 1


def test_a_prefix_that_nobody_reads_is_the_frozen_model():
    q, k, v, pk, pv = pieces()
    hidden = torch.cat((torch.full((6, 3), -torch.inf, dtype=D), torch.zeros(6, 6, dtype=D)), 1)
    found = scaled_dot_product_attention(q, torch.cat((pk, k), 2), torch.cat((pv, v), 2), attn_mask=hidden)
    torch.testing.assert_close(found, scaled_dot_product_attention(q, k, v))


def test_it_can_be_put_into_a_cache_before_the_text():
    attention, prefix = CausalSelfAttention(8, 2).double(), PrefixTuning(1, 2, 4, 3).double()
    k, v = prefix(1)[0]
    cache = KVCache(1, 1, 2, 4, max_len=10, dtype=D)
    with torch.no_grad():
        cache.update(0, k, v)
        x = torch.randn(1, 5, 8, dtype=D)
        found = attention(x, cache=cache)
        tk, tv = attention.keys_and_values(x)
        q = split_heads(attention.q_proj(x), 4)
        out = scaled_dot_product_attention(q, torch.cat((k, tk), 2), torch.cat((v, tv), 2), is_causal=True)
        torch.testing.assert_close(found, attention.o_proj(merge_heads(out)))


def test_collapsing_keeps_the_prefix_and_drops_the_network():
    prefix = PrefixTuning(3, 2, 4, 5, reparam_hidden=16).double()
    before = [(k.clone(), v.clone()) for k, v in prefix(2)]
    assert prefix.collapse() is prefix and prefix.network is None
    for (k, v), (bk, bv) in zip(prefix(2), before):
        torch.testing.assert_close(k, bk), torch.testing.assert_close(v, bv)
    kept = prefix.prefix
    assert prefix.collapse().prefix is kept


@pytest.mark.oracle("closed form 2 · layers · L · D")
def test_counts():
    layers, heads, d, length = 24, 16, 64, 10
    direct = PrefixTuning(layers, heads, d, length, reparam_hidden=None)
    assert sum(p.numel() for p in direct.parameters()) == 2 * layers * length * heads * d == 491_520
    assert 491_520 / 354_823_168 == pytest.approx(0.0014, abs=1e-4)  # of GPT-2 medium


def test_layers_heads_keys_and_values_have_their_own_numbers():
    prefix = PrefixTuning(2, 2, 3, 4, reparam_hidden=None)
    with torch.no_grad():
        prefix.prefix.copy_(torch.arange(4 * 24.0).view(4, 24))
    (k0, v0), (k1, v1) = prefix(1)
    assert k0[0, 0, 0].tolist() == [0, 1, 2] and k0[0, 1, 0].tolist() == [3, 4, 5]
    assert v0[0, 0, 0].tolist() == [6, 7, 8] and k1[0, 0, 0].tolist() == [12, 13, 14] and v1[0, 0, 0].tolist() == [18, 19, 20]
    assert k0[0, 0, 1].tolist() == [24, 25, 26], "the next place of the prefix"


def test_starts_small():
    """Erratum: a standard deviation of 1 is about fifty times that of GPT-2's embeddings."""
    prefix = PrefixTuning(2, 8, 64, 50, reparam_hidden=None)
    assert prefix.prefix.std().item() == pytest.approx(0.02, rel=0.05)


def test_vectors_before_the_embeddings_are_another_method():
    """Erratum: one set of vectors at the input acts in the first layer only; here every layer has its own keys."""
    keys = [k for k, _ in PrefixTuning(3, 2, 4, 5)(1)]
    assert len(keys) == 3 and not torch.allclose(keys[0], keys[1])


@pytest.mark.oracle("peft PrefixTuningConfig")
def test_gives_the_keys_and_values_of_peft():
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    config = transformers.GPT2Config(vocab_size=13, n_positions=16, n_embd=8, n_layer=2, n_head=2, bos_token_id=None, eos_token_id=None)
    model = transformers.GPT2LMHeadModel(config).eval()
    theirs = peft.get_peft_model(model, peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)).eval()
    ours = PrefixTuning(2, 2, 4, 3, reparam_hidden=None)
    with torch.no_grad():
        ours.prefix.copy_(theirs.prompt_encoder["default"].embedding.weight)
    cache = theirs.get_prompt(1)
    for layer, (k, v) in enumerate(ours(1)):
        torch.testing.assert_close(k, cache.layers[layer].keys), torch.testing.assert_close(v, cache.layers[layer].values)


@pytest.mark.parametrize(("call", "message"), [
    (lambda: PrefixTuning(0, 2, 4), "n_layers=0 is below 1"),
    (lambda: PrefixTuning(1, 0, 4), "n_heads=0 is below 1"),
    (lambda: PrefixTuning(1, 2, 0), "head_dim=0 is below 1"),
    (lambda: PrefixTuning(1, 2, 4, 0), "prefix_length=0 is below 1"),
    (lambda: PrefixTuning(1, 2, 4, reparam_hidden=0), "reparam_hidden=0 is below 1"),
    (lambda: PrefixTuning(1, 2, 4)(0), "batch_size=0 is below 1"),
])
def test_bad_settings_say_why(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_numpy_variant_agrees(agree):
    q, k, v, pk, pv = (x[0, 0].detach() for x in pieces())
    out, weights, lam = numpy_with_prefix(*(x.numpy() for x in (q, k, v, pk, pv)))
    agree(out, scaled_dot_product_attention(q, torch.cat((pk, k)), torch.cat((pv, v))))
    agree(numpy_attend(q.numpy(), k.numpy(), v.numpy())[0], scaled_dot_product_attention(q, k, v))
    np.testing.assert_allclose(lam, weights[:, :3].sum(-1))
