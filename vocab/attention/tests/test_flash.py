import pytest
import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from snippets.attention import flash as numpy_variant
from vocab.attention.dilated import merge_attention
from vocab.attention.flash import flash_attention, online_softmax_attention
from vocab.attention.masks import causal_mask
from vocab.kernels.interpret import interpreting

D = torch.float64


def qkv(T=7, S=9, H=2, G=2, d=4):
    return (torch.randn(2, n, s, d, dtype=D) for n, s in ((H, T), (G, S), (G, S)))


def example():
    def tiled(q, k, v):
        return flash_attention(q, k, v, is_causal=True, block_q=2, block_k=3)

    return tiled, tuple(qkv(5, 6, 2, 1, 3))


@pytest.mark.oracle("torch.nn.functional.scaled_dot_product_attention in float64")
@pytest.mark.parametrize(("T", "S"), [(7, 9), (1, 9), (8, 8), (5, 5)])
@pytest.mark.parametrize("blocks", [(1, 1), (2, 3), (4, 2), (64, 64)])
@pytest.mark.parametrize("is_causal", [False, True])
def test_is_exact_for_every_tile_and_length(T, S, blocks, is_causal):
    """A widely copied table lists the block size among a model's hyperparameters: it never changes the result."""
    q, k, v = qkv(T, S)
    ours = flash_attention(q, k, v, is_causal=is_causal, block_q=blocks[0], block_k=blocks[1])
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=causal_mask(T, S) if is_causal else None)
    torch.testing.assert_close(ours, expected)


@pytest.mark.oracle("torch.nn.functional.scaled_dot_product_attention with a band mask")
@pytest.mark.parametrize("window", [1, 2, 3, 6, 20])
def test_windows(window):
    q, k, v = qkv(7, 9)
    ours = flash_attention(q, k, v, is_causal=True, window=window, block_q=2, block_k=2)
    torch.testing.assert_close(ours, F.scaled_dot_product_attention(q, k, v, causal_mask(7, 9, window)))


@pytest.mark.oracle("autograd of PyTorch's math backend, with grouped heads")
@pytest.mark.parametrize("setting", [dict(), dict(is_causal=True), dict(is_causal=True, window=3), dict(scale=0.3)])
def test_backward_equals_autograd(setting):
    ours = [x.requires_grad_() for x in qkv(7, 9, 6, 2)]
    theirs = [x.detach().clone().requires_grad_() for x in ours]
    upstream = torch.randn(2, 6, 7, 4, dtype=D)
    out = flash_attention(*ours, **setting, block_q=3, block_k=4)
    mask = causal_mask(7, 9, setting.get("window")) if "is_causal" in setting else None
    with sdpa_kernel(SDPBackend.MATH):
        expected = F.scaled_dot_product_attention(*theirs, attn_mask=mask, scale=setting.get("scale"), enable_gqa=True)
    torch.testing.assert_close(out, expected)
    out.backward(upstream), expected.backward(upstream)
    for a, b in zip(ours, theirs):
        torch.testing.assert_close(a.grad, b.grad)


@pytest.mark.oracle("PyTorch's math backend and autograd, with the bias as a mask of numbers")
@pytest.mark.parametrize("shape", [(2, 6, 7, 9), (1, 6, 7, 9), (2, 1, 7, 9), (7, 9), (6, 7, 1), (2, 1, 1, 9)])
def test_a_bias_is_added_to_the_scores_and_gets_the_gradient_of_all_that_share_it(shape):
    ours = [x.requires_grad_() for x in (*qkv(7, 9, 6, 2), torch.randn(shape, dtype=D))]
    theirs = [x.detach().clone().requires_grad_() for x in ours]
    upstream = torch.randn(2, 6, 7, 4, dtype=D)
    out = flash_attention(*ours[:3], bias=ours[3], is_causal=True, scale=0.3, block_q=3, block_k=4)
    mask = theirs[3].expand(2, 6, 7, 9).masked_fill(~causal_mask(7, 9), -torch.inf)
    with sdpa_kernel(SDPBackend.MATH):
        expected = F.scaled_dot_product_attention(*theirs[:3], attn_mask=mask, scale=0.3, enable_gqa=True)
    torch.testing.assert_close(out, expected)
    out.backward(upstream), expected.backward(upstream)
    for a, b in zip(ours, theirs):
        torch.testing.assert_close(a.grad, b.grad)


