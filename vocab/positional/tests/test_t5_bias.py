import math

import numpy as np
import pytest
import torch

from snippets.positional.t5_bias import bias as numpy_bias
from snippets.positional.t5_bias import bucket as numpy_bucket
from vocab.attention.flash import flash_attention
from vocab.attention.scaled_dot_product import scaled_dot_product_attention
from vocab.check import expect
from vocab.positional.t5_bias import T5RelativeBias, relative_position_bucket

DISTANCES = torch.arange(-600, 601)


class Biased(torch.nn.Module):
    """Attention with the bias: what the contract suite runs."""

    def __init__(self):
        super().__init__()
        self.bias = T5RelativeBias(2, num_buckets=4, max_distance=4).double()

    def forward(self, q):
        expect("q", q, "...")
        return scaled_dot_product_attention(q, q, q, attn_mask=self.bias(q.shape[-2]), scale=1.0)


def example():
    """For the contract suite: attention with the bias, and its input."""
    return Biased(), (torch.randn(1, 2, 5, 3, dtype=torch.float64),)


@pytest.mark.oracle("transformers T5Attention._relative_position_bucket")
@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize(("num_buckets", "max_distance"), [(32, 128), (8, 20), (64, 512)])
def test_buckets_are_t5s(bidirectional, num_buckets, max_distance):
    t5 = pytest.importorskip("transformers.models.t5.modeling_t5")
    theirs = t5.T5Attention._relative_position_bucket(DISTANCES, bidirectional, num_buckets, max_distance)
    assert torch.equal(relative_position_bucket(DISTANCES, bidirectional, num_buckets, max_distance), theirs)


@pytest.mark.oracle("transformers T5Attention.compute_bias")
@pytest.mark.parametrize("decoder", [False, True])
def test_the_bias_is_t5s(decoder):
    t5 = pytest.importorskip("transformers.models.t5.modeling_t5")
    config = t5.T5Config(d_model=16, d_kv=8, num_heads=2, is_decoder=decoder)
    theirs = t5.T5Attention(config, has_relative_attention_bias=True, layer_idx=0)
    ours = T5RelativeBias(2, bidirectional=not decoder)
    torch.nn.init.normal_(theirs.relative_attention_bias.weight)
    ours.load_state_dict({"weight": theirs.relative_attention_bias.weight})
    torch.testing.assert_close(ours(150), theirs.compute_bias(150, 150), rtol=0, atol=0)


def test_near_distances_have_their_own_bucket_and_far_ones_share():
    buckets = relative_position_bucket(-torch.arange(600), bidirectional=False)
    assert buckets[:16].tolist() == list(range(16))
    assert (buckets[1:] >= buckets[:-1]).all(), "no step back"
    assert buckets[16:].unique().tolist() == list(range(16, 32))
    assert (buckets[128:] == 31).all()
    both = relative_position_bucket(-torch.arange(600))
    assert both[:8].tolist() == list(range(8)) and (both[128:] == 15).all()


@pytest.mark.oracle("edges of the buckets, worked out by hand")
def test_the_logarithmic_buckets_begin_at_powers_of_the_ratio():
    """Bucket exact + n begins at the first distance from exact * (max / exact) ** (n / (buckets - exact))."""
    buckets = relative_position_bucket(-torch.arange(1, 200), bidirectional=False)
    for n in range(1, 16):
        edge = 16 * (128 / 16) ** (n / 16)
        assert buckets[math.ceil(edge) - 1] == 16 + n and buckets[math.ceil(edge) - 2] == 16 + n - 1


def test_an_encoder_tells_before_from_after_and_a_decoder_puts_all_later_keys_into_bucket_0():
    both = relative_position_bucket(DISTANCES)
    assert torch.equal(both[DISTANCES > 0], both[DISTANCES < 0].flip(0) + 16)
    one = relative_position_bucket(DISTANCES, bidirectional=False)
    assert (one[DISTANCES >= 0] == 0).all() and one[DISTANCES == -1] == 1


def test_a_table_of_zeros_is_plain_attention_and_the_first_table_is_zeros():
    q, k, v = torch.randn(3, 1, 2, 6, 4, dtype=torch.float64).unbind(0)
    bias = T5RelativeBias(2).double()
    plain = scaled_dot_product_attention(q, k, v, scale=1.0)
    torch.testing.assert_close(scaled_dot_product_attention(q, k, v, attn_mask=bias(6), scale=1.0), plain)
    torch.nn.init.normal_(bias.weight)
    assert not torch.allclose(scaled_dot_product_attention(q, k, v, attn_mask=bias(6), scale=1.0), plain)


def test_the_bias_depends_on_the_distance_only():
    bias = T5RelativeBias(3)
    torch.nn.init.normal_(bias.weight)
    matrix = bias(40)
    torch.testing.assert_close(matrix[..., 1:, 1:], matrix[..., :-1, :-1], rtol=0, atol=0)


