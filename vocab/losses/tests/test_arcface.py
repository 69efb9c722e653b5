import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from snippets.losses.arcface import arcface, turned
from snippets.losses.cosface import at, margins_met
from vocab.losses.arcface import ArcFaceHead
from vocab.losses.cosface import CosFaceHead
from vocab.losses.cross_entropy import CrossEntropy

N, D, C = 8, 5, 4
G = torch.Generator().manual_seed(3)
X = torch.randn(N, D, generator=G, dtype=torch.float64)
W = 3 * torch.randn(C, D, generator=G, dtype=torch.float64)
LABEL = torch.tensor([0, 3, 1, 1, 2, 0, 3, 2])
ANGLES = np.linspace(0.3, 179.7, 300)  # degrees


def example():
    """For the contract suite: a small instance and its inputs."""
    return ArcFaceHead(3, 4).double(), (torch.randn(5, 3).double(), torch.tensor([0, 3, -100, 1, 1]))


def head(w=W, **options):
    made = ArcFaceHead(w.shape[1], len(w), **options).double()
    made.weight.data.copy_(w)
    return made


def truth_at(degrees, **options):
    """The logit of the truth, divided by s, of features so many degrees from their class; and the features."""
    x = torch.from_numpy(at(np.atleast_1d(np.asarray(degrees, float)))).requires_grad_()
    made = head(torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64), **options)
    return made(x, torch.zeros(len(x)).long())[:, 0] / made.s, x


@pytest.mark.oracle("math.acos: s * cos(angle + m), one logit at a time")
@pytest.mark.parametrize("m", [0.1, 0.5, 0.9])
def test_truth_is_seen_from_an_angle_larger_by_the_margin(m):
    found = head(s=20.0, m=m)(X, LABEL)
    for i in range(N):
        for c in range(C):
            cosine = (X[i] @ W[c] / X[i].norm() / W[c].norm()).item()
            angle = math.acos(cosine)
            if c == LABEL[i]:
                assert angle + m < math.pi
                angle += m
                assert found[i, c].item() == pytest.approx(20 * (cosine * math.cos(m) - math.sqrt(1 - cosine**2) * math.sin(m)), rel=1e-9)
            assert found[i, c].item() == pytest.approx(20 * math.cos(angle), rel=1e-9)


@pytest.mark.oracle("geometry: the class's direction turned away by m within its plane with the feature")
def test_margin_turns_the_class_away_from_the_feature():
    m, s = 0.5, 64.0
    expected = []
    for x, truth in zip(X, LABEL):
        u = x / x.norm()
        logits = [s * (u @ w / w.norm()) for w in W]
        w = W[truth] / W[truth].norm()
        away = w * (u @ w) - u  # in the plane, at a right angle to w, pointing away from u
        away = away - (away @ w) * w
        logits[truth] = s * (u @ (math.cos(m) * w + math.sin(m) * away / away.norm()))
        expected.append(torch.stack(logits))
    x, y = X.clone().requires_grad_(), torch.stack(expected)
    torch.testing.assert_close(head(s=s, m=m)(x, LABEL), y, rtol=1e-10, atol=1e-10)


@pytest.mark.oracle("torch.acos and torch.cos, with autograd")
@pytest.mark.parametrize("m", [0.05, 0.5, 1.4])
def test_value_and_gradients_equal_those_through_the_arc_cosine(m):
    x, y = X.clone().requires_grad_(), X.clone().requires_grad_()
    ours, w = head(s=30.0, m=m), W.clone().requires_grad_()
    value = CrossEntropy()(ours(x, LABEL), LABEL)
    cosine = F.normalize(y, dim=1) @ F.normalize(w, dim=1).T
    margin = m * F.one_hot(LABEL, C).double()
    beyond = (cosine.acos() + margin > math.pi) & (margin > 0)
    logits = torch.where(beyond, cosine - m * math.sin(m), torch.cos(cosine.acos() + margin))
    expected = F.cross_entropy(30 * logits, LABEL)
    value.backward()
    expected.backward()
    torch.testing.assert_close([value, x.grad, ours.weight.grad], [expected, y.grad, w.grad], rtol=1e-9, atol=1e-11)


