import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from snippets.blocks import parallel_transformer as numpy_variant
from vocab.blocks.parallel_transformer import ParallelTransformerBlock
from vocab.blocks.tests.test_transformer_block import scrambled
from vocab.blocks.transformer_block import TransformerBlock
from vocab.inference.kv_cache import KVCache
from vocab.positional.rope import RotaryEmbedding

D = torch.float64


def example():
    block = ParallelTransformerBlock(8, 2, 12, shared_norm=False, ffn="swiglu", n_kv_heads=1, rope=RotaryEmbedding(4))
    return block.double(), (torch.randn(2, 4, 8, dtype=D),)


def attend(attention, u, is_causal):
    """Multi-head attention by PyTorch's own function, with the weights of ours."""
    q, k, v = (p(u).unflatten(-1, (attention.n_heads, -1)).transpose(1, 2)
               for p in (attention.q_proj, attention.k_proj, attention.v_proj))
    out = F.scaled_dot_product_attention(q, k, v, is_causal=is_causal)
    return attention.o_proj(out.transpose(1, 2).flatten(2))


@pytest.mark.oracle("x + attn(norm(x)) + mlp(norm(x)), with functions of torch.nn")
@pytest.mark.parametrize("shared_norm", [True, False])
@pytest.mark.parametrize("is_causal", [True, False])
@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_equals_the_formula_with_separate_modules(shared_norm, is_causal, activation):
    block = scrambled(ParallelTransformerBlock(12, 3, 20, shared_norm=shared_norm, activation=activation, bias=True))
    x = 3 * torch.randn(2, 5, 12, dtype=D)
    u = F.layer_norm(x, (12,), block.norm.weight, block.norm.bias)
    other = block.norm if shared_norm else block.feed_forward_norm
    v = F.layer_norm(x, (12,), other.weight, other.bias)
    mlp = block.feed_forward
    hidden = getattr(F, activation)(F.linear(v, mlp.up.weight, mlp.up.bias))
    expected = x + attend(block.attention, u, is_causal) + F.linear(hidden, mlp.down.weight, mlp.down.bias)
    torch.testing.assert_close(block(x, is_causal), expected)
    if is_causal:
        torch.testing.assert_close(block(x), expected)


@pytest.mark.oracle("one matrix for q, k, v and up, and one for o and down")
@pytest.mark.parametrize("bias", [False, True])
def test_two_fused_products_give_the_same(bias):
    block, x = scrambled(ParallelTransformerBlock(12, 3, 20, bias=bias)), torch.randn(2, 5, 12, dtype=D)
    attention, mlp = block.attention, block.feed_forward
    first = [attention.q_proj, attention.k_proj, attention.v_proj, mlp.up]
    b_in = torch.cat([p.bias for p in first]) if bias else None
    b_out = attention.o_proj.bias + mlp.down.bias if bias else None
    q, k, v, h = F.linear(block.norm(x), torch.cat([p.weight for p in first]), b_in).split([12, 12, 12, 20], -1)
    q, k, v = (y.unflatten(-1, (3, 4)).transpose(1, 2) for y in (q, k, v))
    heads = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
    both = torch.cat((heads, F.gelu(h)), -1)
    y = x + F.linear(both, torch.cat((attention.o_proj.weight, mlp.down.weight), 1), b_out)
    torch.testing.assert_close(y, block(x))


