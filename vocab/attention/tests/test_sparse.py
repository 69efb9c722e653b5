import numpy as np
import pytest
import torch
from torch.nn import functional as F

from snippets.attention import sparse as numpy_variant
from vocab.attention.causal import CausalSelfAttention, causal_mask
from vocab.attention.sparse import (
    KeyLists, SparseAttention, block_lists, block_table, fixed_lists, fixed_mask, gathered_attention, strided_lists, strided_mask,
)  # fmt: skip
from vocab.kernels.interpret import interpreting

D = torch.float64


def example():
    return SparseAttention(8, 2, stride=3).double(), (torch.randn(2, 7, 8, dtype=D),)


def written_out(T, see):
    """A mask by two loops."""
    return torch.tensor([[see(i, j) for j in range(T)] for i in range(T)])


def strided(l):
    return lambda i, j: j <= i and (i - j < l or (i - j) % l == 0)


def fixed(l, c):
    return lambda i, j: j <= i and (j // l == i // l or j % l in range(l - c, l))


@pytest.mark.oracle("the definition, key by key")
@pytest.mark.parametrize("T", [1, 9, 16, 17])
@pytest.mark.parametrize("stride", [1, 3, 4, 20])
def test_masks_follow_the_definition(T, stride):
    assert torch.equal(strided_mask(T, stride), written_out(T, strided(stride)))
    for summary in {1, min(2, stride)}:
        assert torch.equal(fixed_mask(T, stride, summary), written_out(T, fixed(stride, summary)))


@pytest.mark.oracle("torch.nn.functional.scaled_dot_product_attention with the same mask")
@pytest.mark.parametrize("T", [1, 9, 16, 17])
@pytest.mark.parametrize("stride", [1, 3, 4, 20])
def test_lists_give_what_the_masks_give(T, stride):
    q, k, v = torch.randn(3, 2, 2, T, 4, dtype=D)
    pairs = [(strided_lists(T, stride), strided_mask(T, stride)), (fixed_lists(T, stride), fixed_mask(T, stride))]
    pairs.append((fixed_lists(T, stride, min(2, stride)), fixed_mask(T, stride, min(2, stride))))
    pairs.append((block_lists(strided_mask(T, stride), 5), strided_mask(T, stride)))
    for lists, mask in pairs:
        torch.testing.assert_close(gathered_attention(q, k, v, lists), F.scaled_dot_product_attention(q, k, v, mask))


@pytest.mark.oracle("torch.nn.attention.flex_attention with the same mask function")
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_equals_flex_attention():
    flex = pytest.importorskip("torch.nn.attention.flex_attention")
    q, k, v = torch.randn(3, 1, 2, 16, 4)

    def see(b, h, i, j):
        return (j <= i) & ((i - j < 4) | ((i - j) % 4 == 0))

    block_mask = flex.create_block_mask(see, None, None, 16, 16, device="cpu", BLOCK_SIZE=4)
    theirs = flex.flex_attention(q, k, v, block_mask=block_mask)
    torch.testing.assert_close(gathered_attention(q, k, v, strided_lists(16, 4)), theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("pattern", ["strided", "fixed", "own"])
def test_the_module_is_its_projections_around_it(pattern):
    x, mask = torch.randn(2, 7, 8, dtype=D), {"strided": strided_mask(7, 3), "fixed": fixed_mask(7, 3, 2), "own": causal_mask(7, window=2)}[pattern]
    module = SparseAttention(8, 2, pattern=block_lists(mask, 2) if pattern == "own" else pattern, stride=3, summary=2).double()
    q, k, v = (p(x).unflatten(-1, (2, 4)).transpose(1, 2) for p in (module.q_proj, module.k_proj, module.v_proj))
    out = F.scaled_dot_product_attention(q, k, v, mask).transpose(1, 2).flatten(2)
    torch.testing.assert_close(module(x), module.o_proj(out))


@pytest.mark.oracle("causal attention")
def test_a_stride_of_the_whole_length_is_causal_attention():
    x, causal = torch.randn(2, 7, 8, dtype=D), CausalSelfAttention(8, 2).double()
    for pattern in ("strided", "fixed"):
        module = SparseAttention(8, 2, pattern=pattern, stride=7).double()
        module.load_state_dict(causal.state_dict())
        torch.testing.assert_close(module(x), causal(x))


@pytest.mark.oracle("boolean product: two layers reach every earlier token")
@pytest.mark.parametrize("mask", [strided_mask(30, 5), strided_mask(29, 6), fixed_mask(30, 5), fixed_mask(29, 6, 2)])
def test_two_layers_connect_everything(mask):
    reach = mask.double() @ mask.double() > 0
    assert torch.equal(reach, causal_mask(len(mask))) and not torch.equal(mask, reach)


@pytest.mark.oracle("counting: at most 2 √T keys a row for a stride of √T")
def test_rows_grow_with_the_square_root():
    """A widely copied example under this name has a window and global tokens, T·w entries: the pattern of Longformer."""
    for root in (4, 8, 16):
        counts = strided_mask(root**2, root).sum(1)
        assert counts.max() == 2 * root - 1 == strided_lists(root**2, root).keys.shape[1]
        assert fixed_mask(root**2, root).sum(1).max() == 2 * root - 1
    window = [causal_mask(T, window=8).sum().item() for T in (64, 256)]
    ours = [strided_mask(T, int(T**0.5)).sum().item() for T in (64, 256)]
    assert window[1] / window[0] < 4.3 and ours[1] / ours[0] > 7.5


def test_blocks_are_what_is_paid_for():
    """A far diagonal touches two blocks for each of its own: element-wise sparsity is not block sparsity."""
    mask = strided_mask(256, 16)
    shares = [block_lists(mask, b).keys.shape[1] / 256 for b in (1, 4, 16)]
    assert shares == [31 / 256, 76 / 256, 1.0]
    assert block_lists(causal_mask(256, window=16), 16).keys.shape[1] == 32


def test_no_square_of_scores_is_ever_made():
    """A widely copied function fills a T × T mask in a loop and masks a full product: nothing is saved."""
    T, sizes = 1024, []

    class Sizes(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            sizes.extend(o.numel() for o in torch.utils._pytree.tree_leaves(out) if isinstance(o, torch.Tensor))
            return out

    q = torch.randn(T, 2)
    with Sizes():
        gathered_attention(q, q, q, fixed_lists(T, 32))
    assert max(sizes) < T * T / 4


def test_a_query_without_keys_gets_zeros():
    mask = causal_mask(6)
    mask[2] = False
    x = torch.randn(6, 4, dtype=D)
    out = gathered_attention(x, x, x, block_lists(mask, 2))
    assert (out[2] == 0).all() and (out[[0, 1, 3, 4, 5]] != 0).all()


def test_dropout_is_passed_on():
    module, x = SparseAttention(8, 2, stride=3, dropout=1.0).double(), torch.randn(2, 7, 8, dtype=D)
    torch.testing.assert_close(module(x), module.o_proj.bias.expand(2, 7, 8))
    assert SparseAttention(8, 2, bias=False).q_proj.bias is None
    assert (module.eval()(x) - module.o_proj.bias).abs().min() > 0


def test_bad_input_is_named():
    for settings, message in [
        (dict(pattern="random"), "pattern='random' is not 'strided', 'fixed' or KeyLists"),
        (dict(stride=0), "stride=0 is not positive"),
        (dict(stride=3, summary=4), "summary=4 is not from 1 to stride=3"),
        (dict(stride=3, summary=0), "summary=0 is not from 1 to stride=3"),
    ]:
        with pytest.raises(ValueError, match=message):
            SparseAttention(8, 2, **settings)
    module, (x,) = example()
    with pytest.raises(ValueError, match=r"x has shape .* d_model=8"):
        module(x[..., :7])
    for n in (6, 9):
        with pytest.raises(ValueError, match=f"lists are for 7 to 8 queries, not for {n}"):
            gathered_attention(torch.zeros(n, 4), torch.zeros(n, 4), torch.zeros(n, 4), block_lists(causal_mask(8), 2))
    lists, x = strided_lists(4, 2), torch.zeros(4, 3)
    for given, message in [((x[:, 0], x, x), "q has shape"), ((x, x[:, :2], x), "k has shape"), ((x, x, x[:3]), "v has shape")]:
        with pytest.raises(ValueError, match=message):
            gathered_attention(*given, lists)
    with pytest.raises(TypeError, match="mask has dtype torch.float32; expected torch.bool"):
        block_lists(torch.ones(4, 4), 2)
    for make in (strided_lists, strided_mask, fixed_lists, fixed_mask):
        with pytest.raises(ValueError, match="stride=0"):
            make(4, 0)
    with pytest.raises(ValueError, match="stride=0"):
        block_lists(causal_mask(4), 0)
    assert isinstance(lists, KeyLists)


@pytest.mark.parametrize("stride", [3, 4])
def test_numpy_variant_agrees(agree, stride):
    module, x = SparseAttention(8, 1, stride=stride, bias=False).double(), torch.randn(1, 9, 8, dtype=D)
    q, k, v = (p(x)[0].detach().numpy() for p in (module.q_proj, module.k_proj, module.v_proj))
    module.o_proj = torch.nn.Identity()
    agree(numpy_variant.sparse_attention(q, k, v, stride), module(x)[0])
    np.testing.assert_array_equal(numpy_variant.strided_mask(9, stride), strided_mask(9, stride).numpy())
    np.testing.assert_array_equal(numpy_variant.fixed_mask(9, stride), fixed_mask(9, stride).numpy())


def test_numpy_reach_is_the_product_of_the_layers():
    a, b = causal_mask(9, window=3), strided_mask(9, 4)
    np.testing.assert_array_equal(numpy_variant.reach(a.numpy(), b.numpy()), (b.double() @ a.double() > 0).numpy())


def test_demo_reaches_everything_in_two_layers_with_the_papers_patterns_only():
    for pattern, share in [("strided", "100 %"), ("fixed", "100 %")]:
        assert share in numpy_variant.show(pattern=pattern, layers=2)[3]["caption"]
    assert "100 %" not in numpy_variant.show(pattern="window", layers=2)[3]["caption"]


@pytest.mark.oracle("the mask itself, cut into blocks")
@pytest.mark.parametrize(("T", "stride"), [(5, 2), (64, 8), (130, 10), (200, 70)])
def test_block_table_holds_the_mask_and_no_empty_block(T, stride):
    for lists, mask in [(strided_lists(T, stride), strided_mask(T, stride)), (fixed_lists(T, stride, 2), fixed_mask(T, stride, 2))]:
        blocks, tiles = block_table(lists)
        n = len(blocks)
        whole = torch.cat((tiles, torch.zeros(1, 64, 64)))[blocks.long()].transpose(1, 2).reshape(64 * n, 64 * n)  # -1 is the last one
        assert torch.equal(whole[:T, :T] > 0, mask) and n == -(-T // 64)
        assert (tiles.sum((1, 2)) > 0).all() and len(tiles) == (blocks >= 0).sum()


@pytest.mark.parametrize(("stride", "share"), [(64, 1.0), (128, 0.515), (256, 0.29)])
def test_a_stride_of_more_than_a_block_is_what_saves(stride, share):
    for lists in (strided_lists(8192, stride), fixed_lists(8192, stride)):
        blocks, _ = block_table(lists)
        assert (blocks >= 0).sum() / (128 * 129 / 2) == pytest.approx(share, abs=0.015)


@pytest.mark.parametrize("pattern", ["strided", "fixed", "own"])
def test_both_backends_agree(kernel_agrees, pattern):
    lists = block_lists(causal_mask(70, window=9), 5)
    module = SparseAttention(8, 2, pattern=lists if pattern == "own" else pattern, stride=6, summary=2).double()
    x = torch.randn(2, 70, 8, dtype=D, requires_grad=True)
    kernel_agrees("attention", lambda _: module(x), (x, module.k_proj.weight), module=module, atol=1e-13)


def test_the_kernel_compiles_into_one_graph_though_blocks_are_counted():
    pytest.importorskip("triton")
    module, x = SparseAttention(8, 2, stride=3, backend="triton"), torch.randn(1, 9, 8)
    with interpreting():
        compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(x), module(x))


def test_the_kernel_refuses_dropout_and_lists_of_another_length():
    pytest.importorskip("triton")
    module, x = SparseAttention(8, 2, pattern=block_lists(causal_mask(8), 2), dropout=0.5, backend="triton"), torch.zeros(1, 9, 8)
    with interpreting():
        with pytest.raises(RuntimeError, match="it has no dropout; backend='torch' computes the same"):
            module(x)
        with pytest.raises(ValueError, match="lists are for 7 to 8 queries, not for 9"):
            module.eval()(x)
