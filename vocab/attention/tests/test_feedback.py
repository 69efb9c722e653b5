import numpy as np
import pytest
import torch
from torch.nn import functional as F

from snippets.attention import feedback as numpy_variant
from vocab.attention.feedback import FeedbackAttentionMemory, FeedbackState
from vocab.attention.multi_head import merge_heads, split_heads

D = torch.float64


def build(block_len=3, fam_len=2, **settings):
    return FeedbackAttentionMemory(8, 2, block_len, fam_len, **settings).double()


def example():
    return build(), (torch.randn(2, 8, 8, dtype=D),)


def heads(module, x):
    return (split_heads(p(x), 4) for p in (module.q_proj, module.k_proj, module.v_proj))


def averaging(d_model, block_len, fam_len):
    """All scores are equal, and values come out as they went in."""
    module = FeedbackAttentionMemory(d_model, 1, block_len, fam_len).double()
    torch.nn.init.zeros_(module.q_proj.weight)
    torch.nn.init.eye_(module.v_proj.weight)
    torch.nn.init.eye_(module.o_proj.weight)
    return module


@pytest.mark.oracle("torch.nn.functional.scaled_dot_product_attention with a mask of blocks")
@pytest.mark.parametrize("memory_blocks", [0, 1, 2, 9])
def test_without_vectors_it_is_block_sliding_window_attention(memory_blocks):
    module, (x,) = build(fam_len=0, memory_blocks=memory_blocks), example()[1]
    block = torch.arange(8) // 3
    mask = (block >= block[:, None] - memory_blocks) & torch.ones(8, 8, dtype=torch.bool).tril()
    expected = module.o_proj(merge_heads(F.scaled_dot_product_attention(*heads(module, x), mask)))
    torch.testing.assert_close(module(x)[0], expected)


@pytest.mark.oracle("torch.nn.functional.scaled_dot_product_attention on the layout [FAM before, window, own block, FAM]")
@pytest.mark.parametrize("memory_blocks", [0, 1, 2])
def test_each_block_is_attention_on_an_explicit_layout(memory_blocks):
    module, x = build(memory_blocks=memory_blocks, bias=True), torch.randn(2, 11, 8, dtype=D)
    fam, outs = module.first_fam.expand(2, 2, 8), []
    for start in range(0, 11, 3):
        window, own = x[:, max(0, start - 3 * memory_blocks) : start], x[:, start : start + 3]
        everything = torch.cat((fam, window, own, fam), 1)  # the last two as queries only
        kind = "f" * 2 + "w" * window.shape[1] + "t" * own.shape[1] + "q" * 2
        mask = torch.tensor([[
            key != "q" and (j <= i if query == "t" else key in "ft") for j, key in enumerate(kind)
        ] for i, query in enumerate(kind)])
        out = module.o_proj(merge_heads(F.scaled_dot_product_attention(*heads(module, everything), mask)))
        outs.append(out[:, 2 + window.shape[1] : -2])
        fam = out[:, -2:] if own.shape[1] == 3 else fam
    y, state = module(x)
    torch.testing.assert_close(y, torch.cat(outs, 1))
    torch.testing.assert_close(state.fam, fam)


def reach(fam_len, memory_blocks):
    module, x = build(fam_len=fam_len, memory_blocks=memory_blocks), torch.randn(1, 12, 8, dtype=D)
    return torch.autograd.functional.jacobian(lambda y: module(y)[0], x).abs().sum((2, 5))[0, :, 0] > 0


@pytest.mark.oracle("Jacobian: which outputs notice which inputs")
@pytest.mark.parametrize("memory_blocks", [0, 1])
def test_the_gradient_reaches_past_the_window_only_with_feedback(memory_blocks):
    assert torch.equal(reach(1, memory_blocks), torch.ones(12, 12, dtype=torch.bool).tril())
    block = torch.arange(12) // 3
    assert torch.equal(reach(0, memory_blocks), (block[:, None] - block <= memory_blocks).tril())


