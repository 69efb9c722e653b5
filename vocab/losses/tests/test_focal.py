import math

import pytest
import torch
from torch.nn import functional as F

from snippets.losses.focal import focal, focal_slope
from vocab.losses.focal import FocalLoss, prior_bias

LOGITS = torch.linspace(-12, 12, 481, dtype=torch.float64)


def example():
    """For the contract suite: a small instance and its inputs."""
    return FocalLoss(), (torch.randn(3, 4).double(), torch.rand(3, 4).round().double())


def cost(p_true, **options):
    """The loss of one positive element to which the model gives the probability ``p_true``."""
    p = torch.tensor([p_true], dtype=torch.float64)
    return FocalLoss(**options)(torch.logit(p), torch.ones_like(p)).item()


@pytest.mark.oracle("closed form of the gradient (paper, appendix)")
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0, 5.0])
def test_gradient_is_the_papers_formula(gamma):
    for sign, target in ((1, torch.ones_like(LOGITS)), (-1, torch.zeros_like(LOGITS))):
        x = LOGITS.clone().requires_grad_()
        FocalLoss(None, gamma, reduction="sum")(x, target).backward()
        p = torch.sigmoid(sign * LOGITS)
        expected = sign * (1 - p) ** gamma * (gamma * p * p.log() + p - 1)
        torch.testing.assert_close(x.grad, expected, rtol=1e-9, atol=1e-13)


@pytest.mark.oracle("torch.nn.functional.binary_cross_entropy_with_logits")
def test_gamma_zero_and_alpha_one_half_is_half_of_cross_entropy():
    logits, target = torch.randn(6, 2, 3).double(), torch.rand(6, 2, 3).round().double()
    for reduction in ("mean", "sum", "none"):
        reference = F.binary_cross_entropy_with_logits(logits, target, reduction=reduction)
        torch.testing.assert_close(FocalLoss(0.5, 0.0, reduction)(logits, target), reference / 2)
        torch.testing.assert_close(FocalLoss(None, 0.0, reduction)(logits, target), reference)


@pytest.mark.oracle("published factors: 100 at p_t = 0.9, about 1000 at p_t = 0.968")
def test_a_solved_example_costs_a_hundredth():
    assert -math.log(0.9) / cost(0.9, alpha=None) == pytest.approx(100, rel=1e-12)
    assert -math.log(0.968) / cost(0.968, alpha=None) == pytest.approx(1000, rel=0.03)
    assert -math.log(0.5) / cost(0.5, alpha=None) == pytest.approx(4, rel=1e-12)


def test_defaults_are_those_of_retinanet():
    loss = FocalLoss()
    assert (loss.alpha, loss.gamma, loss.reduction) == (0.25, 2.0, "mean")
    assert cost(0.5) == pytest.approx(0.25 * 0.25 * math.log(2))


def test_positive_and_negative_elements_swap_with_the_sign_and_the_weight():
    target = torch.rand(481).round().double()
    torch.testing.assert_close(FocalLoss(0.25, reduction="none")(LOGITS, target),
                               FocalLoss(0.75, reduction="none")(-LOGITS, 1 - target))


def test_a_soft_target_is_the_expectation_over_labels():
    soft = torch.linspace(0, 1, 481, dtype=torch.float64)
    loss = FocalLoss(0.3, 1.5, reduction="none")
    expected = soft * loss(LOGITS, torch.ones_like(soft)) + (1 - soft) * loss(LOGITS, torch.zeros_like(soft))
    torch.testing.assert_close(loss(LOGITS, soft), expected)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_certain_elements_have_finite_gradients(gamma):
    """(1 - p)**gamma through pow gives NaN here for gamma below 1."""
    x = torch.tensor([-1000.0, -100.0, 100.0, 1000.0], requires_grad=True)
    target = torch.tensor([0.0, 1.0, 1.0, 0.0])
    value = FocalLoss(None, gamma, reduction="sum")(x, target)
    value.backward()
    assert value.item() == pytest.approx(1100)
    torch.testing.assert_close(x.grad, torch.tensor([0.0, -1.0, 0.0, 1.0]))

    naive = x.detach().clone().requires_grad_()
    p = torch.sigmoid(naive)
    p_t = p * target + (1 - p) * (1 - target)
    (F.binary_cross_entropy_with_logits(naive, target, reduction="none") * (1 - p_t) ** gamma).sum().backward()
    assert naive.grad.isnan().any().item() is (0 < gamma < 1)


def test_formula_without_class_weight_and_with_p_of_class_one_is_wrong_for_background():
    """Erratum: -(1 - p)**gamma log p with p the model's output punishes background for being recognised."""
    p = torch.tensor([0.01, 0.1, 0.5, 0.9], dtype=torch.float64)
    copied = -((1 - p) ** 2) * p.log()
    right = FocalLoss(reduction="none")(torch.logit(p), torch.zeros_like(p))
    assert (copied.diff() < 0).all(), "the better background is recognised, the more it costs"
    assert (right.diff() > 0).all()
    torch.testing.assert_close(right, -0.75 * p**2 * (1 - p).log())


def test_alpha_below_one_half_lowers_the_rare_class():
    assert cost(0.3, alpha=0.25) == pytest.approx(cost(0.3, alpha=0.75) / 3)
    positive, negative = (FocalLoss()(torch.zeros(1), torch.tensor([t])) for t in (1.0, 0.0))
    assert negative / positive == pytest.approx(3)


def test_prior_bias_starts_every_anchor_at_the_prior():
    assert 1 / (1 + math.exp(-prior_bias())) == pytest.approx(0.01)
    assert 1 / (1 + math.exp(-prior_bias(0.2))) == pytest.approx(0.2)


