import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from snippets.losses.cosface import at, cosface, cosines, least_loss, margins_met
from vocab.losses.cosface import CosFaceHead, CosineHead, least_scale, unit
from vocab.losses.cross_entropy import CrossEntropy

N, D, C = 8, 5, 4
G = torch.Generator().manual_seed(3)
X = torch.randn(N, D, generator=G, dtype=torch.float64)
W = 3 * torch.randn(C, D, generator=G, dtype=torch.float64)
LABEL = torch.tensor([0, 3, 1, 1, 2, 0, 3, 2])


def example():
    """For the contract suite: a small instance and its inputs."""
    return CosFaceHead(3, 4).double(), (torch.randn(5, 3).double(), torch.tensor([0, 3, -100, 1, 1]))


def head(w=W, **options):
    made = CosFaceHead(w.shape[1], len(w), **options).double()
    made.weight.data.copy_(w)
    return made


def simplex(classes):
    """As many directions as far apart as they can be."""
    return torch.eye(classes, dtype=torch.float64) - 1 / classes


@pytest.mark.oracle("numpy: s * (cosine - m * one-hot)")
def test_logits_are_cosines_less_the_margin_at_the_truth():
    x, w = X.numpy(), W.numpy()
    cosine = np.array([[a @ b / math.sqrt(a @ a) / math.sqrt(b @ b) for b in w] for a in x])
    found = head(s=20.0, m=0.3)(X, LABEL).detach().numpy()
    np.testing.assert_allclose(found, 20 * (cosine - 0.3 * np.eye(C)[LABEL]), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(head(s=20.0, m=0.3)(X).detach().numpy(), 20 * cosine, rtol=1e-12, atol=1e-12)


@pytest.mark.oracle("transformers AMSoftmaxLoss (of Wav2Vec2's speaker model)")
def test_value_and_gradients_equal_a_librarys():
    library = pytest.importorskip("transformers.models.wav2vec2.modeling_wav2vec2").AMSoftmaxLoss(D, C, scale=30.0, margin=0.35).double()
    library.weight.data.copy_(W.T)
    ours, x, y = head(s=30.0, m=0.35), X.clone().requires_grad_(), X.clone().requires_grad_()
    value, expected = CrossEntropy()(ours(x, LABEL), LABEL), library(y, LABEL)
    value.backward()
    expected.backward()
    torch.testing.assert_close([value, x.grad, ours.weight.grad], [expected, y.grad, library.weight.grad.T], rtol=1e-10, atol=1e-12)


def test_defaults_are_those_of_the_paper():
    made = CosFaceHead(D, C)
    assert (made.s, made.m, made.ignore_index) == (64.0, 0.35, -100)
    assert CosineHead(D, C).s == 64.0 and CosineHead(D, C).ignore_index == -100


@pytest.mark.oracle("torch.nn.functional.cross_entropy of cosine similarities")
def test_without_a_margin_it_is_the_normalized_softmax():
    expected = F.cross_entropy(30 * F.cosine_similarity(X[:, None], W, dim=-1), LABEL)
    torch.testing.assert_close(CrossEntropy()(head(s=30.0, m=0.0)(X, LABEL), LABEL), expected)
    plain = CosineHead(D, C, 30.0).double()
    plain.weight.data.copy_(W)
    torch.testing.assert_close(CrossEntropy()(plain(X, LABEL), LABEL), expected)


@pytest.mark.oracle("bisection for the border of two classes")
@pytest.mark.parametrize("apart", [60.0, 90.0, 150.0])
def test_border_of_two_classes_is_where_the_cosines_differ_by_the_margin(apart):
    """And the gap between the two borders is 2 asin(m / (2 sin(half the angle))): wider between near classes."""
    made = head(torch.from_numpy(at(np.array([0.0, apart]))), m=0.35)

    def lead(degrees, truth=0):
        z = made(torch.from_numpy(at(np.array([degrees]))), torch.tensor([truth])).detach()[0]
        return (z[truth] - z[1 - truth]).item()

    low, high = 0.0, apart
    assert lead(low) > 0 > lead(high)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if lead(middle) > 0 else (low, middle)
    one, two = math.radians(low), math.radians(apart - low)
    assert math.cos(one) - 0.35 == pytest.approx(math.cos(two), abs=1e-12)
    gap = 2 * math.degrees(math.asin(0.35 / (2 * math.sin(math.radians(apart / 2)))))
    assert apart - 2 * low == pytest.approx(gap, abs=1e-9)
    assert lead(apart - low, truth=1) == pytest.approx(0, abs=1e-9)
    assert gap == pytest.approx({60.0: 40.98, 90.0: 28.66, 150.0: 20.88}[apart], abs=0.01)


def test_classes_that_are_too_near_cannot_both_keep_the_margin():
    made = head(torch.from_numpy(at(np.array([0.0, 45.0]))), m=0.35)
    z = made(torch.from_numpy(at(np.linspace(-180, 180, 721))), torch.zeros(721).long())
    assert 1 - math.cos(math.radians(45)) < 0.35
    assert z[360, 0] < z[360, 1], "not even on the class itself"
    assert (z[:, 0] > z[:, 1]).any(), "but on its far side"


def test_lengths_of_features_and_weights_do_not_count():
    lengths = torch.tensor([1e-3, 0.1, 1, 2, 5, 10, 100, 1e4], dtype=torch.float64)[:, None]
    torch.testing.assert_close(head()(lengths * X, LABEL), head()(X, LABEL))
    torch.testing.assert_close(head(lengths[:C] * W)(X, LABEL), head()(X, LABEL))
    x = X.clone().requires_grad_()
    CrossEntropy()(head()(x, LABEL), LABEL).backward()
    torch.testing.assert_close((x.grad * X).sum(1), torch.zeros(N).double(), atol=1e-12, rtol=0)  # it can only be turned


def test_ranking_by_dot_product_is_not_ranking_by_cosine():
    """Why features are normalized in use, too: a long feature of a stranger beats a short one of the same class."""
    probe, same, stranger = torch.tensor([1.0, 0.0]), torch.tensor([0.9, 0.1]), torch.tensor([5.0, 5.0])
    assert probe @ stranger > probe @ same
    assert unit(probe) @ unit(stranger) < unit(probe) @ unit(same)


@pytest.mark.oracle("closed form of the gradient by the cosine")
def test_push_is_s_times_probability_minus_truth():
    w = torch.eye(C, dtype=torch.float64)
    x = F.normalize(X[:, :C], dim=1)
    z = 10 * (x - 0.2 * w[LABEL])
    made = head(w, s=10.0, m=0.2)
    x = x.requires_grad_()
    CrossEntropy(reduction="sum")(made(x, LABEL), LABEL).backward()
    by_cosine = 10 * (torch.softmax(z, 1) - w[LABEL])
    torch.testing.assert_close(x.grad, by_cosine - (by_cosine * x).sum(1, keepdim=True).detach() * x.detach())


@pytest.mark.oracle("simplex: the farthest apart that classes can be")
@pytest.mark.parametrize(("classes", "m"), [(2, 0.0), (3, 0.35), (7, 0.9)])
def test_scale_bounds_the_loss_even_of_perfect_features(classes, m):
    minimize = pytest.importorskip("scipy.optimize").minimize
    w = simplex(classes)
    target = torch.arange(classes)
    for s in (0.5, 2.0):
        made = head(w, s=s, m=m)
        value = CrossEntropy()(made(w, target), target).item()
        assert value == pytest.approx(least_loss(classes, s, m), rel=1e-12)
        rng = np.random.default_rng(classes)

        def loss(flat):
            both = torch.from_numpy(flat).view(2, classes, classes).requires_grad_()
            cosine = F.normalize(both[0], dim=1) @ F.normalize(both[1], dim=1).T
            result = F.cross_entropy(s * (cosine - m * torch.eye(classes)), target)
            return result.item(), torch.autograd.grad(result, both)[0].numpy().ravel()

        best = minimize(loss, rng.standard_normal(2 * classes**2), jac=True, options={"gtol": 1e-8}).fun
        assert best == pytest.approx(value, rel=1e-6), "features and weights left free find nothing better"
    reached = least_scale(classes, 0.9, m)
    assert CrossEntropy()(head(w, s=reached, m=m)(w, target), target).item() == pytest.approx(-math.log(0.9), rel=1e-10)


@pytest.mark.oracle("published bound (C - 1) / C * ln((C - 1) P / (1 - P))")
def test_least_scale_is_the_papers():
    for classes, p in ((2, 0.9), (10, 0.99), (10_000, 0.999)):
        assert least_scale(classes, p) == pytest.approx((classes - 1) / classes * math.log((classes - 1) * p / (1 - p)))
    assert [round(least_scale(c), 1) for c in (10, 10_000, 1_000_000)] == [6.1, 13.8, 18.4]
    assert [round(least_scale(c, m=0.35), 1) for c in (10, 10_000, 1_000_000)] == [8.9, 21.2, 28.3]


def test_margin_raises_the_loss_at_the_start_by_s_times_m():
    """Features and classes at random: 512 wide, 1,000 classes."""
    made = CosFaceHead(512, 1000)
    x, label = torch.randn(400, 512), torch.randint(1000, (400,))
    value = CrossEntropy()(made(x, label), label).item()
    expected = 64 * 0.35 + math.log(1000) + 64**2 / (2 * 512)
    assert value == pytest.approx(expected, abs=0.5) and expected == pytest.approx(33.3, abs=0.05)


def test_directions_begin_at_length_one():
    torch.testing.assert_close(CosFaceHead(4096, 3).weight.norm(dim=1), torch.ones(3), atol=0.05, rtol=0)


def test_examples_without_a_class_have_no_margin_and_do_not_count():
    label = LABEL.clone()
    label[[1, 4]] = -100
    z = head()(X, label)
    torch.testing.assert_close(z[[1, 4]], head()(X)[[1, 4]])
    kept = label != -100
    torch.testing.assert_close(CrossEntropy()(z, label), CrossEntropy()(head()(X[kept], LABEL[kept]), LABEL[kept]))
    other = CosFaceHead(D, C, ignore_index=-1)
    assert torch.equal(other(X.float(), torch.full((N,), -1)), other(X.float()))
    value = CrossEntropy()(head()(X, torch.full((N,), -100)), torch.full((N,), -100))
    assert value.item() == 0 == CrossEntropy()(head()(X[:0], LABEL[:0]), LABEL[:0]).item()


def test_class_weights_and_reductions_are_those_of_cross_entropy():
    weight = torch.tensor([1.0, 2.0, 0.5, 3.0], dtype=torch.float64)
    z = head()(X, LABEL)
    for reduction in ("mean", "sum", "none"):
        torch.testing.assert_close(CrossEntropy(weight, reduction=reduction)(z, LABEL), F.cross_entropy(z, LABEL, weight, reduction=reduction))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_features_of_ten_thousand(dtype):
    """The sum of their squares overflows in 16 bits."""
    x = torch.full((2, 300), 1e4, dtype=dtype, requires_grad=True)
    made = CosFaceHead(300, 2)
    made.weight.data.fill_(-1e4)[0] *= -1
    label = torch.tensor([0, 1])
    z = made(x, label)
    assert z.dtype == torch.float32
    torch.testing.assert_close(z, torch.tensor([[64 * 0.65, -64.0], [64.0, -64 * 1.35]]), rtol=1e-4, atol=0)
    CrossEntropy()(z, label).backward()
    assert x.grad.isfinite().all() and made.weight.grad.isfinite().all()


def test_feature_of_zeros_has_no_direction_and_gets_no_gradient():
    x = torch.zeros(1, D, dtype=torch.float64, requires_grad=True)
    made = head()
    z = made(x, LABEL[:1])
    CrossEntropy()(z, LABEL[:1]).backward()
    assert z.tolist() == [[pytest.approx(-64 * 0.35), 0, 0, 0]]
    assert torch.equal(x.grad, torch.zeros_like(x)) and torch.equal(made.weight.grad, torch.zeros_like(W))


def test_margin_may_be_raised_during_training():
    made = head(m=0.0)
    before = made(X, LABEL)
    made.m = 0.2
    torch.testing.assert_close(before - made(X, LABEL), 64 * 0.2 * torch.eye(C, dtype=torch.float64)[LABEL])


def test_second_derivatives():
    made = head(s=4.0)
    assert torch.autograd.gradgradcheck(lambda x: CrossEntropy()(made(x, LABEL[:3]), LABEL[:3]), (X[:3].clone().requires_grad_(),))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CosFaceHead(0, C), "in_features=0 is not 1 or more"),
        (lambda: CosFaceHead(D, 0), "n_classes=0 is not 1 or more"),
        (lambda: CosFaceHead(D, C, s=0.0), "s=0.0 is not a finite number above 0"),
        (lambda: CosFaceHead(D, C, s=math.inf), "s=inf is not"),
        (lambda: CosFaceHead(D, C, m=-0.1), "m=-0.1 is not between 0 and 2"),
        (lambda: CosFaceHead(D, C, m=2.1), "m=2.1 is not between 0 and 2"),
        (lambda: head()(X[:, :3], LABEL), r"x has shape \(8, 3\); expected \(examples, in_features=5\)"),
        (lambda: head()(X, LABEL[:, None]), r"label has shape \(8, 1\); expected \(8,\)"),
        (lambda: head()(X, LABEL + 1), "label holds 4; expected 0 to 3, or -100 for none"),
        (lambda: head()(X, LABEL - 1), "label holds -1; expected 0 to 3, or -100 for none"),
        (lambda: least_scale(1), "n_classes=1 is not 2 or more"),
        (lambda: least_scale(3, 1.0), "probability=1.0 is not between 0 and 1"),
        (lambda: least_scale(3, 0.0), "probability=0.0 is not between 0 and 1"),
        (lambda: least_scale(3, m=1.5), "m=1.5 is not from 0 to below 1.5, the largest margin that 3 classes can have"),
        (lambda: least_scale(3, m=-0.1), "m=-0.1 is not from 0"),
    ],
)
def test_bad_values_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_smallest_sizes_and_largest_margin_are_allowed():
    made = CosFaceHead(1, 1, m=2.0)
    made.weight.data.fill_(3.0)
    assert made(torch.ones(1, 1), torch.zeros(1).long()).item() == -64
    assert made(torch.ones(1, 1), torch.tensor([-100])).item() == 64
    assert CosFaceHead(1, 1, m=0.0).m == 0 and least_scale(2, 0.5) == 0


def test_numpy_variant_agrees(agree):
    x, w, label = X.numpy(), W.numpy(), LABEL.numpy()
    agree(cosines(x, w), head(s=1.0)(X))
    agree(cosface(x, w, label), head()(X, LABEL))
    agree(cosface(x, w, label, 10.0, 0.1), head(s=10.0, m=0.1)(X, LABEL))


def test_numpy_variant_is_content_up_to_the_closed_form():
    """Centers at 50, 110 and 260 degrees: 60 between the first two."""
    border = 30 - math.degrees(math.asin(0.35))
    met, won = margins_met([50 + border - 0.01, 50 + border + 0.01, 79.9, 80.1], 0, lambda c: c - 0.35)
    assert met.tolist() == [True, False, False, False] and won.tolist() == [True, True, True, False]
