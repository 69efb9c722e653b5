import numpy as np
import pytest
import torch
from torch.nn import functional as F

from snippets.attention import shifted_window as numpy_variant
from vocab.attention.shifted_window import (
    ShiftedWindowAttention, relative_index, shifted_window_mask, window_partition, window_reverse)

D = torch.float64


def example():
    module = ShiftedWindowAttention(8, 2, window=2, shift=1).double()
    torch.nn.init.normal_(module.relative_bias)
    return module, (torch.randn(2, 4, 6, 8, dtype=D),)


@pytest.mark.oracle("einops.rearrange")
def test_windows_are_the_usual_rearrangement_and_go_back():
    einops = pytest.importorskip("einops")
    x = torch.randn(2, 6, 9, 4)
    windows = window_partition(x, 3)
    torch.testing.assert_close(windows, einops.rearrange(x, "b (n i) (m j) d -> b (n m) (i j) d", i=3, j=3), rtol=0, atol=0)
    torch.testing.assert_close(window_reverse(windows, 3, 6, 9), x, rtol=0, atol=0)


def over_all_pixels(module, x, shift):
    """Attention over the flattened image: a pixel reads another if a window of the shifted grid holds both, without wrapping."""
    M, (B, H, W, _) = module.window, x.shape
    place = [(i, j) for i in range(H) for j in range(W)]
    mask = torch.full((module.n_heads, H * W, H * W), -torch.inf, dtype=D)
    for a, (i, j) in enumerate(place):
        for b, (k, l) in enumerate(place):
            if (i - shift) // M == (k - shift) // M and (j - shift) // M == (l - shift) // M:
                mask[:, a, b] = module.relative_bias[(i - k + M - 1) * (2 * M - 1) + j - l + M - 1]
    flat = x.flatten(1, 2)
    q, k, v = (p(flat).unflatten(-1, (module.n_heads, -1)).transpose(1, 2) for p in (module.q_proj, module.k_proj, module.v_proj))
    out = F.scaled_dot_product_attention(q, k, v, mask).transpose(1, 2).flatten(2)
    return module.o_proj(out).view_as(x)


@pytest.mark.oracle("torch.nn.functional.scaled_dot_product_attention on the flattened image, 'same window of the shifted grid'")
@pytest.mark.parametrize(("window", "shift"), [(2, 0), (2, 1), (3, 0), (3, 1), (3, 2)])
def test_equals_masked_attention_over_all_pixels(window, shift):
    module, x = ShiftedWindowAttention(8, 2, window, shift).double(), torch.randn(2, 6, 9 if window == 3 else 4, 8, dtype=D)
    torch.nn.init.normal_(module.relative_bias)
    torch.testing.assert_close(module(x), over_all_pixels(module, x, shift))


@pytest.mark.oracle("transformers SwinAttention")
@pytest.mark.parametrize("shifted", [False, True])
def test_is_the_attention_of_swin(shifted):
    swin = pytest.importorskip("transformers.models.swin.modeling_swin")
    config = swin.SwinConfig(window_size=3, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, qkv_bias=True)
    layer = swin.SwinLayer(config, dim=8, input_resolution=(6, 6), num_heads=2, shift_size=1 if shifted else 0).double()
    theirs = layer.attention
    ours = ShiftedWindowAttention(8, 2, 3, 1 if shifted else 0).double()
    torch.nn.init.normal_(ours.relative_bias)
    theirs.load_state_dict({"relative_position_bias.relative_position_bias_table" if name == "relative_bias" else name: weight
                            for name, weight in ours.state_dict().items()}, strict=False)
    x = torch.randn(1, 6, 6, 8, dtype=D)
    rolled = x.roll((-1, -1), (1, 2)) if shifted else x
    mask = layer.get_attn_mask(6, 6, D, "cpu") if shifted else None
    out = theirs(window_partition(rolled, 3)[0], mask)[0]
    back = window_reverse(out[None], 3, 6, 6)
    expected = back.roll((1, 1), (1, 2)) if shifted else back
    torch.testing.assert_close(ours(x), expected, rtol=1e-5, atol=1e-6)


def test_a_window_of_the_whole_image_is_global_attention_with_a_bias():
    module, x = ShiftedWindowAttention(8, 2, 4).double(), torch.randn(1, 4, 4, 8, dtype=D)
    flat = x.flatten(1, 2)
    q, k, v = (p(flat).unflatten(-1, (2, 4)).transpose(1, 2) for p in (module.q_proj, module.k_proj, module.v_proj))
    bias = module.relative_bias[relative_index(4)].permute(2, 0, 1)
    out = F.scaled_dot_product_attention(q, k, v, bias).transpose(1, 2).flatten(2)
    torch.testing.assert_close(module(x).flatten(1, 2), module.o_proj(out))


