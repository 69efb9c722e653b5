import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from snippets.blocks import transformer_block as numpy_variant
from vocab.attention.masks import causal_mask
from vocab.blocks.transformer_block import TransformerBlock, sublayers
from vocab.inference.kv_cache import KVCache
from vocab.positional.rope import RotaryEmbedding

D = torch.float64


def example():
    block = TransformerBlock(8, 2, 12, norm="rms", ffn="swiglu", n_kv_heads=1, rope=RotaryEmbedding(4), cross=True, bias=False)
    return block.double(), (torch.randn(2, 4, 8, dtype=D), torch.randn(2, 3, 8, dtype=D))


def scrambled(module):
    """Weights as large as after training: with zero biases and gains of one a lost term does not show."""
    for p in module.parameters():
        nn.init.normal_(p, std=0.4)
    return module.double()


def attention_from(theirs):
    """The state of an nn.MultiheadAttention, which keeps queries, keys and values in one matrix."""
    state = {f"o_proj.{kind}": getattr(theirs.out_proj, kind) for kind in ("weight", "bias")}
    for kind, x in (("weight", theirs.in_proj_weight), ("bias", theirs.in_proj_bias)):
        state |= {f"{p}_proj.{kind}": part for p, part in zip("qkv", x.chunk(3))}
    return state


def from_torch(ours, theirs):
    """Copies an encoder or decoder layer of torch.nn."""
    parts = [("attention", attention_from(theirs.self_attn), theirs.norm1)]
    if ours.cross_attention is not None:
        parts.append(("cross_attention", attention_from(theirs.multihead_attn), theirs.norm2))
    mlp = {f"{mine}.{kind}": getattr(layer, kind) for mine, layer in (("up", theirs.linear1), ("down", theirs.linear2))
           for kind in ("weight", "bias")}
    parts.append(("feed_forward", mlp, theirs.norm3 if ours.cross_attention is not None else theirs.norm2))
    for name, sublayer, norm in parts:
        getattr(ours, name).sublayer.load_state_dict({k: v.detach() for k, v in sublayer.items()})
        getattr(ours, name).norm.load_state_dict(norm.state_dict())
    return ours


def same_values_and_gradients(ours, theirs, *inputs):
    mine, other = ([x.clone().requires_grad_() for x in inputs] for _ in range(2))
    y, z = ours(*mine), theirs(*other)
    torch.testing.assert_close(y, z)
    upstream = torch.randn_like(y)
    y.backward(upstream), z.backward(upstream)
    for a, b in zip(mine, other):
        torch.testing.assert_close(a.grad, b.grad)


@pytest.mark.oracle("torch.nn.TransformerEncoderLayer, norm_first both ways, values and gradients")
@pytest.mark.parametrize("placement", ["pre", "post"])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_equals_the_encoder_layer_of_torch(placement, activation):
    settings = dict(dropout=0.0, batch_first=True, activation=activation, norm_first=placement == "pre")
    theirs = scrambled(nn.TransformerEncoderLayer(12, 3, 20, **settings))
    ours = from_torch(TransformerBlock(12, 3, 20, placement=placement, activation=activation).double(), theirs)
    x = torch.randn(2, 5, 12, dtype=D)
    same_values_and_gradients(ours, theirs, x)
    hidden = ~causal_mask(5)  # torch.nn says which keys are hidden
    same_values_and_gradients(lambda x: ours(x, is_causal=True), lambda x: theirs(x, src_mask=hidden), x)
    padding = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    same_values_and_gradients(
        lambda x: ours(x, attn_mask=~padding[:, None, None]), lambda x: theirs(x, src_key_padding_mask=padding), x
    )


@pytest.mark.oracle("torch.nn.TransformerDecoderLayer, norm_first both ways, values and gradients")
@pytest.mark.parametrize("placement", ["pre", "post"])
def test_with_cross_attention_it_equals_the_decoder_layer_of_torch(placement):
    theirs = scrambled(nn.TransformerDecoderLayer(12, 3, 20, dropout=0.0, batch_first=True, norm_first=placement == "pre"))
    ours = from_torch(TransformerBlock(12, 3, 20, placement=placement, activation="relu", cross=True).double(), theirs)
    x, context = torch.randn(2, 5, 12, dtype=D), torch.randn(2, 4, 12, dtype=D)
    hidden, padding = ~causal_mask(5), torch.tensor([[False] * 4, [False] * 3 + [True]])
    same_values_and_gradients(
        lambda x, c: ours(x, c, is_causal=True, context_mask=~padding),
        lambda x, c: theirs(x, c, tgt_mask=hidden, memory_key_padding_mask=padding),
        x, context,
    )


