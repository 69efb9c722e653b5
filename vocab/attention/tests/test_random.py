import numpy as np
import pytest
import torch
from torch.nn import functional as F

from snippets.attention import random as numpy_variant
from vocab.attention.global_local import global_local_mask
from vocab.attention.multi_head import MultiHeadAttention
from vocab.attention.random import BigBirdAttention, bigbird_lists, bigbird_mask

D = torch.float64
SMALL = dict(block_size=2, num_random_blocks=1, window_blocks=3, num_global_blocks=1)


def example():
    return BigBirdAttention(8, 2, **SMALL).double(), (torch.randn(2, 13, 8, dtype=D),)


@pytest.mark.oracle("torch.nn.functional.scaled_dot_product_attention with the same mask")
@pytest.mark.parametrize("T", [1, 3, 13, 16])
@pytest.mark.parametrize("pattern", [SMALL, dict(SMALL, num_global_blocks=2, num_random_blocks=2, seed=5), dict(SMALL, block_size=3, num_global_blocks=0)])
def test_equals_the_masked_product(pattern, T):
    module, x = BigBirdAttention(8, 2, **pattern).double(), torch.randn(2, T, 8, dtype=D)
    q, k, v = (p(x).unflatten(-1, (2, 4)).transpose(1, 2) for p in (module.q_proj, module.k_proj, module.v_proj))
    out = F.scaled_dot_product_attention(q, k, v, bigbird_mask(T, **pattern)).transpose(1, 2).flatten(2)
    torch.testing.assert_close(module(x), module.o_proj(out))


@pytest.mark.oracle("the definition, block by block, with the random blocks counted")
def test_each_row_of_blocks_has_its_three_parts():
    blocks = bigbird_mask(20, 1, 3, 5, 2, seed=1)
    for i in range(20):
        row = set(blocks[i].nonzero().flatten().tolist())
        fixed = {0, 1} | {j for j in range(i - 2, i + 3) if 0 <= j < 20}
        assert row == set(range(20)) if i < 2 else fixed <= row and len(row - fixed) == 3


def test_the_global_part_is_rows_and_columns():
    """A widely copied generator adds the columns and not the rows, so that its global tokens do not see everything."""
    mask = bigbird_mask(12, **SMALL)
    assert mask[:2].all() and mask[:, :2].all()
    module, (x,) = example()
    jacobian = torch.autograd.functional.jacobian(module, x).abs().sum((2, 5))
    assert torch.equal(jacobian[0, :, 0] > 0, bigbird_mask(13, **SMALL))


def test_whole_blocks_are_drawn():
    """A widely copied version draws single tokens. Blocks are what makes the pattern fast."""
    mask = bigbird_mask(64, 4, 2, 3, 1)
    tiles = mask.view(16, 4, 16, 4).transpose(1, 2).flatten(2)
    assert torch.equal(tiles.any(-1), tiles.all(-1))


@pytest.mark.oracle("counting: the keys of a row do not grow with the length")
def test_rows_are_constant_in_the_length():
    for T in (256, 1024):
        rows = bigbird_mask(T, 8, 3, 3, 2)[16:].sum(1)
        assert rows.max() == 8 * (3 + 3 + 2) and rows[16:-8].min() == 8 * 8
        assert bigbird_lists(T, 8, 3, 3, 2).keys.shape[1] == 64


@pytest.mark.oracle("a window of blocks, and full attention")
def test_limits():
    T, b = 12, 2
    blocks = torch.arange(T) // b
    alone = bigbird_mask(T, b, 0, 3, 0)
    assert torch.equal(alone, (blocks[:, None] - blocks).abs() <= 1)
    module, x = BigBirdAttention(8, 2, block_size=2, window_blocks=11, num_random_blocks=0, num_global_blocks=0).double(), torch.randn(2, T, 8, dtype=D)
    full = MultiHeadAttention(8, 2).double()
    full.load_state_dict(module.state_dict())
    torch.testing.assert_close(module(x), full(x))
    everything_drawn = bigbird_mask(T, b, 99, 0, 0)
    assert everything_drawn.all()


def distances(mask, start=0):
    """Steps from one token to all others, breadth first."""
    reached, steps = torch.zeros(len(mask), dtype=torch.bool), torch.full((len(mask),), torch.inf)
    reached[start], n = True, 0
    while reached.any() and not torch.isfinite(steps).all() and n <= len(mask):
        steps[reached & ~torch.isfinite(steps)] = n
        reached, n = reached | mask[reached].any(0), n + 1
    return steps


@pytest.mark.oracle("boolean product: two steps through a global block")
def test_diameter_two_needs_the_global_tokens():
    """A widely copied text credits the random links alone; the guarantees of the paper need the global ones."""
    with_global, without = (bigbird_mask(120, 2, 3, 3, g).double() for g in (1, 0))
    assert (with_global @ with_global > 0).all() and not (without @ without > 0).all()


