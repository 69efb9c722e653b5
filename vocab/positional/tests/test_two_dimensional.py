import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from snippets.positional.two_dimensional import resize as numpy_resize
from snippets.positional.two_dimensional import sincos_2d as numpy_sincos
from vocab.positional.two_dimensional import interpolate_pos_embed, sincos_2d


def example():
    """For the contract suite: the interpolation and its input."""
    return lambda pe: interpolate_pos_embed(pe, (3, 4)), (torch.randn(1, 5, 3, dtype=torch.float64),)


@pytest.mark.oracle("the formula, number by number")
def test_first_half_is_the_row_and_second_half_the_column():
    H, W, D, base = 3, 5, 12, 100.0
    table = sincos_2d(H, W, D, base=base)
    for r in range(H):
        for c in range(W):
            for i in range(D // 4):
                rate = base ** (-2 * i / (D // 2))
                found = table[r * W + c]
                expected = [math.sin(r * rate), math.cos(r * rate), math.sin(c * rate), math.cos(c * rate)]
                assert [found[i + k * D // 4].item() for k in range(4)] == pytest.approx(expected, abs=1e-14)


@pytest.mark.oracle("transformers build_2d_sinusoidal_position_embedding")
def test_equals_the_table_of_transformers_on_a_grid_that_is_not_square():
    mae = pytest.importorskip("transformers.models.vit_mae.modeling_vit_mae")
    expected = mae.build_2d_sinusoidal_position_embedding(3, 5, 16, temperature=500.0, cls_token=True, dtype=torch.float64)
    torch.testing.assert_close(sincos_2d(3, 5, 16, base=500.0, cls_token=True), expected)


@pytest.mark.oracle("transformers ViTMAEEmbeddings")
def test_mae_has_the_column_first():
    mae = pytest.importorskip("transformers.models.vit_mae.modeling_vit_mae")
    config = mae.ViTMAEConfig(hidden_size=24, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, image_size=24, patch_size=4)
    embeddings = mae.ViTMAEEmbeddings(config)
    embeddings.initialize_weights()
    theirs = embeddings.position_embeddings[0].double()
    ours = sincos_2d(6, 6, 24, cls_token=True)
    torch.testing.assert_close(torch.cat((ours[:, 12:], ours[:, :12]), -1), theirs, rtol=0, atol=1e-6)
    assert not torch.allclose(ours, theirs, atol=0.1)


def test_the_product_depends_on_the_two_distances_only():
    H, W = 5, 7
    table = sincos_2d(H, W, 16, base=50.0)
    gram = (table @ table.T).view(H, W, H, W)
    for dh, dw in ((0, 1), (2, 0), (3, 4), (1, 2)):
        same = torch.stack([gram[r, c, r + dh, c + dw] for r in range(H - dh) for c in range(W - dw)])
        torch.testing.assert_close(same, same[:1].expand_as(same))
    assert (gram[0, 0, 0, 1] - gram[0, 0, 1, 1]).abs() > 0.1


def test_patches_are_in_reading_order():
    table = sincos_2d(2, 3, 8)
    assert torch.equal(table[0, :4], table[2, :4]) and not torch.equal(table[0, :4], table[3, :4])
    assert torch.equal(table[0, 4:], table[3, 4:]) and not torch.equal(table[0, 4:], table[1, 4:])


def test_the_class_token_has_a_row_of_zeros_in_front():
    table = sincos_2d(2, 2, 4, cls_token=True)
    assert torch.equal(table[0], torch.zeros(4, dtype=torch.float64)) and torch.equal(table[1:], sincos_2d(2, 2, 4))


def test_the_same_grid_changes_nothing():
    pe = torch.randn(1, 10, 6, dtype=torch.float64)
    for mode in ("bicubic", "bilinear", "nearest"):
        torch.testing.assert_close(interpolate_pos_embed(pe, (3, 3), mode=mode), pe)


@pytest.mark.oracle("torch.nn.functional.interpolate on one channel at a time")
@pytest.mark.parametrize(("mode", "new"), [("bicubic", (7, 7)), ("bicubic", (2, 5)), ("bilinear", (6, 3))])
def test_every_coordinate_is_resized_as_a_picture(mode, new):
    pe = torch.randn(1, 1 + 16, 3, dtype=torch.float64)
    found = interpolate_pos_embed(pe, new, mode=mode)
    assert torch.equal(found[:, 0], pe[:, 0]), "the class token is no patch"
    for d in range(3):
        picture = F.interpolate(pe[0, 1:, d].view(1, 1, 4, 4), size=new, mode=mode, align_corners=False)
        torch.testing.assert_close(found[0, 1:, d].view(new), picture[0, 0])


def test_doubling_with_nearest_repeats_every_patch():
    pe = torch.arange(6.0).view(1, 6, 1)
    found = interpolate_pos_embed(pe, (4, 6), old_hw=(2, 3), has_cls=False, mode="nearest")
    assert found.view(4, 6).tolist() == pe.view(2, 3).repeat_interleave(2, 0).repeat_interleave(2, 1).tolist()


def test_a_class_token_that_is_taken_for_a_patch_shifts_all_of_them():
    pe = torch.randn(1, 16, 2)
    with pytest.raises(ValueError, match="pe has 15 patches behind the class token, which is not a square grid; give old_hw, or check has_cls"):
        interpolate_pos_embed(pe, (8, 8))
    with pytest.raises(ValueError, match="pe has 17 patches, which is not a square grid"):
        interpolate_pos_embed(torch.randn(1, 17, 2), (8, 8), has_cls=False)


def test_antialiasing_gives_other_numbers_when_the_grid_shrinks():
    pe = torch.randn(1, 64, 2, dtype=torch.float64)
    plain = interpolate_pos_embed(pe, (4, 4), has_cls=False)
    picture = pe.unflatten(1, (8, 8)).movedim(-1, 1)
    smooth = F.interpolate(picture, size=(4, 4), mode="bicubic", align_corners=False, antialias=True)
    assert (smooth.movedim(1, -1).flatten(1, 2) - plain).abs().max() > 0.1


@pytest.mark.parametrize(("call", "message"), [
    (lambda: sincos_2d(0, 3, 4), "a grid of grid_h=0 by grid_w=3 has no patch"),
    (lambda: sincos_2d(3, 0, 4), "a grid of grid_h=3 by grid_w=0 has no patch"),
    (lambda: sincos_2d(2, 2, 6), "d_model=6 is not a multiple of 4"),
    (lambda: interpolate_pos_embed(torch.zeros(1, 5, 2), (0, 2)), r"new_hw=\(0, 2\) has no patch"),
    (lambda: interpolate_pos_embed(torch.zeros(1, 5, 2), (2, 2), mode="cubic"), "mode='cubic' is not 'bicubic', 'bilinear' or 'nearest'"),
    (lambda: interpolate_pos_embed(torch.zeros(1, 7, 2), (2, 2), old_hw=(2, 2)), r"pe has 6 patches behind the class token, which is not old_hw=\(2, 2\)"),
    (lambda: interpolate_pos_embed(torch.zeros(1, 1, 2), (2, 2)), "pe has 0 patches"),
    (lambda: interpolate_pos_embed(torch.zeros(2, 5, 2), (2, 2)), r"pe has shape \(2, 5, 2\); expected \(one=1, positions, d_model\)"),
])
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_single_patch_is_a_grid():
    assert sincos_2d(1, 1, 4).tolist() == [[0.0, 1.0, 0.0, 1.0]]
    assert interpolate_pos_embed(torch.ones(1, 2, 2), (1, 1)).tolist() == [[[1.0, 1.0], [1.0, 1.0]]]


def test_numpy_variant_agrees(agree):
    agree(numpy_sincos(3, 5, 16, 200.0), sincos_2d(3, 5, 16, base=200.0).view(3, 5, 16))
    pe = torch.randn(1, 36, 4, dtype=torch.float64)
    for new in ((9, 7), (4, 6)):
        agree(numpy_resize(pe.view(6, 6, 4).numpy(), *new), interpolate_pos_embed(pe, new, has_cls=False).view(*new, 4))
