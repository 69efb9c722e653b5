import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from snippets.regularization import mixup as numpy_mixup
from vocab.regularization.mixup import draw_weight, mixup


def batch():
    return torch.randn(6, 3, 2).double(), torch.tensor([0, 1, 2, 3, 1, 0])


@pytest.mark.oracle("definition, one example at a time (as torchvision's MixUp)")
@pytest.mark.parametrize("lam", [0.0, 0.3, 1.0])
def test_inputs_and_labels_are_mixed_with_the_same_weight(lam):
    x, y = batch()
    order = torch.arange(6).roll(1)  # the pairing of torchvision
    mixed, labels, weight = mixup(x, y, n_classes=4, lam=lam, permutation=order)
    assert weight.item() == lam and weight.ndim == 0
    for i in range(6):
        j = (i - 1) % 6
        torch.testing.assert_close(mixed[i], x[j] + lam * (x[i] - x[j]))
        row = [0.0] * 4
        row[y[i]] += lam
        row[y[j]] += 1 - lam
        torch.testing.assert_close(labels[i], torch.tensor(row).double())


@pytest.mark.oracle("identity of the two cross-entropies")
def test_loss_of_the_mixed_label_is_the_mixture_of_two_losses():
    x, y = batch()
    order = torch.tensor([2, 0, 1, 5, 3, 4])
    logits = torch.randn(6, 4).double()
    _, labels, lam = mixup(x, y, alpha=1.0, n_classes=4, permutation=order)
    two = lam * F.cross_entropy(logits, y) + (1 - lam) * F.cross_entropy(logits, y[order])
    torch.testing.assert_close(F.cross_entropy(logits, labels), two, rtol=1e-12, atol=0)


@pytest.mark.oracle("scipy.stats.kstest against Beta(alpha, alpha)")
@pytest.mark.parametrize("alpha", [0.2, 1.0, 3.0])
def test_weights_follow_the_beta_distribution(alpha):
    stats = pytest.importorskip("scipy.stats")
    x, y = torch.zeros(5000, 1).double(), torch.zeros(5000, 1)
    lam = mixup(x, y, alpha, per_sample=True)[2].double().numpy()
    assert stats.kstest(lam, stats.beta(alpha, alpha).cdf).pvalue > 1e-4
    assert np.mean(draw_weight(5000, 0.05).numpy() < 0.01) == pytest.approx(stats.beta(0.05, 0.05).cdf(0.01), abs=0.03)
    if alpha == 1:
        assert stats.kstest(lam, stats.uniform.cdf).pvalue > 1e-4


def test_alpha_near_zero_mixes_nothing():
    x, y = batch()
    assert set(draw_weight(200, 1e-6).tolist()) == {0.0, 1.0}
    mixed, labels, lam = mixup(x, y, alpha=0.0, n_classes=4)
    assert lam == 1 and torch.equal(mixed, x) and torch.equal(labels.argmax(1), y)


@pytest.mark.oracle("gradient of the explicitly mixed data set")
def test_a_linear_model_has_the_gradient_of_the_mixed_data():
    x, t = torch.randn(5, 3).double(), torch.randn(5).double()
    w = torch.randn(3).double().requires_grad_()
    order = torch.tensor([1, 2, 3, 4, 0])
    mixed, target, lam = mixup(x, t, alpha=1.0, per_sample=True, permutation=order)
    (ours,) = torch.autograd.grad((mixed @ w - target).square().sum(), w)
    expected = sum(2 * ((l * x[i] + (1 - l) * x[j]) @ w.detach() - (l * t[i] + (1 - l) * t[j])) * (l * x[i] + (1 - l) * x[j])
                   for i, (j, l) in enumerate(zip(order.tolist(), lam.tolist())))
    torch.testing.assert_close(ours, expected)


def test_erratum_weights_are_drawn_and_labels_are_mixed():
    """Erratum: lambda is a draw from Beta(a, a), not the function's value, and x alone must not be mixed."""
    x, y = batch()
    draws = {mixup(x, y, 0.4, n_classes=4)[2].item() for _ in range(5)}
    assert len(draws) == 5 and all(0 <= lam <= 1 for lam in draws)
    assert math.gamma(0.4) ** 2 / math.gamma(0.8) > 1, "the Beta function's value would be no weight at all"
    _, labels, _ = mixup(x, y, n_classes=4, lam=0.7, permutation=torch.tensor([1, 2, 3, 4, 5, 0]))
    assert labels[0].tolist() == pytest.approx([0.7, 0.3, 0, 0])


