import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.nn.attention.bias import causal_lower_right

from snippets.attention import scaled_dot_product as numpy_variant
from vocab.attention.scaled_dot_product import masked_softmax, scaled_dot_product_attention

D = torch.float64


def qkv(T=4, S=6, d=5, e=3, lead=(2, 3)):
    return (torch.randn(*lead, n, w, dtype=D) for n, w in ((T, d), (S, d), (S, e)))


def example():
    return scaled_dot_product_attention, tuple(qkv())


def a_mask(T=4, S=6):
    mask = torch.rand(2, 1, T, S) < 0.6
    mask[..., 0] = True
    return mask


@pytest.mark.oracle("torch.nn.functional.scaled_dot_product_attention")
@pytest.mark.parametrize("scale", [None, 0.3, 0.0, -1.0])
@pytest.mark.parametrize("kind", [None, "bool", "float"])
def test_equals_pytorchs_with_and_without_a_mask(kind, scale):
    q, k, v = qkv()
    mask = {None: None, "bool": a_mask(), "float": torch.randn(4, 6, dtype=D)}[kind]
    theirs = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)
    torch.testing.assert_close(scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale), theirs)


@pytest.mark.oracle("torch.nn.attention.bias.causal_lower_right")
def test_causal_is_pytorchs_for_equal_lengths_and_its_lower_right_mask_for_a_longer_past():
    q, k, v = qkv(6, 6)
    causal = scaled_dot_product_attention(q, k, v, is_causal=True)
    torch.testing.assert_close(causal, F.scaled_dot_product_attention(q, k, v, is_causal=True))
    ours = scaled_dot_product_attention(q[..., 4:, :], k, v, is_causal=True)
    torch.testing.assert_close(ours, causal[..., 4:, :])
    torch.testing.assert_close(ours, F.scaled_dot_product_attention(q[..., 4:, :], k, v, causal_lower_right(2, 6)._materialize()))
    upper_left = F.scaled_dot_product_attention(q[..., 5:, :], k, v, is_causal=True)
    torch.testing.assert_close(upper_left, v[..., :1, :])  # a single new query sees the first token only


@pytest.mark.oracle("the formula, one query and one key at a time")
def test_equals_two_loops():
    q, k, v = qkv(lead=())
    for t in range(4):
        scores = [sum(a * b for a, b in zip(q[t].tolist(), k[s].tolist())) / math.sqrt(5) for s in range(6)]
        total = sum(math.exp(s) for s in scores)
        expected = sum(math.exp(s) / total * v[j] for j, s in enumerate(scores))
        torch.testing.assert_close(scaled_dot_product_attention(q, k, v)[t], expected)


def test_weights_sum_to_one_and_the_output_stays_among_the_values():
    q, k, v = qkv()
    out, weights = scaled_dot_product_attention(q, k, v, attn_mask=a_mask(), return_weights=True)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 3, 4, dtype=D))
    assert weights.min() >= 0
    torch.testing.assert_close(out, weights @ v)
    # In every direction the hull's furthest point is a value.
    directions = torch.randn(50, 3, dtype=D)
    assert ((out @ directions.T).amax(-2) <= (v @ directions.T).amax(-2) + 1e-12).all()


def test_a_query_of_zeros_gives_the_mean_of_the_visible_values():
    q, k, v = qkv(lead=())
    mask = torch.tensor([True, False, True, True, False, False])
    out = scaled_dot_product_attention(q * 0, k, v, attn_mask=mask)
    torch.testing.assert_close(out, v[mask].mean(0).expand(4, 3))


def test_a_large_scale_picks_the_value_of_the_best_key():
    q, k, v = qkv(lead=())
    torch.testing.assert_close(scaled_dot_product_attention(q, k, v, scale=1e5), v[(q @ k.T).argmax(-1)])


@pytest.mark.oracle("invariance: permuted pairs, and one vector added to all keys")
def test_order_of_the_pairs_and_a_common_part_of_the_keys_do_not_matter():
    q, k, v = qkv()
    out, order = scaled_dot_product_attention(q, k, v), torch.randperm(6)
    torch.testing.assert_close(scaled_dot_product_attention(q, k[..., order, :], v[..., order, :]), out)
    torch.testing.assert_close(scaled_dot_product_attention(q, k + torch.randn(5, dtype=D), v), out)
    assert (scaled_dot_product_attention(q, k[..., order, :], v) - out).abs().max() > 0.01, "permuting only the keys does"


