import numpy as np
import pytest
import torch

from snippets.attention import multi_head_latent as numpy_variant
from vocab.attention.multi_head_latent import LatentCache, MultiHeadLatentAttention

D = torch.float64
SMALL = dict(kv_lora_rank=8, qk_nope_dim=5, qk_rope_dim=4, v_dim=7)


def example():
    module = MultiHeadLatentAttention(24, 3, **SMALL, q_lora_rank=6, rope_base=20.0).double()
    torch.nn.init.uniform_(module.kv_norm.weight, 0.5, 1.5)
    return module, (torch.randn(2, 6, 24, dtype=D),)


@pytest.mark.oracle("transformers DeepseekV3Attention")
@pytest.mark.parametrize("q_lora_rank", [None, 6])
@pytest.mark.parametrize("absorb", [False, True])
def test_is_the_attention_of_deepseek_v3(q_lora_rank, absorb):
    deepseek = pytest.importorskip("transformers.models.deepseek_v3.modeling_deepseek_v3")
    config = deepseek.DeepseekV3Config(
        hidden_size=24, num_attention_heads=3, num_key_value_heads=3, kv_lora_rank=8, q_lora_rank=q_lora_rank, qk_nope_head_dim=5,
        qk_rope_head_dim=4, v_head_dim=7, attn_implementation="eager")
    theirs, ours = deepseek.DeepseekV3Attention(config, 0).double(), MultiHeadLatentAttention(24, 3, **SMALL, q_lora_rank=q_lora_rank).double()
    pairs = [(theirs.kv_a_proj_with_mqa, ours.kv_down), (theirs.kv_a_layernorm, ours.kv_norm), (theirs.kv_b_proj, ours.kv_up),
             (theirs.o_proj, ours.o_proj)]
    if q_lora_rank is None:
        pairs.append((theirs.q_proj, ours.q_proj))
    else:
        pairs += [(theirs.q_a_proj, ours.q_proj[0]), (theirs.q_a_layernorm, ours.q_proj[1]), (theirs.q_b_proj, ours.q_proj[2])]
    for a, b in pairs:
        torch.nn.init.normal_(b.weight)
        a.weight.data.copy_(b.weight)
    x = torch.randn(2, 6, 24, dtype=D)
    angles = deepseek.DeepseekV3RotaryEmbedding(config)(x, torch.arange(6)[None])
    future = torch.full((6, 6), -torch.inf, dtype=D).triu(1)
    torch.testing.assert_close(ours(x, absorb=absorb), theirs(x, angles, future)[0], rtol=1e-4, atol=1e-4)


@pytest.mark.oracle("keys and values of every head written out")
def test_the_absorbed_form_is_the_expanded_one():
    module, (x,) = example()
    torch.testing.assert_close(module(x, absorb=True), module(x))


@pytest.mark.oracle("the formula head by head, with complex numbers for the rotation")
def test_equals_the_formula_head_by_head():
    module, (x,) = example()
    x = x[:1]
    latent, k_rope = (module.kv_down(x)[0]).split((8, 4), -1)
    latent = latent / (latent.square().mean(-1, keepdim=True) + 1e-6).sqrt() * module.kv_norm.weight
    turn = torch.polar(torch.ones(6, 2, dtype=D), torch.outer(torch.arange(6, dtype=D), torch.tensor([1.0, 20.0**-0.5], dtype=D)))

    def rotated(y):
        return torch.view_as_real(torch.view_as_complex(y.reshape(6, 2, 2).contiguous()) * turn).flatten(1)

    q_all, heads = module.q_proj(x)[0].view(6, 3, 9), []
    for h in range(3):
        up_k, up_v = module.kv_up.weight.view(3, 12, 8)[h].split((5, 7))
        q_nope, q_rope = q_all[:, h].split((5, 4), -1)
        scores = (q_nope @ (latent @ up_k.T).T + rotated(q_rope) @ rotated(k_rope).T) / 9**0.5
        heads.append(scores.masked_fill(torch.ones(6, 6, dtype=torch.bool).triu(1), -torch.inf).softmax(-1) @ (latent @ up_v.T))
    torch.testing.assert_close(module(x)[0], torch.cat(heads, -1) @ module.o_proj.weight.T)


@pytest.mark.oracle("the full pass over all tokens")
@pytest.mark.parametrize("absorb", [False, True])
@pytest.mark.parametrize("chunks", [[1] * 6, [3, 2, 1]])
def test_decoding_with_a_cache_equals_the_full_pass(chunks, absorb):
    module, (x,) = example()
    cache = LatentCache(2, 6, 12, D)
    found = torch.cat([module(part, cache=cache, absorb=absorb) for part in x.split(chunks, 1)], 1)
    torch.testing.assert_close(found, module(x))
    assert cache.length == 6


@pytest.mark.oracle("rank: keys and values of all heads together have the rank of the latent")
def test_keys_and_values_of_all_heads_have_the_rank_of_the_latent():
    module = MultiHeadLatentAttention(24, 3, **dict(SMALL, kv_lora_rank=4)).double()
    made = module.kv_up(module.kv_norm(module.kv_down(torch.randn(20, 24, dtype=D))[:, :4]))
    assert made.shape == (20, 36) and torch.linalg.matrix_rank(made) == 4


