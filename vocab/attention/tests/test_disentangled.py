import numpy as np
import pytest
import torch
from torch.nn import functional as F

from snippets.attention import disentangled as numpy_variant
from vocab.attention.disentangled import DisentangledAttention, relative_index
from vocab.attention.multi_head import merge_heads, split_heads

D = torch.float64
MASK = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])


def example():
    module = DisentangledAttention(8, 2, max_relative=3).double()
    torch.nn.init.normal_(module.relative)
    return module, (torch.randn(2, 6, 8, dtype=D), MASK)


def delta(m, k):
    return max(0, min(2 * k - 1, m + k))


def by_loops(module, x, third):
    """Weights from the literal sum of three dot products; ``third`` gives the position's index of the last one."""
    k, weights = module.max_relative, []
    q, key = (split_heads(p(x), 4) for p in (module.q_proj, module.k_proj))
    pos_k, pos_q = (split_heads((own or shared)(module.relative), 4)
                    for own, shared in ((module.pos_k_proj, module.k_proj), (module.pos_q_proj, module.q_proj)))
    scores = torch.zeros(*q.shape[:2], 6, 6, dtype=D)
    for i in range(6):
        for j in range(6):
            total = (q[:, :, i] * key[:, :, j]).sum(-1)
            if "c2p" in module.pos_att_type:
                total = total + (q[:, :, i] * pos_k[:, delta(i - j, k)]).sum(-1)
            if "p2c" in module.pos_att_type:
                total = total + (key[:, :, j] * pos_q[:, third(i, j, k)]).sum(-1)
            scores[:, :, i, j] = total
    return (scores / (4 * (1 + len(module.pos_att_type))) ** 0.5).softmax(-1)


@pytest.mark.oracle("the literal double loop over queries and keys")
@pytest.mark.parametrize("types", [("c2p", "p2c"), ("p2c",), ("c2p",)])
@pytest.mark.parametrize("share", [False, True])
def test_gathering_equals_the_double_loop(types, share):
    module, x = DisentangledAttention(8, 2, max_relative=3, pos_att_type=types, share_att_key=share).double(), example()[1][0]
    torch.nn.init.normal_(module.relative)
    if types == ("c2p", "p2c") or share:
        torch.testing.assert_close(module(x, return_weights=True)[1], by_loops(module, x, lambda i, j, k: delta(i - j, k)))
    else:
        absent = "pos_q_proj" if types == ("c2p",) else "pos_k_proj"
        assert getattr(module, absent) is None
        module_both = DisentangledAttention(8, 2, max_relative=3).double()
        module_both.load_state_dict(module.state_dict(), strict=False)
        module_both.pos_att_type, module_both.scale = module.pos_att_type, module.scale
        torch.testing.assert_close(module(x), module_both(x))
        torch.testing.assert_close(module(x, return_weights=True)[1], by_loops(module_both, x, lambda i, j, k: delta(i - j, k)))


@pytest.mark.oracle("transformers DisentangledSelfAttention of DeBERTa-v2")
@pytest.mark.parametrize("share", [False, True])
def test_is_the_attention_of_deberta(share):
    deberta = pytest.importorskip("transformers.models.deberta_v2.modeling_deberta_v2")
    config = deberta.DebertaV2Config(
        hidden_size=8, num_attention_heads=2, max_relative_positions=3, relative_attention=True, pos_att_type=["c2p", "p2c"],
        share_att_key=share, attention_probs_dropout_prob=0.0, hidden_dropout_prob=0.0, position_buckets=-1, norm_rel_ebd="none")
    theirs = deberta.DisentangledSelfAttention(config).double().eval()
    ours = DisentangledAttention(8, 2, max_relative=3, share_att_key=share).double()
    torch.nn.init.normal_(ours.relative)
    pairs = [("query_proj", "q_proj"), ("key_proj", "k_proj"), ("value_proj", "v_proj")]
    for a, b in pairs + ([] if share else [("pos_key_proj", "pos_k_proj"), ("pos_query_proj", "pos_q_proj")]):
        getattr(theirs, a).load_state_dict(getattr(ours, b).state_dict())
    ours.o_proj = torch.nn.Identity()
    x, place = example()[1][0], torch.arange(6)
    seen = (MASK[:, None] & MASK[:, :, None])[:, None]
    expected = theirs(x, seen, relative_pos=(place[:, None] - place)[None], rel_embeddings=ours.relative)[0]
    for b, n in ((0, 6), (1, 4)):
        torch.testing.assert_close(ours(x, MASK)[b, :n], expected[b, :n], rtol=1e-5, atol=1e-6)


