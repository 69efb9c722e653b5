import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from snippets.losses.triplet import choose, triplet, triplet_push
from vocab.losses.triplet import MinedTripletLoss, TripletMarginLoss, distance

A, P, N = torch.randn(3, 7, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
X = torch.randn(9, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
LABELS = torch.tensor([0, 0, 1, 1, 1, 2, 2, 0, 3])  # 3 has no positive


def example():
    """For the contract suite: a small instance and its inputs."""
    return TripletMarginLoss(margin=2.0), tuple(torch.randn(3, 4, 2).double().unbind())


@pytest.mark.oracle("torch.nn.functional.triplet_margin_loss")
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize(("margin", "p"), [(1.0, 2.0), (0.2, 1.0), (3.0, 3.0)])
def test_value_and_gradients_equal_pytorchs(margin, p, reduction):
    pair = []
    for function in (TripletMarginLoss(margin, p, reduction), lambda *x: F.triplet_margin_loss(*x, margin=margin, p=p, reduction=reduction)):
        x = [t.clone().requires_grad_() for t in (A, P, N)]
        value = function(*x)
        pair.append((value, *torch.autograd.grad(value.sum(), x)))
    torch.testing.assert_close(*pair)


def length(v):
    return float(np.sqrt(((v.numpy() + 1e-6) ** 2).sum()))


@pytest.mark.oracle("brute-force loop over all triplets")
def test_batch_hard_is_the_worst_triplet_of_every_anchor():
    expected = {}
    for a in range(9):
        costs = [max(0, length(X[a] - X[p]) - length(X[a] - X[n]) + 0.5) for p in range(9) for n in range(9)
                 if p != a and LABELS[p] == LABELS[a] and LABELS[n] != LABELS[a]]
        expected[a] = max(costs, default=None)
    each = MinedTripletLoss(0.5, reduction="none")(X, LABELS)
    torch.testing.assert_close(each, torch.tensor([expected[a] or 0.0 for a in range(9)], dtype=torch.float64))
    assert expected[8] is None
    assert MinedTripletLoss(0.5)(X, LABELS).item() == pytest.approx(each.sum().item() / 8)
    assert MinedTripletLoss(0.5, reduction="sum")(X, LABELS).item() == pytest.approx(each.sum().item())


@pytest.mark.oracle("brute-force loop over all pairs")
@pytest.mark.parametrize("p", [1.0, 2.0])
def test_semi_hard_is_the_nearest_negative_beyond_the_positive(p):
    x = X.clone()
    x[7] = 4.0  # so far out that no negative of its partners is farther
    size = lambda v: float((np.abs(v.numpy() + 1e-6) ** p).sum() ** (1 / p))  # noqa: E731
    costs, fallback = [], 0
    for a in range(9):
        for b in range(9):
            if a == b or LABELS[a] != LABELS[b]:
                continue
            there = size(x[a] - x[b])
            negatives = sorted(size(x[a] - x[n]) for n in range(9) if LABELS[n] != LABELS[a])
            beyond = [d for d in negatives if d > there]
            fallback += not beyond
            costs.append(max(0.0, there - (beyond[0] if beyond else negatives[-1]) + 0.5))
    assert fallback, "the case without such a negative occurs"
    loss = MinedTripletLoss(0.5, p, "semi-hard")
    assert loss(x, LABELS).item() == pytest.approx(sum(costs) / len(costs))
    assert MinedTripletLoss(0.5, p, "semi-hard", "none")(x, LABELS).shape == (9, 9)


def test_zero_exactly_when_the_negative_is_farther_by_the_margin():
    a, p = torch.zeros(3, 1).double(), torch.full((3, 1), 2.0).double()
    n = torch.tensor([[2.999], [3.0], [3.001]]).double()
    values = TripletMarginLoss(1.0, reduction="none")(a, p, n)
    torch.testing.assert_close(values, torch.tensor([0.001, 0.0, 0.0]).double(), rtol=0, atol=1e-7)
    assert values[2] == 0


@pytest.mark.oracle("invariance: a rotation of all embeddings")
@pytest.mark.parametrize("mining", ["batch-hard", "semi-hard"])
def test_a_rotation_changes_nothing(mining):
    turn = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))[0]
    loss = MinedTripletLoss(0.5, mining=mining)
    torch.testing.assert_close(loss(X @ turn, LABELS), loss(X, LABELS), rtol=1e-5, atol=0)


def test_collapsed_embeddings_cost_the_margin():
    for mining in ("batch-hard", "semi-hard"):
        value = MinedTripletLoss(0.7, mining=mining)(torch.ones(9, 3), LABELS)
        assert value.item() == pytest.approx(0.7, abs=1e-5)