@pytest.mark.oracle("counting: (2 M - 1)² relative positions")
@pytest.mark.parametrize("M", [1, 2, 7])
def test_each_relative_position_has_a_row_of_its_own(M):
    index = relative_index(M)
    assert index.unique().tolist() == list(range((2 * M - 1) ** 2))
    assert torch.equal(index + index.T, torch.full_like(index, (2 * M - 1) ** 2 - 1)), "negated offsets mirror the table"
    assert ShiftedWindowAttention(8, 2, M).relative_bias.shape == ((2 * M - 1) ** 2, 2)


def test_without_the_mask_opposite_borders_would_meet():
    module, (x,) = example()
    jacobian = torch.autograd.functional.jacobian(lambda y: module(y)[0, 0, 0], x)[:, 0].abs().sum((0, 3))
    assert (jacobian > 0).nonzero().tolist() == [[0, 0]], "the corner is alone in its piece of a window"
    assert not shifted_window_mask(4, 6, 2, 1).all() and shifted_window_mask(4, 6, 2, 0).all()
    assert shifted_window_mask(4, 6, 2, 1).shape == (6, 4, 4)


def test_two_layers_cross_the_border_of_a_window():
    plain, shifted = ShiftedWindowAttention(8, 2, 2).double(), ShiftedWindowAttention(8, 2, 2, 1).double()
    x = torch.randn(1, 6, 6, 8, dtype=D)
    for stack, expected in [((plain, plain), 4), ((plain, shifted), 16)]:
        jacobian = torch.autograd.functional.jacobian(lambda y: stack[1](stack[0](y))[0, 3, 3], x)[:, 0].abs().sum((0, 3))
        assert (jacobian > 0).sum() == expected


def test_settings_are_passed_on():
    module, x = ShiftedWindowAttention(8, 2, 2, dropout=1.0).double(), torch.randn(2, 4, 6, 8, dtype=D)
    torch.testing.assert_close(module(x), module.o_proj.bias.expand(2, 4, 6, 8))
    torch.testing.assert_close(module.eval()(x), module(x), rtol=0, atol=0)
    assert (module(x) != module.o_proj.bias).all()
    default = ShiftedWindowAttention(8, 2, bias=False)
    assert default.q_proj.bias is None and (default.window, default.shift) == (7, 0)
    spread = ShiftedWindowAttention(32, 16).relative_bias.std()
    assert 0.018 < spread < 0.022


def test_bad_input_is_named():
    for shift in (-1, 2):
        with pytest.raises(ValueError, match=f"shift={shift} is not from 0 to 1, less than window=2"):
            ShiftedWindowAttention(8, 2, 2, shift)
        with pytest.raises(ValueError, match=f"shift={shift} is not"):
            shifted_window_mask(4, 4, 2, shift)
    module, (x,) = example()
    with pytest.raises(ValueError, match="the image of 2 × 2 is a single window: the shift must be 0"):
        module(x[:, :2, :2])
    assert module(x[:, :2]).shape == (2, 2, 6, 8)
    for bad in (x[:, :3], x[:, :, :5]):
        with pytest.raises(ValueError, match="is not made of windows of 2 × 2: pad it first"):
            module(bad)
    with pytest.raises(ValueError, match="pad it first"):
        window_reverse(torch.zeros(1, 4, 4, 1), 2, 3, 4)
    with pytest.raises(ValueError, match="pad it first"):
        window_partition(torch.zeros(1, 4, 3, 1), 2)
    with pytest.raises(ValueError, match="pad it first"):
        shifted_window_mask(3, 4, 2, 1)
    with pytest.raises(ValueError, match=r"x has shape .* expected \(batch, height, width, d_model=8\)"):
        module(x[..., :7])


@pytest.mark.parametrize("shift", [0, 1])
def test_numpy_variant_agrees(agree, shift):
    module, x = ShiftedWindowAttention(8, 1, 3, shift, bias=False).double(), torch.randn(1, 6, 6, 8, dtype=D)
    torch.nn.init.normal_(module.relative_bias)
    w = [p.weight.detach().numpy().T for p in (module.q_proj, module.k_proj, module.v_proj, module.o_proj)]
    agree(numpy_variant.shifted_window_attention(x[0].numpy(), *w, module.relative_bias[:, 0].detach().numpy(), 3, shift), module(x)[0])


def test_demo_grows_only_with_a_shift():
    def known(**controls):
        return int(np.nansum(np.array(numpy_variant.show(**controls)[2]["values"], float)))

    assert known(window=2, shift=0, layers=3) == 4 and known(window=2, shift=1, layers=2) == 16
