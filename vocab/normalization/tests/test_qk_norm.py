import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from snippets.normalization import qk_norm as numpy_variant
from vocab.normalization.qk_norm import QKNormAttention, softcap
from vocab.normalization.rms import rms_norm
from vocab.positional.rope import RotaryEmbedding

D = torch.float64


def example():
    module = QKNormAttention(12, 3, softcap=3.0, eps=0.01, rotary=RotaryEmbedding(4, base=20.0)).double()
    nn.init.normal_(module.q_norm.weight), nn.init.normal_(module.k_norm.weight)
    return module, (torch.randn(2, 5, 12, dtype=D),)


def heads(module, x):
    return [p(x).unflatten(-1, (module.n_heads, -1)).transpose(1, 2) for p in (module.q_proj, module.k_proj, module.v_proj)]


@pytest.mark.oracle("torch's scaled_dot_product_attention on normalised queries and keys")
@pytest.mark.parametrize("is_causal", [True, False])
@pytest.mark.parametrize("norm", ["rms", "l2"])
def test_equals_attention_on_normalised_queries_and_keys(norm, is_causal):
    module, x = QKNormAttention(12, 3, norm=norm, bias=True).double(), torch.randn(2, 5, 12, dtype=D)
    q, k, v = heads(module, x)
    if norm == "rms":
        nn.init.normal_(module.q_norm.weight), nn.init.normal_(module.k_norm.weight)
        q, k = F.rms_norm(q, (4,), module.q_norm.weight, 1e-6), F.rms_norm(k, (4,), module.k_norm.weight, 1e-6)
        expected = F.scaled_dot_product_attention(q, k, v, is_causal=is_causal)
    else:
        nn.init.uniform_(module.scale, 1.0, 20.0)
        q, k = q / q.norm(dim=-1, keepdim=True), k / k.norm(dim=-1, keepdim=True)
        expected = F.scaled_dot_product_attention(q * module.scale, k, v, is_causal=is_causal, scale=1.0)
    y, weights = module(x, is_causal=is_causal, return_weights=True)
    torch.testing.assert_close(y, module.o_proj(expected.transpose(1, 2).flatten(2)))
    torch.testing.assert_close(module(x, is_causal=is_causal), y, rtol=0, atol=0)
    torch.testing.assert_close((weights @ v), expected)


@pytest.mark.oracle("transformers Qwen3Attention")
def test_equals_the_attention_of_qwen3_with_norm_before_rope():
    pytest.importorskip("transformers")
    from transformers.models.qwen3.modeling_qwen3 import Qwen3Attention, Qwen3Config, Qwen3RotaryEmbedding

    config = Qwen3Config(hidden_size=24, num_attention_heads=3, num_key_value_heads=3, head_dim=8, attn_implementation="eager")
    theirs, ours = Qwen3Attention(config, 0).double(), QKNormAttention(24, 3, rotary=RotaryEmbedding(8, base=10000.0)).double()
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.5)
    ours.load_state_dict(theirs.state_dict())
    x, future = torch.randn(2, 6, 24, dtype=D), torch.full((6, 6), -torch.inf, dtype=D).triu(1)
    angles = Qwen3RotaryEmbedding(config)(x, torch.arange(6)[None])
    torch.testing.assert_close(ours(x), theirs(x, angles, future)[0], rtol=1e-5, atol=1e-6)


@pytest.mark.oracle("the bound: a cosine is from -1 to 1")
@pytest.mark.parametrize("size", [1.0, 1e3, 1e8])
def test_no_weights_bring_a_logit_of_the_l2_variant_beyond_its_scale(size):
    module, x = QKNormAttention(12, 3, norm="l2").double(), size * torch.randn(2, 7, 12, dtype=D)
    nn.init.uniform_(module.scale, 0.5, 30.0)
    for projection in (module.q_proj, module.k_proj):
        nn.init.normal_(projection.weight, std=size)
    _, weights = module(x, is_causal=False, return_weights=True)
    logits = weights.log()
    spread = logits.amax(-1) - logits.amin(-1)  # of logits in [-s, s], differences are at most 2 s
    assert (spread <= 2 * module.scale.view(1, 3, 1) + 1e-9).all()
    aligned = QKNormAttention(4, 1, norm="l2").double()
    nn.init.eye_(aligned.q_proj.weight), nn.init.eye_(aligned.k_proj.weight)
    pair = torch.tensor([[[5.0, 0, 0, 0], [-5.0, 0, 0, 0]]], dtype=D)
    _, weights = aligned(pair, is_causal=False, return_weights=True)
    assert weights[0, 0, 0].log().diff().item() == pytest.approx(-2 * 2.0), "the bound is reached: scale sqrt(4)"


