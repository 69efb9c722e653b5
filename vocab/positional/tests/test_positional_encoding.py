import numpy as np
import pytest
import torch
from torch import nn

from snippets.positional.positional_encoding import attend
from vocab.attention.causal import CausalSelfAttention
from vocab.attention.multi_head import MultiHeadAttention
from vocab.attention.scaled_dot_product import scaled_dot_product_attention
from vocab.positional.alibi import ALiBiAttention, alibi_bias
from vocab.positional.learned import LearnedPositionalEmbedding
from vocab.positional.positional_encoding import add_positions, permutation_gap, position_probe
from vocab.positional.rope import RotaryEmbedding
from vocab.positional.sinusoidal import SinusoidalPositionalEncoding, sinusoidal_table
from vocab.positional.t5_bias import T5RelativeBias

D = torch.float64
PERM = torch.tensor([3, 0, 4, 1, 2])


def example():
    """For the contract suite: the addition and its inputs."""
    return add_positions, (torch.randn(2, 3, 4, dtype=D), torch.randn(5, 4, dtype=D))


def encoder():
    return nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True).double().eval()


@pytest.mark.oracle("torch.nn.TransformerEncoderLayer")
def test_a_whole_encoder_block_without_positions_sees_a_set():
    x = torch.randn(2, 5, 8, dtype=D)
    assert permutation_gap(encoder(), x, PERM) < 1e-14


def with_positions():
    attention = MultiHeadAttention(8, 2).double()
    learned, t5, rotary = LearnedPositionalEmbedding(5, 8, init_std=1.0).double(), T5RelativeBias(2).double(), RotaryEmbedding(4)
    nn.init.normal_(t5.weight)

    def turned(x):
        q, k = (p(x).view(2, 5, 2, 4).transpose(1, 2) for p in (attention.q_proj, attention.k_proj))
        q, k = rotary(q, k)
        return scaled_dot_product_attention(q, k, attention.keys_and_values(x)[1]).transpose(1, 2).flatten(2)

    block = encoder()
    return {
        "sinusoidal": lambda x: block(SinusoidalPositionalEncoding(8)(x)),
        "learned": lambda x: block(learned(x)),
        "rotary": turned,
        "ALiBi": ALiBiAttention(8, 2, causal=False).double(),
        "T5": lambda x: attention(x, attn_mask=t5(5)),
        "causal mask": CausalSelfAttention(8, 2).double(),
    }


@pytest.mark.parametrize("name", ["sinusoidal", "learned", "rotary", "ALiBi", "T5", "causal mask"])
def test_every_way_to_give_order_is_noticed(name):
    """Erratum: a causal mask alone breaks the symmetry; decoders need no positional encoding to know order."""
    x = torch.randn(2, 5, 8, dtype=D)
    assert permutation_gap(with_positions()[name], x, PERM) > 1e-3


def test_the_mean_over_an_encoder_reads_cat_ate_mouse_and_mouse_ate_cat_alike():
    cat, ate, mouse = torch.randn(3, 8, dtype=D)
    block = encoder()
    one, other = torch.stack((cat, ate, mouse))[None], torch.stack((mouse, ate, cat))[None]
    torch.testing.assert_close(block(one).mean(1), block(other).mean(1))
    ordered = SinusoidalPositionalEncoding(8)
    assert (block(ordered(one)).mean(1) - block(ordered(other)).mean(1)).abs().max() > 0.01


def test_moving_a_text_changes_absolute_scores_and_not_relative_ones():
    q, k = torch.randn(2, 1, 1, 6, 8, dtype=D).unbind(0)

    def rotary(shift):
        turned = RotaryEmbedding(8)(q, k, torch.arange(6) + shift)
        return turned[0] @ turned[1].transpose(-2, -1)

    def absolute(shift):
        table = sinusoidal_table(6, 8, start=shift)
        w = torch.linspace(-1, 1, 64, dtype=D).view(8, 8).cos()
        return (q + table) @ w @ (k + table).transpose(-2, -1)

    torch.testing.assert_close(rotary(0), rotary(50))
    assert (absolute(0) - absolute(50)).abs().max() > 0.1
    bias = alibi_bias(2, 30)
    torch.testing.assert_close(bias[:, :6, :6], bias[:, 20:26, 20:26])


