import numpy as np
import pytest
import torch
from torch.nn import functional as F

from snippets.attention import global_local as numpy_variant
from vocab.attention.global_local import GlobalLocalAttention, global_local_mask
from vocab.attention.multi_head import MultiHeadAttention
from vocab.attention.sliding_window import SlidingWindowAttention

D = torch.float64
GLOBAL = torch.tensor([[True, False, False, True, False, False, False, False], [False] * 7 + [True]])


def example():
    return GlobalLocalAttention(8, 2, 3).double(), (torch.randn(2, 8, 8, dtype=D), GLOBAL)


@pytest.mark.oracle("torch.nn.functional.scaled_dot_product_attention with the mask written out")
@pytest.mark.parametrize("window", [1, 4, 5])
def test_equals_the_masked_product_when_projections_are_shared(window):
    module, (x, _) = GlobalLocalAttention(8, 2, window, separate_global_projections=False).double(), example()[1]
    mask = torch.tensor([[[[abs(i - j) <= window // 2 or bool(g[i]) or bool(g[j]) for j in range(8)] for i in range(8)]] for g in GLOBAL])
    q, k, v = (p(x).unflatten(-1, (2, 4)).transpose(1, 2) for p in (module.q_proj, module.k_proj, module.v_proj))
    out = F.scaled_dot_product_attention(q, k, v, mask).transpose(1, 2).flatten(2)
    torch.testing.assert_close(module(x, GLOBAL), module.o_proj(out))


@pytest.mark.oracle("transformers LongformerSelfAttention")
def test_is_the_attention_of_longformer():
    longformer = pytest.importorskip("transformers.models.longformer.modeling_longformer")
    config = longformer.LongformerConfig(hidden_size=8, num_attention_heads=2, attention_window=[4], attention_probs_dropout_prob=0.0)
    theirs = longformer.LongformerSelfAttention(config, 0).double()
    ours = GlobalLocalAttention(8, 2, 4).double()
    with torch.no_grad():
        for a, b in [("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj"), ("query_global", "q_global"),
                     ("key_global", "k_global"), ("value_global", "v_global")]:
            torch.nn.init.normal_(getattr(ours, b).weight)
            getattr(theirs, a).load_state_dict(getattr(ours, b).state_dict())
    ours.o_proj = torch.nn.Identity()
    x = torch.randn(2, 8, 8, dtype=D)
    marks = GLOBAL.double() * 10000  # 0: local, positive: global
    expected = theirs(x, attention_mask=marks, is_index_masked=marks < 0, is_index_global_attn=GLOBAL, is_global_attn=True)[0]
    torch.testing.assert_close(ours(x, GLOBAL), expected, rtol=1e-5, atol=1e-6)  # their softmax is in float32


@pytest.mark.oracle("sliding-window attention, and full attention")
@pytest.mark.parametrize("separate", [False, True])
def test_no_global_token_is_a_window_and_only_global_ones_are_full_attention(separate):
    x, none = torch.randn(2, 8, 8, dtype=D), torch.zeros(2, 8, dtype=torch.bool)
    module = GlobalLocalAttention(8, 2, 4, separate_global_projections=separate).double()
    for other, mask in [(SlidingWindowAttention(8, 2, 4, causal=False), none), (MultiHeadAttention(8, 2), ~none)]:
        other = other.double()
        other.load_state_dict({k: v for k, v in module.state_dict().items() if "global" not in k})
        torch.testing.assert_close(module(x, mask), other(x))


@pytest.mark.oracle("boolean product: two layers connect everything through one global token")
def test_any_two_tokens_meet_at_a_global_one():
    mask = global_local_mask(GLOBAL, 1)[:, 0].double()
    assert (mask @ mask > 0).all()
    none = global_local_mask(torch.zeros(1, 8, dtype=torch.bool), 3)[:, 0].double()
    assert not (none @ none > 0).all()


@pytest.mark.oracle("Jacobian: ordinary tokens read the global ones too")
def test_the_global_half_is_symmetric():
    """A widely copied loop gives ordinary tokens their window only, so that nobody reads the global tokens."""
    module, (x, _) = example()
    jacobian = torch.autograd.functional.jacobian(lambda y: module(y, GLOBAL), x).abs().sum((2, 5))
    for b in range(2):
        assert torch.equal(jacobian[b, :, b] > 0, global_local_mask(GLOBAL, 3)[b, 0])


def test_global_tokens_have_projections_of_their_own():
    """A widely copied version has one set; the paper finds a second one important, initialised from the first."""
    module, (x, _) = example()
    shared = GlobalLocalAttention(8, 2, 3, separate_global_projections=False).double()
    shared.load_state_dict({k: v for k, v in module.state_dict().items() if "global" not in k})
    torch.testing.assert_close(module(x, GLOBAL), shared(x, GLOBAL))  # as long as they are still copies
    with torch.no_grad():
        module.v_global.weight.add_(torch.randn(8, 8, dtype=D))
    moved = (module(x, GLOBAL) - shared(x, GLOBAL)).abs().amax(-1) > 1e-6
    assert torch.equal(moved, GLOBAL), "only the global tokens' own outputs"


def test_dropout_hits_both_halves():
    module, x = GlobalLocalAttention(8, 2, 3, dropout=1.0).double(), torch.randn(2, 8, 8, dtype=D)
    torch.testing.assert_close(module(x, GLOBAL), module.o_proj.bias.expand(2, 8, 8))
    assert (module.eval()(x, GLOBAL) != module.o_proj.bias).all()
    torch.testing.assert_close(module(x, GLOBAL), module(x, GLOBAL), rtol=0, atol=0)
    assert GlobalLocalAttention(8, 2, 3, bias=False).q_global.bias is None


def test_bad_input_is_named():
    module, (x, _) = example()
    with pytest.raises(ValueError, match=r"global_mask has shape \(2, 7\); expected \(batch=2, time=8\)"):
        module(x, GLOBAL[:, :7])
    assert module(x[:, :7], GLOBAL[:, :7]).shape == (2, 7, 8)
    with pytest.raises(ValueError, match="batch=2"):
        module(x, GLOBAL[:1])
    with pytest.raises(ValueError, match=r"x has shape .* d_model=8"):
        module(x[..., :7], GLOBAL)
    with pytest.raises(TypeError, match="global_mask has dtype torch.int64"):
        global_local_mask(GLOBAL.long(), 3)
    with pytest.raises(ValueError, match="window=0 is not positive"):
        GlobalLocalAttention(8, 2, 0)
    assert GlobalLocalAttention(8, 2, 1).window == 1


def test_numpy_variant_agrees(agree):
    module, (x, _) = GlobalLocalAttention(8, 1, 3, bias=False).double(), example()[1]
    with torch.no_grad():
        module.q_global.weight.add_(1)
    projections = (module.q_proj, module.k_proj, module.v_proj, module.q_global, module.k_global, module.v_global)
    arrays = [p(x)[0].detach().numpy() for p in projections]
    module.o_proj = torch.nn.Identity()
    agree(numpy_variant.global_local_attention(arrays[:3], arrays[3:], GLOBAL[0].numpy(), 3), module(x, GLOBAL)[0])
    np.testing.assert_array_equal(numpy_variant.global_local_mask(GLOBAL[0].numpy(), 3), global_local_mask(GLOBAL, 3)[0, 0].numpy())


def test_demo_reaches_everything_in_two_layers_with_one_global_token():
    assert "100 %" in numpy_variant.show(n_global=1, layers=2)[3]["caption"]
    assert "100 %" not in numpy_variant.show(n_global=0, layers=2)[3]["caption"]
