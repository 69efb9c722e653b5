import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from snippets.architectures.gpt import IDS, LETTERS, gpt, loss_and_gradients, parts, show, train, views
from vocab.architectures.gpt import GPT, Block, next_token_loss
from vocab.inference.kv_cache import KVCache

D = torch.float64


def example():
    return small().double(), (torch.tensor([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]]),)


def small(**options):
    return GPT(vocab_size=11, n_positions=8, n_embd=12, n_layer=2, n_head=3, **options)


def scrambled(module):
    """Weights as large as after training: with N(0, 0.02) and zero biases a lost term hardly shows."""
    for p in module.parameters():
        nn.init.normal_(p, std=0.4)
    return module


def from_transformers(ours, theirs):
    """Copies a GPT of transformers, whose Conv1D stores weights as (in, out), queries, keys and values in one."""
    body = theirs.transformer
    names = ("tokens_embed", "positions_embed") if hasattr(body, "tokens_embed") else ("wte", "wpe")
    state = {f"{mine}.weight": getattr(body, name).weight for mine, name in zip(("tokens", "positions"), names)}
    for i, block in enumerate(body.h):
        pairs = [("norm_1", block.ln_1), ("norm_2", block.ln_2)]
        pairs += [("attention.o_proj", block.attn.c_proj), ("mlp.0", block.mlp.c_fc), ("mlp.2", block.mlp.c_proj)]
        for mine, layer in pairs:
            weight = layer.weight if layer.weight.ndim == 1 else layer.weight.T
            state[f"blocks.{i}.{mine}.weight"], state[f"blocks.{i}.{mine}.bias"] = weight, layer.bias
        for kind, x in (("weight", block.attn.c_attn.weight.T), ("bias", block.attn.c_attn.bias)):
            for p, part in zip("qkv", x.chunk(3)):
                state[f"blocks.{i}.attention.{p}_proj.{kind}"] = part
    if hasattr(body, "ln_f"):
        state |= {"final_norm.weight": body.ln_f.weight, "final_norm.bias": body.ln_f.bias}
    ours.load_state_dict(state)
    return ours


def count(**options):
    with torch.device("meta"):
        return sum(p.numel() for p in GPT(**options).parameters())


@pytest.mark.oracle("published parameter count of GPT-1: 116,534,784")
def test_gpt_1_has_its_published_size():
    assert count() == 116_534_784


@pytest.mark.oracle("published parameter counts of GPT-2: 124,439,808 to 1,557,611,200")
@pytest.mark.parametrize(
    ("n_embd", "n_layer", "n_head", "published"),
    [
        (768, 12, 12, 124_439_808),
        (1024, 24, 16, 354_823_168),
        (1280, 36, 20, 774_030_080),
        (1600, 48, 25, 1_557_611_200),
    ],
)
def test_the_same_parts_are_gpt_2(n_embd, n_layer, n_head, published):
    shape = dict(vocab_size=50257, n_positions=1024, n_embd=n_embd, n_layer=n_layer, n_head=n_head)
    assert count(**shape, norm_first=True) == published


def test_parameters_follow_from_the_widths():
    """A widely copied class fixes the inner width at 2,048, unties the head, and normalises the end twice."""
    V, P, C, L = 40478, 512, 768, 12
    attention, mlp, norms = 4 * (C * C + C), C * 4 * C + 4 * C + 4 * C * C + C, 4 * C
    assert count() == (V + P) * C + L * (attention + mlp + norms)
    model = GPT(10, 6, 8, 1, 2)
    assert isinstance(model.final_norm, nn.Identity) and model.blocks[0].mlp[0].out_features == 32
    assert [name for name, p in model.named_parameters() if len(p) == 10] == ["tokens.weight"], "the head is that table"


