import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from snippets.positional.rope import rates, rope, show
from vocab.positional.rope import RotaryEmbedding, convert_layout

D = torch.float64


def example():
    positions = torch.tensor([[3, 4, 9], [0, 1, 2]])
    q, k = torch.randn(2, 4, 3, 8, dtype=D), torch.randn(2, 2, 3, 8, dtype=D)
    return RotaryEmbedding(8, base=50.0, rotary_dim=6), (q, k, positions)


def by_complex_numbers(x, positions, base=10000.0):
    """Interleaved pairs as complex numbers times exp(i m theta)."""
    theta = torch.tensor([base ** (-2 * i / x.shape[-1]) for i in range(x.shape[-1] // 2)], dtype=D)
    turn = torch.polar(torch.ones((), dtype=D), positions[:, None].to(D) * theta)
    return torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous()) * turn).flatten(-2)


@pytest.mark.oracle("multiplication by exp(i·m·θ) as complex numbers")
@pytest.mark.parametrize("base", [10000.0, 7.0, 1.0])
def test_interleaved_pairs_are_complex_numbers_times_a_phase(base):
    q, k = torch.randn(2, 4, 5, 8, dtype=D), torch.randn(2, 1, 5, 8, dtype=D)
    positions = torch.tensor([0, 1, 5, 900, 31])
    found = RotaryEmbedding(8, base=base, layout="interleaved")(q, k, positions)
    for ours, x in zip(found, (q, k)):
        torch.testing.assert_close(ours, by_complex_numbers(x, positions, base), rtol=1e-12, atol=1e-12)


@pytest.mark.oracle("transformers apply_rotary_pos_emb (LLaMA)")
def test_half_layout_is_that_of_llama_in_transformers():
    llama = pytest.importorskip("transformers.models.llama.modeling_llama")
    rates = {"rope_type": "default", "rope_theta": 500.0}
    config = llama.LlamaConfig(hidden_size=64, num_attention_heads=4, rope_parameters=rates)
    q, k, positions = torch.randn(2, 4, 6, 16), torch.randn(2, 2, 6, 16), torch.randint(0, 300, (2, 6))
    theirs = llama.apply_rotary_pos_emb(q, k, *llama.LlamaRotaryEmbedding(config)(q, positions))
    torch.testing.assert_close(RotaryEmbedding(16, base=500.0)(q, k, positions), theirs, rtol=1e-5, atol=2e-5)


@pytest.mark.oracle("transformers apply_rotary_pos_emb (GPT-J, 64 of 256 dimensions)")
def test_interleaved_layout_with_a_part_left_alone_is_that_of_gpt_j():
    gptj = pytest.importorskip("transformers.models.gptj.modeling_gptj")
    q = torch.randn(1, 2, 9, 256)
    sin, cos = gptj.create_sinusoidal_positions(9, 64).chunk(2, -1)
    turned = gptj.apply_rotary_pos_emb(q[..., :64].transpose(1, 2), sin[None], cos[None]).transpose(1, 2)
    ours, _ = RotaryEmbedding(256, rotary_dim=64, layout="interleaved")(q, q)
    torch.testing.assert_close(ours[..., :64], turned, rtol=1e-5, atol=1e-5)
    assert torch.equal(ours[..., 64:], q[..., 64:])


@pytest.mark.oracle("rotation matrices: Rₘ Rₙ = Rₘ₊ₙ, R₀ = I, Rₘᵀ = R₋ₘ, det = 1")
@pytest.mark.parametrize("layout", ["half", "interleaved"])
def test_rotations_form_a_group(layout):
    rotary = RotaryEmbedding(6, base=20.0, layout=layout)

    def matrix(m):
        return rotary.rotate(torch.eye(6, dtype=D)[None, None], torch.full((6,), m))[0, 0].T

    close = {"rtol": 0, "atol": 1e-12}
    torch.testing.assert_close(matrix(0), torch.eye(6, dtype=D), **close)
    torch.testing.assert_close(matrix(4) @ matrix(9), matrix(13), **close)
    torch.testing.assert_close(matrix(5).T, matrix(-5), **close)
    torch.testing.assert_close(torch.linalg.det(matrix(5)), torch.ones((), dtype=D), **close)
    assert (matrix(1) - torch.eye(6, dtype=D)).abs().max() > 0.5


@pytest.mark.oracle("invariance: scores do not change when all positions are shifted")
def test_scores_depend_on_the_distance_only():
    q, k = torch.randn(2, 4, 7, 8, dtype=D), torch.randn(2, 4, 7, 8, dtype=D)
    rotary, positions = RotaryEmbedding(8), torch.arange(7)

    def scores(offset):
        a, b = rotary(q, k, positions + offset)
        return a @ b.mT

    torch.testing.assert_close(scores(1234), scores(0), rtol=1e-10, atol=1e-10)
    moved_apart = rotary.rotate(q, positions + 1) @ rotary.rotate(k, positions).mT
    assert (moved_apart - scores(0)).abs().max() > 0.1


def test_norms_are_kept_and_position_zero_is_left_alone():
    q = torch.randn(1, 2, 5, 8, dtype=D)
    turned, _ = RotaryEmbedding(8)(q, q)
    torch.testing.assert_close(turned.norm(dim=-1), q.norm(dim=-1))
    torch.testing.assert_close(turned[:, :, 0], q[:, :, 0])
    assert (turned[:, :, 1] - q[:, :, 1]).abs().max() > 0.1


@pytest.mark.oracle("the gradient of a rotation is the rotation by the negative angle")
def test_backward_turns_back():
    rotary, positions = RotaryEmbedding(8, base=30.0), torch.tensor([5, 2, 11])
    q = torch.randn(1, 2, 3, 8, dtype=D, requires_grad=True)
    upstream = torch.randn_like(q)
    rotary.rotate(q, positions).backward(upstream)
    torch.testing.assert_close(q.grad, rotary.rotate(upstream, -positions))


@pytest.mark.parametrize("rotary_dim", [None, 4])
def test_layouts_agree_after_reordering_the_projections(rotary_dim):
    """And keep disagreeing when that is forgotten: the fluent nonsense of a badly converted checkpoint."""
    x, wq, wk = torch.randn(1, 5, 12, dtype=D), torch.randn(16, 12, dtype=D), torch.randn(8, 12, dtype=D)

    def scores(layout, wq, wk):
        heads = [F.linear(x, w).unflatten(-1, (-1, 8)).transpose(1, 2) for w in (wq, wk)]
        q, k = RotaryEmbedding(8, layout=layout, rotary_dim=rotary_dim)(*heads)
        return q @ k.mT

    for old, new in (("interleaved", "half"), ("half", "interleaved")):
        moved = [convert_layout(w, 8, to=new, rotary_dim=rotary_dim) for w in (wq, wk)]
        torch.testing.assert_close(scores(new, *moved), scores(old, wq, wk))
        assert (scores(new, wq, wk) - scores(old, wq, wk)).abs().max() > 0.1
        there_and_back = convert_layout(moved[0], 8, to=old, rotary_dim=rotary_dim)
        assert torch.equal(there_and_back, wq)


def test_converting_to_half_takes_the_even_rows_of_each_head_then_the_odd_ones():
    weight, bias = torch.randn(4 * 8, 10), torch.randn(4 * 8)
    for x in (weight, bias):
        expected = torch.cat([torch.cat([head[0::2], head[1::2]]) for head in x.split(8)])
        assert torch.equal(convert_layout(x, 8, to="half"), expected)


def test_without_position_ids_counting_starts_at_zero():
    q, k, rotary = torch.randn(2, 4, 5, 8), torch.randn(2, 2, 5, 8), RotaryEmbedding(8)
    torch.testing.assert_close(rotary(q, k), rotary(q, k, torch.arange(5).expand(2, 5)), rtol=0, atol=0)
    torch.testing.assert_close(rotary(q, k), rotary(q, k, torch.arange(5)), rtol=0, atol=0)


def test_each_sequence_has_its_own_positions():
    q, rotary = torch.randn(2, 4, 3, 8, dtype=D), RotaryEmbedding(8)
    positions = torch.tensor([[0, 1, 2], [40, 41, 42]])
    for i in range(2):
        torch.testing.assert_close(rotary.rotate(q, positions)[i], rotary.rotate(q[i : i + 1], positions[i])[0])


def test_cached_keys_can_be_moved_by_turning_them_further():
    k, rotary = torch.randn(1, 2, 4, 8, dtype=D), RotaryEmbedding(8)
    cached = rotary.rotate(k, torch.arange(10, 14))
    torch.testing.assert_close(rotary.rotate(cached, torch.full((4,), -10)), rotary.rotate(k, torch.arange(4)))


@pytest.mark.oracle("frequencies in float64 against a bfloat16 model")
def test_a_bfloat16_model_still_tells_positions_apart():
    rotary = RotaryEmbedding(64).bfloat16()
    q = torch.ones(1, 1, 1, 64)
    for position in (257, 1857, 30001):
        exact = RotaryEmbedding(64).rotate(q.double(), torch.tensor([position]))
        ours = rotary.rotate(q.bfloat16(), torch.tensor([position]))
        assert ours.dtype == torch.bfloat16
        # One rounding to 8 significant bits at the end (values up to sqrt(2)), and float32 angles.
        torch.testing.assert_close(ours.double(), exact, rtol=2**-8, atol=0.004)
    in_bfloat16 = torch.tensor(257.0, dtype=torch.bfloat16)
    assert in_bfloat16 == 256, "why the angles must not be computed in bfloat16"


def test_scaling_changes_the_rates():
    q, positions = torch.randn(1, 1, 4, 8, dtype=D), torch.tensor([0, 8, 16, 400])
    stretched = RotaryEmbedding(8, scaling=lambda rate: rate / 4)
    torch.testing.assert_close(stretched.rotate(q, positions), RotaryEmbedding(8).rotate(q, positions // 4))


def test_cos_and_sin_need_a_value_per_coordinate_not_per_pair():
    """A widely copied version multiplies x of width d by cos and sin of width d/2."""
    x, angle = torch.randn(3, 8), torch.arange(3)[:, None] * 10000.0 ** (-torch.arange(0, 8, 2) / 8)
    with pytest.raises(RuntimeError, match="size"):
        x * angle.cos()
    cos, sin = (torch.cat([f(angle), f(angle)], -1) for f in (torch.cos, torch.sin))
    partner = torch.cat([-x[:, 4:], x[:, :4]], -1)  # the rotate() that the second version calls and never defines
    torch.testing.assert_close(x * cos + partner * sin, RotaryEmbedding(8).rotate(x[None, None])[0, 0])


@pytest.mark.oracle("closed form of the wavelengths 2π·base^(2i/d)")
def test_a_third_of_the_pairs_never_finish_a_turn_in_2048_tokens():
    """Why plain RoPE does not extrapolate: past the training length these pairs reach angles never seen."""
    one_turn = 2 * math.pi * 10000.0 ** (np.arange(64) / 64)
    np.testing.assert_allclose(2 * math.pi / rates(128), one_turn)
    assert (one_turn > 2048).sum() == 23


def test_no_position_is_the_last():
    q, rotary = torch.randn(1, 1, 2, 8, dtype=D), RotaryEmbedding(8)
    near, far = (rotary.rotate(q, torch.tensor([p, p + 3])) for p in (0, 10_000_000))
    torch.testing.assert_close(far @ far.mT, near @ near.mT, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(head_dim=7), "rotary_dim=7 is not an even number from 2 to head_dim=7"),
        (dict(head_dim=8, rotary_dim=10), "rotary_dim=10 is not an even number from 2 to head_dim=8"),
        (dict(head_dim=8, rotary_dim=0), "rotary_dim=0"),
        (dict(head_dim=8, base=0.0), "base=0.0 is not positive"),
        (dict(head_dim=8, layout="neox"), "layout='neox' is neither"),
    ],
)
def test_settings_that_cannot_be_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        RotaryEmbedding(**options)


@pytest.mark.parametrize(
    ("q", "k", "positions", "message"),
    [
        ((2, 4, 5, 6), (2, 2, 5, 8), None, "q has shape"),
        ((2, 4, 5, 8), (2, 2, 6, 8), None, "k has shape .*time=5"),
        ((2, 4, 5, 8), (1, 2, 5, 8), None, "k has shape .*batch=2"),
        ((2, 4, 5, 8), (2, 2, 5, 6), None, "k has shape .*head_dim=8"),
        ((2, 4, 5, 8), (2, 2, 5, 8), (4,), r"position_ids has shape \(4,\); expected \(time=5\)"),
        ((2, 4, 5, 8), (2, 2, 5, 8), (3, 5), r"position_ids .*batch=2, time=5"),
        ((2, 4, 5, 8), (2, 2, 5, 8), (2, 6), r"position_ids .*batch=2, time=5"),
    ],
)
def test_shapes_that_do_not_fit_are_named(q, k, positions, message):
    positions = None if positions is None else torch.zeros(positions, dtype=torch.long)
    with pytest.raises(ValueError, match=message):
        RotaryEmbedding(8)(torch.zeros(q), torch.zeros(k), positions)


def test_rotate_checks_what_it_turns():
    with pytest.raises(ValueError, match="x_BHTd has shape"):
        RotaryEmbedding(8).rotate(torch.zeros(1, 1, 3, 6))
    with pytest.raises(TypeError, match="position_ids"):
        RotaryEmbedding(8).rotate(torch.zeros(1, 1, 3, 8), torch.tensor([0.0, 1.0, 2.0]))


def test_conversion_rejects_what_is_not_made_of_heads():
    for weight in (torch.zeros(20, 3), torch.zeros(())):
        with pytest.raises(ValueError, match="not a multiple of head_dim=8"):
            convert_layout(weight, 8, to="half")
    with pytest.raises(ValueError, match="to='neox'"):
        convert_layout(torch.zeros(16, 3), 8, to="neox")
    with pytest.raises(ValueError, match="rotary_dim=5"):
        convert_layout(torch.zeros(16, 3), 8, to="half", rotary_dim=5)
    with pytest.raises(TypeError, match="weight"):
        convert_layout(torch.zeros(16, 3, dtype=torch.long), 8, to="half")


@pytest.mark.interp
@pytest.mark.parametrize(
    ("layout", "rotary_dim", "positions"),
    [("half", 8, None), ("half", 6, [[3, 4, 9], [0, 1, 2]]), ("interleaved", 8, [5, 90, 7]), ("interleaved", 4, [[3, 4, 9], [0, 1, 2]])],
)
def test_kernel_agrees(layout, rotary_dim, positions, kernel_agrees):
    q, k, x = (torch.randn(2, heads, 3, 8, dtype=D, requires_grad=True) for heads in (4, 2, 3))
    positions = None if positions is None else torch.tensor(positions)
    rotary = RotaryEmbedding(8, base=50.0, rotary_dim=rotary_dim, layout=layout, scaling=lambda rate: 0.7 * rate)
    kernel_agrees("qk_norm_rope", lambda _: (rotary(q, k, positions), rotary.rotate(x, positions)), (q, k, x), module=rotary, atol=1e-14)


@pytest.mark.interp
def test_kernel_says_what_it_cannot_do():
    pytest.importorskip("triton")
    from vocab.kernels.interpret import interpreting

    q, rate = torch.randn(1, 1, 3, 8), torch.ones(4, requires_grad=True)
    with interpreting():
        with pytest.raises(RuntimeError, match="q is torch.float32 and k is torch.float64; backend='torch' computes the same"):
            RotaryEmbedding(8, backend="triton")(q, q.double())
        with pytest.raises(RuntimeError, match="the angles need a gradient"):
            RotaryEmbedding(8, scaling=lambda _: rate, backend="triton").rotate(q)


@pytest.mark.parametrize("base", [10000.0, 12.0])
def test_numpy_variant_agrees(agree, base):
    q, k, positions = torch.randn(4, 6, 8, dtype=D), torch.randn(2, 6, 8, dtype=D), torch.tensor([0, 1, 2, 77, 5, 4096])
    module = RotaryEmbedding(8, base=base)(q[None], k[None], positions)
    for x, expected in zip((q, k), module):
        agree(rope(x.numpy(), positions.numpy(), base), expected[0])


def test_numpy_variant_rejects_a_coordinate_without_partner():
    with pytest.raises(ValueError, match="width 5"):
        rope(np.zeros((2, 5)), [0, 1])


def test_demo_keeps_the_angle_when_both_positions_move():
    def angle(figure):
        (q,), (k,) = list(figure["groups"].values())[:2]
        return (math.atan2(q[1], q[0]) - math.atan2(k[1], k[0])) % (2 * math.pi)

    first, moved = show(m=12, n=4)[0], show(m=40, n=32)[0]
    assert angle(first) == pytest.approx(angle(moved)) and angle(first) > 0.1
