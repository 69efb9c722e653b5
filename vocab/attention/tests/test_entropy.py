import numpy as np
import pytest
import torch
from torch import nn

from snippets.attention import entropy as numpy_variant
from vocab.attention.causal import CausalSelfAttention
from vocab.attention.entropy import attention_entropy, effective_tokens, entropy_collapse_report, relative_entropy
from vocab.attention.masks import causal_mask
from vocab.attention.multi_head import MultiHeadAttention

D = torch.float64


def example():
    return attention_entropy, (torch.randn(2, 3, 5, 4, dtype=D), torch.randn(2, 3, 6, 4, dtype=D))


@pytest.mark.oracle("scipy.stats.entropy of the weights")
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("chunk_size", [1, 2, 1024])
@pytest.mark.parametrize("scale", [None, 3.0])
def test_equals_the_entropy_of_the_weights(masked, chunk_size, scale):
    stats = pytest.importorskip("scipy.stats")
    q, k = example()[1]
    mask = causal_mask(5, 6) if masked else None
    scores = q @ k.mT * (0.5 if scale is None else scale)
    weights = (scores if mask is None else scores.masked_fill(~mask, -torch.inf)).softmax(-1)
    ours = attention_entropy(q, k, mask=mask, scale=scale, chunk_size=chunk_size)
    np.testing.assert_allclose(ours, stats.entropy(weights, axis=-1), rtol=1e-9, atol=1e-12)


@pytest.mark.oracle("closed form: log n for n equal scores, log(i + 1) in row i of a causal mask")
def test_equal_scores_have_the_largest_entropy():
    q, k = example()[1]
    torch.testing.assert_close(attention_entropy(q * 0, k), torch.full((2, 3, 5), 6.0, dtype=D).log())
    torch.testing.assert_close(attention_entropy(q * 0, k[..., :5, :], mask=causal_mask(5))[0, 0], torch.arange(1.0, 6, dtype=D).log())
    torch.testing.assert_close(effective_tokens(attention_entropy(q * 0, k)), torch.full((2, 3, 5), 6.0, dtype=D))


def test_one_dominating_score_has_none():
    q, k = torch.ones(1, 1, dtype=D), torch.tensor([[0.0], [1000.0], [0.0]], dtype=D)
    assert attention_entropy(q, k).abs().item() < 1e-9
    assert attention_entropy(q, k, mask=torch.tensor([[False, True, False]])).abs().item() < 1e-9


@pytest.mark.oracle("derivative: -b Var_p(score) with respect to the inverse temperature b, by finite differences")
@pytest.mark.parametrize("b", [0.3, 1.0, 2.0])
def test_sharpening_lowers_it_by_the_variance_of_the_scores(b):
    q, k = torch.randn(1, 4, dtype=D), torch.randn(7, 4, dtype=D)
    h = 1e-5
    slope = (attention_entropy(q, k, scale=b + h) - attention_entropy(q, k, scale=b - h)) / (2 * h)
    s = (q @ k.T)[0]
    p = (b * s).softmax(-1)
    variance = (p * s**2).sum() - (p * s).sum() ** 2
    torch.testing.assert_close(slope[0], -b * variance, rtol=1e-6, atol=1e-9)


@pytest.mark.oracle("invariance: a vector added to all keys adds one number to a row of scores")
def test_a_constant_of_a_row_does_not_matter():
    q, k = example()[1]
    torch.testing.assert_close(attention_entropy(q, k + torch.randn(4, dtype=D)), attention_entropy(q, k))


def test_the_spread_of_the_scores_is_bounded_by_the_norm_of_the_product():
    """A row's scores differ by at most |x_i| · ‖W_q W_k^T‖ · |x_j - x_l| / √d: the norm has to grow before rows collapse."""
    x, w = torch.randn(6, 8, dtype=D), torch.randn(2, 8, 4, dtype=D)
    scores = (x @ w[0]) @ (x @ w[1]).T / 2
    bound = torch.linalg.matrix_norm(w[0] @ w[1].T, 2) / 2 * x.norm(dim=1)[:, None, None] * torch.cdist(x, x)[None]
    assert ((scores[:, :, None] - scores[:, None]).abs() <= bound + 1e-9).all()


def test_relative_entropy_compares_rows_of_different_lengths():
    """The mean over rows of a causal mask mixes different maxima."""
    entropy = attention_entropy(torch.zeros(5, 4), torch.zeros(5, 4), mask=causal_mask(5))
    torch.testing.assert_close(relative_entropy(entropy, causal_mask(5)), torch.ones(5))
    assert entropy.mean() < 0.6 * np.log(5) + 0.01 and relative_entropy(torch.zeros(1), n_keys=5) == 0
    assert relative_entropy(torch.zeros(1), n_keys=1) == 1
    torch.testing.assert_close(relative_entropy(torch.tensor([2.0]).log(), n_keys=2), torch.ones(1))


def test_half_precision_is_computed_in_float32():
    q, k = torch.randn(3, 64).half(), torch.randn(2000, 64).half()
    ours = attention_entropy(q, k)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, attention_entropy(q.double(), k.double()).float(), rtol=1e-5, atol=1e-5)