def test_soft_targets_are_mixed_as_they_are_and_nothing_is_changed_in_place():
    x, y = batch()
    soft, kept = torch.softmax(torch.randn(6, 4), 1), x.clone()
    mixed, labels, lam = mixup(x, soft, alpha=1.0)
    torch.testing.assert_close(labels.sum(1), torch.ones(6))
    assert torch.equal(x, kept) and labels.dtype == soft.dtype and not torch.equal(mixed, x)


def test_a_generator_repeats_the_draws():
    x, y = batch()
    one, two = (mixup(x, y, 0.5, n_classes=4, per_sample=True, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one, two)) and one[2].shape == (6,)
    assert not torch.equal(mixup(x, y, 0.5, n_classes=4)[0], one[0])


def test_default_is_the_weak_mixing_of_the_paper():
    x, y = batch()
    one, two = (mixup(x, y, *alpha, n_classes=4, generator=torch.Generator().manual_seed(5)) for alpha in ((), (0.2,)))
    assert one[2] == two[2] and not one[2] == mixup(x, y, 0.3, n_classes=4, generator=torch.Generator().manual_seed(5))[2]


def test_each_image_can_have_a_weight_of_its_own():
    x, y = torch.randn(5, 3, 2, 2).double(), torch.randn(5, 4).double()
    order = torch.tensor([1, 2, 3, 4, 0])
    mixed, target, lam = mixup(x, y, alpha=1.0, per_sample=True, permutation=order)
    for i, j in enumerate(order.tolist()):
        torch.testing.assert_close(mixed[i], lam[i] * x[i] + (1 - lam[i]) * x[j])
        torch.testing.assert_close(target[i], lam[i] * y[i] + (1 - lam[i]) * y[j])


def test_every_example_is_a_partner_once():
    x = torch.arange(50.0).view(50, 1)
    assert sorted(mixup(x, x, lam=0.0)[0].flatten().tolist()) == list(range(50))
    assert mixup(x, x, lam=0.0)[0].flatten().tolist() != list(range(50))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(alpha=-0.1), "alpha=-0.1 is not 0 or a number above"),
        (dict(alpha=math.inf), "alpha=inf"),
        (dict(lam=1.5), "lam=1.5 is not between 0 and 1"),
        (dict(lam=-0.5), "lam=-0.5 is not between 0 and 1"),
        (dict(n_classes=None), "y holds class numbers, so n_classes must be given"),
        (dict(n_classes=3), "y holds classes 0 to 3; expected 0 to 2"),
        (dict(permutation=torch.arange(5)), r"permutation has shape \(5,\); expected \(batch=6\)"),
        (dict(y=torch.zeros(5)), r"y has shape \(5,\); expected one target for each of 6 examples"),
        (dict(y=torch.zeros(5).long()), r"y has shape \(5,\); expected \(batch=6\)"),
        (dict(y=torch.tensor([-1] * 6)), "y holds classes -1 to -1; expected 0 to 3"),
        (dict(x=torch.tensor(1.0)), r"x has shape \(\); expected \(batch, ...\)"),
        (dict(y=torch.tensor(1.0)), r"y has shape \(\)"),
    ],
)
def test_what_does_not_fit_is_named(arguments, message):
    x, y = batch()
    with pytest.raises(ValueError, match=message):
        mixup(**{"x": x, "y": y, "n_classes": 4, **arguments})


def test_what_is_no_tensor_is_named():
    x, y = batch()
    with pytest.raises(TypeError, match="x has dtype torch.int64"):
        mixup(x.long(), y, n_classes=4)
    with pytest.raises(TypeError, match="y is a list"):
        mixup(x, y.tolist(), n_classes=4)


def test_numpy_variant_agrees(agree):
    x, y = batch()
    order = torch.tensor([3, 4, 5, 0, 1, 2])
    mixed, labels, _ = mixup(x, y, n_classes=4, lam=0.3, permutation=order)
    ours = numpy_mixup.mixup(x.numpy(), np.eye(4)[y.numpy()], 0.3, order.numpy())
    agree(ours[0], mixed)
    agree(ours[1], labels)