def test_a_bias_of_minus_infinity_hides_keys_and_a_query_without_any_passes_nothing_on():
    q, k, v = (x.requires_grad_() for x in qkv())
    bias = torch.zeros(2, 1, 1, 9, dtype=D)
    bias[0], bias[1, ..., 5:] = -torch.inf, -torch.inf
    out = flash_attention(q, k, v, bias=bias, block_q=2, block_k=2)
    assert (out[0] == 0).all()
    torch.testing.assert_close(out[1], flash_attention(q[1:], k[1:, :, :5], v[1:, :, :5])[0])
    for gradient in torch.autograd.grad(out.square().sum(), (q, k, v)):
        assert (gradient[0] == 0).all() and gradient[1].isfinite().all()


@pytest.mark.oracle("torch.logsumexp of the scores")
def test_returns_the_log_of_the_sums():
    q, k, v = qkv()
    _, lse = flash_attention(q, k, v, block_q=2, block_k=2, return_lse=True)
    torch.testing.assert_close(lse, (q @ k.mT / 2).logsumexp(-1))
    _, lse = flash_attention(q, k, v, is_causal=True, block_q=2, block_k=2, return_lse=True)
    torch.testing.assert_close(lse, (q @ k.mT / 2).masked_fill(~causal_mask(7, 9), -torch.inf).logsumexp(-1))
    assert not lse.requires_grad


@pytest.mark.oracle("one pass over all keys")
def test_two_halves_of_the_keys_are_merged_by_their_sums():
    q, k, v = qkv()
    parts = [flash_attention(q, k[:, :, s], v[:, :, s], return_lse=True) for s in (slice(0, 4), slice(4, 9))]
    merged, lse = merge_attention(*(torch.stack(x) for x in zip(*parts)))
    out, whole = flash_attention(q, k, v, return_lse=True)
    torch.testing.assert_close((merged, lse), (out, whole))


@pytest.mark.parametrize("size", [1e4, -1e4])
def test_large_scores_do_not_overflow(size):
    q, k, v = torch.ones(1, 1, 1, 1), torch.tensor([1.0, 2.0, 3.0]).view(1, 1, 3, 1), torch.tensor([5.0, 6.0, 7.0]).view(1, 1, 3, 1)
    out = flash_attention(q, k, v, scale=size, block_k=1)
    assert out.item() == (7.0 if size > 0 else 5.0)


@pytest.mark.oracle("float64; PyTorch's math backend has the same error in half precision")
@pytest.mark.parametrize("d", [32, 64, 128])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_as_good_as_pytorchs(dtype, d):
    q, k, v = (x.to(dtype) for x in qkv(65, 70, 1, 1, d))
    exact = F.scaled_dot_product_attention(*(x.double() for x in (q, k, v)))
    with sdpa_kernel(SDPBackend.MATH):
        theirs = (F.scaled_dot_product_attention(q, k, v).double() - exact).abs().max()
    ours = flash_attention(q, k, v, block_q=16, block_k=16)
    assert ours.dtype == dtype and (ours.double() - exact).abs().max() <= 2 * theirs


def test_memory_grows_with_the_length_and_not_with_its_square():
    """A widely copied note says that reads fall from N² to N: what is stored is of order N, what is read is N² d² / M."""
    def largest(T):
        sizes = []

        class Sizes(torch.utils._python_dispatch.TorchDispatchMode):
            def __torch_dispatch__(self, function, types, args=(), kwargs=None):
                out = function(*args, **(kwargs or {}))
                sizes.extend(o.numel() for o in torch.utils._pytree.tree_leaves(out) if isinstance(o, torch.Tensor))
                return out

        q = torch.randn(1, 1, T, 4, requires_grad=True)
        with Sizes():
            flash_attention(q, q, q, is_causal=True, block_q=16, block_k=16).sum().backward()
        return max(sizes)

    assert largest(256) == 2 * largest(128) == 256 * 4
    reads = [numpy_variant.numbers_moved(T, 64, 64)["tiled"] for T in (4096, 8192)]
    assert reads[1] / reads[0] > 3.9


def test_hidden_tiles_are_left_out():
    def products(**setting):
        count = []

        class Count(torch.utils._python_dispatch.TorchDispatchMode):
            def __torch_dispatch__(self, function, types, args=(), kwargs=None):
                count.append(function.overloadpacket == torch.ops.aten.exp)
                return function(*args, **(kwargs or {}))

        q = torch.randn(1, 1, 64, 4)
        with Count():
            flash_attention(q, q, q, block_q=8, block_k=8, **setting)
        return sum(count) // 2  # two exponentials a tile

    assert (products(), products(is_causal=True), products(is_causal=True, window=8)) == (64, 36, 15)
    assert products(is_causal=True, window=9) == 15 and products(is_causal=True, window=10) == 21