@pytest.mark.oracle("transformers GPTJBlock")
def test_is_the_block_of_gpt_j():
    gptj = pytest.importorskip("transformers.models.gptj.modeling_gptj")
    config = gptj.GPTJConfig(n_embd=24, n_head=3, n_inner=40, rotary_dim=4, n_positions=16, resid_pdrop=0.0, attn_pdrop=0.0,
                             embd_pdrop=0.0, attn_implementation="eager")
    theirs = scrambled(gptj.GPTJBlock(config, 0)).eval()
    rope = RotaryEmbedding(8, rotary_dim=4, layout="interleaved")
    ours = ParallelTransformerBlock(24, 3, 40, activation="gelu_tanh", bias=True, attention_bias=False, rope=rope).double()
    pairs = [(ours.norm, theirs.ln_1), (ours.attention.q_proj, theirs.attn.q_proj), (ours.attention.k_proj, theirs.attn.k_proj),
             (ours.attention.v_proj, theirs.attn.v_proj), (ours.attention.o_proj, theirs.attn.out_proj),
             (ours.feed_forward.up, theirs.mlp.fc_in), (ours.feed_forward.down, theirs.mlp.fc_out)]
    for mine, other in pairs:
        mine.load_state_dict(other.state_dict())
    x, positions = torch.randn(2, 7, 24, dtype=D), torch.stack((torch.arange(7), torch.arange(5, 12)))
    future = torch.full((1, 1, 7, 7), -torch.inf, dtype=D).triu(1)
    expected = theirs(x, attention_mask=future, position_ids=positions)[0]
    torch.testing.assert_close(ours(x, position_ids=positions), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.oracle("transformers GPTNeoXLayer")
def test_two_norms_make_the_layer_of_gpt_neox():
    neox = pytest.importorskip("transformers.models.gpt_neox.modeling_gpt_neox")
    config = neox.GPTNeoXConfig(hidden_size=24, num_attention_heads=3, intermediate_size=40, rotary_pct=0.5,
                                max_position_embeddings=16, attn_implementation="eager")
    theirs = scrambled(neox.GPTNeoXLayer(config, 0)).eval()
    ours = ParallelTransformerBlock(24, 3, 40, shared_norm=False, bias=True, rope=RotaryEmbedding(8, rotary_dim=4)).double()
    pairs = [(ours.norm, theirs.input_layernorm), (ours.feed_forward_norm, theirs.post_attention_layernorm),
             (ours.attention.o_proj, theirs.attention.dense), (ours.feed_forward.up, theirs.mlp.dense_h_to_4h),
             (ours.feed_forward.down, theirs.mlp.dense_4h_to_h)]
    for mine, other in pairs:
        mine.load_state_dict(other.state_dict())
    fused = theirs.attention.query_key_value  # head by head, q, k and v of each side by side
    for i, name in enumerate("qkv"):
        projection = getattr(ours.attention, f"{name}_proj")
        projection.load_state_dict({kind: x.unflatten(0, (3, 3, 8))[:, i].flatten(0, 1) for kind, x in fused.state_dict().items()})
    x, positions = torch.randn(2, 7, 24, dtype=D), torch.arange(7)[None]
    future = torch.full((1, 1, 7, 7), -torch.inf, dtype=D).triu(1)
    angles = neox.GPTNeoXRotaryEmbedding(config)(x, positions)
    expected = theirs(x, attention_mask=future, position_embeddings=angles)
    expected = expected[0] if isinstance(expected, tuple) else expected
    torch.testing.assert_close(ours(x), expected, rtol=1e-5, atol=1e-6)


def sequential_and_parallel(scale):
    """Both kinds of block with the same weights, whose branches are scaled."""
    torch.manual_seed(1)
    parallel = ParallelTransformerBlock(16, 2).double()
    with torch.no_grad():
        for p in (parallel.attention.o_proj.weight, parallel.feed_forward.down.weight):
            p.mul_(10 * scale)
    sequential = TransformerBlock(16, 2, bias=False).double()
    sequential.attention.sublayer, sequential.feed_forward.sublayer = parallel.attention, parallel.feed_forward
    return sequential, parallel


@pytest.mark.oracle("log-log slope 2 of the difference to the sequential block")
def test_the_difference_to_the_sequential_block_is_second_order_in_the_branches():
    x, scales, apart = torch.randn(2, 6, 16, dtype=D), [1e-1, 1e-2, 1e-3, 1e-4], []
    for scale in scales:
        sequential, parallel = sequential_and_parallel(scale)
        apart.append((sequential(x, is_causal=True) - parallel(x)).norm().item())
    slopes = np.diff(np.log10(apart)) / np.diff(np.log10(scales))
    assert slopes[-1] == pytest.approx(2.0, abs=0.01) and slopes[0] == pytest.approx(2.0, abs=0.3)


@pytest.mark.oracle("the Jacobian of the feed-forward branch, times what the attention adds")
def test_the_leading_term_of_the_difference_is_the_feed_forward_network_seeing_what_attention_added():
    x, scale = torch.randn(1, 6, 16, dtype=D), 1e-4
    sequential, parallel = sequential_and_parallel(scale)
    added = parallel.attention(parallel.norm(x))
    leading = torch.func.jvp(lambda z: parallel.feed_forward(parallel.norm(z)), (x,), (added,))[1]
    found = sequential(x, is_causal=True) - parallel(x)
    torch.testing.assert_close(found, leading, rtol=0, atol=0.01 * leading.abs().max().item())


def test_weights_of_a_sequential_block_give_something_else():
    sequential, parallel = sequential_and_parallel(0.3)
    x = torch.randn(2, 6, 16, dtype=D)
    assert (sequential(x, is_causal=True) - parallel(x)).norm() > 0.05 * parallel(x).norm()


@pytest.mark.oracle("the identity")
@pytest.mark.parametrize("shared_norm", [True, False])
def test_zero_branches_give_the_identity(shared_norm):
    block, x = ParallelTransformerBlock(12, 3, shared_norm=shared_norm).double(), torch.randn(2, 5, 12, dtype=D)
    nn.init.zeros_(block.attention.o_proj.weight), nn.init.zeros_(block.feed_forward.down.weight)
    assert torch.equal(block(x), x)


@pytest.mark.oracle("two devices with half of the heads and half of the hidden units each")
def test_devices_that_share_the_work_exchange_one_sum_where_the_sequential_block_needs_two():
    sequential, parallel = sequential_and_parallel(0.3)
    x, calls = torch.randn(2, 6, 16, dtype=D), []

    def all_reduce(parts):
        calls.append(len(parts))
        return sum(parts)

    def attention_part(u, rank):
        rows, a = slice(8 * rank, 8 * rank + 8), parallel.attention
        q, k, v = (u @ p.weight[rows].T for p in (a.q_proj, a.k_proj, a.v_proj))  # one head of width 8
        return F.scaled_dot_product_attention(q, k, v, is_causal=True) @ a.o_proj.weight[:, rows].T

    def mlp_part(u, rank):
        rows, m = slice(32 * rank, 32 * rank + 32), parallel.feed_forward
        return F.gelu(u @ m.up.weight[rows].T) @ m.down.weight[:, rows].T

    u = parallel.norm(x)
    torch.testing.assert_close(x + all_reduce([attention_part(u, r) + mlp_part(u, r) for r in (0, 1)]), parallel(x))
    assert len(calls) == 1
    y = x + all_reduce([attention_part(parallel.norm(x), r) for r in (0, 1)])
    y = y + all_reduce([mlp_part(parallel.norm(y), r) for r in (0, 1)])
    torch.testing.assert_close(y, sequential(x, is_causal=True))
    assert len(calls) == 3


@pytest.mark.oracle("the full pass over all tokens")
def test_decoding_with_a_cache_equals_the_full_pass():
    block, x = scrambled(ParallelTransformerBlock(24, 6, 16, n_kv_heads=2, rope=RotaryEmbedding(4))), torch.randn(2, 7, 24, dtype=D)
    cache = KVCache(3, 2, 2, 4, 7, D)
    torch.testing.assert_close(torch.cat([block(part, cache=cache, layer=1) for part in x.split([4, 1, 2], 1)], 1), block(x))
    block(x, cache=cache)
    assert cache.lengths == [7, 7, 0], "the first layer, unless told"


@pytest.mark.oracle("closed form: 12 d², as the sequential block, and one norm less")
def test_it_has_the_weights_of_the_sequential_block_and_one_norm_less():
    count = lambda block: sum(p.numel() for p in block.parameters())  # noqa: E731
    assert count(ParallelTransformerBlock(16, 2)) == 12 * 16**2 + 2 * 16
    assert count(ParallelTransformerBlock(16, 2, shared_norm=False)) == count(TransformerBlock(16, 2, bias=False)) == 12 * 16**2 + 4 * 16
    assert count(ParallelTransformerBlock(16, 2, bias=True, attention_bias=False)) == 12 * 16**2 + 5 * 16 + 2 * 16
    assert ParallelTransformerBlock(16, 2, 24, ffn="swiglu").feed_forward.down.weight.shape == (16, 24)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ParallelTransformerBlock(8, 3), "d_model=8 is not a multiple of n_heads=3"),
        (lambda: ParallelTransformerBlock(8, 2, ffn="moe"), "ffn='moe' is neither 'mlp' nor 'swiglu'"),
        (lambda: ParallelTransformerBlock(8, 2)(torch.zeros(3, 8)), r"x has shape \(3, 8\); expected \(batch, time, d_model=8\)"),
        (lambda: ParallelTransformerBlock(8, 2)(torch.zeros(1, 3, 6)), r"x has shape \(1, 3, 6\); expected \(batch, time, d_model=8\)"),
        (lambda: ParallelTransformerBlock(8, 2)(torch.zeros(1, 3, 8), False, cache=KVCache(1, 1, 2, 4, 3)), "is_causal=False with a cache"),
        (lambda: ParallelTransformerBlock(8, 2)(torch.zeros(1, 3, 8), position_ids=torch.arange(3)), "no rotary embedding"),
    ],
)
def test_what_cannot_be_says_why(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def as_numpy(block):
    w = {name: getattr(block.attention, f"{name}_proj").weight.T.detach().numpy() for name in "qkvo"}
    return w | dict(up=block.feed_forward.up.weight.detach().numpy(), down=block.feed_forward.down.weight.detach().numpy())


@pytest.mark.parametrize("causal", [True, False])
def test_numpy_variants_agree(agree, causal):
    """The plain one, and the one with two products instead of six."""
    block, x = ParallelTransformerBlock(12, 3, 20).double(), 2 * torch.randn(1, 6, 12, dtype=D)
    w, mask, expected = as_numpy(block), np.tri(6, dtype=bool) if causal else None, block(x, causal)[0]
    agree(numpy_variant.parallel_block(x[0].numpy(), w, 3, mask), expected)
    agree(numpy_variant.fused_block(x[0].numpy(), *numpy_variant.fuse(w), 3, mask), expected)


def test_demo_shows_a_slope_of_two_and_no_difference_without_branches():
    curve = np.array(numpy_variant.show(depth=1)[0]["series"]["1 layer"])
    slopes = np.diff(np.log10(curve[:, 1])) / np.diff(np.log10(curve[:, 0]))
    assert slopes[0] == pytest.approx(2.0, abs=0.1)
    along = np.array(numpy_variant.show(scale=0.0)[1]["series"]["difference"])
    assert not along[:, 1].any()