@pytest.mark.oracle("statistics: the variance of a scaled score of normal vectors is 1")
@pytest.mark.parametrize("d", [4, 64, 256])
def test_scaling_keeps_the_variance_of_the_scores_at_one(d):
    """Read off the function itself: with two keys the weight ratio is the exponential of the difference of scores."""
    q, k = torch.randn(20000, 1, d, dtype=D), torch.randn(20000, 2, d, dtype=D)
    weights = scaled_dot_product_attention(q, k, k, return_weights=True)[1]
    difference = weights[:, 0].log().diff(dim=-1)
    assert abs(difference.var().item() / 2 - 1) < 0.05  # two independent scores: twice the variance


def test_without_scaling_the_weights_saturate_and_the_gradient_dies():
    q, k = torch.randn(200, 1, 512, dtype=D), torch.randn(200, 8, 512, dtype=D)

    def slope(scale):
        """Mean of p (1 - p), what the softmax lets through to a score."""
        p = scaled_dot_product_attention(q, k, k, scale=scale, return_weights=True)[1]
        return (p * (1 - p)).mean().item()

    assert slope(None) > 10 * slope(1.0)


@pytest.mark.oracle("closed form of the backward pass: dS = P (dP - rowsum(dP P))")
def test_gradients_equal_the_closed_form():
    q, k, v = (x.requires_grad_() for x in qkv())
    out, P = scaled_dot_product_attention(q, k, v, return_weights=True)
    upstream = torch.randn_like(out)
    out.backward(upstream)
    dP = upstream @ v.transpose(-2, -1)
    dS = P * (dP - (dP * P).sum(-1, keepdim=True))
    torch.testing.assert_close(v.grad, P.transpose(-2, -1) @ upstream)
    torch.testing.assert_close(q.grad, dS @ k / math.sqrt(5))
    torch.testing.assert_close(k.grad, dS.transpose(-2, -1) @ q / math.sqrt(5))


@pytest.mark.parametrize("kind", ["bool", "float"])
def test_a_query_that_sees_nothing_gets_zeros_and_sends_no_gradient(kind):
    q, k, v = (x.requires_grad_() for x in qkv(lead=()))
    seen = torch.tensor([True, False, True, True])[:, None].expand(4, 6)
    mask = seen if kind == "bool" else torch.zeros(4, 6, dtype=D).masked_fill(~seen, -torch.inf)
    out, weights = scaled_dot_product_attention(q, k, v, attn_mask=mask, return_weights=True)
    assert (out[1] == 0).all() and (weights[1] == 0).all()
    out.sum().backward()
    assert (q.grad[1] == 0).all() and all(x.grad.isfinite().all() for x in (q, k, v))


def test_keys_and_values_may_be_shared_along_a_leading_axis():
    q, k, v = qkv()
    k, v = k[:, :1], v[:, :1]
    expected = F.scaled_dot_product_attention(q, k.expand(2, 3, 6, 5), v.expand(2, 3, 6, 3))
    torch.testing.assert_close(scaled_dot_product_attention(q, k, v), expected)