def test_masks_with_leading_axes():
    q, k = example()[1]
    mask = torch.rand(2, 1, 5, 6) < 0.7
    mask[..., 0] = True
    for b in range(2):
        torch.testing.assert_close(attention_entropy(q, k, mask=mask, chunk_size=2)[b], attention_entropy(q[b], k[b], mask=mask[b, 0]))


def test_a_query_that_sees_nothing_has_none_and_sends_no_gradient():
    q, k = torch.randn(2, 4, dtype=D, requires_grad=True), torch.randn(3, 4, dtype=D)
    entropy = attention_entropy(q, k, mask=torch.tensor([[False], [True]]))
    entropy.sum().backward()
    assert entropy[0] == 0 and entropy[1] > 0 and (q.grad[0] == 0).all() and q.grad.isfinite().all()


@pytest.mark.oracle("scipy.stats.entropy of the weights that the layers return")
def test_the_report_names_the_heads_that_collapse():
    stats = pytest.importorskip("scipy.stats")
    model, x = nn.Sequential(MultiHeadAttention(8, 2), CausalSelfAttention(8, 2)).double(), torch.randn(2, 5, 8, dtype=D)
    with torch.no_grad():
        model[0].q_proj.weight[4:] *= 100  # the second head of the first layer
    before = model(x)
    report = entropy_collapse_report(model, x)
    torch.testing.assert_close(model(x), before, rtol=0, atol=0)
    assert [(r["layer"], r["head"]) for r in report] == [("0", 0), ("0", 1), ("1", 0), ("1", 1)]
    assert report[1]["min"] < 0.1 < 0.5 < report[0]["min"]
    weights = model[0](x, return_weights=True)[1].detach()
    for head in (0, 1):
        share = stats.entropy(weights[:, head], axis=-1) / np.log(5)
        assert report[head]["mean"] == pytest.approx(share.mean(), abs=1e-6) and report[head]["min"] == pytest.approx(share.min(), abs=1e-6)
    causal = model[1](model[0](x), return_weights=True)[1].detach()[:, 0, 1:]
    share = stats.entropy(causal, axis=-1) / np.log(np.arange(2, 6))
    assert report[2]["mean"] == pytest.approx(share.mean(), abs=1e-6) and report[2]["min"] == pytest.approx(share.min(), abs=1e-6)


def test_the_report_knows_masks_of_numbers():
    class Biased(MultiHeadAttention):
        def forward(self, x):
            return super().forward(x, attn_mask=torch.zeros(3, 3, dtype=D).masked_fill(~causal_mask(3), -torch.inf))

    layer = Biased(4, 1).double()
    with torch.no_grad():
        layer.q_proj.weight.zero_(), layer.q_proj.bias.zero_()
    assert entropy_collapse_report(layer, torch.randn(1, 3, 4, dtype=D))[0]["min"] == pytest.approx(1)


def test_bad_input_is_named():
    q, k = example()[1]
    for given, name in [((q[0, 0, 0], k), "q"), ((q, k[..., :3]), "k")]:
        with pytest.raises(ValueError, match=f"{name} has shape"):
            attention_entropy(*given)
    with pytest.raises(TypeError, match="mask has dtype torch.float64; expected torch.bool"):
        attention_entropy(q, k, mask=torch.zeros(5, 6, dtype=D))
    with pytest.raises(ValueError, match="chunk_size=0 is not positive"):
        attention_entropy(q, k, chunk_size=0)
    for given in (dict(), dict(mask=causal_mask(5), n_keys=5)):
        with pytest.raises(ValueError, match="give either mask or n_keys"):
            relative_entropy(torch.zeros(5), **given)
    with pytest.raises(ValueError, match="called no MultiHeadAttention layer"):
        entropy_collapse_report(nn.Linear(4, 4), torch.zeros(1, 4))
    with pytest.raises(TypeError, match="entropy is a float"):
        effective_tokens(1.0)
    with pytest.raises(ValueError, match="entropy has shape"):
        relative_entropy(torch.tensor(1.0), n_keys=3)


@pytest.mark.parametrize("masked", [False, True])
def test_numpy_variant_agrees(agree, masked):
    q, k = (x[0, 0, :5] for x in example()[1])
    mask = causal_mask(5) if masked else None
    ours = numpy_variant.attention_entropy(q.numpy(), k.numpy(), None if mask is None else mask.numpy())
    expected = attention_entropy(q, k, mask=mask)
    if masked:
        assert abs(ours[0]) < 1e-12 and abs(expected[0]) < 1e-12
        ours, expected = ours[1:], expected[1:]
    agree(ours, expected)


def test_demo_collapses_with_the_weights():
    calm, wild = (numpy_variant.show(growth=g)[2]["series"][""] for g in (0.5, 4.0))
    assert np.mean(calm) > 3 * np.mean(wild)
    assert numpy_variant.show(inverse_temperature=0.0, causal=False)[2]["series"][""] == [32] * 4
