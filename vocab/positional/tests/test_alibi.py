import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from snippets.positional.alibi import bias as numpy_bias
from snippets.positional.alibi import slopes as numpy_slopes
from snippets.positional.alibi import weights as numpy_weights
from vocab.kernels.interpret import interpreting
from vocab.positional.alibi import ALiBiAttention, alibi_bias, alibi_slopes


def example():
    """For the contract suite: the module and its input."""
    return ALiBiAttention(6, 2).double(), (torch.randn(2, 4, 6, dtype=torch.float64),)


@pytest.mark.oracle("closed form, powers of two")
@pytest.mark.parametrize("n_heads", [1, 2, 4, 8, 16, 32])
def test_slopes_are_a_geometric_sequence_that_ends_at_1_over_256(n_heads):
    slopes = alibi_slopes(n_heads).tolist()
    assert slopes == pytest.approx([2 ** (-8 * h / n_heads) for h in range(1, n_heads + 1)], rel=1e-6)
    assert slopes[-1] == 1 / 256


@pytest.mark.oracle("transformers build_alibi_tensor (BLOOM)")
@pytest.mark.parametrize("n_heads", [3, 7, 8, 12, 20, 112])
def test_slopes_are_blooms_for_any_number_of_heads(n_heads):
    bloom = pytest.importorskip("transformers.models.bloom.modeling_bloom")
    theirs = bloom.build_alibi_tensor(torch.ones(1, 2, dtype=torch.long), n_heads, torch.float32)[:, 0, 1]
    torch.testing.assert_close(alibi_slopes(n_heads), theirs)


def test_twelve_heads_take_eight_slopes_and_four_from_between():
    between = [2**-0.5, 2**-1.5, 2**-2.5, 2**-3.5]
    assert alibi_slopes(12).tolist() == pytest.approx([2.0**-h for h in range(1, 9)] + between)


def test_bias_is_minus_slope_times_distance():
    H, T, S = 3, 4, 6
    slopes, bias, both_ways = alibi_slopes(H), alibi_bias(H, T, S), alibi_bias(H, T, S, causal=False)
    for h in range(H):
        for t in range(T):
            i = S - T + t  # the query's own position
            for j in range(S):
                expected = -slopes[h].item() * (i - j) if j <= i else -math.inf
                assert bias[h, t, j].item() == pytest.approx(expected)
                assert both_ways[h, t, j].item() == pytest.approx(-slopes[h].item() * abs(i - j))


def test_only_differences_count_so_slope_times_key_position_gives_the_same_weights():
    """BLOOM adds m * j and leaves the query's position away: a softmax does not see what is common to a row."""
    scores = torch.randn(4, 9, 9, dtype=torch.float64)
    slopes = alibi_slopes(4).double()[:, None, None]
    keys_only = (slopes * torch.arange(9)).expand(-1, 9, -1).masked_fill(~torch.ones(9, 9).tril().bool(), -torch.inf)
    torch.testing.assert_close((scores + keys_only).softmax(-1), (scores + alibi_bias(4, 9).double()).softmax(-1))


@pytest.mark.oracle("closed form, a geometric series")
def test_without_content_the_weights_fall_geometrically():
    for h, m in enumerate(alibi_slopes(4).double().tolist()):
        r, i = math.exp(-m), 7
        weights = alibi_bias(4, 8).double()[h, i].softmax(-1)
        expected = [(1 - r) * r ** (i - j) / (1 - r ** (i + 1)) for j in range(8)]
        np.testing.assert_allclose(weights.numpy(), expected, rtol=1e-6)


@pytest.mark.oracle("torch.nn.functional.scaled_dot_product_attention with a written-out bias")
@pytest.mark.parametrize("causal", [True, False])
def test_attention_equals_pytorchs_with_the_bias_as_mask(causal):
    attention = ALiBiAttention(12, 3, causal=causal, bias=True).double()
    x = torch.randn(2, 7, 12, dtype=torch.float64)
    q, k, v = (p(x).view(2, 7, 3, 4).transpose(1, 2) for p in (attention.q_proj, attention.k_proj, attention.v_proj))
    distance = (torch.arange(7)[:, None] - torch.arange(7)).double()
    written = torch.stack([-(2.0 ** (-8 * h / 2)) * distance.abs() for h in (1, 2)] + [-(2.0**-2) * distance.abs()])
    if causal:
        written = written.masked_fill(distance < 0, -torch.inf)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=written)
    torch.testing.assert_close(attention(x), attention.o_proj(out.transpose(1, 2).flatten(2)))