@pytest.mark.oracle("transformers OpenAIGPTLMHeadModel")
def test_logits_are_those_of_gpt_1_in_transformers():
    transformers = pytest.importorskip("transformers")
    config = transformers.OpenAIGPTConfig(vocab_size=11, n_positions=8, n_embd=12, n_layer=2, n_head=3)
    theirs = scrambled(transformers.OpenAIGPTLMHeadModel(config)).double().eval()
    ours, ids = from_transformers(small().double(), theirs), torch.randint(0, 11, (2, 8))
    torch.testing.assert_close(ours(ids), theirs(ids).logits, rtol=1e-7, atol=1e-7)
    loss = next_token_loss(ours(ids), ids).float()
    torch.testing.assert_close(loss, theirs(ids, labels=ids).loss, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours(ids[:, :5]), theirs(ids[:, :5]).logits, rtol=1e-7, atol=1e-7)


@pytest.mark.oracle("transformers GPT2LMHeadModel")
def test_logits_are_those_of_gpt_2_in_transformers():
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(vocab_size=11, n_positions=8, n_embd=12, n_layer=2, n_head=3)
    theirs = scrambled(transformers.GPT2LMHeadModel(config)).double().eval()
    ours, ids = from_transformers(small(norm_first=True).double(), theirs), torch.randint(0, 11, (2, 8))
    torch.testing.assert_close(ours(ids), theirs(ids).logits, rtol=1e-7, atol=1e-7)


def test_weights_copied_without_transposing_fit_and_are_wrong():
    """The output projection is square, so nothing complains."""
    right = scrambled(small().double()).eval()
    wrong = small().double().eval()
    state = right.state_dict()
    state["blocks.0.attention.o_proj.weight"] = state["blocks.0.attention.o_proj.weight"].T
    wrong.load_state_dict(state)
    ids = torch.randint(0, 11, (1, 8))
    assert (wrong(ids) - right(ids)).abs().max() > 0.01


@pytest.mark.oracle("Jacobian: zero for later tokens, nonzero for all others")
@pytest.mark.parametrize("norm_first", [False, True])
def test_no_token_sees_later_ones(norm_first):
    """A widely copied class builds its blocks without a mask: each token reads the one it is to predict."""
    block, x = scrambled(Block(12, 3, norm_first=norm_first)).double(), torch.randn(1, 6, 12, dtype=D)
    direction = torch.randn(12, dtype=D)  # the plain sum over the width is constant after a normalisation
    jacobian = torch.autograd.functional.jacobian(lambda v: block(v)[0] @ direction, x)[:, 0].abs().sum(-1)
    assert torch.equal(jacobian > 1e-12, torch.ones(6, 6, dtype=torch.bool).tril())


def test_the_model_is_causal_and_knows_positions():
    model, ids = scrambled(small().double()).eval(), torch.randint(0, 11, (1, 8))
    changed = ids.clone()
    changed[0, 5] = (ids[0, 5] + 1) % 11
    before, after = model(ids), model(changed)
    torch.testing.assert_close(after[:, :5], before[:, :5])
    assert (after[:, 5:] - before[:, 5:]).abs().amin(-1).max() > 0
    same = model(torch.full((1, 8), 4))
    assert (same[0, 0] - same[0, 7]).abs().max() > 0.01, "the same token at another position"


@pytest.mark.oracle("the full pass, for every prefix")
@pytest.mark.parametrize("norm_first", [False, True])
def test_decoding_with_a_cache_equals_the_full_pass(norm_first):
    model, ids = scrambled(small(norm_first=norm_first).double()).eval(), torch.randint(0, 11, (2, 8))
    cache, start = KVCache(2, 2, 3, 4, 8, D), 0
    for end in (3, 4, 6, 7, 8):
        torch.testing.assert_close(model(ids[:, start:end], cache=cache), model(ids[:, :end])[:, start:])
        start = end
    with pytest.raises(ValueError, match="position 8; the table ends at n_positions=8"):
        model(ids[:, :1], cache=cache)


@pytest.mark.oracle("log V, the loss of a uniform guess")
def test_a_model_that_knows_nothing_has_loss_log_v():
    model, ids = small(), torch.randint(0, 11, (2, 8))
    nn.init.zeros_(model.tokens.weight)
    assert next_token_loss(model(ids), ids).item() == pytest.approx(math.log(11))
    assert next_token_loss(small()(ids), ids).item() == pytest.approx(math.log(11), abs=0.1), "so is it before training"


