import numpy as np
import pytest
import torch
from torch import nn

from snippets.pooling import attention as numpy_variant
from vocab.pooling.attention import AttentionPool, QueryPool
from vocab.pooling.global_average import masked_mean

D = torch.float64


def example():
    mask = torch.ones(2, 5, dtype=torch.bool)
    mask[0, 3:] = False
    return AttentionPool(4, d_hidden=3, gated=True, n_queries=2).double(), (torch.randn(2, 5, 4, dtype=D), mask)


def both():
    return AttentionPool(4, d_hidden=3, n_queries=2).double(), QueryPool(4, 2, 3).double()


@pytest.mark.oracle("the formula, element by element")
@pytest.mark.parametrize("gated", [False, True])
def test_equals_the_formula_of_the_paper(gated):
    pool, x = AttentionPool(4, d_hidden=3, gated=gated).double(), torch.randn(2, 5, 4, dtype=D)
    for b in range(2):
        scores = []
        for k in range(5):
            hidden = torch.tanh(pool.hidden.weight @ x[b, k] + pool.hidden.bias)
            if gated:
                hidden = hidden / (1 + torch.exp(-(pool.gate.weight @ x[b, k] + pool.gate.bias)))
            scores.append(pool.score.weight[0] @ hidden)
        a = torch.stack(scores).exp() / torch.stack(scores).exp().sum()
        means, weights = pool(x)
        torch.testing.assert_close(weights[b, 0], a)
        torch.testing.assert_close(means[b, 0], (a[:, None] * x[b]).sum(0))


@pytest.mark.oracle("torch.nn.MultiheadAttention with a learned query")
@pytest.mark.parametrize(("heads", "queries"), [(1, 1), (2, 3), (4, 1)])
def test_the_query_version_equals_multihead_attention_of_torch(heads, queries):
    ours, theirs = QueryPool(8, heads, queries).double(), nn.MultiheadAttention(8, heads, batch_first=True).double()
    for p in theirs.parameters():
        nn.init.normal_(p, std=0.5)
    a = ours.attention
    for i, projection in enumerate((a.q_proj, a.k_proj, a.v_proj)):
        projection.weight.data.copy_(theirs.in_proj_weight[8 * i : 8 * i + 8])
        projection.bias.data.copy_(theirs.in_proj_bias[8 * i : 8 * i + 8])
    a.o_proj.load_state_dict(theirs.out_proj.state_dict())
    x, mask = torch.randn(2, 5, 8, dtype=D), torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    expected = theirs(ours.queries.expand(2, -1, -1), x, x, key_padding_mask=~mask)
    for y, z in zip(ours(x, mask), expected):
        torch.testing.assert_close(y, z)


@pytest.mark.oracle("the masked mean")
def test_scorers_of_zero_give_the_masked_mean():
    x, mask = torch.randn(3, 6, 4, dtype=D), torch.arange(6) < torch.tensor([[1], [4], [6]])
    pool = AttentionPool(4, d_hidden=3).double()
    nn.init.zeros_(pool.score.weight)
    torch.testing.assert_close(pool(x, mask)[0][:, 0], masked_mean(x, mask))
    torch.testing.assert_close(pool(x)[0][:, 0], x.mean(1))


@pytest.mark.oracle("invariance and equivariance under permutations")
def test_the_result_does_not_depend_on_the_order_and_the_weights_follow_it():
    x, order = torch.randn(2, 6, 4, dtype=D), torch.randperm(6)
    for pool in both():
        y, weights = pool(x)
        shuffled, moved = pool(x[:, order])
        torch.testing.assert_close(shuffled, y)
        torch.testing.assert_close(moved, weights[..., order])


def test_weights_sum_to_one_and_padding_gets_exactly_zero_whatever_it_holds():
    x, mask = torch.randn(2, 6, 4, dtype=D), torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    for pool in both():
        y, weights = pool(x, mask)
        torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]))
        assert (weights[1, :, 4:] == 0).all() and (weights[0] > 0).all()
        junk = x.clone()
        junk[1, 4:] = 1e6
        torch.testing.assert_close(pool(junk, mask)[0], y)
        torch.testing.assert_close(pool(x[1:, :4])[0], y[1:])
        assert (pool(x)[0][1] - y[1]).abs().max() > 1e-6, "without a mask padding takes weight"


def test_a_set_of_which_nothing_counts_gives_zeros():
    y, weights = AttentionPool(4).double()(torch.randn(2, 3, 4, dtype=D), torch.tensor([[False] * 3, [True] * 3]))
    assert y[0].abs().sum() == 0 and weights[0].abs().sum() == 0 and y.isfinite().all()


@pytest.mark.oracle("the convex hull, coordinate by coordinate and along random directions")
def test_the_result_lies_within_the_convex_hull_of_the_elements():
    pool, x = AttentionPool(4, n_queries=3).double(), torch.randn(2, 6, 4, dtype=D)
    y, _ = pool(x)
    direction = torch.randn(4, 50, dtype=D)
    along, elements = y @ direction, (x @ direction)[:, None]
    assert (along >= elements.amin(2) - 1e-12).all() and (along <= elements.amax(2) + 1e-12).all()