def test_defaults_are_those_of_the_paper():
    made = ArcFaceHead(D, C)
    assert (made.s, made.m, made.easy_margin, made.ignore_index) == (64.0, 0.5, False, -100)
    assert math.degrees(made.m) == pytest.approx(28.6, abs=0.05)


@pytest.mark.oracle("torch.nn.functional.cross_entropy of cosine similarities")
@pytest.mark.parametrize("easy", [False, True])
def test_without_a_margin_it_is_the_normalized_softmax(easy):
    expected = F.cross_entropy(64 * F.cosine_similarity(X[:, None], W, dim=-1), LABEL)
    torch.testing.assert_close(CrossEntropy()(head(m=0.0, easy_margin=easy)(X, LABEL), LABEL), expected)
    torch.testing.assert_close(head()(X), 64 * F.cosine_similarity(X[:, None], W, dim=-1))


def test_lengths_of_features_and_weights_do_not_count():
    lengths = torch.tensor([1e-3, 0.1, 1, 2, 5, 10, 100, 1e4], dtype=torch.float64)[:, None]
    torch.testing.assert_close(head()(lengths * X, LABEL), head()(X, LABEL))
    torch.testing.assert_close(head(lengths[:C] * W)(X, LABEL), head()(X, LABEL))


@pytest.mark.oracle("bisection for the border of two classes")
@pytest.mark.parametrize("apart", [30.0, 60.0, 90.0, 150.0])
def test_gap_between_two_classes_is_the_margin_however_far_apart_they_are(apart):
    made = head(torch.from_numpy(at(np.array([0.0, apart]))))
    low, high = 0.0, apart
    for _ in range(60):
        middle = (low + high) / 2
        z = made(torch.from_numpy(at(np.array([middle]))), torch.tensor([0]))[0]
        low, high = (middle, high) if z[0] > z[1] else (low, middle)
    assert apart - 2 * low == pytest.approx(math.degrees(0.5), abs=1e-9)


def test_arcface_and_cosface_are_different_margins():
    """Erratum: one is constant in angle, one in cosine. Their usual margins open the same gap only between classes at right angles."""
    cosface = CosFaceHead(D, C).double()
    cosface.weight.data.copy_(W)
    assert not torch.isclose(head()(X, LABEL), cosface(X, LABEL)).all()

    def gap(apart, m):
        return 2 * math.degrees(math.asin(m / (2 * math.sin(math.radians(apart / 2)))))

    assert gap(90, 0.35) == pytest.approx(math.degrees(0.5), abs=0.02)
    assert gap(60, 0.35) == pytest.approx(41, abs=0.1) and gap(150, 0.35) == pytest.approx(20.9, abs=0.1)
    cost = math.cos(0) - truth_at(1e-6)[0].item(), math.cos(math.pi / 2) - truth_at(90.0)[0].item()
    assert cost == (pytest.approx(1 - math.cos(0.5), abs=1e-6), pytest.approx(math.sin(0.5)))
    assert cost == (pytest.approx(0.122, abs=1e-3), pytest.approx(0.479, abs=1e-3))  # CosFace takes 0.35 from both


@pytest.mark.parametrize("m", [0.05, 0.5, 1.0, math.pi / 2])
def test_truths_logit_falls_with_the_angle_all_the_way(m):
    values = truth_at(ANGLES, m=m)[0]
    assert (values.diff() < 0).all()
    unmended = torch.cos(torch.deg2rad(torch.from_numpy(ANGLES)) + m)
    inside = torch.from_numpy(ANGLES) < 180 - math.degrees(m)
    torch.testing.assert_close(values[inside], unmended[inside])
    assert (unmended[~inside].diff() > 0).all(), "what would be rewarded without the fallback: facing away"
    torch.testing.assert_close(values[~inside], torch.cos(torch.deg2rad(torch.from_numpy(ANGLES)))[~inside] - m * math.sin(m))