def test_dropout_hits_the_weights_and_keeps_their_mean():
    q, k = (x.float() for x in list(qkv(500, 40, lead=()))[:2])
    eye = torch.eye(40)
    out, weights = scaled_dot_product_attention(q, k, eye, dropout_p=0.25, return_weights=True)
    dropped = out == 0  # with unit values the output shows the weights themselves
    assert abs(dropped.float().mean().item() - 0.25) < 0.01
    torch.testing.assert_close(out[~dropped], weights[~dropped] / 0.75)
    assert (scaled_dot_product_attention(q, k, eye, dropout_p=1.0) == 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_neither_overflows_nor_loses_more_than_pytorchs(dtype):
    # each product of 64 numbers is 10,240 before scaling, and the sum over the width does not fit into float16
    q = torch.full((1, 64), 40.0, dtype=dtype)
    k = torch.tensor([[40.0], [39.0]], dtype=dtype).expand(2, 64)
    out = scaled_dot_product_attention(q, k, torch.eye(2, dtype=dtype))
    assert out.dtype == dtype and out.tolist() == [[1, 0]]
    q, k, v = (x.to(dtype) for x in qkv())
    exact = scaled_dot_product_attention(q.double(), k.double(), v.double())
    ours, theirs = (f(q, k, v).double() - exact for f in (scaled_dot_product_attention, F.scaled_dot_product_attention))
    assert ours.abs().max() <= 2 * theirs.abs().max()
    # 4,097 equal weights: their sum in half precision would stop growing long before the end
    many = masked_softmax(torch.zeros(1, 4097, dtype=dtype))
    torch.testing.assert_close(many[0, 0].double().item(), 1 / 4097, rtol=4e-3, atol=0)


def test_minus_a_billion_is_no_number_of_half_precision():
    """The usual stand-in for -inf overflows; -inf itself does not."""
    with pytest.raises(RuntimeError, match="overflow"):
        torch.zeros(2, dtype=torch.float16).masked_fill(torch.tensor([True, False]), -1e9)
    seen = torch.tensor([[True, False]])
    assert masked_softmax(torch.zeros(1, 2, dtype=torch.float16), seen).tolist() == [[1, 0]]


@pytest.mark.filterwarnings("ignore:The use of")
def test_t_turns_the_batch_around_as_well():
    """A widely copied formula writes `Q @ K.T` for batched tensors; `.T` reverses all axes."""
    q, k, v = qkv(lead=(2,))
    with pytest.raises(RuntimeError):
        q @ k.T
    assert k.mT.shape == (2, 5, 6) and k.permute(2, 1, 0).shape == (5, 6, 2)


def test_a_head_returns_as_many_numbers_as_tokens_times_width():
    """A widely copied table gives the output of a head as many numbers as there are queries."""
    q, k, v = qkv(T=7, S=6, d=5, e=4, lead=())
    assert scaled_dot_product_attention(q, k, v).numel() == 7 * 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(q=torch.zeros(5, dtype=D)), r"q has shape \(5,\); expected \(\.\.\., queries, width\)"),
        (dict(k=torch.zeros(2, 3, 6, 4, dtype=D)), r"k has shape .* expected \(\.\.\., keys, width=5\)"),
        (dict(v=torch.zeros(2, 3, 5, 3, dtype=D)), r"v has shape .* expected \(\.\.\., keys=6, value_width\)"),
        (dict(k=torch.zeros(2, 4, 6, 5, dtype=D)), r"k has \(2, 4\), which does not broadcast to the leading axes of q = \(2, 3\)"),
        (dict(k=torch.zeros(4, 3, 6, 5, dtype=D)), r"k has \(4, 3\), which does not broadcast"),
        (dict(v=torch.zeros(1, 2, 3, 6, 3, dtype=D)), r"v has \(1, 2, 3\), which does not broadcast"),
        (dict(attn_mask=torch.ones(4, 5, dtype=torch.bool)), r"attn_mask has \(4, 5\), which does not broadcast to \(\.\.\., queries, keys\)"),
        (dict(attn_mask=torch.ones(4, 6, dtype=torch.bool), is_causal=True), "attn_mask with is_causal=True"),
        (dict(q=torch.zeros(2, 3, 7, 5, dtype=D), is_causal=True), "n_queries=7 is not from 1 to n_keys=6"),
        (dict(dropout_p=1.5), "dropout_p=1.5 is not from 0 to 1"),
        (dict(dropout_p=-0.5), "dropout_p=-0.5 is not from 0 to 1"),
    ],
)
def test_bad_input_is_named(change, message):
    q, k, v = qkv()
    with pytest.raises(ValueError, match=message):
        scaled_dot_product_attention(**{**dict(q=q, k=k, v=v), **change})


def test_a_mask_of_integers_is_refused():
    q, k, v = qkv()
    with pytest.raises(TypeError, match="attn_mask has dtype torch.int64"):
        scaled_dot_product_attention(q, k, v, attn_mask=torch.ones(4, 6, dtype=torch.long))
    with pytest.raises(TypeError, match="attn_mask is a list"):
        scaled_dot_product_attention(q, k, v, attn_mask=[[True] * 6] * 4)
    with pytest.raises(ValueError, match=r"scores has shape \(6,\)"):
        masked_softmax(torch.zeros(6))


@pytest.mark.parametrize("masked", [False, True])
def test_numpy_variant_agrees(agree, masked):
    q, k, v = qkv()
    mask = a_mask() if masked else None
    if masked:
        mask[0, 0, 1] = False
    out, weights = scaled_dot_product_attention(q, k, v, attn_mask=mask, return_weights=True)
    ours = numpy_variant.scaled_dot_product_attention(q.numpy(), k.numpy(), v.numpy(), None if mask is None else mask.numpy())
    agree(ours[0], out)
    agree(ours[1], weights)


def test_numpy_entropy_is_scipys():
    stats = pytest.importorskip("scipy.stats")
    weights = np.array([[0.2, 0.3, 0.5], [1.0, 0.0, 0.0]])
    np.testing.assert_allclose(numpy_variant.entropy(weights), stats.entropy(weights, axis=-1))


def test_demo_sharpens_with_scale_and_length_alike():
    weights = [numpy_variant.show(length=a, scale=b)[1]["series"][""] for a, b in ((4.0, 0.5), (1.0, 2.0))]
    assert weights[0] == pytest.approx(weights[1])
    even = numpy_variant.show(length=0.0, n_keys=4)[1]["series"][""]
    assert even == pytest.approx([0.25] * 4)
