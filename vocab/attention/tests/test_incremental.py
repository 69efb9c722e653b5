import numpy as np
import pytest
import torch
from torch.nn import functional as F

from snippets.attention import incremental as numpy_variant
from vocab.attention.causal import CausalSelfAttention
from vocab.attention.incremental import IncrementalAttention, KVBuffer
from vocab.inference.kv_cache import cache_bytes
from vocab.positional.rope import RotaryEmbedding

D = torch.float64


def example():
    return IncrementalAttention(12, 3, 1, max_len=8, rotary=RotaryEmbedding(4, base=20.0)).double(), (torch.randn(2, 8, 12, dtype=D),)


@pytest.mark.oracle("the full causal pass, with rotary positions")
@pytest.mark.parametrize("t", range(1, 8))
def test_prefill_and_single_steps_equal_the_full_pass(t):
    module, (x,) = example()
    buffer = module.new_buffer(2)
    steps = [module(x[:, :t], buffer)] + [module(x[:, i : i + 1], buffer) for i in range(t, 8)]
    torch.testing.assert_close(torch.cat(steps, 1), module(x), rtol=1e-10, atol=1e-10)
    assert buffer.length == 8


@pytest.mark.oracle("the full causal pass")
def test_chunks_see_the_past_and_themselves():
    module, (x,) = example()
    buffer = module.new_buffer(2)
    chunks = [module(part, buffer) for part in x.split([3, 4, 1], 1)]
    torch.testing.assert_close(torch.cat(chunks, 1), module(x), rtol=1e-10, atol=1e-10)


@pytest.mark.oracle("CausalSelfAttention, itself tested against PyTorch")
def test_without_a_buffer_it_is_causal_attention():
    module, x = IncrementalAttention(12, 3, max_len=8, bias=True).double(), torch.randn(2, 5, 12, dtype=D)
    causal = CausalSelfAttention(12, 3).double()
    causal.load_state_dict(module.state_dict())
    torch.testing.assert_close(module(x), causal(x))


def test_pytorchs_flag_shows_a_new_query_the_first_key_only():
    q, k, v = torch.randn(1, 4, dtype=D), torch.randn(6, 4, dtype=D), torch.randn(6, 4, dtype=D)
    torch.testing.assert_close(F.scaled_dot_product_attention(q, k, v, is_causal=True), v[:1])


@pytest.mark.oracle("a fresh run over what is kept")
def test_truncated_and_continued_equals_a_fresh_run():
    module, (x,) = example()
    other, buffer, fresh = torch.randn(2, 3, 12, dtype=D), module.new_buffer(2), module.new_buffer(2)
    module(x[:, :6], buffer)
    buffer.truncate(3)
    ours = module(other, buffer)
    module(x[:, :3], fresh)
    torch.testing.assert_close(ours, module(other, fresh), rtol=0, atol=0)
    assert buffer.length == 6


@pytest.mark.oracle("a fresh run over the permuted batch")
def test_reordered_equals_a_run_over_the_reordered_batch():
    module, (x,) = example()
    index, buffer, fresh = torch.tensor([1, 1]), module.new_buffer(2), module.new_buffer(2)
    module(x[:, :4], buffer)
    buffer.reorder(index)
    module(x[index, :4], fresh)
    torch.testing.assert_close(module(x[:, 4:5], buffer), module(x[:, 4:5], fresh))


def test_reset_forgets_the_last_request():
    """A widely copied class has no reset: a second text attends to the first."""
    module, (x,) = example()
    buffer = module.new_buffer(2)
    module(x, buffer)
    buffer.reset()
    assert buffer.length == 0
    torch.testing.assert_close(module(x.flip(1), buffer), module(x.flip(1)))


def test_memory_never_moves():
    """A widely copied class concatenates all keys in each step: it copies T (T + 1) / 2 tokens to store T."""
    module, (x,) = example()
    buffer = module.new_buffer(2)
    place = buffer.store.data_ptr()
    for i in range(8):
        module(x[:, i : i + 1], buffer)
        assert buffer.store.data_ptr() == place
    assert len([p for p in module.parameters()]) == 4, "it is a module with weights"


