import numpy as np
import pytest
import torch
from torch.nn import functional as F

from snippets.attention import dilated as numpy_variant
from vocab.attention.dilated import (
    DilatedAttention, dilated_lists, dilated_mask, longnet_attention, merge_attention)
from vocab.attention.sliding_window import SlidingWindowAttention, band_lists
from vocab.attention.sparse import gathered_attention

D = torch.float64


def example():
    return DilatedAttention(8, 2, window=3, dilation=2).double(), (torch.randn(2, 7, 8, dtype=D),)


@pytest.mark.oracle("torch.nn.functional.scaled_dot_product_attention with the mask written out")
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("window", "dilation"), [(1, 3), (2, 1), (3, 2), (4, 3), (20, 2), (2, 20)])
def test_equals_the_masked_product(window, dilation, causal):
    def see(i, j):
        steps, rest = divmod(i - j, dilation)
        return rest == 0 and (0 <= steps < window if causal else abs(steps) <= window // 2)

    mask = torch.tensor([[see(i, j) for j in range(11)] for i in range(11)])
    assert torch.equal(dilated_mask(11, window, dilation, causal), mask)
    q, k, v = torch.randn(3, 2, 2, 11, 4, dtype=D)
    ours = gathered_attention(q, k, v, dilated_lists(11, window, dilation, causal))
    torch.testing.assert_close(ours, F.scaled_dot_product_attention(q, k, v, mask))


@pytest.mark.oracle("sliding-window attention on the r interleaved subsequences")
@pytest.mark.parametrize("r", [2, 3])
def test_is_local_attention_within_each_class_of_positions(r):
    q, k, v = torch.randn(3, 12, 4, dtype=D)
    ours = gathered_attention(q, k, v, dilated_lists(12, 3, r))
    expected = torch.empty_like(ours)
    for c in range(r):
        expected[c::r] = gathered_attention(q[c::r], k[c::r], v[c::r], band_lists(12 // r, 3))
    torch.testing.assert_close(ours, expected)


@pytest.mark.oracle("sliding-window attention")
@pytest.mark.parametrize("causal", [True, False])
def test_without_gaps_it_is_a_sliding_window(causal):
    module, (x,) = DilatedAttention(8, 2, window=3, dilation=1, causal=causal).double(), example()[1]
    window = SlidingWindowAttention(8, 2, 3, causal=causal).double()
    window.load_state_dict(module.state_dict())
    torch.testing.assert_close(module(x), window(x))


def reached(rates, T=24, window=2):
    """Which inputs the last output depends on, by the Jacobian."""
    stack, x = [DilatedAttention(4, 1, window=window, dilation=r).double() for r in rates], torch.randn(1, T, 4, dtype=D)

    def last(x):
        for module in stack:
            x = module(x)
        return x[0, -1]

    return (torch.autograd.functional.jacobian(last, x)[:, 0].abs().sum((0, 2)) > 0).flip(0)


@pytest.mark.oracle("Jacobian: (w - 1) r + 1 tokens back in one layer, the sum over layers in a stack")
def test_reach_and_gaps():
    for window, r in [(2, 3), (4, 2)]:
        assert reached([r], window=window).nonzero().max() == (window - 1) * r
    growing, equal = reached([1, 2, 4, 8]), reached([4, 4, 4, 4])
    assert growing[:16].all() and not growing[16:].any()
    assert equal.nonzero().flatten().tolist() == [0, 4, 8, 12, 16], "equal rates never leave their class of positions"


def test_a_causal_model_looks_back():
    """A widely copied formula reads positions i, i + k, i + 2k: for a causal model these are not written yet."""
    mask = dilated_mask(10, 3, 2)
    assert mask[6].nonzero().flatten().tolist() == [2, 4, 6]
    assert not mask.triu(1).any() and dilated_mask(10, 3, 2, causal=False)[4].nonzero().flatten().tolist() == [2, 4, 6]


def pairs_seen(T, H, segments, rates, is_causal):
    """How many of LongNet's parts show key j to query i, for each head: by definition."""
    count = torch.zeros(H, T, T, dtype=D)
    for s, r in zip(segments, rates):
        for h in range(H):
            for i in range(T):
                for j in range(T):
                    if i // s == j // s and i % s % r == j % s % r == h % r and (j <= i or not is_causal):
                        count[h, i, j] += 1
    return count


@pytest.mark.oracle("one softmax over the union, a key counted once for each part that shows it")
@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize(("segments", "rates"), [([4, 12], [1, 2]), ([2, 6, 12], [1, 3, 6]), ([12], [1]), ([6], [2])])
def test_longnet_is_one_softmax_over_all_parts(segments, rates, is_causal):
    q, k, v = torch.randn(3, 2, 4, 12, 5, dtype=D)
    bias = pairs_seen(12, 4, segments, rates, is_causal).log()
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    torch.testing.assert_close(longnet_attention(q, k, v, segments, rates, is_causal=is_causal), expected)


def test_longnet_tokens_without_a_part_get_zeros():
    q, k, v = torch.randn(3, 1, 2, 8, 4, dtype=D)
    out = longnet_attention(q, k, v, [8], [2])
    assert (out[0, 0, 1::2] == 0).all() and (out[0, 1, 0::2] == 0).all()
    assert (out[0, 0, 0::2] != 0).all() and (out[0, 1, 1::2] != 0).all(), "heads start at different tokens"


@pytest.mark.oracle("one softmax over both halves of the keys")
def test_merging_two_halves_is_attention_over_both():
    q, k, v = torch.randn(3, 6, 4, dtype=D)
    halves = [(F.scaled_dot_product_attention(q, k[s], v[s]), (q @ k[s].T / 2).logsumexp(-1)) for s in (slice(0, 2), slice(2, 6))]
    outs, sums = (torch.stack(x) for x in zip(*halves))
    out, joint = merge_attention(outs, sums)
    torch.testing.assert_close(out, F.scaled_dot_product_attention(q, k, v))
    torch.testing.assert_close(joint, (q @ k.T / 2).logsumexp(-1))
    nothing = merge_attention(torch.stack((outs[0], outs[0] * 0)), torch.stack((sums[0], sums[0] - torch.inf)))
    torch.testing.assert_close(nothing[0], outs[0])


def test_dropout_is_passed_on():
    module, x = DilatedAttention(8, 2, window=3, dilation=2, dropout=1.0).double(), torch.randn(2, 7, 8, dtype=D)
    torch.testing.assert_close(module(x), module.o_proj.bias.expand(2, 7, 8))
    assert (module.eval()(x) != module.o_proj.bias).all()
    torch.testing.assert_close(module(x), module(x), rtol=0, atol=0)
    assert DilatedAttention(8, 2, window=3, dilation=2, bias=False).q_proj.bias is None


def test_bad_input_is_named():
    for given in (dict(window=0, dilation=1), dict(window=1, dilation=0)):
        name = "window=0" if given["window"] == 0 else "dilation=0"
        for make in (lambda **g: DilatedAttention(8, 2, **g), lambda **g: dilated_lists(4, **g), lambda **g: dilated_mask(4, **g)):
            with pytest.raises(ValueError, match=f"{name} is not positive"):
                make(**given)
    module, (x,) = example()
    with pytest.raises(ValueError, match=r"x has shape .* d_model=8"):
        module(x[..., :7])
    q = torch.randn(1, 2, 12, 4)
    assert longnet_attention(q, q, q, [1], [1]).equal(q), 'a segment of one token'
    for make in (dilated_lists, dilated_mask):
        make(4, 1, 1)
    for lengths, rates in [([5], [1]), ([6], [4]), ([0], [1]), ([6], [0])]:
        with pytest.raises(ValueError, match=f"segment length {lengths[0]} with rate {rates[0]}"):
            longnet_attention(q, q, q, lengths, rates)
    for lengths, rates in [([6], [1, 2]), ([], [])]:
        with pytest.raises(ValueError, match="are not pairs"):
            longnet_attention(q, q, q, lengths, rates)
    for given, name in [((q[0], q, q), "q"), ((q, q[:, :, :6], q), "k"), ((q, q, q[..., :3]), "v")]:
        with pytest.raises(ValueError, match=f"{name} has shape"):
            longnet_attention(*given, [6], [1])
    with pytest.raises(ValueError, match=r"log_sums has shape \(2, 1\); expected \(2, 3\)"):
        merge_attention(torch.zeros(2, 3, 4), torch.zeros(2, 1))
    with pytest.raises(TypeError, match="outs"):
        merge_attention([0.0], torch.zeros(1))
    with pytest.raises(TypeError, match="log_sums"):
        merge_attention(torch.zeros(2, 3, 4), [0.0])


@pytest.mark.parametrize("dilation", [1, 3])
def test_numpy_variant_agrees(agree, dilation):
    module, x = DilatedAttention(8, 1, window=3, dilation=dilation, bias=False).double(), torch.randn(1, 9, 8, dtype=D)
    q, k, v = (p(x)[0].detach().numpy() for p in (module.q_proj, module.k_proj, module.v_proj))
    module.o_proj = torch.nn.Identity()
    agree(numpy_variant.dilated_attention(q, k, v, 3, dilation), module(x)[0])
    np.testing.assert_array_equal(numpy_variant.dilated_mask(9, 3, dilation), dilated_mask(9, 3, dilation).numpy())


def test_demo_shows_gaps_for_equal_rates_only():
    assert "only 5 of them" in numpy_variant.show(rates="equal", dilation=4)[3]["caption"]
    assert "every token" in numpy_variant.show(rates="growing", dilation=1)[3]["caption"]