def test_without_keys_the_result_is_zero():
    q, k, v = qkv(3, 0)
    out, lse = flash_attention(q, k, v, return_lse=True)
    assert (out == 0).all() and (lse == -torch.inf).all()


@pytest.mark.oracle("torch.nn.functional.scaled_dot_product_attention")
def test_the_reference_is_exact():
    q, k, v = (x[0, 0] for x in qkv())
    for blocks in ((1, 1), (2, 4), (64, 64)):
        torch.testing.assert_close(online_softmax_attention(q, k, v, *blocks), F.scaled_dot_product_attention(q, k, v))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(q=torch.zeros(2, 7, 4, dtype=D)), "q has shape"),
        (dict(k=torch.zeros(2, 2, 9, 3, dtype=D)), r"k has shape .* width=4"),
        (dict(v=torch.zeros(2, 2, 8, 4, dtype=D)), r"v has shape .* keys=9"),
        (dict(q=torch.zeros(2, 3, 7, 4, dtype=D)), "3 query heads are not a multiple of 2 key/value heads"),
        (dict(k=torch.zeros(2, 0, 9, 4, dtype=D), v=torch.zeros(2, 0, 9, 4, dtype=D)), "2 query heads are not a multiple of 0"),
        (dict(is_causal=True, q=torch.zeros(2, 2, 10, 4, dtype=D)), "10 causal queries are the last of 9 keys"),
        (dict(window=2), "window=2 must be positive and needs is_causal=True"),
        (dict(window=0, is_causal=True), "window=0 must be positive"),
        (dict(block_q=0), "block_q=0 is not positive"),
        (dict(block_k=0), "block_k=0 is not positive"),
        (dict(bias=torch.zeros(3, 7, 9)), r"bias has shape \(3, 7, 9\), which does not broadcast to \(2, 2, 7, 9\)"),
        (dict(bias=torch.ones(7, 9, dtype=torch.bool)), "bias has dtype torch.bool; expected floating-point numbers"),
    ],
)
def test_bad_input_is_named(change, message):
    q, k, v = qkv()
    with pytest.raises(ValueError, match=message):
        flash_attention(**{**dict(q=q, k=k, v=v), **change})


def test_heads_wider_than_a_kernel_holds_are_refused():
    flash_attention(*qkv(2, 2, d=256))
    with pytest.raises(ValueError, match="q has heads of width 257"):
        flash_attention(*qkv(2, 2, d=257))
    for bad, name in [((torch.zeros(4), torch.zeros(2, 4), torch.zeros(2, 4)), "q"), ((torch.zeros(2, 4), torch.zeros(2, 3), torch.zeros(2, 4)), "k"),
                      ((torch.zeros(2, 4), torch.zeros(2, 4), torch.zeros(3, 4)), "v")]:
        with pytest.raises(ValueError, match=f"{name} has shape"):
            online_softmax_attention(*bad)


@pytest.mark.parametrize("block", [1, 3, 16])
def test_numpy_variant_agrees(agree, block):
    q, k, v = (x[0, 0] for x in qkv())
    ours, *_ = numpy_variant.online_softmax_attention(q.numpy(), k.numpy(), v.numpy(), block)
    agree(ours, online_softmax_attention(q, k, v))


def test_demo_ends_at_the_exact_row():
    rows = numpy_variant.show(block=5, T=16, step=16)[1]["rows"]
    assert len(rows) == 4 and rows[-1][-1] == "0"


@pytest.mark.parametrize("setting", [dict(), dict(is_causal=True), dict(is_causal=True, window=3), dict(scale=0.3), dict(bias=True)], ids=str)
def test_both_backends_agree(kernel_agrees, setting):
    wanted = [x.requires_grad_() for x in qkv(7, 9, 4, 2)]
    if "bias" in setting:
        setting = dict(bias=torch.randn(4, 7, 9, dtype=D, requires_grad=True))
        wanted.append(setting["bias"])
    out, lse, *_ = kernel_agrees("attention", lambda b: flash_attention(*wanted[:3], **setting, return_lse=True, backend=b), wanted, atol=1e-14)
    assert not lse.requires_grad


def test_heads_wider_than_the_kernels_tiles_are_refused():
    pytest.importorskip("triton")
    with interpreting(), pytest.raises(RuntimeError, match="heads are 129 .* up to 128; backend='torch' computes the same"):
        flash_attention(*qkv(2, 2, d=129), backend="triton")
