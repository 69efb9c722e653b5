import numpy as np
import pytest
import torch
from torch.nn import functional as F

from snippets.attention import sliding_window as numpy_variant
from vocab.attention.causal import CausalSelfAttention
from vocab.attention.multi_head import MultiHeadAttention
from vocab.attention.sliding_window import SlidingWindowAttention, band_lists, band_mask
from vocab.attention.sparse import gathered_attention
from vocab.inference.kv_cache import KVCache
from vocab.kernels.interpret import interpreting

D = torch.float64


def example():
    return SlidingWindowAttention(8, 2, 3).double(), (torch.randn(2, 7, 8, dtype=D),)


@pytest.mark.oracle("the definition, key by key")
@pytest.mark.parametrize("window", [1, 2, 3, 4, 20])
def test_the_mask_says_which_definition_it_is(window):
    causal, symmetric = band_mask(9, window), band_mask(9, window, causal=False)
    for i in range(9):
        for j in range(9):
            assert causal[i, j] == (j <= i and i - j < window), "the window counts the token itself"
            assert symmetric[i, j] == (abs(i - j) <= window // 2), "half of it on each side, and the token itself"


@pytest.mark.oracle("torch.nn.functional.scaled_dot_product_attention with the band mask")
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("window", [1, 2, 3, 4, 9, 20])
@pytest.mark.parametrize("T", [1, 8, 11])
def test_blocks_equal_the_masked_product(T, window, causal):
    q, k, v = torch.randn(3, 2, 2, T, 4, dtype=D)
    expected = F.scaled_dot_product_attention(q, k, v, band_mask(T, window, causal))
    lists = band_lists(T, window, causal)
    torch.testing.assert_close(gathered_attention(q, k, v, lists), expected)
    assert lists.keys.shape[1] <= (2 * window - 1 if causal else 3 * max(window // 2, 1))


@pytest.mark.oracle("windows cut out with Tensor.unfold, O(T w)")
def test_equals_windows_cut_out_of_the_padded_sequence():
    q, k, v = torch.randn(3, 11, 4, dtype=D)
    windows = F.pad(k, (0, 0, 3, 0)).unfold(0, 4, 1)  # (T, d, w): for each token the last four
    scores = torch.einsum("td,tdw->tw", q, windows) / 2
    scores[torch.arange(11)[:, None] + torch.arange(4) < 3] = -torch.inf
    expected = torch.einsum("tw,tdw->td", scores.softmax(-1), F.pad(v, (0, 0, 3, 0)).unfold(0, 4, 1))
    torch.testing.assert_close(gathered_attention(q, k, v, band_lists(11, 4)), expected)


@pytest.mark.oracle("full attention")
@pytest.mark.parametrize("causal", [True, False])
def test_a_window_of_the_whole_length_is_full_attention(causal):
    module, (x,) = SlidingWindowAttention(8, 2, 7 if causal else 12, causal=causal).double(), example()[1]
    full = (CausalSelfAttention if causal else MultiHeadAttention)(8, 2).double()
    full.load_state_dict(module.state_dict())
    torch.testing.assert_close(module(x), full(x))


def test_a_window_of_one_hands_each_token_its_own_value():
    module, (x,) = SlidingWindowAttention(8, 2, 1).double(), example()[1]
    torch.testing.assert_close(module(x), module.o_proj(module.v_proj(x)))


@pytest.mark.oracle("Jacobian: L (w - 1) + 1 tokens after L layers")
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_the_reach_grows_by_the_window_less_one_a_layer(layers):
    x, stack = torch.randn(1, 12, 8, dtype=D), [SlidingWindowAttention(8, 2, 4).double() for _ in range(layers)]

    def last(x):
        for module in stack:
            x = module(x)
        return x[0, -1]

    seen = torch.autograd.functional.jacobian(last, x)[:, 0].abs().sum((0, 2)) > 0
    reach = min(layers * 3 + 1, 12)
    assert seen.tolist() == [False] * (12 - reach) + [True] * reach


@pytest.mark.oracle("the full pass over all tokens")
@pytest.mark.parametrize("policy", ["rolling", "static"])
@pytest.mark.parametrize("chunks", [[1] * 7, [4, 1, 2]])
def test_a_cache_of_window_tokens_is_enough(chunks, policy):
    module, (x,) = example()
    cache = KVCache(2, 2, 2, 4, 3 if policy == "rolling" else 7, D, policy=policy)
    found = torch.cat([module(part, cache, layer=1) for part in x.split(chunks, 1)], 1)
    torch.testing.assert_close(found, module(x))


def test_the_first_layer_of_a_cache_is_the_default():
    module, (x,) = example()
    cache = KVCache(2, 2, 2, 4, 7, D)
    module(x, cache)
    assert cache.lengths == [7, 0]


def test_nothing_outside_the_band_is_computed():
    """A widely copied function builds an n × n mask and an n × n score matrix for its window, so it saves nothing."""
    def largest(T):
        sizes = []

        class Sizes(torch.utils._python_dispatch.TorchDispatchMode):
            def __torch_dispatch__(self, function, types, args=(), kwargs=None):
                out = function(*args, **(kwargs or {}))
                sizes.extend(o.numel() for o in torch.utils._pytree.tree_leaves(out) if isinstance(o, torch.Tensor))
                return out

        module, x = SlidingWindowAttention(2, 1, 8), torch.randn(1, T, 2)
        with Sizes(), torch.no_grad():
            module(x)
        return max(sizes)

    assert largest(1024) < 2.2 * largest(512) < 1024**2 / 8


def test_longformers_window_is_a_total_width():
    """A widely copied definition has `window` tokens on each side. Longformer's 512 is 256 on each side."""
    assert band_mask(2000, 512, causal=False)[1000].sum() == 2 * 256 + 1


def test_dropout_is_passed_on():
    module, x = SlidingWindowAttention(8, 2, 3, dropout=1.0).double(), torch.randn(2, 7, 8, dtype=D)
    torch.testing.assert_close(module(x), module.o_proj.bias.expand(2, 7, 8))
    assert (module.eval()(x) != module.o_proj.bias).all()
    torch.testing.assert_close(module(x), module(x), rtol=0, atol=0)
    assert SlidingWindowAttention(8, 2, 3, bias=False).q_proj.bias is None


def test_bad_input_is_named():
    module, (x,) = example()
    for make in (lambda w: SlidingWindowAttention(8, 2, w), lambda w: band_mask(4, w), lambda w: band_lists(4, w)):
        with pytest.raises(ValueError, match="window=0 is not positive"):
            make(0)
    with pytest.raises(ValueError, match=r"x has shape .* d_model=8"):
        module(x[..., :7])
    with pytest.raises(ValueError, match="the cache keeps 2 tokens, fewer than window=3"):
        module(x, KVCache(1, 2, 2, 4, 2, D, policy="rolling"))
    with pytest.raises(ValueError, match="is_causal=False with a cache"):
        SlidingWindowAttention(8, 2, 3, causal=False).double()(x, KVCache(1, 2, 2, 4, 7, D))


@pytest.mark.parametrize("window", [1, 3, 20])
def test_numpy_variant_agrees(agree, window):
    module, x = SlidingWindowAttention(8, 1, window, bias=False).double(), torch.randn(1, 9, 8, dtype=D)
    q, k, v = (p(x)[0].detach().numpy() for p in (module.q_proj, module.k_proj, module.v_proj))
    module.o_proj = torch.nn.Identity()
    agree(numpy_variant.sliding_window_attention(q, k, v, window), module(x)[0])
    for causal in (True, False):
        np.testing.assert_array_equal(numpy_variant.band_mask(9, window, causal), band_mask(9, window, causal).numpy())


def test_demo_counts_the_reach():
    assert "reaches 13 tokens" in numpy_variant.show(window=5, layers=3)[3]["caption"]
    assert "reaches 7 tokens" in numpy_variant.show(window=3, layers=3, T=16, causal=False)[3]["caption"]


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("window", [1, 4, 5, 90])
def test_both_backends_agree(kernel_agrees, window, causal):
    module, x = SlidingWindowAttention(8, 2, window, causal=causal).double(), torch.randn(1, 70, 8, dtype=D, requires_grad=True)
    kernel_agrees("attention", lambda _: module(x), (x, module.v_proj.weight), module=module, atol=1e-13)


def test_the_kernel_refuses_a_cache_and_dropout():
    pytest.importorskip("triton")
    module, x = SlidingWindowAttention(8, 2, 3, dropout=0.5, backend="triton"), torch.zeros(1, 7, 8)
    with interpreting():
        with pytest.raises(RuntimeError, match="it has no dropout; backend='torch' computes the same"):
            module(x)
        with pytest.raises(RuntimeError, match="it has no cache; backend='torch' computes the same"):
            module.eval()(x, KVCache(1, 1, 2, 4, 3, policy="rolling"))
        module(x)