@pytest.mark.oracle("invariance to the scale of the projections")
@pytest.mark.parametrize("norm", ["rms", "l2"])
def test_scale_of_the_query_and_key_projections_does_not_show(norm):
    module, x = QKNormAttention(12, 3, norm=norm, eps=0.0).double(), torch.randn(2, 5, 12, dtype=D)
    before = module(x)
    with torch.no_grad():
        module.q_proj.weight *= 1000.0
        module.k_proj.weight *= 0.01
    torch.testing.assert_close(module(x), before)
    with torch.no_grad():
        module.v_proj.weight *= 2.0
    torch.testing.assert_close(module(x), 2 * before)


def test_both_variants_start_as_the_same_function_with_different_parameters():
    rms, l2 = QKNormAttention(12, 3, eps=0.0).double(), QKNormAttention(12, 3, norm="l2", eps=0.0).double()
    l2.load_state_dict({k: v for k, v in rms.state_dict().items() if "norm" not in k} | {"scale": l2.scale.detach()})
    x = torch.randn(2, 5, 12, dtype=D)
    torch.testing.assert_close(rms(x), l2(x))
    count = lambda m: sum(p.numel() for p in m.parameters()) - 4 * 12 * 12  # noqa: E731
    assert count(rms) == 2 * 4 and count(l2) == 3
    for norm in ("rms", "l2"):
        fixed = QKNormAttention(12, 3, norm=norm, learn_scale=False)
        assert count(fixed) == 0 and set(fixed.state_dict()) == {f"{p}_proj.weight" for p in "qkvo"}
    assert QKNormAttention(12, 3, norm="l2", learn_scale=False).scale == 2.0


@pytest.mark.oracle("closed form: tanh")
def test_soft_cap_is_bounded_odd_monotone_and_has_slope_one_at_zero():
    x = torch.linspace(-400, 400, 2001, dtype=D)
    y = softcap(x, 50.0)
    assert y.abs().max() < 50.0 and (y.diff() > 0).all()
    torch.testing.assert_close(y, -y.flip(0))
    zero = torch.zeros(1, dtype=D, requires_grad=True)
    assert torch.autograd.grad(softcap(zero, 50.0).sum(), zero)[0].item() == 1.0
    small = torch.tensor([0.5], dtype=D)
    assert softcap(small, 50.0).item() == pytest.approx(0.5 - 0.5**3 / (3 * 50.0**2), rel=1e-8)


@pytest.mark.oracle("the formula: cap between logits and mask")
def test_the_soft_cap_comes_behind_the_scale_and_before_the_mask():
    module, x = QKNormAttention(12, 3, norm="l2", softcap=0.7).double(), torch.randn(2, 5, 12, dtype=D)
    q, k, v = heads(module, x)
    logits = 0.7 * torch.tanh(2.0 * F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT / 0.7)
    logits = logits.masked_fill(torch.ones(5, 5, dtype=torch.bool).triu(1), -torch.inf)
    expected = module.o_proj((logits.softmax(-1) @ v).transpose(1, 2).flatten(2))
    torch.testing.assert_close(module(x), expected)


@pytest.mark.oracle("published settings: Gemma 2 and Gemma 3")
def test_gemma_2_caps_at_50_and_30_and_gemma_3_normalises_instead():
    pytest.importorskip("transformers")
    from transformers.models.gemma2 import Gemma2Config
    from transformers.models.gemma3 import Gemma3TextConfig
    from transformers.models.gemma3.modeling_gemma3 import Gemma3Attention

    assert (Gemma2Config().attn_logit_softcapping, Gemma2Config().final_logit_softcapping) == (50.0, 30.0)
    config = Gemma3TextConfig(hidden_size=8, num_attention_heads=2, num_key_value_heads=2, head_dim=4, num_hidden_layers=1)
    assert config.attn_logit_softcapping is None
    assert Gemma3Attention(config, 0).q_norm.weight.shape == (4,), "one gain per coordinate of a head"


@pytest.mark.oracle("a turn keeps lengths and mixes coordinates")
def test_rope_commutes_with_the_l2_norm_and_not_with_a_gain_per_coordinate():
    rotary, q, k = RotaryEmbedding(8), *torch.randn(2, 1, 2, 6, 8, dtype=D)
    turn = lambda q, k, start=0: rotary(q, k, torch.arange(start, start + 6))  # noqa: E731
    torch.testing.assert_close(turn(F.normalize(q, dim=-1), k)[0], F.normalize(turn(q, k)[0], dim=-1))
    gain = torch.rand(8, dtype=D) + 0.5
    before, after = turn(rms_norm(q, gain), k)[0], rms_norm(turn(q, k)[0], gain)
    assert (before - after).abs().max() > 0.1
    scores = {}
    for start in (0, 50):
        q1, k1 = turn(rms_norm(q, gain), rms_norm(k, gain), start)
        q2, k2 = (rms_norm(x, gain) for x in turn(q, k, start))
        scores[start] = q1 @ k1.mT, q2 @ k2.mT
    torch.testing.assert_close(scores[0][0], scores[50][0], msg="norm first: only the distance counts")
    assert (scores[0][1] - scores[50][1]).abs().max() > 0.1, "norm last: the position itself shows"


