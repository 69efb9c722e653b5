import math

import numpy as np
import pytest
import torch
from torch import nn

from snippets.losses.contrastive import contrastive, contrastive_slope
from vocab.losses.contrastive import ContrastiveLoss

X1, X2 = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
SAME = torch.tensor([True, False, True, False, False, True])


def example():
    """For the contract suite: a small instance and its inputs."""
    return ContrastiveLoss(3.0), (*torch.randn(2, 4, 2).double().unbind(), torch.tensor([True, False, True, False]))


def at(distance, same, margin=1.0):
    x = torch.tensor([[distance, 0.0]], dtype=torch.float64)
    return ContrastiveLoss(margin)(torch.zeros_like(x), x, torch.tensor([same])).item()


@pytest.mark.oracle("values by hand from the paper's equation 4")
def test_values_by_hand():
    assert at(0.0, True) == 0
    assert at(3.0, True) == pytest.approx(4.5)
    assert at(0.25, False, 1.0) == pytest.approx(0.5 * 0.75**2, abs=1e-5)
    assert at(1.0, False, 3.0) == pytest.approx(2.0, abs=1e-5)
    assert at(1.0, False, 1.0) == pytest.approx(0, abs=1e-9) and at(1.1, False, 1.0) == 0 == at(50.0, False, 1.0)


@pytest.mark.oracle("spring model: force and energy by finite differences")
@pytest.mark.parametrize("margin", [0.5, 2.5])
def test_gradient_is_the_force_of_a_spring(margin):
    """Like: a spring of rest length 0. Unlike: one of rest length m that can only push."""
    loss = ContrastiveLoss(margin, "sum")
    x = X1.clone().requires_grad_()
    loss(x, X2, SAME).backward()
    gap = X1 - X2
    length = gap.norm(dim=1, keepdim=True)
    force = torch.where(SAME[:, None], -gap, gap / length * (margin - length).clamp(min=0))
    torch.testing.assert_close(-x.grad, force, rtol=1e-4, atol=1e-5)
    moved = X1.clone()
    moved[1, 2] += 1e-6
    assert (loss(moved, X2, SAME) - loss(X1, X2, SAME)).item() / 1e-6 == pytest.approx(x.grad[1, 2].item(), abs=1e-5)
    assert (x.grad[[1, 3, 4]] == 0).all() == (margin < gap[[1, 3, 4]].norm(dim=1).min())


def test_cosine_embedding_loss_is_another_loss_though_its_pull_is_the_same_on_the_sphere():
    """On unit vectors half the squared distance is 1 - cos. The pushes differ: one is linear in the cosine, one quadratic in the distance."""
    a, b = nn.functional.normalize(X1, dim=1), nn.functional.normalize(X2, dim=1)
    sign = torch.where(SAME, 1, -1)
    cosine = nn.CosineEmbeddingLoss(margin=0.0, reduction="none")(a, b, sign)
    ours = ContrastiveLoss(math.sqrt(2), "none")(a, b, SAME)  # cosine 0 is distance sqrt(2): the same pairs are pushed
    torch.testing.assert_close(ours[SAME], cosine[SAME])
    pushed = ~SAME & (cosine > 0)
    assert pushed.any() and not torch.isclose(ours[pushed], cosine[pushed], rtol=0.05).any()
    assert not torch.isclose(ContrastiveLoss()(X1, X2, SAME), nn.CosineEmbeddingLoss()(X1, X2, sign), rtol=0.05)
    replaced = 0.5 * (math.sqrt(2) - (2 - 2 * cosine[pushed]).sqrt()) ** 2  # with the distance that belongs to the cosine they agree
    torch.testing.assert_close(ours[pushed], replaced, rtol=1e-4, atol=1e-6)


def test_only_the_margin_stops_the_repulsion():
    """Erratum: "pull together, push apart" is no loss yet; without an end to the push there is no minimum."""
    far = torch.tensor([[0.0, 0.0]]), torch.tensor([[7.0, 0.0]], requires_grad=True)
    ContrastiveLoss(1.0)(*far, torch.tensor([False])).backward()
    assert torch.equal(far[1].grad, torch.zeros(1, 2))
    energies = [at(d, False, 1e6) for d in (1.0, 10.0, 100.0)]  # next to no margin: falling without end
    assert energies[0] > energies[1] > energies[2] > 0