@pytest.mark.oracle("closed form 2·B·G·S·d·bytes")
@pytest.mark.parametrize("n_kv_heads", [None, 1])
def test_bytes_are_the_closed_form(n_kv_heads):
    """A widely copied formula leaves out the batch, the bytes of a number, and that only key/value heads count."""
    buffer = IncrementalAttention(12, 3, n_kv_heads, max_len=8).new_buffer(5)
    expected = 2 * 5 * (n_kv_heads or 3) * 8 * 4 * 4
    assert buffer.store.numel() * buffer.store.element_size() == expected
    assert cache_bytes(1, n_kv_heads or 3, 4, 8, batch=5, bytes_per_number=4) == expected


def test_no_room_is_an_error_and_nothing_is_lost():
    module, (x,) = example()
    buffer = module.new_buffer(2)
    module(x[:, :7], buffer)
    with pytest.raises(ValueError, match="no room: 7 tokens and 2 new ones are more than max_len=8"):
        module(x[:, :2], buffer)
    assert buffer.length == 7
    torch.testing.assert_close(module(x[:, 7:], buffer), module(x)[:, 7:])


def test_bad_input_is_named():
    buffer = KVBuffer(2, 1, 8, 4)
    buffer.append(*torch.zeros(2, 2, 1, 3, 4))
    for n in (-1, 4):
        with pytest.raises(ValueError, match=f"n={n} is not from 0 to the 3 tokens held"):
            buffer.truncate(n)
    buffer.truncate(3), buffer.truncate(0)
    assert buffer.length == 0
    buffer.reorder(torch.tensor([0, 1])), buffer.reorder(torch.tensor([1, 1]))
    for index in ([0, 2], [-1, 0]):
        with pytest.raises(ValueError, match=f"index has {min(index)} to {max(index)}; allowed are 0 to 1"):
            buffer.reorder(torch.tensor(index))
    with pytest.raises(ValueError, match=r"index has shape \(3,\); expected \(batch=2\)"):
        buffer.reorder(torch.tensor([0, 1, 0]))
    with pytest.raises(ValueError, match="max_len=0 is not positive"):
        IncrementalAttention(12, 3, max_len=0)
    assert IncrementalAttention(12, 3, max_len=1).max_len == 1
    assert IncrementalAttention(12, 3, max_len=1).q_proj.bias is None
    with pytest.raises(ValueError, match=r"x has shape .* d_model=12"):
        example()[0](torch.zeros(2, 5, 11, dtype=D))
    assert buffer.store.dtype == torch.float32


def test_numpy_variant_agrees(agree):
    module, x = IncrementalAttention(12, 3, max_len=8).double(), torch.randn(1, 8, 12, dtype=D)
    w = [p.weight.detach().numpy().T for p in (module.q_proj, module.k_proj, module.v_proj, module.o_proj)]
    buffer, ours = numpy_variant.Buffer(3, 8, 4), []
    for part in x[0].split([3, 1, 4]):
        ours.append(numpy_variant.step(part.numpy(), *w, buffer))
    agree(np.concatenate(ours), module(x)[0])


@pytest.mark.oracle("counting: the scores of all steps")
def test_numpy_counts():
    with_cache, without = (numpy_variant.multiply_adds(10, 16, cached) for cached in (True, False))
    assert with_cache == 4 * 16 * 16 + 2 * 10 * 16 and without == 10 * 4 * 16 * 16 + 2 * 55 * 16


def test_demo_computes_one_row_a_step_with_a_cache():
    cached, all_ = (np.array(numpy_variant.show(cached=c)[0]["values"], float) for c in (True, False))
    assert np.nansum(cached == 12) == 12 and np.nanmin(all_) == np.nanmax(all_) == 12