@pytest.mark.oracle("one call on the whole text")
@pytest.mark.parametrize("memory_blocks", [0, 1, 2])
@pytest.mark.parametrize("cuts", [[3, 3, 3, 2], [1] * 11, [2, 5, 4], [7, 1, 3], [11]])
def test_calls_cut_anywhere_give_what_one_call_gives(cuts, memory_blocks):
    module, x = build(memory_blocks=memory_blocks), torch.randn(2, 11, 8, dtype=D)
    state, outs = None, []
    for piece in x.split(cuts, 1):
        y, state = module(piece, state)
        outs.append(y)
    expected, last = module(x)
    torch.testing.assert_close(torch.cat(outs, 1), expected)
    torch.testing.assert_close(tuple(state), tuple(last))


def test_the_vectors_alone_do_not_continue_a_text():
    module, (x,) = example()
    expected, (_, state) = module(x)[0], module(x[:, :6])
    alone = FeedbackState(state.fam, state.keys[:, :, :0], state.values[:, :, :0])
    assert (module(x[:, 6:], alone)[0] - expected[:, 6:]).abs().max() > 1e-3
    module.memory_blocks = 0  # here they do
    torch.testing.assert_close(module(x[:, 6:], alone)[0], module(x)[0][:, 6:])


def test_what_is_kept_does_not_grow():
    module, state, kept = build(memory_blocks=2), None, []
    for x in torch.randn(14, 1, 1, 8, dtype=D):
        state = module(x, state)[1]
        kept.append(state.keys.shape[2])
    assert kept == [1, 2, 3, 4, 5, 6, 7, 8, 6, 7, 8, 6, 7, 8]


@pytest.mark.oracle("the closed form of an average with forgetting")
def test_with_equal_scores_the_memory_forgets_by_one_factor_a_block():
    module, x = averaging(4, block_len=6, fam_len=2), torch.randn(1, 30, 4, dtype=D)
    keep = 2 / (2 + 6)
    means = x.unflatten(1, (5, 6)).mean(2)
    age = torch.arange(4, -1, -1, dtype=D)
    expected = keep**5 * module.first_fam.mean(0) + (1 - keep) * torch.einsum("n,bnd->bd", keep**age, means)
    torch.testing.assert_close(module(x)[1].fam, expected[:, None].expand(1, 2, 4))


@pytest.mark.oracle("solving the softmax for a share")
def test_the_score_that_keeps_a_given_share():
    module, share = averaging(3, block_len=8, fam_len=2), 0.9
    with torch.no_grad():  # tokens (content, 0, 1), vectors (content, 1, 1): each query asks for the mark
        module.q_proj.weight[0, 2] = 3**0.5
        module.k_proj.weight.zero_()[0, 1] = np.log(share / (1 - share) * 8 / 2)
        module.first_fam.copy_(torch.tensor([[5.0, 1.0, 1.0]] * 2))
    x = torch.tensor([2.0, 0.0, 1.0], dtype=D).expand(1, 8, 3)
    expected = torch.tensor([share * 5 + (1 - share) * 2, share, 1.0], dtype=D)
    torch.testing.assert_close(module(x)[1].fam, expected.expand(1, 2, 3))
    # The numbers of the page, for 64 vectors and blocks of 1024 tokens.
    assert round(64 / (64 + 1024), 3) == 0.059 and (64 / 1088) ** 10 < 1e-12
    assert round(np.log(0.9 / 0.1 * 1024 / 64), 2) == 4.97 and 0.34 < 0.9**10 < 0.35


@pytest.mark.oracle("invariance: vectors have no order")
def test_the_order_of_the_vectors_does_not_matter():
    module, (x,) = build(fam_len=4), example()[1]
    (y, state), order = module(x), torch.tensor([2, 0, 3, 1])
    with torch.no_grad():
        module.first_fam.copy_(module.first_fam[order])
    other, turned = module(x)
    torch.testing.assert_close(other, y)
    torch.testing.assert_close(turned.fam, state.fam[:, order])


