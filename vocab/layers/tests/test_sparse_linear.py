import itertools

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import prune
from torch.utils.flop_counter import FlopCounterMode

from snippets.layers.sparse_linear import magnitude_mask as numpy_mask
from snippets.layers.sparse_linear import stored_bytes as numpy_bytes
from vocab.layers.linear import Linear
from vocab.layers.sparse_linear import SparseLinear, magnitude_mask, stored_bytes

D = torch.float64
PATTERNS = [("unstructured", 0.7), ("block", 0.75), ("2:4", 0.5)]


def example():
    return SparseLinear(4, 3, sparsity=0.5).double(), (torch.randn(2, 5, 4, dtype=D),)


@pytest.mark.oracle("torch.nn.functional.linear of the masked weight")
@pytest.mark.parametrize(("pattern", "sparsity"), PATTERNS)
@pytest.mark.parametrize("bias", [True, False])
def test_equals_a_linear_layer_with_a_masked_weight(pattern, sparsity, bias):
    layer = SparseLinear(8, 12, sparsity=sparsity, pattern=pattern, block_size=4, bias=bias).double()
    layer.weight.data = torch.randn(12, 8, dtype=D)  # also where it is masked
    for rows in [(), (5,), (2, 3)]:
        x = torch.randn(*rows, 8, dtype=D)
        torch.testing.assert_close(layer(x), F.linear(x, layer.weight * layer.mask, layer.bias))
    assert (layer.bias is not None) == bias


@pytest.mark.parametrize(("pattern", "sparsity"), PATTERNS)
@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
def test_masked_weights_get_no_gradient_and_never_come_back(pattern, sparsity, optimizer):
    layer, x = SparseLinear(8, 12, sparsity=sparsity, pattern=pattern, block_size=4).double(), torch.randn(20, 8, dtype=D)
    settings = dict(momentum=0.9) if optimizer is torch.optim.SGD else {}
    optimizer = optimizer(layer.parameters(), lr=0.1, weight_decay=0.1, **settings)
    before = layer.weight.detach().clone()
    for _ in range(5):
        optimizer.zero_grad()
        (layer(x) - 1).square().mean().backward()
        assert (layer.weight.grad[~layer.mask] == 0).all() and (layer.weight.grad[layer.mask] != 0).all()
        optimizer.step()
    assert (layer.weight[~layer.mask] == 0).all() and (layer.weight[layer.mask] != before[layer.mask]).all()


def test_momentum_moves_a_weight_that_was_masked_later_but_not_the_output():
    layer, x = SparseLinear(8, 12, sparsity=0.0).double(), torch.randn(20, 8, dtype=D)
    sgd = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9)
    (layer(x) - 1).square().mean().backward()
    sgd.step()
    layer.prune(0.5)
    sgd.zero_grad()
    (layer(x) - 1).square().mean().backward()
    sgd.step()
    assert (layer.weight[~layer.mask] != 0).any()  # the pitfall
    torch.testing.assert_close(layer(x), F.linear(x, layer.weight * layer.mask, layer.bias))
    layer.prune(0.5)
    assert (layer.weight[~layer.mask] == 0).all() and layer.density() == 0.5


@pytest.mark.parametrize("sparsity", [0.0, 0.33, 0.5, 0.9, 0.99])
def test_the_number_of_kept_weights_is_the_rounded_share(sparsity):
    layer = SparseLinear(20, 30, sparsity=sparsity)
    assert layer.mask.sum() == (layer.weight != 0).sum() == round((1 - sparsity) * 600)
    assert layer.density() == pytest.approx(1 - sparsity, abs=1e-3)
    blocks = SparseLinear(20, 30, sparsity=sparsity, pattern="block", block_size=5)
    assert blocks.mask.sum() == 25 * round((1 - sparsity) * 24)
    equal = magnitude_mask(torch.ones(20, 30), sparsity)  # ties must not keep more
    assert equal.sum() == round((1 - sparsity) * 600)


def test_defaults_are_ninety_per_cent_or_a_half():
    assert SparseLinear(20, 30).density() == pytest.approx(0.1)
    assert SparseLinear(20, 30, pattern="2:4").density() == 0.5
    assert SparseLinear(64, 64, pattern="block").mask.view(2, 32, 2, 32).any(3).any(1).sum() == 0  # a tenth of four is none
    assert SparseLinear(64, 96, sparsity=0.5, pattern="block").mask.view(3, 32, 2, 32).all(3).all(1).sum() == 3