def test_loss_shifts_by_one_exactly_once():
    """Logits that know the next token have no loss; with no shift, or two, they are confidently wrong."""
    ids = torch.tensor([[3, 1, 4, 2, 5, 9], [2, 6, 5, 3, 8, 7]], dtype=torch.int32)
    knows = 50.0 * F.one_hot(ids.roll(-1, 1).long(), 11).to(D)
    knows[:, -1] = 0
    assert next_token_loss(knows, ids).item() < 1e-12
    assert next_token_loss(knows.roll(1, 1), ids).item() > 10, "no shift"
    assert next_token_loss(knows.roll(-1, 1), ids).item() > 10, "two shifts"


@pytest.mark.oracle("mean of -log p over all predicted tokens")
def test_loss_is_the_mean_negative_log_probability():
    logits, ids = torch.randn(2, 4, 5, dtype=D), torch.randint(0, 5, (2, 4))
    p = logits.exp() / logits.exp().sum(-1, keepdim=True)
    by_hand = -sum(p[b, t, ids[b, t + 1]].log() for b in range(2) for t in range(3)) / 6
    torch.testing.assert_close(next_token_loss(logits, ids), by_hand)


def test_weights_start_small_and_biases_at_zero():
    model = GPT(500, 100, 64, 2, 4)
    for name, p in model.named_parameters():
        if "norm" in name:
            assert torch.equal(p, torch.ones_like(p) if name.endswith("weight") else torch.zeros_like(p))
        elif name.endswith("bias"):
            assert torch.equal(p, torch.zeros_like(p)), name
        else:
            assert p.std().item() == pytest.approx(0.02, rel=0.05) and abs(p.mean().item()) < 0.002, name


@pytest.mark.parametrize("norm_first", [False, True])
def test_dropout_of_everything_leaves_the_norms_only(norm_first):
    """At rate 1 embeddings and branches are zero in training; in evaluation nothing is dropped."""
    model, ids = scrambled(small(norm_first=norm_first, dropout=1.0)).double(), torch.randint(0, 11, (2, 8))
    last = model.final_norm if norm_first else model.blocks[-1].norm_2
    # The stream is zero until a norm turns it into that norm's bias.
    x = torch.zeros(12, dtype=D)
    if not norm_first:
        for block in model.blocks:
            x = block.norm_2(block.norm_1(x))
    else:
        x = last(x)
    torch.testing.assert_close(model(ids), (x @ model.tokens.weight.T).expand(2, 8, 11))
    plain = small(norm_first=norm_first).double()
    plain.load_state_dict(model.state_dict())
    torch.testing.assert_close(model.eval()(ids), plain(ids))


def test_each_kind_of_dropout_acts_by_itself():
    """Attention weights, the two branches and the embeddings: silencing one leaves the others."""
    block, x = scrambled(Block(12, 3, dropout=0.5)).double(), torch.randn(1, 6, 12, dtype=D)
    assert Block(12, 3).dropout.p == Block(12, 3).attention.dropout == small().dropout.p == 0
    assert block.attention.dropout == 0.5 and block.dropout.p == 0.5 and small(dropout=0.5).dropout.p == 0.5
    block.attention.dropout, block.dropout.p = 0.0, 1.0
    torch.testing.assert_close(block(x), block.norm_2(block.norm_1(x)))
    block.dropout.p, block.attention.dropout = 0.0, 1.0
    middle = block.norm_1(x + block.attention.o_proj.bias)
    torch.testing.assert_close(block(x), block.norm_2(middle + block.mlp(middle)))


def test_a_block_by_itself_decodes_from_the_first_layer_of_a_cache():
    block, x = scrambled(Block(12, 3)).double(), torch.randn(1, 6, 12, dtype=D)
    cache = KVCache(1, 1, 3, 4, 6, D)
    torch.testing.assert_close(torch.cat([block(part, cache=cache) for part in x.split(2, 1)], 1), block(x))