def test_without_it_attention_collapses_as_the_weights_grow():
    x = torch.randn(1, 32, 12, dtype=D)
    entropy = {}
    for norm, build in {"none": lambda: None, "l2": lambda: QKNormAttention(12, 3, norm="l2").double()}.items():
        module = build() or QKNormAttention(12, 3, norm="l2").double()
        with torch.no_grad():
            module.q_proj.weight *= 100.0
            module.k_proj.weight *= 100.0
        q, k, _ = heads(module, x)
        weights = (q @ k.mT / 2.0).softmax(-1) if norm == "none" else module(x, is_causal=False, return_weights=True)[1]
        entropy[norm] = -(weights * weights.clamp_min(1e-300).log()).sum(-1).mean().item()
    assert entropy["none"] < 0.1 and entropy["l2"] > 2.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(norm="layer"), "norm='layer' is neither 'rms' nor 'l2'"),
        (dict(softcap=0.0), "softcap=0.0 is not positive"),
        (dict(softcap=-1.0), "softcap=-1.0 is not positive"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        QKNormAttention(12, 3, **arguments)


def test_wrong_inputs_are_named():
    with pytest.raises(ValueError, match=r"x has shape \(2, 5, 11\); expected \(batch, time, d_model=12\)"):
        QKNormAttention(12, 3)(torch.zeros(2, 5, 11))
    with pytest.raises(ValueError, match="cap=0.0 is not positive"):
        softcap(torch.zeros(3), 0.0)
    with pytest.raises(TypeError, match="logits is a float"):
        softcap(1.0, 5.0)
    with pytest.raises(ValueError, match="d_model=13 is not a multiple of n_heads=3"):
        QKNormAttention(13, 3)


def test_defaults_are_rms_with_gains_and_no_bias_and_heads_may_be_wider():
    module = QKNormAttention(12, 3, head_dim=8)
    assert set(module.state_dict()) == {*(f"{p}_proj.weight" for p in "qkvo"), "q_norm.weight", "k_norm.weight"}
    assert module.q_proj.weight.shape == (24, 12) and module.q_norm.eps == 1e-6


@pytest.mark.interp
@pytest.mark.parametrize("learn_scale", [True, False])
@pytest.mark.parametrize("rotary", [None, RotaryEmbedding(4, base=20.0), RotaryEmbedding(4, base=20.0, rotary_dim=2, layout="interleaved")])
def test_kernel_agrees(rotary, learn_scale, kernel_agrees):
    module, x = QKNormAttention(8, 2, eps=0.01, learn_scale=learn_scale, rotary=rotary).double(), torch.randn(1, 3, 8, dtype=D, requires_grad=True)
    for norm in (module.q_norm, module.k_norm) if learn_scale else ():
        nn.init.normal_(norm.weight, 1.0, 0.3)
    kernel_agrees("qk_norm_rope", lambda _: module(x), (x, *module.parameters()), module=module, atol=1e-13)


@pytest.mark.interp
def test_kernel_says_that_it_has_no_l2_norm():
    pytest.importorskip("triton")
    from vocab.kernels.interpret import interpreting

    with interpreting(), pytest.raises(RuntimeError, match="the norm is 'l2'; backend='torch' computes the same"):
        QKNormAttention(8, 2, norm="l2", backend="triton")(torch.randn(1, 3, 8))


@pytest.mark.parametrize("is_causal", [True, False])
def test_numpy_variant_agrees(agree, is_causal):
    module, x = QKNormAttention(8, 1, norm="l2").double(), torch.randn(1, 5, 8, dtype=D)
    module.o_proj = nn.Identity()
    q, k, v = (h[0, 0].detach().numpy() for h in heads(module, x))
    logits = numpy_variant.qk_norm_logits(q, k, module.scale.item())
    agree(numpy_variant.attention(logits, v, is_causal), module(x, is_causal=is_causal)[0], rtol=1e-6)
    module.softcap = 0.8
    agree(numpy_variant.attention(numpy_variant.softcap(logits, 0.8), v, is_causal), module(x, is_causal=is_causal)[0], rtol=1e-6)


def test_demo_keeps_qk_norm_flat_and_lets_the_bare_logits_collapse():
    lines = numpy_variant.show()[1]["series"]
    assert np.ptp([y for _, y in lines["QK-norm"]]) < 1e-9
    assert lines["none"][-1][1] < 0.01 and lines["none"][0][1] > 2.0
    assert numpy_variant.show(method="soft cap", weight_scale=50.0)[2]["series"]["soft cap"][-1][1] <= 8.0