@pytest.mark.oracle("sorting every group of four")
def test_two_of_four_keeps_the_two_largest_of_every_group():
    weight = torch.randn(6, 16, dtype=D)
    mask = magnitude_mask(weight, 0.5, "2:4").numpy()
    for row, kept in zip(weight.numpy(), mask):
        for g in range(4):
            group = slice(4 * g, 4 * g + 4)
            assert sorted(np.abs(row[group][kept[group]])) == sorted(np.abs(row[group]))[2:]


@pytest.mark.oracle("torch.nn.utils.prune.l1_unstructured")
@pytest.mark.parametrize("sparsity", [0.2, 0.5, 0.85])
def test_the_mask_is_that_of_pytorchs_pruning(sparsity):
    linear = nn.Linear(20, 30)
    ours = SparseLinear.from_dense(linear, sparsity=sparsity)
    prune.l1_unstructured(linear, "weight", amount=sparsity)
    assert torch.equal(ours.mask, linear.weight_mask.bool())
    x = torch.randn(5, 20)
    torch.testing.assert_close(ours(x), linear(x))


@pytest.mark.oracle("brute force over all masks")
def test_no_mask_of_the_same_size_changes_the_weight_less():
    weight = torch.randn(4, 4, dtype=D)
    for kept in (3, 8):
        square = weight.square().flatten().tolist()
        best = max(sum(square[i] for i in chosen) for chosen in itertools.combinations(range(16), kept))
        assert weight[magnitude_mask(weight, 1 - kept / 16)].square().sum() == pytest.approx(best)
    blocks = weight.square().view(2, 2, 2, 2).sum((1, 3)).flatten()
    kept = weight[magnitude_mask(weight, 0.5, "block", block_size=2)].square().sum()
    assert kept == pytest.approx(max((blocks[i] + blocks[j]).item() for i, j in itertools.combinations(range(4), 2)))


def test_the_stricter_the_pattern_the_more_is_lost_and_random_is_worst():
    """A widely copied class draws the mask at random and calls that a lottery-ticket experiment."""
    linear = Linear(64, 64).double()

    def lost(method="magnitude", **settings):
        layer = SparseLinear.from_dense(linear, method, sparsity=0.5, **settings)
        torch.testing.assert_close(layer.bias, linear.bias)
        assert layer.density() == 0.5 and torch.equal(layer.weight[layer.mask], linear.weight[layer.mask])
        return ((layer.weight - linear.weight).square().sum() / linear.weight.square().sum()).item()

    losses = [lost(), lost(pattern="2:4"), lost(pattern="block", block_size=4), lost("random")]
    assert losses == sorted(losses) and losses[0] < 0.2 and losses[3] == pytest.approx(0.5, abs=0.03)


def test_pruning_step_by_step_never_brings_a_weight_back():
    layer = SparseLinear(20, 30, sparsity=0.5)
    first = layer.mask.clone()
    layer.prune(0.8)
    assert layer.density() == pytest.approx(0.2) and not (layer.mask & ~first).any()
    smallest_kept, largest_gone = layer.weight[layer.mask].abs().min(), layer.weight[~layer.mask].abs().max()
    assert smallest_kept > largest_gone == 0
    with pytest.raises(ValueError, match="sparsity=0.7 is below the present 0.8; what is gone stays gone"):
        layer.prune(0.7)


def test_a_mask_times_a_dense_weight_saves_neither_work_nor_memory():
    """A widely copied description says that such a layer lowers both."""
    sparse, dense, x = SparseLinear(32, 48), Linear(32, 48), torch.randn(10, 32)
    flops = []
    for layer in (sparse, dense):
        with FlopCounterMode(display=False) as counter:
            layer(x)
        flops.append(counter.get_total_flops())
    assert flops[0] == flops[1] > 0
    held = [sum(t.nbytes for t in (*layer.parameters(), *layer.buffers())) for layer in (sparse, dense)]
    assert held[0] == held[1] + 32 * 48  # the mask comes on top


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
@pytest.mark.oracle("the sizes of torch.sparse tensors")
def test_stored_bytes_are_those_of_pytorchs_formats():
    layer = SparseLinear(24, 40, sparsity=0.6, pattern="block", block_size=8).half()
    weight = layer.weight.detach()
    csr, bsr, coo = weight.to_sparse_csr(), weight.to_sparse_bsr((8, 8)), weight.to_sparse_coo()
    settings = dict(value_bytes=2, index_bytes=8)
    assert stored_bytes(layer.mask, "csr", **settings) == csr.values().nbytes + csr.col_indices().nbytes + csr.crow_indices().nbytes
    assert stored_bytes(layer.mask, "bsr", block_size=8, **settings) == (
        bsr.values().nbytes + bsr.col_indices().nbytes + bsr.crow_indices().nbytes
    )
    assert stored_bytes(layer.mask, "coo", **settings) == coo._values().nbytes + coo._indices().nbytes
    assert stored_bytes(layer.mask, "dense", **settings) == weight.nbytes
    partly = torch.zeros(16, 16, dtype=torch.bool)
    partly[3, 5] = True  # one weight stores its whole block
    assert stored_bytes(partly, "bsr", block_size=8) == 64 * 2 + 4 + 3 * 4