def test_most_triplets_are_solved_where_the_hardest_are_not():
    """Three well separated classes with one stray example: the mean over all triplets is near 0, batch-hard is not."""
    x = torch.cat([torch.randn(20, 2) * 0.2 + torch.tensor(c) for c in ([0.0, 0.0], [4.0, 0.0], [0.0, 4.0])])
    x[0] = torch.tensor([4.0, 0.0])
    labels = torch.arange(3).repeat_interleave(20)
    a, p, n = (i for i in torch.meshgrid(*[torch.arange(60)] * 3, indexing="ij"))
    real = (labels[a] == labels[p]) & (a != p) & (labels[a] != labels[n])
    every = TripletMarginLoss(1.0, reduction="none")(x[a[real]], x[p[real]], x[n[real]])
    assert (every == 0).float().mean() > 0.9
    assert MinedTripletLoss(1.0)(x, labels) > 10 * every.mean()


def test_a_coincident_pair_has_a_finite_gradient():
    x = torch.zeros(2, 3, requires_grad=True)
    TripletMarginLoss()(x, x.detach(), x.detach() + 5).backward()
    MinedTripletLoss()(x, torch.tensor([0, 0])).backward()
    assert x.grad.isfinite().all()
    assert distance(torch.zeros(3), torch.zeros(3)).item() == pytest.approx(1e-6 * math.sqrt(3))


@pytest.mark.parametrize("mining", ["batch-hard", "semi-hard"])
def test_gradients_of_the_mined_losses(mining):
    loss = MinedTripletLoss(0.5, mining=mining)
    assert torch.autograd.gradcheck(lambda x: loss(x, LABELS), (X.clone().requires_grad_(),))
    compiled = torch.compile(loss, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(X, LABELS), loss(X, LABELS))


def test_second_derivatives():
    assert torch.autograd.gradgradcheck(TripletMarginLoss(2.0), tuple(t[:3].clone().requires_grad_() for t in (A, P, N)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_embeddings_of_ten_thousand(dtype):
    a, p, n = (torch.full((2, 4), v, dtype=dtype) for v in (0.0, 1e4, 5e3))
    assert TripletMarginLoss()(a, p, n).item() == pytest.approx(1e4 + 1)


def test_batches_without_a_triplet_cost_nothing():
    for mining in ("batch-hard", "semi-hard"):
        for labels in (torch.zeros(9).long(), torch.arange(9)):
            x = X.clone().requires_grad_()
            value = MinedTripletLoss(mining=mining)(x, labels)
            value.backward()
            assert value.item() == 0 and torch.equal(x.grad, torch.zeros_like(x))
    assert TripletMarginLoss()(A[:0], P[:0], N[:0]).item() == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TripletMarginLoss(margin=-0.1), "margin=-0.1 is not 0 or more"),
        (lambda: TripletMarginLoss(p=0.5), "p=0.5 is not 1 or more"),
        (lambda: TripletMarginLoss(reduction="avg"), "reduction='avg' is not"),
        (lambda: MinedTripletLoss(mining="hard"), "mining='hard' is not 'batch-hard' or 'semi-hard'"),
        (lambda: MinedTripletLoss(margin=math.nan), "margin=nan"),
        (lambda: TripletMarginLoss()(A, P[:3], N), r"positive has shape \(3, 4\); expected that of anchor, \(7, 4\)"),
        (lambda: TripletMarginLoss()(A, P, N[:, :2]), r"negative has shape \(7, 2\); expected that of anchor"),
        (lambda: MinedTripletLoss()(X, LABELS[:3]), r"labels has shape \(3,\); expected \(examples=9\)"),
        (lambda: MinedTripletLoss()(X[0], LABELS), r"embeddings has shape \(3,\); expected \(examples, dim\)"),
    ],
)
def test_bad_values_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_labels_are_whole_numbers():
    with pytest.raises(TypeError, match="labels has dtype torch.float64"):
        MinedTripletLoss()(X, LABELS.double())


def test_numpy_variant_agrees(agree):
    agree(triplet(A.numpy(), P.numpy(), N.numpy(), 0.5), TripletMarginLoss(0.5, reduction="none")(A, P, N), rtol=1e-4, atol=1e-5)
    x = X.clone().requires_grad_()
    loss = MinedTripletLoss(0.5, reduction="sum")(x, LABELS)
    chosen = choose(X.numpy(), LABELS.numpy(), "hard", np.random.default_rng(0))
    agree(triplet_push(X.numpy(), chosen, 0.5), torch.autograd.grad(loss, x)[0], rtol=1e-4, atol=1e-5)