def test_the_paper_and_the_released_code_differ_in_the_third_index():
    """The paper writes delta(j, i) there; the code that made the checkpoints picks delta(i, j)."""
    module, (x, _) = example()
    paper = by_loops(module, x, lambda i, j, k: delta(j - i, k))
    assert (module(x, return_weights=True)[1] - paper).abs().max() > 0.01


@pytest.mark.oracle("torch.nn.functional.scaled_dot_product_attention with scale 1/√(3 d)")
def test_without_relative_positions_only_the_scale_is_left():
    module, (x, _) = example()
    with torch.no_grad():
        for p in (module.relative, module.pos_k_proj.bias, module.pos_q_proj.bias):
            p.zero_()
    q, k, v = (split_heads(p(x), 4) for p in (module.q_proj, module.k_proj, module.v_proj))
    out = F.scaled_dot_product_attention(q, k, v, MASK[:, None, None], scale=12**-0.5)
    torch.testing.assert_close(module(x, MASK), module.o_proj(merge_heads(out)))


def test_only_differences_of_positions_matter():
    module, (x, _) = example()
    same = x[:, :1].expand(2, 6, 8)
    logs = module(same, return_weights=True)[1].log()
    # Equal tokens: scores depend on i - j alone, so neighbouring rows have the same differences, one place further on.
    torch.testing.assert_close(logs[:, :, 1:, 1:].diff(dim=-1), logs[:, :, :-1, :-1].diff(dim=-1))
    row = module(same, return_weights=True)[1][:, :, 0]
    torch.testing.assert_close(row[..., 3:], row[..., 3:4].expand(2, 2, 3))  # beyond k = 3 places ahead: one and the same
    assert (row[..., 1] - row[..., 2]).abs().min() > 1e-6


def test_settings():
    plain = DisentangledAttention(8, 2, pos_att_type=()).double()
    assert not hasattr(plain, "relative") and plain.scale == 0.5
    assert DisentangledAttention(8, 2).relative.shape == (512, 8) and 0.018 < DisentangledAttention(64, 2).relative.std() < 0.022
    assert DisentangledAttention(8, 2, bias=False).pos_q_proj.bias is None and DisentangledAttention(8, 2).pos_k_proj.bias is not None
    with pytest.raises(ValueError, match="max_relative=0 is not positive"):
        DisentangledAttention(8, 2, max_relative=0)
    assert DisentangledAttention(8, 2, max_relative=1).relative.shape == (2, 8)
    with pytest.raises(ValueError, match="names something else than 'c2p' and 'p2c'"):
        DisentangledAttention(8, 2, pos_att_type=("p2p",))
    module, (x, _) = example()
    with pytest.raises(ValueError, match=r"x has shape .* d_model=8"):
        module(x[..., :7])
    for bad in (MASK[:, :5], MASK[:1]):
        with pytest.raises(ValueError, match=r"mask has shape .* \(batch=2, time=6\)"):
            module(x, bad)
    assert relative_index(3, 1).tolist() == [[1, 0, 0], [1, 1, 0], [1, 1, 1]]


def test_numpy_variant_agrees(agree):
    module, x = DisentangledAttention(8, 1, max_relative=3).double(), torch.randn(1, 6, 8, dtype=D)
    torch.nn.init.normal_(module.relative)
    arrays = [y.detach().numpy() for y in (module.q_proj(x)[0], module.k_proj(x)[0], module.pos_k_proj(module.relative), module.pos_q_proj(module.relative))]
    terms = numpy_variant.disentangled_scores(*arrays, 3)
    agree(numpy_variant.masked_softmax(sum(terms) / 24**0.5), module(x, return_weights=True)[1][0, 0])


def test_demo_prefers_what_the_slider_says():
    def mean_offset(preference):
        weights = np.array(numpy_variant.show(preference=preference)[1]["values"])
        place = np.arange(8)
        return (weights * (place[:, None] - place)).sum()

    assert mean_offset(3.0) > mean_offset(0.0) > mean_offset(-3.0)