def test_dropout_is_applied_in_training_only():
    attention = ALiBiAttention(8, 2, dropout=0.5).eval()
    x = torch.randn(1, 6, 8)
    assert torch.equal(attention(x), attention(x))
    attention.train()
    assert not torch.equal(attention(x), attention(x))


def test_a_sequence_gives_the_same_result_with_padding_on_either_side():
    attention = ALiBiAttention(8, 2).double()
    x, noise = torch.randn(1, 5, 8, dtype=torch.float64), torch.randn(1, 3, 8, dtype=torch.float64)
    seen, hidden = torch.ones(1, 5, dtype=torch.bool), torch.zeros(1, 3, dtype=torch.bool)
    left = attention(torch.cat((noise, x), 1), torch.cat((hidden, seen), 1))[:, 3:]
    right = attention(torch.cat((x, noise), 1), torch.cat((seen, hidden), 1))[:, :5]
    torch.testing.assert_close(left, attention(x))
    torch.testing.assert_close(right, attention(x))


def test_projections_have_no_bias_unless_asked_and_decoders_are_the_default():
    attention = ALiBiAttention(8, 2)
    assert attention.q_proj.bias is None and ALiBiAttention(8, 2, bias=True).q_proj.bias is not None
    x = torch.randn(1, 4, 8)
    changed = torch.cat((x[:, :3], torch.zeros(1, 1, 8)), 1)
    torch.testing.assert_close(attention(x)[:, :3], attention(changed)[:, :3])


def test_moving_a_text_changes_nothing():
    """Erratum: the bias is relative, whatever a general formula with absolute positions suggests."""
    bias = alibi_bias(2, 12)
    torch.testing.assert_close(bias[:, 5:, 5:], alibi_bias(2, 7), rtol=0, atol=0)


def test_one_slope_for_all_heads_is_another_method():
    """Erratum: heads need slopes of their own; that of the last reaches 128 times as far as that of the first."""
    slopes = alibi_slopes(8)
    assert len(set(slopes.tolist())) == 8 and slopes[0] / slopes[-1] == 128


def test_bfloat16_cannot_tell_distances_beyond_256():
    bias = alibi_bias(8, 1, 2048)[-1, 0]
    assert bias.unique().numel() == 2048 and bias.bfloat16().unique().numel() < 1000
    half = ALiBiAttention(8, 2).bfloat16()
    assert half(torch.zeros(1, 3, 8, dtype=torch.bfloat16)).dtype == torch.bfloat16


@pytest.mark.parametrize(("call", "message"), [
    (lambda: alibi_slopes(0), "n_heads=0 is below 1"),
    (lambda: alibi_bias(2, 4, 3), "n_queries=4 is not from 1 to n_keys=3"),
    (lambda: ALiBiAttention(10, 4), "d_model=10 is not a multiple of n_heads=4"),
    (lambda: ALiBiAttention(8, 2)(torch.zeros(1, 3, 6)), r"x has shape \(1, 3, 6\); expected \(batch, time, d_model=8\)"),
    (lambda: ALiBiAttention(8, 2)(torch.zeros(1, 3, 8), torch.ones(1, 2, dtype=torch.bool)), r"key_padding_mask has shape \(1, 2\)"),
])
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("n_heads", [4, 12])
def test_numpy_variant_agrees(agree, n_heads):
    agree(numpy_slopes(n_heads), alibi_slopes(n_heads))
    agree(numpy_bias(n_heads, 9), alibi_bias(n_heads, 9))
    scores = torch.randn(9, dtype=torch.float64)
    agree(numpy_weights(scores.numpy(), 0.25), (scores - 0.25 * torch.arange(8, -1, -1)).softmax(-1))


@pytest.mark.parametrize("causal", [True, False])
def test_both_backends_agree(kernel_agrees, causal):
    attention, x = ALiBiAttention(8, 4, causal=causal).double(), torch.randn(2, 40, 8, dtype=torch.float64, requires_grad=True)
    wanted = x, attention.q_proj.weight
    kernel_agrees("attention", lambda _: attention(x), wanted, module=attention, atol=1e-13)
    seen = torch.arange(40) >= torch.tensor([[7], [0]])  # the first text is padded on its left: seven queries may see nothing
    kernel_agrees("attention", lambda _: attention(x, seen), wanted, module=attention, atol=1e-13)


def test_the_kernel_refuses_dropout():
    pytest.importorskip("triton")
    attention, x = ALiBiAttention(8, 2, dropout=0.5, backend="triton"), torch.zeros(1, 3, 8)
    with interpreting():
        with pytest.raises(RuntimeError, match="it has no dropout; backend='torch' computes the same"):
            attention(x)
        attention.eval()(x)