@pytest.mark.oracle("published size: 576 numbers a token and layer in DeepSeek-V2 instead of 32,768")
def test_cached_numbers_of_a_token():
    module, (x,) = example()
    cache = LatentCache(2, 6, 12, D)
    module(x, cache=cache)
    assert cache.store[0, 0].numel() == 8 + 4 and (cache.store != 0).all()
    defaults = MultiHeadLatentAttention(16, 1)
    assert (defaults.rank + defaults.rope, 2 * 128 * defaults.v_dim) == (576, 32_768)
    assert (defaults.nope, defaults.v_dim) == (128, 128) and defaults.rotary.base == 10000.0


def test_the_scale_is_that_of_the_whole_key():
    module, (x,) = example()
    assert module.scale == pytest.approx((5 + 4) ** -0.5) and module.scale != pytest.approx(7**-0.5)
    wrong = MultiHeadLatentAttention(24, 3, **SMALL, q_lora_rank=6, rope_base=20.0).double()
    wrong.load_state_dict(module.state_dict())
    wrong.scale = 7**-0.5
    assert (wrong(x) - module(x)).abs().max() > 1e-4


def test_a_rotated_key_could_not_be_absorbed():
    """(W^T R q) . c would need R between the two matrices, and R depends on the distance of the two tokens."""
    up, angle = torch.randn(4, 8, dtype=D), torch.tensor(0.7, dtype=D)
    R = torch.block_diag(*[torch.tensor([[angle.cos(), -angle.sin()], [angle.sin(), angle.cos()]], dtype=D)] * 2)
    q, c = torch.randn(4, dtype=D), torch.randn(8, dtype=D)
    torch.testing.assert_close(q @ R @ (up @ c), (up.T @ R.T @ q) @ c)  # for one distance it can
    assert ((up.T @ R.T @ q) - (up.T @ q)).abs().max() > 0.1  # for each distance it is another vector


def test_the_cache_holds_the_normalized_latent_and_the_rotated_key():
    module, (x,) = example()
    cache = LatentCache(2, 6, 12, D)
    module(x, cache=cache)
    raw = module.kv_down(x)
    torch.testing.assert_close(cache.store[..., :8], module.kv_norm(raw[..., :8]))
    torch.testing.assert_close(cache.store[..., 8:], module.rotary.rotate(raw[:, None, :, 8:])[:, 0])
    torch.testing.assert_close(cache.store[:, 0, 8:], raw[:, 0, 8:])  # position 0 is not turned


def test_bad_input_is_named():
    for name in ("n_heads", "kv_lora_rank", "qk_nope_dim", "qk_rope_dim", "v_dim"):
        given = {**dict(d_model=24, n_heads=3), **SMALL, name: 0}
        with pytest.raises(ValueError, match=f"{name}=0 is not positive"):
            MultiHeadLatentAttention(**given)
    assert MultiHeadLatentAttention(24, 1, kv_lora_rank=1, qk_nope_dim=1, qk_rope_dim=2, v_dim=1).rank == 1
    module, (x,) = example()
    with pytest.raises(ValueError, match=r"x has shape .* d_model=24"):
        module(x[..., :23])
    cache = LatentCache(2, 7, 12, D)
    module(x, cache=cache)
    with pytest.raises(ValueError, match="no room: 6 tokens and 2 new ones are more than max_len=7"):
        module(x[:, :2], cache=cache)
    assert cache.length == 6
    module(x[:, :1], cache=cache)
    for bad in (torch.zeros(1, 1, 12), torch.zeros(2, 1, 11), torch.zeros(2, 12)):
        with pytest.raises(ValueError, match=r"new has shape .* \(batch=2, time, width=12\)"):
            cache.append(bad)
    assert LatentCache(1, 2, 3).store.dtype == torch.float32


@pytest.mark.parametrize("absorbed", [False, True])
def test_numpy_variant_agrees(agree, absorbed):
    """The variant has no positions: its rotary part is left out of the module by weights of zero."""
    module, x = MultiHeadLatentAttention(24, 3, **SMALL).double(), torch.randn(1, 6, 24, dtype=D)
    with torch.no_grad():
        module.kv_down.weight[8:] = 0
    up_k, up_v = (w.detach().numpy() for w in module.kv_up.weight.view(3, 12, 8).split((5, 7), 1))
    latent = module.kv_norm(module.kv_down(x)[0, :, :8]).detach().numpy()
    q = module.q_proj(x)[0].view(6, 3, 9)[..., :5].transpose(0, 1).detach().numpy()
    module.o_proj = torch.nn.Identity()
    function = numpy_variant.absorbed_attention if absorbed else numpy_variant.expanded_attention
    ours = function(q, latent, up_k, up_v, scale=1 / 3)
    agree(ours.transpose(1, 0, 2).reshape(6, 21), module(x)[0])


def test_demo_error_falls_with_the_rank_and_with_likeness():
    def curve(**controls):
        return [y for _, y in numpy_variant.show(**controls)[0]["series"]["latent"]]

    errors = curve(alike=0.5)
    assert errors == sorted(errors, reverse=True) and errors[-1] < 1e-6
    assert np.mean(curve(alike=0.95)) < 0.5 * np.mean(curve(alike=0.0))