@pytest.mark.oracle("breadth-first search: a path of length log T with random links, of length T without")
def test_random_links_make_the_world_small():
    random_, window = ([distances(bigbird_mask(T, 1, r, 3, 0), T // 2).mean().item() for T in (128, 512)] for r in (2, 0))
    assert window[1] / window[0] == pytest.approx(4, rel=0.05)
    assert random_[1] < 1.5 * random_[0] < 8


def test_the_links_are_fixed_by_the_seed_and_are_spread_evenly():
    assert torch.equal(bigbird_mask(60, 1, 3, 3, 0, seed=4), bigbird_mask(60, 1, 3, 3, 0, seed=4))
    different = (bigbird_mask(60, 1, 3, 0, 0, seed=4) != bigbird_mask(60, 1, 3, 0, 0, seed=5)).sum()
    assert different > 0.8 * 2 * 3 * 60
    counts = sum(bigbird_mask(60, 1, 3, 0, 0, seed=s).double() for s in range(200))
    assert counts.sum() == 3 * 60 * 200
    expected = 200 * 3 / 60
    assert counts.var().item() == pytest.approx(expected * (1 - 3 / 60), rel=0.1) and counts.max() < expected + 6 * expected**0.5
    columns = counts.sum(0)
    assert (columns - 600).abs().max() < 6 * 600**0.5


def test_window_and_global_tokens_alone_are_another_entrys_pattern():
    is_global = torch.arange(14) < 1
    assert torch.equal(bigbird_mask(14, 1, 0, 5, 1), global_local_mask(is_global[None], 4)[0, 0])


def test_dropout_hits_both_parts():
    module, x = BigBirdAttention(8, 2, **SMALL, dropout=1.0).double(), torch.randn(2, 13, 8, dtype=D)
    torch.testing.assert_close(module(x), module.o_proj.bias.expand(2, 13, 8))
    assert (module.eval()(x) != module.o_proj.bias).all()
    torch.testing.assert_close(module(x), module(x), rtol=0, atol=0)
    assert BigBirdAttention(8, 2, bias=False).q_proj.bias is None


def test_the_defaults_are_the_papers():
    assert BigBirdAttention(8, 2).pattern == (64, 3, 3, 2, 0)
    assert torch.equal(bigbird_mask(700), bigbird_mask(700, 64, 3, 3, 2, 0))
    torch.testing.assert_close(bigbird_lists(700).keys, bigbird_lists(700, 64, 3, 3, 2, 0).keys)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(block_size=0), "block_size=0 is not positive"),
        (dict(num_random_blocks=-1), "num_random_blocks=-1 is negative"),
        (dict(window_blocks=-1), "window_blocks=-1 is negative"),
        (dict(num_global_blocks=-1), "num_global_blocks=-1 is negative"),
        (dict(seed=-1), "seed=-1 is negative"),
        (dict(window_blocks=2), "window_blocks=2 is even"),
    ],
)
def test_bad_settings_are_named(change, message):
    for make in (lambda **p: BigBirdAttention(8, 2, **p), lambda **p: bigbird_lists(8, **p), lambda **p: bigbird_mask(8, **p)):
        with pytest.raises(ValueError, match=message):
            make(**change)
    module, (x,) = example()
    with pytest.raises(ValueError, match=r"x has shape .* d_model=8"):
        module(x[..., :7])


def test_numpy_variant_agrees(agree):
    module, x = BigBirdAttention(8, 1, **SMALL, bias=False).double(), torch.randn(1, 12, 8, dtype=D)
    q, k, v = (p(x)[0].detach().numpy() for p in (module.q_proj, module.k_proj, module.v_proj))
    module.o_proj = torch.nn.Identity()
    blocks = bigbird_mask(12, **SMALL)[::2, ::2].numpy()
    agree(numpy_variant.block_sparse_attention(q, k, v, blocks, 2), module(x)[0])


def test_numpy_pattern_has_the_same_parts():
    blocks = numpy_variant.bigbird_blocks(20, n_random=3, window=2, n_global=2, rng=np.random.default_rng(0))
    for i in range(2, 20):
        fixed = {0, 1} | {j for j in range(i - 2, i + 3) if 0 <= j < 20}
        row = set(np.flatnonzero(blocks[i]))
        assert fixed <= row and len(row - fixed) == 3
    assert blocks[:2].all()


def test_numpy_path_length_of_a_ring_of_neighbours():
    line = np.abs(np.subtract.outer(np.arange(5), np.arange(5))) <= 1
    expected = np.mean([abs(i - j) for i in range(5) for j in range(5) if i != j])
    assert numpy_variant.mean_path(line) == pytest.approx(expected)
    assert numpy_variant.mean_path(np.eye(3, dtype=bool)) == np.inf