def test_without_unlike_pairs_everything_falls_into_one_point():
    x = torch.randn(6, 2, dtype=torch.float64)
    i, j = torch.triu_indices(6, 6, 1)
    for _ in range(200):
        x = x.detach().requires_grad_()
        ContrastiveLoss(reduction="sum")(x[i], x[j], torch.ones(15, dtype=torch.bool)).backward()
        x = x - 0.05 * x.grad
    assert (x - x.mean(0)).abs().max() < 1e-6


def test_the_label_of_the_paper_is_the_other_way_round():
    y = torch.tensor([0, 1, 0, 1, 1, 0])  # Hadsell: 0 is similar
    torch.testing.assert_close(ContrastiveLoss()(X1, X2, y == 0), ContrastiveLoss()(X1, X2, SAME))
    with pytest.raises(TypeError, match="same has dtype torch.int64; expected torch.bool"):
        ContrastiveLoss()(X1, X2, y)
    with pytest.raises(TypeError, match="x2 has dtype torch.int64"):
        ContrastiveLoss()(X1, X2.long(), SAME)


def test_reductions():
    each = ContrastiveLoss(2.0, "none")(X1, X2, SAME)
    assert ContrastiveLoss(2.0)(X1, X2, SAME).item() == pytest.approx(each.mean().item())
    assert ContrastiveLoss(2.0, "sum")(X1, X2, SAME).item() == pytest.approx(each.sum().item())
    assert ContrastiveLoss()(X1[:0], X2[:0], SAME[:0]).item() == 0
    torch.testing.assert_close(ContrastiveLoss()(X1, X2, SAME), ContrastiveLoss(1.0)(X1, X2, SAME))


def test_an_unlike_pair_that_coincides_is_pushed_apart():
    x = torch.zeros(1, 3, requires_grad=True)
    ContrastiveLoss()(x, torch.zeros(1, 3), torch.tensor([False])).backward()
    assert x.grad.norm().item() == pytest.approx(1, rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_embeddings_of_ten_thousand(dtype):
    x = torch.full((2, 1), 1e4, dtype=dtype)
    values = ContrastiveLoss(reduction="none")(x, -x, torch.tensor([True, False]))
    assert values.tolist() == [pytest.approx(2e8), 0.0]


def test_second_derivatives():
    inputs = (X1[:3].clone().requires_grad_(), X2[:3].clone().requires_grad_())
    assert torch.autograd.gradgradcheck(lambda a, b: ContrastiveLoss(5.0)(a, b, SAME[:3]), inputs)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ContrastiveLoss(0.0), "margin=0.0 is not above 0"),
        (lambda: ContrastiveLoss(math.nan), "margin=nan"),
        (lambda: ContrastiveLoss(reduction="avg"), "reduction='avg' is not"),
        (lambda: ContrastiveLoss()(X1, X2[:3], SAME), r"x2 has shape \(3, 3\); expected that of x1, \(6, 3\)"),
        (lambda: ContrastiveLoss()(X1, X2, SAME[:3]), r"same has shape \(3,\); expected \(pairs=6\)"),
        (lambda: ContrastiveLoss()(X1[0], X2, SAME), r"x1 has shape \(3,\); expected \(pairs, dim\)"),
    ],
)
def test_bad_values_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_numpy_variant_agrees(agree):
    d = torch.linspace(0.01, 3, 60, dtype=torch.float64)
    x = torch.zeros(60, 1, dtype=torch.float64)
    for same in (True, False):
        moving = d[:, None].clone().requires_grad_()
        losses = ContrastiveLoss(1.7, "none")(moving, x, torch.full((60,), same))
        agree(contrastive(d.numpy(), same, 1.7), losses, rtol=1e-4, atol=2e-6)
        agree(contrastive_slope(d.numpy(), same, 1.7), torch.autograd.grad(losses.sum(), moving)[0][:, 0], rtol=1e-4, atol=2e-6)
    np.testing.assert_allclose(contrastive(np.array([0.0]), True), 0)