@pytest.mark.oracle("transformers LlamaDecoderLayer")
def test_rms_norm_swiglu_and_rotary_positions_make_a_layer_of_llama():
    llama = pytest.importorskip("transformers.models.llama.modeling_llama")
    config = llama.LlamaConfig(hidden_size=24, intermediate_size=40, num_attention_heads=6, num_key_value_heads=2,
                               rms_norm_eps=0.01, attn_implementation="eager")
    theirs = scrambled(llama.LlamaDecoderLayer(config, 0))
    options = dict(norm="rms", ffn="swiglu", n_kv_heads=2, bias=False, eps=0.01)
    ours = TransformerBlock(24, 6, 40, rope=RotaryEmbedding(4), **options).double()
    ours.attention.sublayer.load_state_dict(theirs.self_attn.state_dict())
    ours.attention.norm.load_state_dict(theirs.input_layernorm.state_dict())
    ours.feed_forward.norm.load_state_dict(theirs.post_attention_layernorm.state_dict())
    mlp = theirs.mlp
    both = torch.cat((mlp.up_proj.weight, mlp.gate_proj.weight))
    ours.feed_forward.sublayer.load_state_dict({"proj.weight": both, "down.weight": mlp.down_proj.weight})
    x, positions = torch.randn(2, 7, 24, dtype=D), torch.stack((torch.arange(7), 3 * torch.arange(7)))
    angles = llama.LlamaRotaryEmbedding(config)(x, positions)
    future = torch.full((7, 7), -torch.inf, dtype=D).triu(1)
    expected = theirs(x, attention_mask=future, position_ids=positions, position_embeddings=angles)
    expected = expected[0] if isinstance(expected, tuple) else expected
    torch.testing.assert_close(ours(x, is_causal=True, position_ids=positions), expected, rtol=1e-5, atol=1e-6)


def copied_gpt_2(transformers, eps):
    config = transformers.GPT2Config(n_embd=12, n_layer=1, n_head=3, vocab_size=5, n_positions=8, layer_norm_epsilon=eps)
    model = scrambled(transformers.GPT2Model(config)).eval()
    block, state = model.h[0], {}
    for mine, layer in (("attention.sublayer.o_proj", block.attn.c_proj), ("feed_forward.sublayer.up", block.mlp.c_fc),
                        ("feed_forward.sublayer.down", block.mlp.c_proj)):
        state[f"{mine}.weight"], state[f"{mine}.bias"] = layer.weight.T, layer.bias
    for kind, x in (("weight", block.attn.c_attn.weight.T), ("bias", block.attn.c_attn.bias)):
        state |= {f"attention.sublayer.{p}_proj.{kind}": part for p, part in zip("qkv", x.chunk(3))}
    for mine, norm in (("attention", block.ln_1), ("feed_forward", block.ln_2)):
        state[f"{mine}.norm.weight"], state[f"{mine}.norm.bias"] = norm.weight, norm.bias
    return model, state


def copied_bert(transformers, eps):
    config = transformers.BertConfig(hidden_size=12, num_hidden_layers=1, num_attention_heads=3, intermediate_size=48,
                                     vocab_size=5, layer_norm_eps=eps)
    model = scrambled(transformers.BertModel(config)).eval()
    layer, state = model.encoder.layer[0], {}
    attention = layer.attention
    for mine, part in (("attention.sublayer.q_proj", attention.self.query), ("attention.sublayer.k_proj", attention.self.key),
                       ("attention.sublayer.v_proj", attention.self.value), ("attention.sublayer.o_proj", attention.output.dense),
                       ("attention.norm", attention.output.LayerNorm), ("feed_forward.sublayer.up", layer.intermediate.dense),
                       ("feed_forward.sublayer.down", layer.output.dense), ("feed_forward.norm", layer.output.LayerNorm)):
        state[f"{mine}.weight"], state[f"{mine}.bias"] = part.weight, part.bias
    return model, state


