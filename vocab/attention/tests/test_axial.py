import numpy as np
import pytest
import torch
from torch.nn import functional as F

from snippets.attention import axial as numpy_variant
from vocab.attention.axial import AxialAttention
from vocab.attention.multi_head import MultiHeadAttention

D = torch.float64
H, W = 3, 4


def example():
    return AxialAttention(8, 2).double(), (torch.randn(2, H, W, 8, dtype=D),)


def same_line(axis):
    """(H W, H W): whether two pixels of the flattened image share a row, or a column."""
    line = torch.arange(H * W) // W if axis == "width" else torch.arange(H * W) % W
    return line[:, None] == line


@pytest.mark.oracle("torch.nn.functional.scaled_dot_product_attention on the flattened image, with the mask 'same line'")
@pytest.mark.parametrize("axis", ["height", "width"])
def test_equals_masked_attention_over_all_pixels(axis):
    module, (x,) = AxialAttention(8, 2, axis=axis).double(), example()[1]
    inner = module.along[axis]
    flat = x.flatten(1, 2)
    q, k, v = (p(flat).unflatten(-1, (2, 4)).transpose(1, 2) for p in (inner.q_proj, inner.k_proj, inner.v_proj))
    out = F.scaled_dot_product_attention(q, k, v, same_line(axis)).transpose(1, 2).flatten(2)
    torch.testing.assert_close(module(x), inner.o_proj(out).view(2, H, W, 8))


@pytest.mark.oracle("Jacobian: one line after one axis, the whole image after both")
@pytest.mark.parametrize("axis", ["height", "width", "both"])
def test_reach(axis):
    module, (x,) = AxialAttention(8, 2, axis=axis).double(), example()[1]
    jacobian = torch.autograd.functional.jacobian(lambda y: module(y).flatten(1, 2), x).flatten(4, 5).abs().sum((2, 5))
    reached = jacobian[0, :, 0] > 0
    assert torch.equal(reached, torch.ones_like(reached) if axis == "both" else same_line(axis))
    assert (jacobian[0, :, 1] == 0).all()


def test_both_is_first_the_column_then_the_row():
    module, (x,) = example()
    height, width = AxialAttention(8, 2, axis="height").double(), AxialAttention(8, 2, axis="width").double()
    height.along["height"], width.along["width"] = module.along["height"], module.along["width"]
    torch.testing.assert_close(module(x), width(height(x)))


@pytest.mark.oracle("multi-head attention over the only line")
@pytest.mark.parametrize("axis", ["height", "width"])
def test_an_image_of_one_line_is_a_sequence(axis):
    module, x = AxialAttention(8, 2, axis=axis).double(), torch.randn(2, 5, 8, dtype=D)
    line = x[:, None] if axis == "width" else x[:, :, None]
    assert isinstance(module.along[axis], MultiHeadAttention)
    torch.testing.assert_close(module(line).flatten(1, 2), module.along[axis](x))


def test_transposing_the_image_swaps_the_axes():
    height, (x,) = AxialAttention(8, 2, axis="height").double(), example()[1]
    width = AxialAttention(8, 2, axis="width").double()
    width.along["width"].load_state_dict(height.along["height"].state_dict())
    torch.testing.assert_close(height(x).transpose(1, 2), width(x.transpose(1, 2)))
    assert (height(x) - width(x)).abs().max() > 0.01


@pytest.mark.oracle("counting: H W (H + W) scores instead of (H W)²")
def test_scores_are_counted():
    assert same_line("width").sum() + same_line("height").sum() == H * W * (H + W)
    assert numpy_variant.scores(64, "full") / numpy_variant.scores(64, "axial") == 32
    assert numpy_variant.scores(8, "axial") == 8 * 8 * (8 + 8) and numpy_variant.scores(8, "window") == 64 * 16


def test_a_reshape_of_the_wrong_axes_has_a_valid_shape_and_reads_other_pixels():
    module, x = AxialAttention(8, 2, axis="height").double(), torch.randn(2, 4, 3, 8, dtype=D)
    wrong = module.along["height"](x.reshape(2 * 3, 4, 8)).reshape(2, 4, 3, 8)  # (B W, H, D) without the transpose
    assert wrong.shape == module(x).shape and (wrong - module(x)).abs().max() > 0.01


def test_settings_are_passed_on():
    module, x = AxialAttention(8, 2, dropout=1.0).double(), torch.randn(2, H, W, 8, dtype=D)
    row = module.along["width"]
    torch.testing.assert_close(module(x), row.o_proj.bias.expand(2, H, W, 8))
    assert (module.eval()(x) != row.o_proj.bias).all()
    torch.testing.assert_close(module(x), module(x), rtol=0, atol=0)
    assert AxialAttention(8, 2, bias=False).along["width"].q_proj.bias is None


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="axis='rows' is not 'height', 'width' or 'both'"):
        AxialAttention(8, 2, axis="rows")
    module, (x,) = example()
    for bad in (x[..., :7], x[0]):
        with pytest.raises(ValueError, match=r"x has shape .* expected \(batch, height, width, d_model=8\)"):
            module(bad)


@pytest.mark.parametrize("axis", ["height", "width"])
def test_numpy_variant_agrees(agree, axis):
    module, (x,) = AxialAttention(8, 2, axis=axis, bias=False).double(), example()[1]
    inner = module.along[axis]
    w = [p.weight.detach().numpy().T for p in (inner.q_proj, inner.k_proj, inner.v_proj, inner.o_proj)]
    agree(numpy_variant.axial_attention(x[0].numpy(), *w, 4, axis), module(x)[0])


def test_demo_lights_up_a_line_and_then_the_image():
    def lit(**controls):
        return (np.array(numpy_variant.show(row=2, column=3, size=8, **controls)[0]["values"]) > 0).sum()

    assert lit(axis="row", layers=2) == lit(axis="column", layers=1) == 8
    assert lit(axis="both", layers=1) == 15 and lit(axis="both", layers=2) == 64