def test_the_same_row_is_added_in_every_sequence():
    x, pe = torch.randn(3, 4, 5, dtype=D), torch.randn(9, 5, dtype=D)
    found = add_positions(x, pe)
    for b in range(3):
        for t in range(4):
            assert torch.equal(found[b, t], x[b, t] + pe[t])


def test_the_gap_is_relative_to_the_output():
    x = torch.randn(1, 5, 2, dtype=D)
    model = lambda x: x + torch.arange(5.0, dtype=D)[:, None]  # noqa: E731
    gaps = [permutation_gap(lambda x, c=c: c * model(x), x, PERM) for c in (1.0, 1000.0)]
    assert gaps[0] == pytest.approx(gaps[1]) and gaps[0] == pytest.approx(3 / model(x).abs().max().item())


@pytest.mark.oracle("sklearn.linear_model.LinearRegression")
def test_the_probe_is_a_linear_regression_tested_on_other_sequences():
    linear = pytest.importorskip("sklearn.linear_model")
    hidden = torch.randn(10, 6, 3, dtype=D) + 0.3 * torch.arange(6.0, dtype=D)[:, None]
    place = np.tile(np.arange(6.0), 5)
    model = linear.LinearRegression().fit(hidden[:5].flatten(0, 1).numpy(), place)
    assert position_probe(hidden) == pytest.approx(model.score(hidden[5:].flatten(0, 1).numpy(), place))
    assert 0.2 < position_probe(hidden) < 0.95


def test_the_probe_finds_positions_that_were_added_and_none_in_noise():
    x = torch.randn(200, 8, 16, dtype=D)
    assert abs(position_probe(x)) < 0.1
    assert position_probe(add_positions(0.1 * x, sinusoidal_table(8, 16))) > 0.95


@pytest.mark.parametrize(("call", "message"), [
    (lambda: add_positions(torch.zeros(1, 4, 2), torch.zeros(3, 2)), "x has 4 tokens, pe only 3 positions"),
    (lambda: add_positions(torch.zeros(1, 4, 2), torch.zeros(4, 3)), r"pe has shape \(4, 3\); expected \(positions, d_model=2\)"),
    (lambda: permutation_gap(torch.tanh, torch.zeros(1, 3, 2), torch.tensor([0, 0, 1])), r"perm=\[0, 0, 1\] is not a permutation of 0 to 2"),
    (lambda: permutation_gap(torch.tanh, torch.zeros(1, 3, 2), torch.tensor([0, 1])), r"perm has shape \(2,\); expected \(time=3\)"),
    (lambda: add_positions(torch.zeros(4, 2), torch.zeros(4, 2)), r"x has shape \(4, 2\); expected \(batch, time, d_model\)"),
    (lambda: permutation_gap(torch.tanh, torch.zeros(3, 2), torch.tensor([0, 1, 2])), r"x has shape \(3, 2\); expected \(batch, time, d_model\)"),
    (lambda: position_probe(torch.zeros(3, 2)), r"hidden has shape \(3, 2\); expected \(sequences, time, d_model\)"),
    (lambda: position_probe(torch.zeros(1, 3, 2)), "hidden has 1 sequences of 3 tokens; two or more of each are needed"),
    (lambda: position_probe(torch.zeros(2, 1, 2)), "hidden has 2 sequences of 1 tokens"),
])
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_two_sequences_of_two_tokens_are_enough():
    assert position_probe(torch.tensor([[[0.0], [1.0]], [[0.0], [1.0]]])) == pytest.approx(1.0)


def test_numpy_variant_agrees(agree):
    x = torch.randn(4, 6, dtype=D)
    agree(attend(x.numpy())[0], scaled_dot_product_attention(x, x, x))
    agree(attend(x.numpy(), causal=True)[0], scaled_dot_product_attention(x, x, x, is_causal=True))
    turned, _ = RotaryEmbedding(6)(x[None, None], x[None, None], torch.arange(4) + 7)
    agree(attend(x.numpy(), turn=np.arange(4) + 7)[0], scaled_dot_product_attention(turned[0, 0], turned[0, 0], x))