def test_too_long_a_sequence_names_the_table():
    model = small()
    model(torch.zeros(1, 8, dtype=torch.long))
    with pytest.raises(ValueError, match="ids reach position 8; the table ends at n_positions=8"):
        model(torch.zeros(1, 9, dtype=torch.long))
    with pytest.raises(ValueError, match=r"ids has shape \(8,\)"):
        model(torch.zeros(8, dtype=torch.long))
    with pytest.raises(ValueError, match="d_model=12 is not a multiple of n_heads=5"):
        GPT(11, 8, 12, 1, 5)


def test_loss_checks_what_it_compares():
    with pytest.raises(ValueError, match="ids has shape .*batch=2, time=4"):
        next_token_loss(torch.zeros(2, 4, 11), torch.zeros(2, 3, dtype=torch.long))
    with pytest.raises(ValueError, match="ids has shape .*batch=2, time=4"):
        next_token_loss(torch.zeros(2, 4, 11), torch.zeros(1, 4, dtype=torch.long))
    with pytest.raises(ValueError, match="1 token a sequence"):
        next_token_loss(torch.zeros(2, 1, 11), torch.zeros(2, 1, dtype=torch.long))
    with pytest.raises(TypeError, match="logits"):
        next_token_loss(torch.zeros(2, 4, 11, dtype=torch.long), torch.zeros(2, 4, dtype=torch.long))
    two_tokens = next_token_loss(torch.zeros(1, 2, 11), torch.zeros(1, 2, dtype=torch.long))
    assert two_tokens.item() == pytest.approx(math.log(11))


def in_numpy(model, of=lambda p: p):
    """The model's weights, or their gradients, under the names of the NumPy variant."""

    def take(*ps):
        x = torch.cat([of(p) for p in ps]).detach().numpy()
        return x.T

    blocks = []
    for b in model.blocks:
        a = b.attention
        qkv = (a.q_proj, a.k_proj, a.v_proj)
        one = dict(qkv=take(*(p.weight for p in qkv)), qkv_bias=take(*(p.bias for p in qkv)))
        for name, layer in (("out", a.o_proj), ("up", b.mlp[0]), ("down", b.mlp[2])):
            one |= {name: take(layer.weight), name + "_bias": take(layer.bias)}
        for i, layer in (("1", b.norm_1), ("2", b.norm_2)):
            one |= {"gain_" + i: take(layer.weight), "bias_" + i: take(layer.bias)}
        blocks.append(one)
    return dict(tokens=take(model.tokens.weight).T, positions=take(model.positions.weight).T, blocks=blocks)


def test_numpy_variant_agrees(agree):
    model, ids = scrambled(small().double()).eval(), torch.randint(0, 11, (2, 6))
    logits, _ = gpt(ids.numpy(), in_numpy(model), 3)
    agree(logits, model(ids))


@pytest.mark.oracle("torch.autograd, for the gradients derived by hand in the demo")
def test_gradients_derived_by_hand_agree_with_autograd():
    model, ids = scrambled(small().double()).eval(), torch.randint(0, 11, (3, 7))
    shapes = parts(11, 8, 12, 2)
    flat = np.full(views(np.empty(10**5), shapes)[1], np.nan)
    g, _ = views(flat, shapes)
    loss = loss_and_gradients(ids.numpy(), in_numpy(model), g, 3)
    expected = next_token_loss(model(ids), ids)
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-10)
    theirs = in_numpy(model, lambda p: p.grad)
    for ours, found in [(g["tokens"], theirs["tokens"]), (g["positions"], theirs["positions"])] + [
        (a[name], b[name]) for a, b in zip(g["blocks"], theirs["blocks"]) for name in a
    ]:
        np.testing.assert_allclose(ours, found, rtol=1e-8, atol=1e-10)


def test_demo_model_learns_the_text():
    _, losses = train(2, 12)
    assert losses[0] == pytest.approx(math.log(len(LETTERS)), abs=0.5)
    counts = np.bincount(IDS) / len(IDS)
    letters_alone = -(counts * np.log(counts)).sum()
    assert np.mean(losses[-10:]) < 0.5 * letters_alone, "far better than knowing how frequent each letter is"
    with pytest.raises(ValueError, match="head 3 cannot be shown"):
        show(heads=2, head=3)