def test_vectors_that_start_equal_stay_equal():
    module, (x,) = example()
    assert (module(x)[1].fam[:, 0] - module(x)[1].fam[:, 1]).abs().max() > 1e-3
    with torch.no_grad():
        module.first_fam[1] = module.first_fam[0]
    y, state = module(x)
    torch.testing.assert_close(state.fam[:, 0], state.fam[:, 1], rtol=0, atol=1e-12)
    state.fam.square().sum().backward()
    torch.testing.assert_close(module.first_fam.grad[0], module.first_fam.grad[1])  # and training cannot part them


def test_nothing_is_added_but_the_first_vectors():
    names = {name: tuple(p.shape) for name, p in build(fam_len=5).named_parameters()}
    assert names == {"first_fam": (5, 8), **{f"{n}_proj.weight": (8, 8) for n in "qkvo"}}
    assert build(bias=True).q_proj.bias is not None


def test_bad_input_is_named():
    for settings, message in [
        (dict(block_len=0), "block_len=0 is not positive"),
        (dict(fam_len=-1), "fam_len=-1 is negative"),
        (dict(memory_blocks=-1), "memory_blocks=-1 is negative"),
    ]:
        with pytest.raises(ValueError, match=message):
            build(**settings)
    assert build(block_len=1, memory_blocks=0)(torch.randn(1, 2, 8, dtype=D))[1].keys.shape[2] == 0
    module, (x,) = example()
    with pytest.raises(ValueError, match=r"x has shape .* d_model=8"):
        module(x[..., :7])
    fam, k, v = module(x)[1]
    for bad in (fam[:1], fam[:, :1], fam[..., :7]):
        with pytest.raises(ValueError, match=r"state.fam has shape"):
            module(x, FeedbackState(bad, k, v))
    for bad in (k[:1], k[:, :1], k[..., :3]):
        with pytest.raises(ValueError, match=r"state.keys has shape"):
            module(x, FeedbackState(fam, bad, v))
    for bad in (v[:1], v[:, :1], v[:, :, :1], v[..., :3]):
        with pytest.raises(ValueError, match=r"state.values has shape"):
            module(x, FeedbackState(fam, k, bad))
    with pytest.raises(ValueError, match="state.keys holds 6 tokens; at most 5 are kept"):
        module(x, FeedbackState(fam, k[:, :, :1].expand(-1, -1, 6, -1), v[:, :, :1].expand(-1, -1, 6, -1)))


@pytest.mark.parametrize("memory_blocks", [0, 2])
def test_numpy_variant_agrees(agree, memory_blocks):
    module, x = FeedbackAttentionMemory(8, 1, 3, 2, memory_blocks=memory_blocks).double(), torch.randn(1, 11, 8, dtype=D)
    weights = [getattr(module, f"{n}_proj").weight.detach().numpy().T for n in "qkvo"]
    y, fams, _ = numpy_variant.feedback_attention(x[0].numpy(), module.first_fam.detach().numpy(), *weights, 3, memory_blocks)
    expected, state = module(x)
    assert len(fams) == 4  # the start, and after each full block
    agree(np.concatenate((y, fams[-1])), torch.cat((expected[0], state.fam[0])))


@pytest.mark.oracle("the geometric series, and where its terms are largest")
@pytest.mark.parametrize("fam_len", [1, 3])
def test_demo_forgets_by_the_share_it_keeps(fam_len):
    for strength in (0.3, 0.8):
        keep = fam_len * strength / (fam_len * strength + 1 - strength)
        np.testing.assert_allclose(numpy_variant.signal(fam_len, strength, 4, 1)[1], (1 - keep) * keep ** np.arange(20))
    last = {a / 20: numpy_variant.signal(1, a / 20, 4, 1)[1][-1] for a in range(1, 20)}
    assert max(last, key=last.get) == 0.95  # 19 blocks later: 19/20
    assert np.flatnonzero(numpy_variant.signal(0, 0.8, 4, 2)[0]).max() == 2
    assert "nothing ever enters" in numpy_variant.show(strength=1.0)[-1]["caption"]
    assert "up to block 1." in numpy_variant.show(strength=0.0)[-1]["caption"]  # the window still has it