@pytest.mark.oracle("the limit of a score that outgrows the others")
def test_a_score_that_outgrows_the_others_selects_its_element():
    pool, x = AttentionPool(2, d_hidden=1).double(), torch.tensor([[[-1.0, 4.0], [2.0, 5.0], [-2.0, 6.0]]], dtype=D)
    pool.hidden.weight.data, pool.hidden.bias.data = torch.tensor([[1.0, 0.0]], dtype=D), torch.zeros(1, dtype=D)
    pool.score.weight.data = torch.tensor([[1e4]], dtype=D)
    torch.testing.assert_close(pool(x)[0][0, 0], x[0, 1])


def test_several_queries_keep_apart_what_one_mean_would_blend():
    """Two clusters: one query that is undecided returns a point between them, where there is nothing."""
    x = torch.tensor([[[-3.0, 0.0], [3.0, 0.0]]], dtype=D)
    pool = AttentionPool(2, d_hidden=1, n_queries=2).double()
    pool.hidden.weight.data, pool.hidden.bias.data = torch.tensor([[1.0, 0.0]], dtype=D), torch.zeros(1, dtype=D)
    pool.score.weight.data = torch.tensor([[50.0], [-50.0]], dtype=D)
    torch.testing.assert_close(pool(x)[0][0], x[0].flip(0))
    pool.score.weight.data.zero_()
    assert pool(x)[0].abs().max() == 0


def test_sizes_of_the_parameters():
    count = lambda m: sum(p.numel() for p in m.parameters())  # noqa: E731
    assert count(AttentionPool(6, d_hidden=5)) == 6 * 5 + 5 + 5
    assert count(AttentionPool(6, d_hidden=5, gated=True, n_queries=2)) == 2 * (6 * 5 + 5) + 2 * 5
    assert AttentionPool(6).hidden.out_features == 128
    assert count(QueryPool(8)) == 8 + 4 * (64 + 8)
    spread = QueryPool(64, n_queries=500).queries.square().sum(-1).mean().item()
    assert spread == pytest.approx(1.0, rel=0.05), "queries start at length one"


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: AttentionPool(0), "d_model=0 is below 1"),
        (lambda: AttentionPool(4, d_hidden=0), "d_hidden=0 is below 1"),
        (lambda: AttentionPool(4, n_queries=0), "n_queries=0 is below 1"),
        (lambda: QueryPool(4, n_queries=0), "n_queries=0 is below 1"),
        (lambda: QueryPool(4, 3), "d_model=4 is not a multiple of n_heads=3"),
    ],
)
def test_bad_arguments_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_wrong_inputs_are_named():
    x, mask = torch.zeros(2, 5, 4, dtype=D), torch.ones(2, 5, dtype=torch.bool)
    for pool in both():
        with pytest.raises(ValueError, match=r"x has shape \(2, 5, 3\); expected \(batch, elements, d_model=4\)"):
            pool(x[..., :3])
        with pytest.raises(ValueError, match=r"mask has shape \(2, 4\); expected \(batch=2, elements=5\)"):
            pool(x, mask[:, :4])
        with pytest.raises(ValueError, match=r"mask has shape \(1, 5\)"):
            pool(x, mask[:1])
        with pytest.raises(TypeError, match="mask has dtype torch.int64; expected torch.bool"):
            pool(x, mask.long())
    AttentionPool(1, d_hidden=1), QueryPool(1)


@pytest.mark.parametrize("masked", [False, True])
def test_numpy_variant_agrees(agree, masked):
    pool, x = AttentionPool(4, d_hidden=3).double(), torch.randn(2, 5, 4, dtype=D)
    mask = torch.tensor([[True] * 5, [True] * 2 + [False] * 3]) if masked else None
    V, c, w = (p.detach().numpy() for p in (pool.hidden.weight, pool.hidden.bias, pool.score.weight[0]))
    y, weights = pool(x, mask)
    ours = numpy_variant.attention_pool(x.numpy(), V, c, w, None if mask is None else mask.numpy())
    agree(ours[0], y[:, 0])
    agree(ours[1], weights[:, 0])


@pytest.mark.oracle("autograd")
@pytest.mark.parametrize("pool", ["attention", "mean", "max"])
def test_the_hand_written_gradient_of_the_demo_is_that_of_autograd(agree, pool):
    x, y = torch.randn(4, 5, 2, dtype=D), torch.tensor([0.0, 1.0, 1.0, 0.0], dtype=D)
    theta = [torch.randn(s, dtype=D, requires_grad=True) for s in ((3, 2), (3,), (3,), (3,), ())]
    V, c, w, u, b = theta
    h = torch.tanh(x @ V.T + c)
    z = {"attention": lambda: ((h @ w).softmax(-1)[..., None] * h).sum(1), "mean": lambda: h.mean(1), "max": lambda: h.amax(1)}[pool]()
    loss = nn.functional.binary_cross_entropy_with_logits(z @ u + b, y)
    found, grads = numpy_variant.gradient(x.numpy(), y.numpy(), [t.detach().numpy() for t in theta], pool)
    agree(found, loss)
    for ours, theirs in zip(grads, torch.autograd.grad(loss, theta, allow_unused=True)):
        agree(ours, torch.zeros(3) if theirs is None else theirs, atol=1e-15)


def test_demo_finds_the_marked_instance_by_attention_and_the_mean_does_not():
    share = lambda **k: int(numpy_variant.show(**k)[-1]["caption"].split(": ")[1].split("%")[0])  # noqa: E731
    assert share() > 60 and share(pool="mean") == 5
    losses = numpy_variant.show()[1]["series"]
    assert losses["attention"][-1][1] < 0.5 * losses["mean"][-1][1]
    assert np.isfinite(numpy_variant.show(pool="max")[1]["series"]["max"]).all()