def test_csr_saves_room_only_above_two_thirds_of_zeros():
    for sparsity, smaller in ((0.66, False), (0.68, True)):
        mask = SparseLinear(1000, 1000, sparsity=sparsity).mask
        assert (stored_bytes(mask, "csr") < stored_bytes(mask, "dense")) == smaller
    two_of_four = SparseLinear(64, 64, pattern="2:4").mask
    assert stored_bytes(two_of_four, "2:4") == 64 * 64 * 9 / 8  # 16 bits and 2 for each of half the weights
    assert stored_bytes(two_of_four, "2:4", value_bytes=1) == 64 * 64 * 5 / 8


def test_numpy_variant_agrees(agree):
    weight = torch.randn(16, 16, dtype=D)
    for pattern, sparsity in PATTERNS:
        ours = numpy_mask(weight.numpy(), sparsity, pattern)
        mask = magnitude_mask(weight, sparsity, pattern, block_size=4)
        agree(weight.numpy() * ours, weight * mask)
        for layout in ("dense", "COO", "CSR", "BSR") + (("2:4",) if pattern == "2:4" else ()):
            assert numpy_bytes(ours, layout) == stored_bytes(mask, layout.lower(), block_size=4)


def test_bad_settings_and_shapes_say_which_and_why():
    for arguments, message in [
        (dict(sparsity=1.0), "sparsity=1.0 is not from 0 to below 1"),
        (dict(sparsity=-0.1), "sparsity=-0.1 is not from 0 to below 1"),
        (dict(pattern="row"), "pattern='row' is none of unstructured, block, 2:4"),
        (dict(pattern="2:4", sparsity=0.9), "sparsity=0.9 with pattern='2:4'; two of four is 0.5"),
        (dict(pattern="block", block_size=4), "in_features=6 is not a multiple of block_size=4"),
        (dict(pattern="2:4"), "in_features=6 is not a multiple of 4"),
    ]:
        with pytest.raises(ValueError, match=message):
            SparseLinear(6, 8, **arguments)
    with pytest.raises(ValueError, match="out_features=6 is not a multiple of block_size=4"):
        SparseLinear(8, 6, pattern="block", block_size=4)
    with pytest.raises(ValueError, match="method='first' is neither 'magnitude' nor 'random'"):
        SparseLinear.from_dense(Linear(4, 4), "first")
    with pytest.raises(ValueError, match=r"x has shape \(2, 5\); expected \(\.\.\., in_features=6\)"):
        SparseLinear(6, 8)(torch.zeros(2, 5))
    with pytest.raises(ValueError, match=r"weight has shape \(4,\)"):
        magnitude_mask(torch.ones(4), 0.5)
    mask = torch.ones(6, 8, dtype=torch.bool)
    for layout, message in [("ell", "layout='ell' is none of"), ("2:4", "keeps more than two of four neighbours"),
                            ("bsr", r"mask of shape \(6, 8\) does not split into blocks of block_size=4")]:
        with pytest.raises(ValueError, match=message):
            stored_bytes(mask, layout, block_size=4)
    with pytest.raises(ValueError, match="keeps more than two"):
        stored_bytes(torch.zeros(4, 6, dtype=torch.bool), "2:4")
    with pytest.raises(ValueError, match="does not split"):
        stored_bytes(torch.zeros(8, 6, dtype=torch.bool), "bsr", block_size=4)
    with pytest.raises(TypeError, match="mask has dtype torch.float32"):
        stored_bytes(torch.ones(4, 4), "dense")