@pytest.mark.oracle("transformers: a layer of GPT-2 and one of BERT")
@pytest.mark.parametrize(
    ("copied", "settings", "call"),
    [
        (copied_gpt_2, dict(placement="pre", activation="gelu_tanh"), dict(is_causal=True)),
        (copied_bert, dict(placement="post", activation="gelu"), dict()),
    ],
)
def test_erratum_gpt_is_pre_norm_causal_and_gelu_and_bert_is_post_norm_gelu(copied, settings, call):
    """A widely copied block is post-norm with ReLU and without a mask, and said to be GPT's, BERT's and all modern models'."""
    transformers = pytest.importorskip("transformers")
    model, state = copied(transformers, eps=1e-5)
    layer = model.h[0] if hasattr(model, "h") else model.encoder.layer[0]
    seen = {}

    def keep(module, args, kwargs, output):
        seen["x"] = args[0] if args else kwargs["hidden_states"]
        seen["y"] = output[0] if isinstance(output, tuple) else output

    layer.register_forward_hook(keep, with_kwargs=True)
    with torch.no_grad():
        model(torch.tensor([[1, 4, 2, 3, 0, 2]]))
    ours = TransformerBlock(12, 3, **settings).double()
    ours.load_state_dict(state)
    torch.testing.assert_close(ours(seen["x"], **call), seen["y"], rtol=1e-6, atol=1e-6)
    claimed = TransformerBlock(12, 3, placement="post", activation="relu").double()
    claimed.load_state_dict(state)
    assert (claimed(seen["x"]) - seen["y"]).abs().max() > 0.05


@pytest.mark.oracle("Jacobian: zero for later tokens, nonzero for all others")
@pytest.mark.parametrize("placement", ["pre", "post", "sandwich", "reordered"])
def test_causal_blocks_see_no_later_token(placement):
    block, x = scrambled(TransformerBlock(12, 3, placement=placement)), torch.randn(1, 6, 12, dtype=D)
    direction = torch.randn(12, dtype=D)
    for is_causal in (True, False):
        jacobian = torch.autograd.functional.jacobian(lambda v: block(v, is_causal=is_causal)[0] @ direction, x)[:, 0].abs().sum(-1)
        everything = torch.ones(6, 6, dtype=torch.bool)
        assert torch.equal(jacobian > 1e-12, everything.tril() if is_causal else everything)


def test_a_sample_does_not_see_the_others_of_its_batch():
    block, x = scrambled(TransformerBlock(12, 3)), torch.randn(3, 5, 12, dtype=D)
    other = x.clone()
    other[1] = torch.randn(5, 12, dtype=D)
    before, after = block(x), block(other)
    assert torch.equal(before[[0, 2]], after[[0, 2]]) and not torch.equal(before[1], after[1])


@pytest.mark.oracle("gradients from one sample to another: zero")
def test_erratum_attention_of_torch_mixes_samples_unless_told_that_the_batch_comes_first():
    """A widely copied block hands (batch, time, width) to nn.MultiheadAttention, whose default is (time, batch, width)."""
    x = torch.randn(3, 5, 12, dtype=D, requires_grad=True)

    def reach(attend):
        return torch.autograd.grad(attend(x)[0].square().sum(), x)[0].flatten(1).abs().sum(1) > 0

    copied = nn.MultiheadAttention(12, 3).double()
    assert reach(lambda x: copied(x, x, x)[0]).tolist() == [True, True, True]
    told = nn.MultiheadAttention(12, 3, batch_first=True).double()
    assert reach(lambda x: told(x, x, x)[0]).tolist() == [True, False, False]
    assert reach(TransformerBlock(12, 3).double()).tolist() == [True, False, False]