def test_fallback_drops_at_its_threshold():
    before, after = truth_at([180 - math.degrees(0.5) - 1e-6, 180 - math.degrees(0.5) + 1e-6])[0].tolist()
    assert before == pytest.approx(-1, abs=1e-6)
    assert after == pytest.approx(-math.cos(0.5) - 0.5 * math.sin(0.5), abs=1e-6) == pytest.approx(-1.117, abs=1e-3)


def test_easy_margin_spares_features_beyond_a_right_angle_and_jumps_up_there():
    angles = torch.from_numpy(ANGLES)
    easy, full = truth_at(ANGLES, easy_margin=True)[0], truth_at(ANGLES)[0]
    torch.testing.assert_close(easy[angles > 90], torch.cos(torch.deg2rad(angles[angles > 90])))
    torch.testing.assert_close(easy[angles < 90], full[angles < 90])
    before, after = truth_at([89.9999, 90.0001], easy_margin=True)[0].tolist()
    assert after - before == pytest.approx(math.sin(0.5), abs=1e-4)
    at_right_angle = torch.tensor([[0.0, 1.0]], dtype=torch.float64)
    assert head(torch.eye(2).double(), easy_margin=True)(at_right_angle, torch.tensor([0]))[0, 0] == 0


@pytest.mark.oracle("closed form: the pull toward the class is s sin(angle + m), CosFace's s sin(angle)")
def test_pull_does_not_fade_close_to_the_class():
    for degrees in (0.01, 1.0, 30.0, 90.0, 150.0):
        value, x = truth_at(degrees)
        value.sum().backward()
        assert x.grad.norm().item() == pytest.approx(math.sin(math.radians(degrees) + 0.5), rel=1e-6)
        side = torch.from_numpy(at(np.array([degrees - 90])))  # the direction of a smaller angle
        assert (x.grad * side).sum() > 0
    assert math.sin(0.5) == pytest.approx(0.479, abs=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_feature_on_its_class_has_a_finite_gradient(dtype):
    """Through an arc cosine it is NaN, and through the root of 1 - cosine**2 as well."""
    eye = torch.eye(3, dtype=dtype)
    made = ArcFaceHead(3, 3).to(dtype)
    for sign in (1, -1):
        made.weight.data.copy_(eye)
        x = (sign * eye).requires_grad_()
        CrossEntropy()(made(x, torch.arange(3)), torch.arange(3)).backward()
        assert x.grad.isfinite().all() and made.weight.grad.isfinite().all()

    for sine in (lambda c: torch.sin(c.acos()), lambda c: (1 - c.square()).sqrt()):
        x = eye[:1].clone().requires_grad_()
        cosine = F.normalize(x, dim=1)[0, 0]
        (cosine * math.cos(0.5) - sine(cosine) * math.sin(0.5)).backward()
        assert x.grad.isnan().any()


def test_small_angles_survive_32_bits():
    """1 - cosine**2 of a ten-thousandth of a radian is a rounding error."""
    made = ArcFaceHead(2, 1, s=1.0, m=math.pi / 2)  # cos(angle + pi/2) is minus the sine
    made.weight.data.copy_(torch.tensor([[1.0, 0.0]]))
    x = torch.tensor([[1.0, 1e-4]])
    assert -made(x, torch.tensor([0])).item() == pytest.approx(1e-4, rel=1e-3)
    cosine = F.normalize(x, dim=1)[0, 0]
    assert (1 - cosine.square()).item() == 0


def test_margin_added_without_a_gradient_trains_with_cosfaces_pull():
    """Codes that turn the angle under no_grad have ArcFace's value; the slope by the cosine stays 1."""
    cosine = torch.tensor([0.3, 0.9], dtype=torch.float64, requires_grad=True)
    logit = cosine * 1.0
    with torch.no_grad():
        logit.acos_().add_(0.5).cos_()
    np.testing.assert_allclose(logit.detach(), turned(cosine.detach().numpy(), 0.5))
    logit.sum().backward()
    assert torch.equal(cosine.grad, torch.ones(2).double())


@pytest.mark.parametrize(("classes", "expected"), [(1000, 41.6), (10_000, 43.9)])
def test_loss_at_the_start_is_far_above_the_logarithm_of_the_classes(classes, expected):
    """Features and classes at random, 512 wide: s sin m + ln C + s**2 / (2 D)."""
    made = ArcFaceHead(512, classes)
    x, label = torch.randn(200, 512), torch.randint(classes, (200,))
    assert 64 * math.sin(0.5) + math.log(classes) + 64**2 / 1024 == pytest.approx(expected, abs=0.06)
    assert CrossEntropy()(made(x, label), label).item() == pytest.approx(expected, abs=0.6)


def test_margin_in_degrees_is_refused():
    with pytest.raises(ValueError, match="m=28.6 is not between 0 and pi/2: the margin is in radians"):
        ArcFaceHead(D, C, m=28.6)
    for m in (-0.1, 1.6, math.nan):
        with pytest.raises(ValueError, match=f"m={m} is not"):
            ArcFaceHead(D, C, m=m)
    with pytest.raises(ValueError, match="s=-1.0 is not a finite number above 0"):
        ArcFaceHead(D, C, s=-1.0)
    with pytest.raises(ValueError, match="label holds 4; expected 0 to 3, or -1 for none"):
        head(ignore_index=-1)(X, LABEL + 1)
    assert ArcFaceHead(D, C, m=math.pi / 2).m and ArcFaceHead(D, C, m=0.0).m == 0.0


def test_examples_without_a_class_have_no_margin():
    label = LABEL.clone()
    label[[0, 5]] = -1
    z = head(ignore_index=-1)(X, label)
    torch.testing.assert_close(z[[0, 5]], head()(X)[[0, 5]])
    torch.testing.assert_close(z[1:5], head()(X, LABEL)[1:5])
    assert head()(X[:0], LABEL[:0]).shape == (0, C)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_features_of_ten_thousand(dtype):
    x = torch.full((2, 300), 1e4, dtype=dtype, requires_grad=True)
    made, label = ArcFaceHead(300, 2), torch.tensor([0, 1])
    made.weight.data.fill_(-1e4)[0] *= -1
    z = made(x, label)
    own = math.cos(0.5), -1 - 0.5 * math.sin(0.5)
    torch.testing.assert_close(z, 64 * torch.tensor([[own[0], -1], [1, own[1]]]), rtol=1e-4, atol=0)
    CrossEntropy()(z, label).backward()
    assert x.grad.isfinite().all() and made.weight.grad.isfinite().all()


def test_feature_of_zeros_has_no_direction_and_gets_no_gradient():
    x = torch.zeros(1, D, dtype=torch.float64, requires_grad=True)
    CrossEntropy()(head()(x, LABEL[:1]), LABEL[:1]).backward()
    assert torch.equal(x.grad, torch.zeros_like(x))


@pytest.mark.parametrize("easy", [False, True])
def test_second_derivatives(easy):
    made = head(s=4.0, easy_margin=easy)
    assert torch.autograd.gradgradcheck(lambda x: CrossEntropy()(made(x, LABEL[:3]), LABEL[:3]), (X[:3].clone().requires_grad_(),))


def test_numpy_variant_agrees(agree):
    for s, m in ((64.0, 0.5), (10.0, 1.2)):
        agree(arcface(X.numpy(), W.numpy(), LABEL.numpy(), s, m), head(s=s, m=m)(X, LABEL))
    agree(arcface(X.numpy(), W.numpy(), LABEL.numpy()), head()(X, LABEL))
    agree(turned(np.cos(np.radians(ANGLES)), 0.7), truth_at(ANGLES, m=0.7)[0])


def test_numpy_variant_is_content_up_to_half_the_margin_before_the_middle():
    border = 30 - math.degrees(0.5) / 2
    met, won = margins_met([50 + border - 0.01, 50 + border + 0.01], 0, lambda c: turned(c, 0.5))
    assert met.tolist() == [True, False] and won.all()
