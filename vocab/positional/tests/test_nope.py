import numpy as np
import pytest
import torch

from snippets.positional.nope import count as numpy_count
from snippets.positional.nope import decode
from vocab.attention.multi_head import MultiHeadAttention
from vocab.positional.nope import NoPEDecoderBlock, count_head
from vocab.positional.positional_encoding import permutation_gap, position_probe

D = torch.float64


def example():
    """For the contract suite: the block and its input."""
    return NoPEDecoderBlock(4, 2).double(), (torch.randn(2, 3, 4, dtype=D),)


class Blind(MultiHeadAttention):
    """The same attention without a mask."""

    def forward(self, x):
        return super().forward(x)


def both_ways(block):
    """The block with its attention's mask taken away, weights kept."""
    other = NoPEDecoderBlock(block.d_model, block.attention.n_heads).to(D)
    other.attention = Blind(block.d_model, block.attention.n_heads).to(D)
    other.load_state_dict(block.state_dict())
    return other


@pytest.mark.oracle("1/(i + 1), by counting")
def test_a_head_with_equal_scores_counts():
    found = count_head(9)
    assert found.tolist() == pytest.approx([1 / (i + 1) for i in range(9)], rel=1e-15)
    assert (1 / found - 1).round().tolist() == list(range(9))


def test_without_the_mask_it_says_the_same_everywhere():
    assert count_head(8, causal=False).tolist() == [1 / 8] * 8


def test_a_causal_block_knows_order_and_one_without_mask_does_not():
    block, x, perm = NoPEDecoderBlock(8, 2).to(D), torch.randn(2, 5, 8, dtype=D), torch.tensor([3, 0, 4, 1, 2])
    assert permutation_gap(block, x, perm) > 1e-3
    assert permutation_gap(both_ways(block), x, perm) < 1e-14


def test_one_causal_layer_sees_its_past_as_a_multiset_and_two_layers_do_not():
    first, second = NoPEDecoderBlock(8, 2).to(D), NoPEDecoderBlock(8, 2).to(D)
    x = torch.randn(1, 6, 8, dtype=D)
    swapped = x[:, [2, 1, 0, 4, 3, 5]]
    torch.testing.assert_close(first(swapped)[:, 5], first(x)[:, 5])
    assert (second(first(swapped))[:, 5] - second(first(x))[:, 5]).abs().max() > 1e-4


def texts(n, begin):
    """Random tokens behind one that is the same in every text."""
    return torch.cat((begin.expand(n, 1, -1), torch.randn(n, 11, len(begin), dtype=D)), 1)


@pytest.mark.parametrize("causal", [True, False])
def test_training_makes_positions_readable_with_the_mask_and_cannot_without(causal):
    block, begin, read = NoPEDecoderBlock(16, 2).to(D), 2 * torch.randn(16, dtype=D), torch.nn.Linear(16, 1).to(D)
    model = block if causal else both_ways(block)
    place = torch.linspace(-1, 1, 11, dtype=D)
    optimizer = torch.optim.Adam([*model.parameters(), *read.parameters()], lr=0.01)
    for _ in range(150):
        optimizer.zero_grad()
        (read(model(texts(32, begin)))[:, 1:, 0] - place).square().mean().backward()
        optimizer.step()
    with torch.no_grad():
        found = position_probe(model(texts(200, begin))[:, 1:])  # the first token is known by what it is
    assert found > 0.9 if causal else abs(found) < 0.1


@pytest.mark.oracle("torch.nn.TransformerEncoderLayer, norm first, causal mask")
def test_equals_pytorchs_block():
    ours = NoPEDecoderBlock(8, 2).to(D)
    theirs = torch.nn.TransformerEncoderLayer(8, 2, 32, dropout=0.0, activation="gelu", batch_first=True, norm_first=True).to(D)
    with torch.no_grad():
        attention = theirs.self_attn
        attention.in_proj_weight.copy_(torch.cat([p.weight for p in (ours.attention.q_proj, ours.attention.k_proj, ours.attention.v_proj)]))
        attention.in_proj_bias.copy_(torch.cat([p.bias for p in (ours.attention.q_proj, ours.attention.k_proj, ours.attention.v_proj)]))
        attention.out_proj.load_state_dict(ours.attention.o_proj.state_dict())
        linears = [m for m in ours.feed_forward.modules() if getattr(m, "weight", None) is not None]
        theirs.linear1.load_state_dict(linears[0].state_dict()), theirs.linear2.load_state_dict(linears[1].state_dict())
    x = torch.randn(2, 5, 8, dtype=D)
    mask = torch.ones(5, 5).triu(1).bool()
    torch.testing.assert_close(ours(x), theirs(x, src_mask=mask))


@pytest.mark.parametrize(("call", "message"), [
    (lambda: count_head(0), "n_tokens=0 is below 1"),
    (lambda: NoPEDecoderBlock(6, 4), "d_model=6 is not a multiple of n_heads=4"),
    (lambda: NoPEDecoderBlock(8, 2)(torch.zeros(1, 3, 6)), r"x has shape \(1, 3, 6\); expected \(batch, time, d_model=8\)"),
])
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
    assert count_head(1).tolist() == [1.0]


@pytest.mark.parametrize("causal", [True, False])
def test_numpy_variant_agrees(agree, causal):
    agree(numpy_count(np.zeros(12), causal=causal), count_head(12, causal=causal))


def test_decoding_inverts_counting():
    assert decode(numpy_count(np.zeros(20))).round(9).tolist() == list(range(20))
