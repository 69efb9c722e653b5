import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from snippets.pooling import spatial_pyramid as numpy_variant
from vocab.pooling.max import MaxPool2d
from vocab.pooling.spatial_pyramid import SPPF, SpatialPyramidPool

D = torch.float64


def example():
    return SPPF(4, 3).double(), (torch.randn(2, 4, 4, 5, dtype=D),)


@pytest.mark.oracle("torch.nn.functional.adaptive_max_pool2d and adaptive_avg_pool2d, flattened")
@pytest.mark.parametrize("levels", [(1,), (1, 2, 4), (3, 1)])
@pytest.mark.parametrize("size", [(7, 9), (4, 4), (12, 5)])
def test_equals_adaptive_poolings_side_by_side(levels, size):
    x = torch.randn(2, 3, *size, dtype=D)
    for mode, pool in (("max", F.adaptive_max_pool2d), ("avg", F.adaptive_avg_pool2d)):
        torch.testing.assert_close(SpatialPyramidPool(levels, mode)(x), torch.cat([pool(x, level).flatten(1) for level in levels], 1))
    torch.testing.assert_close(SpatialPyramidPool()(x), SpatialPyramidPool((1, 2, 4), "max")(x))


@pytest.mark.oracle("arithmetic: 21 numbers per channel")
def test_the_vector_has_21_numbers_per_channel_for_every_size():
    pool = SpatialPyramidPool((1, 2, 4))
    assert {pool(torch.randn(2, 5, h, w)).shape for h in (1, 4, 13) for w in (3, 8)} == {(2, 5 * (1 + 4 + 16))}


def test_level_one_is_the_global_maximum_and_that_of_level_two():
    x = torch.randn(2, 3, 9, 7, dtype=D)
    y = SpatialPyramidPool((1, 2))(x)
    torch.testing.assert_close(y[:, :3], x.amax((2, 3)))
    torch.testing.assert_close(y[:, 3:].view(2, 3, 4).amax(2), y[:, :3])


def test_two_chained_windows_of_5_are_one_of_9_and_three_are_one_of_13():
    x, pool = torch.randn(2, 3, 20, 17, dtype=D), MaxPool2d(5, 1, 2)
    assert torch.equal(pool(pool(x)), F.max_pool2d(x, 9, 1, 4))
    assert torch.equal(pool(pool(pool(x))), F.max_pool2d(x, 13, 1, 6))
    for k in (3, 7):
        pool = MaxPool2d(k, 1, k // 2)
        assert torch.equal(pool(pool(pool(x))), F.max_pool2d(x, 3 * k - 2, 1, (3 * k - 2) // 2))


@pytest.mark.oracle("the block with windows of 5, 9 and 13 side by side, built of torch.nn")
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("k", "windows"), [(5, (5, 9, 13)), (3, (3, 5, 7)), (1, (1, 1, 1))])
def test_sppf_equals_the_block_with_three_windows_side_by_side(k, windows, training):
    ours, x = SPPF(6, k, out_channels=4).double().train(training), torch.randn(3, 6, 9, 8, dtype=D)
    first = nn.Sequential(nn.Conv2d(6, 3, 1, bias=False), nn.BatchNorm2d(3), nn.SiLU()).double().train(training)
    last = nn.Sequential(nn.Conv2d(12, 4, 1, bias=False), nn.BatchNorm2d(4), nn.SiLU()).double().train(training)
    for theirs, mine in ((first[0], ours.reduce), (first[1], ours.norm_in), (last[0], ours.mix), (last[1], ours.norm_out)):
        for p in theirs.parameters():
            nn.init.normal_(p)
        mine.load_state_dict(theirs.state_dict())
    h = first(x)
    torch.testing.assert_close(ours(x), last(torch.cat([h, *(F.max_pool2d(h, w, 1, w // 2) for w in windows)], 1)))


def test_sppf_defaults():
    block = SPPF(6)
    assert block.pool.kernel_size == 5 and block(torch.randn(2, 6, 3, 3)).shape == (2, 6, 3, 3)
    assert [n for n, _ in block.named_parameters() if n.endswith("bias")] == ["norm_in.bias", "norm_out.bias"]
    assert SPPF(2, 1)(torch.randn(2, 2, 3, 3)).shape == (2, 2, 3, 3)


def test_a_side_below_the_finest_level_repeats_numbers():
    x = torch.tensor([[1.0, 2.0]], dtype=D).view(1, 1, 1, 2)
    assert SpatialPyramidPool((4,))(x).tolist() == [[1, 1, 2, 2] * 4]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: SpatialPyramidPool(()), "levels is empty; a pyramid needs at least one"),
        (lambda: SpatialPyramidPool((1, 0)), "output_size=0 is no number"),
        (lambda: SpatialPyramidPool(mode="mean"), "mode='mean' is neither 'avg' nor 'max'"),
        (lambda: SPPF(1), "channels=1 is below 2"),
        (lambda: SPPF(4, 4), "k=4 is not odd and positive"),
        (lambda: SPPF(4, 0), "k=0 is not odd and positive"),
        (lambda: SPPF(4, -1), "k=-1 is not odd and positive"),
    ],
)
def test_bad_arguments_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_wrong_inputs_are_named():
    with pytest.raises(ValueError, match=r"x has shape \(3, 8, 8\); expected \(batch, channels, height, width\)"):
        SpatialPyramidPool()(torch.zeros(3, 8, 8))
    with pytest.raises(ValueError, match=r"x has shape \(1, 3, 8, 8\); expected \(batch, channels=4, height, width\)"):
        SPPF(4)(torch.zeros(1, 3, 8, 8))
    with pytest.raises(ValueError, match="there is no pixel to pool"):
        SpatialPyramidPool()(torch.zeros(1, 1, 0, 3))
    with pytest.raises(TypeError, match="x is a list"):
        SPPF(4)([1.0])
    with pytest.raises(TypeError, match="x is a list"):
        SpatialPyramidPool()([1.0])


@pytest.mark.parametrize("levels", [(1, 2, 4), (3,)])
def test_numpy_variant_agrees(agree, levels):
    x = torch.randn(1, 2, 7, 5, dtype=D)
    for mode, reduce in (("max", np.max), ("avg", np.mean)):
        agree(numpy_variant.spatial_pyramid_pool(x[0].numpy(), levels, reduce), SpatialPyramidPool(levels, mode)(x)[0])
    maps = [x[0, 0], *(F.max_pool2d(x, w, 1, w // 2)[0, 0] for w in (3, 5, 7))]
    agree(numpy_variant.sppf_maps(x[0, 0].numpy(), 3), torch.stack(maps))


def test_demo_keeps_the_length_of_the_vector():
    assert {len(numpy_variant.show(height=h, width=w)[2]["names"]) for h in (4, 9, 20) for w in (5, 16)} == {21}
    assert "Some bins are the same pixel" in numpy_variant.show(height=4, finest=6)[-1]["caption"]