def test_a_single_query_with_a_cache_gets_the_row_of_its_true_distances():
    bias = T5RelativeBias(2, bidirectional=False)
    torch.nn.init.normal_(bias.weight)
    torch.testing.assert_close(bias(1, 30), bias(30)[:, :, -1:], rtol=0, atol=0)
    assert not torch.allclose(bias(1, 30), bias(30)[:, :, :1]), "the first row would be that of position 0"


def test_encoder_and_decoder_use_different_functions():
    distance = torch.tensor([-20])
    assert relative_position_bucket(distance) != relative_position_bucket(distance, bidirectional=False)


def test_t5_does_not_scale_its_scores_and_shares_the_first_layers_table():
    transformers = pytest.importorskip("transformers")
    config = transformers.T5Config(d_model=16, d_kv=8, d_ff=16, num_layers=3, num_heads=2, vocab_size=32, dropout_rate=0.0)
    model = transformers.T5EncoderModel(config).eval()
    tables = [n for n, _ in model.named_parameters() if "relative_attention_bias" in n]
    assert len(tables) == 1 and ".block.0." in tables[0]
    layer = model.encoder.block[0].layer[0].SelfAttention
    x = torch.randn(1, 5, 16)
    q, k, v = (p(x).view(1, 5, 2, 8).transpose(1, 2) for p in (layer.q, layer.k, layer.v))
    ours = T5RelativeBias(2)
    ours.load_state_dict({"weight": layer.relative_attention_bias.weight})
    out = scaled_dot_product_attention(q, k, v, attn_mask=ours(5), scale=1.0)
    torch.testing.assert_close(layer.o(out.transpose(1, 2).flatten(2)), layer(x)[0])


@pytest.mark.oracle("scaled dot-product attention with the bias as its mask")
def test_attention_in_tiles_takes_the_bias_and_trains_the_table():
    bias = T5RelativeBias(2).double()
    torch.nn.init.normal_(bias.weight)
    q, k, v, upstream = torch.randn(4, 3, 2, 9, 5, dtype=torch.float64)
    tiled = flash_attention(q, k, v, bias=bias(9), scale=1.0, block_q=4, block_k=2)
    whole = scaled_dot_product_attention(q, k, v, attn_mask=bias(9), scale=1.0)
    torch.testing.assert_close(tiled, whole)
    ours, theirs = (torch.autograd.grad(out, bias.weight, upstream)[0] for out in (tiled, whole))
    torch.testing.assert_close(ours, theirs)
    assert (ours[:9].any(1)).all()  # distances 0 to 8 to the left


@pytest.mark.parametrize(("settings", "message"), [
    (dict(n_heads=0), "n_heads=0 is below 1"),
    (dict(num_buckets=7), "num_buckets=7 is odd; two directions share them"),
    (dict(num_buckets=2), "num_buckets=2 leaves 1 a direction; 2 or more are needed"),
    (dict(max_distance=8), "max_distance=8 is not above 8, up to which every distance has its own bucket"),
])
def test_settings_that_cannot_be_say_why(settings, message):
    with pytest.raises(ValueError, match=message):
        T5RelativeBias(**{"n_heads": 2, **settings})


def test_seven_buckets_are_fine_in_one_direction_and_the_smallest_settings_work():
    assert relative_position_bucket(torch.tensor([-100]), False, num_buckets=7).item() == 6
    assert relative_position_bucket(torch.tensor([-5, -1, 0, 1, 5]), True, 4, 2).tolist() == [1, 1, 0, 3, 3]


def test_one_head_is_enough():
    assert T5RelativeBias(1)(3).shape == (1, 1, 3, 3)


def test_bad_calls_are_named():
    with pytest.raises(ValueError, match="n_queries=3 is not from 1 to n_keys=2"):
        T5RelativeBias(2)(3, 2)
    with pytest.raises(ValueError, match="n_queries=0 is not from 1"):
        T5RelativeBias(2)(0, 2)
    with pytest.raises(TypeError, match="relative_position has dtype torch.float32"):
        relative_position_bucket(torch.zeros(2))


@pytest.mark.parametrize("bidirectional", [True, False])
def test_numpy_variant_agrees(agree, bidirectional):
    agree(numpy_bucket(DISTANCES.numpy(), bidirectional, 16, 60), relative_position_bucket(DISTANCES, bidirectional, 16, 60))
    ours = T5RelativeBias(3, 16, 60, bidirectional=bidirectional)
    torch.nn.init.normal_(ours.weight)
    agree(numpy_bias(ours.weight.detach().numpy(), 20, bidirectional, 60), ours(20)[0])
    assert isinstance(numpy_bucket(np.array([3]), True)[0], np.integer)