@pytest.mark.oracle("the identity; a norm of each row")
@pytest.mark.parametrize("cross", [False, True])
def test_zero_output_projections_make_a_pre_norm_block_the_identity(cross):
    x, context = 3 + 2 * torch.randn(2, 5, 12, dtype=D), torch.randn(2, 4, 12, dtype=D) if cross else None
    for placement, expected in (("pre", x), ("reordered", x), ("post", F.layer_norm(x, (12,)))):
        block = TransformerBlock(12, 3, placement=placement, cross=cross).double()
        for name, p in block.named_parameters():
            if "o_proj" in name or "down" in name:
                nn.init.zeros_(p)
        torch.testing.assert_close(block(x, context), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.oracle("closed form 12 d² + 13 d, and the published size of LLaMA 7B: 6,738,415,616")
def test_parameters_are_those_of_the_closed_form_and_of_llama_7b():
    count = lambda **options: sum(p.numel() for p in TransformerBlock(**options).parameters())  # noqa: E731
    for d in (8, 24, 64):
        attention, mlp, norm = 4 * d * d + 4 * d, 8 * d * d + 5 * d, 2 * d
        assert count(d_model=d, n_heads=4) == attention + mlp + 2 * norm == 12 * d * d + 13 * d
        assert count(d_model=d, n_heads=4, cross=True) == 2 * attention + mlp + 3 * norm
        assert count(d_model=d, n_heads=4, bias=False, norm="rms") == 12 * d * d + 2 * d
    with torch.device("meta"):
        layer = count(d_model=4096, n_heads=32, d_ff=11008, norm="rms", ffn="swiglu", bias=False)
    assert 32 * layer + 2 * 32000 * 4096 + 4096 == 6_738_415_616


@pytest.mark.oracle("closed form: every number added is 0 or 1/(1 - p)")
@pytest.mark.parametrize("part", ["attention", "cross_attention", "feed_forward"])
def test_erratum_dropout_hits_what_each_sublayer_adds(part):
    """A widely copied block takes a dropout rate and uses it inside the attention only."""
    block = TransformerBlock(16, 2, cross=True, dropout=0.75).double()
    for name, p in block.named_parameters():
        if "o_proj" in name or "down" in name:
            nn.init.constant_(p, float(name.startswith(part + ".") and name.endswith("bias")))
    x, context = torch.randn(8, 20, 16, dtype=D), torch.randn(8, 3, 16, dtype=D)
    added = (block(x, context) - x).round(decimals=9)
    assert added.unique().tolist() == [0.0, 4.0]
    assert added.mean().item() == pytest.approx(1.0, abs=0.2)
    torch.testing.assert_close(block.eval()(x, context), x + 1)


def test_the_rate_reaches_attention_weights_and_hidden_units_too():
    block = TransformerBlock(16, 2, cross=True, dropout=0.75).double()
    for residual in (block.attention, block.cross_attention, block.feed_forward):
        assert residual.sublayer.dropout == 0.75
        residual.dropout = 0.0
    x, context = torch.randn(2, 6, 16, dtype=D), torch.randn(2, 6, 16, dtype=D)
    for part in (block.attention, block.cross_attention):
        rest = (context,) if part is block.cross_attention else ()
        assert not torch.equal(part(x, *rest), part(x, *rest)), "attention weights"
    assert not torch.equal(block.feed_forward(x), block.feed_forward(x)), "hidden units"
    silent = TransformerBlock(16, 2, cross=True).double()
    assert torch.equal(silent(x, context), silent(x, context)), "nothing is dropped unless asked for"


@pytest.mark.oracle("the full pass over all tokens")
@pytest.mark.parametrize("options", [dict(), dict(norm="rms", ffn="swiglu", n_kv_heads=2, rope=RotaryEmbedding(4)), dict(cross=True)])
def test_decoding_with_a_cache_equals_the_full_pass(options):
    block, x = scrambled(TransformerBlock(24, 6, 16, **options)), torch.randn(2, 7, 24, dtype=D)
    context = torch.randn(2, 3, 24, dtype=D) if "cross" in options else None
    cache = KVCache(3, 2, options.get("n_kv_heads", 6), 4, 7, D)
    found = torch.cat([block(part, context, is_causal=True, cache=cache, layer=1) for part in x.split([4, 1, 2], 1)], 1)
    torch.testing.assert_close(found, block(x, context, is_causal=True))
    assert cache.lengths == [0, 7, 0]
    cache = KVCache(2, 2, options.get("n_kv_heads", 6), 4, 7, D)
    block(x, context, is_causal=True, cache=cache)
    assert cache.lengths == [7, 0], "the first layer, unless told"


def test_a_stack_of_pre_norm_blocks_gets_louder_and_needs_a_norm_at_its_end():
    x = torch.randn(2, 16, 32, dtype=D)
    spread = {}
    for placement in ("pre", "post"):
        y = x
        for _ in range(12):
            block = TransformerBlock(32, 4, placement=placement).double()
            for name, p in block.named_parameters():
                if p.ndim == 2:
                    nn.init.normal_(p, std=p.shape[1] ** -0.5)
            y = block(y)
        spread[placement] = y.std().item()
    assert spread["post"] == pytest.approx(1.0, abs=0.01) and spread["pre"] > 2


def test_the_default_hidden_widths():
    assert sublayers(96, 2)[1].up.weight.shape == (384, 96)
    assert sublayers(96, 2, ffn="swiglu")[1].down.weight.shape == (96, 256)
    assert sublayers(96, 2, 100, ffn="swiglu", bias=False)[1].down.weight.shape == (96, 100)
    attention, mlp = sublayers(96, 2, bias=True, attention_bias=False)
    assert attention.q_proj.bias is None and mlp.up.bias is not None
    assert sublayers(96, 2)[0].o_proj.bias is not None, "with biases unless told otherwise"
    assert sublayers(96, 2, ffn="swiglu")[1].down.bias is not None
    assert sublayers(96, 2)[0].dropout == sublayers(96, 2)[1].dropout == 0
    assert TransformerBlock(8, 2).attention.norm.eps == 1e-5


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: TransformerBlock(8, 2, ffn="moe"), "ffn='moe' is neither 'mlp' nor 'swiglu'"),
        (lambda: TransformerBlock(8, 3), "d_model=8 is not a multiple of n_heads=3"),
        (lambda: TransformerBlock(8, 4, n_kv_heads=3), "n_heads=4 is not a multiple of n_kv_heads=3"),
        (lambda: TransformerBlock(8, 2, placement="peri"), "placement='peri' is none of pre, post"),
        (lambda: TransformerBlock(8, 2, norm="batch"), "norm='batch' is none of layer, rms"),
        (lambda: TransformerBlock(8, 2, activation="tan"), "activation='tan' is none of relu"),
        (lambda: TransformerBlock(8, 2, dropout=1.0), "dropout=1.0 is not from 0 to below 1"),
        (lambda: TransformerBlock(8, 2)(torch.zeros(3, 8)), r"x has shape \(3, 8\); expected \(batch, time, d_model=8\)"),
        (lambda: TransformerBlock(8, 2)(torch.zeros(1, 3, 8), torch.zeros(1, 2, 8)), "has no cross-attention"),
        (lambda: TransformerBlock(8, 2)(torch.zeros(1, 3, 8), context_mask=torch.ones(1, 2).bool()), "has no cross-attention"),
        (lambda: TransformerBlock(8, 2, cross=True)(torch.zeros(1, 3, 8)), "context is missing"),
        (lambda: TransformerBlock(8, 2, cross=True)(torch.zeros(1, 3, 8), torch.zeros(2, 2, 8)), "context has shape"),
        (lambda: TransformerBlock(8, 2)(torch.zeros(1, 3, 8), position_ids=torch.arange(3)), "no rotary embedding"),
        (lambda: TransformerBlock(8, 2)(torch.zeros(1, 3, 8), cache=KVCache(1, 1, 2, 4, 3)), "is_causal=False with a cache"),
    ],
)
def test_what_cannot_be_says_why(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("placement", ["pre", "post", "sandwich", "reordered"])
@pytest.mark.parametrize("causal", [True, False])
def test_numpy_variant_agrees(agree, placement, causal):
    block = TransformerBlock(12, 3, 20, placement=placement, bias=False).double()
    x = 2 * torch.randn(1, 6, 12, dtype=D)
    attention, mlp = block.attention.sublayer, block.feed_forward.sublayer
    w = {name: getattr(attention, f"{name}_proj").weight.T.detach().numpy() for name in "qkvo"}
    w |= dict(up=mlp.up.weight.detach().numpy(), down=mlp.down.weight.detach().numpy())
    mask = np.tri(6, dtype=bool) if causal else None
    y, steps = numpy_variant.transformer_block(x[0].numpy(), w, 3, placement, mask)
    agree(y, block(x, is_causal=causal)[0])
    agree(steps["after attention"], block.attention(x, is_causal=causal)[0])
    if placement == "pre":
        np.testing.assert_allclose(x[0].numpy() + steps["attention adds"] + steps["FFN adds"], y)


@pytest.mark.oracle("multiply-adds counted by torch.utils.flop_counter")
@pytest.mark.parametrize("factor", [1, 4])
def test_the_counts_of_the_demo_are_those_of_a_flop_counter_and_of_the_module(factor):
    from torch.utils.flop_counter import FlopCounterMode

    block = TransformerBlock(16, 4, factor * 16, bias=False)
    with FlopCounterMode(display=False) as counter:
        block(torch.zeros(1, 6, 16))
    parameters, flops = numpy_variant.costs(16, factor * 16, 6)
    assert counter.get_total_flops() == 6 * sum(flops.values())
    assert sum(parameters.values()) == sum(p.numel() for p in block.parameters() if p.ndim == 2)
    assert sum(numpy_variant.costs(768, 4 * 768, 1024)[1].values()) == 24 * 768**2 + 4 * 1024 * 768


def test_demo_at_scale_zero_adds_nothing():
    figures = numpy_variant.show(scale=0.0)
    sizes = dict(zip(figures[1]["names"], figures[1]["series"][""]))
    assert sizes["attention adds"] == sizes["FFN adds"] == 0 and sizes["input"] == sizes["output"]