def test_prior_bias_silences_a_hundred_thousand_background_anchors():
    anchors = torch.zeros(100_000, dtype=torch.float64)
    total = FocalLoss(reduction="sum")
    assert total(anchors, anchors).item() == pytest.approx(12_997, abs=1)
    assert total(anchors + prior_bias(), anchors).item() == pytest.approx(0.0754, abs=1e-4)
    assert total(torch.tensor([prior_bias()]), torch.ones(1)).item() == pytest.approx(1.13, abs=5e-3)


@pytest.mark.parametrize(("frequency", "learned"), [(0.5, 0.5), (0.9, 0.694), (0.99, 0.846)])
def test_what_it_learns_is_no_probability_but_can_be_turned_into_one(frequency, learned):
    """The output that minimises the loss when a share of the targets is positive."""
    outputs = torch.linspace(1e-4, 1 - 1e-4, 99_999, dtype=torch.float64)
    expected = FocalLoss(None, 2.0, reduction="none")(torch.logit(outputs), torch.full_like(outputs, frequency))
    p = outputs[expected.argmin()].item()
    assert p == pytest.approx(learned, abs=1e-3)
    for_positive = (1 - p) ** 2 * (1 - p - 2 * p * math.log(p))
    for_negative = p**2 * (p - 2 * (1 - p) * math.log(1 - p))
    assert for_negative / (for_positive + for_negative) == pytest.approx(frequency, abs=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(alpha=1.2), "alpha=1.2 is not between 0 and 1"),
        (dict(alpha=-1.0), "alpha=-1.0 is not between 0 and 1"),
        (dict(gamma=-0.5), "gamma=-0.5 is not 0 or more"),
        (dict(gamma=math.nan), "gamma=nan"),
        (dict(reduction="avg"), "reduction='avg' is not 'mean', 'sum' or 'none'"),
    ],
)
def test_bad_options_say_which_and_why(arguments, message):
    with pytest.raises(ValueError, match=message):
        FocalLoss(**arguments)


def test_extreme_options_are_allowed():
    for alpha in (0.0, 1.0):
        assert FocalLoss(alpha, 0.0)(torch.zeros(2), torch.tensor([0.0, 1.0])).item() == pytest.approx(math.log(2) / 2)


@pytest.mark.parametrize("prior", [0.0, 1.0, -0.1, 2.0])
def test_bad_prior_is_named(prior):
    with pytest.raises(ValueError, match=f"prior={prior} is not between 0 and 1"):
        prior_bias(prior)


def test_each_argument_must_be_a_float_tensor():
    x = torch.zeros(3)
    for logits, target, message in [([0.0], x, "logits is a list"), (x, [0.0], "target is a list"),
                                    (x.long(), x, "logits has dtype torch.int64"),
                                    (x, x.bool(), "target has dtype torch.bool")]:
        with pytest.raises(TypeError, match=message):
            FocalLoss()(logits, target)


def test_shapes_are_not_broadcast():
    with pytest.raises(ValueError, match=r"target has shape \(4, 1\); expected that of logits, \(4,\)"):
        FocalLoss()(torch.zeros(4), torch.zeros(4, 1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_sum_of_16_bit_losses_does_not_overflow(dtype):
    x = torch.full((10,), -1e4, dtype=dtype, requires_grad=True)
    value = FocalLoss(None, 2.0, "sum")(x, torch.ones(10, dtype=dtype))
    value.backward()
    assert value.dtype == torch.float32 and value.item() == pytest.approx(1e5, rel=2e-3)
    assert torch.equal(x.grad, torch.full((10,), -1.0, dtype=dtype))


def test_the_mean_over_nothing_is_zero():
    assert FocalLoss()(torch.zeros(0, 3), torch.zeros(0, 3)).item() == 0


@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2.0), (0.7, 0.5), (0.5, 0.0)])
def test_numpy_variant_agrees(agree, alpha, gamma):
    x = LOGITS.clone().requires_grad_()
    module = FocalLoss(alpha, gamma, reduction="none")(x, torch.ones_like(x))
    (slope,) = torch.autograd.grad(module.sum(), x)
    agree(focal(LOGITS.numpy(), alpha, gamma), module)
    agree(focal_slope(LOGITS.numpy(), alpha, gamma), slope)
    background = FocalLoss(alpha, gamma, reduction="none")(-LOGITS, torch.zeros_like(LOGITS))
    agree(focal(LOGITS.numpy(), 1 - alpha, gamma), background)


@pytest.mark.oracle("transformers sigmoid_focal_loss (as in DETR and torchvision)")
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("alpha", [0.0, 0.25, 0.9, 1.0, None])
def test_equals_the_loss_of_detection_libraries(alpha, gamma):
    library = pytest.importorskip("transformers.loss.loss_for_object_detection").sigmoid_focal_loss
    for target in (torch.zeros_like(LOGITS), torch.ones_like(LOGITS)):
        ours = FocalLoss(alpha, gamma, reduction="none")(LOGITS, target)
        # one element at a time, as the library reduces; it writes "no alpha" as a negative number
        weight = -1 if alpha is None else alpha
        theirs = [library(x.view(1, 1), t.view(1, 1), 1, weight, gamma) for x, t in zip(LOGITS, target)]
        torch.testing.assert_close(ours, torch.stack(theirs), rtol=1e-9, atol=1e-15)


@pytest.mark.oracle("pytorch_optimizer.loss.FocalLoss (no class weight)")
def test_mean_without_class_weight_equals_a_second_library():
    library = pytest.importorskip("pytorch_optimizer.loss").FocalLoss
    logits, target = torch.randn(5, 7).double() * 3, torch.rand(5, 7).round().double()
    torch.testing.assert_close(FocalLoss(None, 2.0)(logits, target), library(alpha=1.0, gamma=2.0)(logits, target))
