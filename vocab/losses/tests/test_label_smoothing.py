import math

import pytest
import torch
from torch.nn import functional as F

from snippets.losses.label_smoothing import gap, least, loss, push
from vocab.losses.label_smoothing import LabelSmoothingCrossEntropy, epsilon_over_all, least_loss, logit_gap, smoothed

LOGITS = 3 * torch.randn(6, 10, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
TARGET = torch.tensor([0, 9, 3, 3, 5, 7])


def example():
    """For the contract suite: a small instance and its inputs."""
    return LabelSmoothingCrossEntropy(), (torch.randn(4, 3).double(), torch.tensor([0, 2, -100, 1]))


@pytest.mark.oracle("torch.nn.functional.cross_entropy(label_smoothing)")
@pytest.mark.parametrize("epsilon", [0.0, 0.1, 0.5, 1.0])
def test_equals_pytorchs_option(epsilon):
    weight = torch.rand(10).double()
    target = torch.tensor([0, -1, 3, 3, 5, 7])
    for reduction in ("mean", "sum", "none"):
        ours = LabelSmoothingCrossEntropy(epsilon, weight, -1, reduction)(LOGITS, target)
        torch.testing.assert_close(ours, F.cross_entropy(LOGITS, target, weight, ignore_index=-1, label_smoothing=epsilon, reduction=reduction))


@pytest.mark.oracle("decomposition: (1 - epsilon) cross-entropy + epsilon times the mean of -log p over all classes")
def test_is_a_mixture_of_cross_entropy_and_a_pull_to_uniform():
    for epsilon in (0.0, 0.1, 0.7):
        log_p = LOGITS - LOGITS.exp().sum(1, keepdim=True).log()
        expected = (1 - epsilon) * -log_p[torch.arange(6), TARGET] - epsilon * log_p.mean(1)
        torch.testing.assert_close(LabelSmoothingCrossEntropy(epsilon, reduction="none")(LOGITS, TARGET), expected)


def test_is_cross_entropy_with_the_written_out_target():
    distribution = smoothed(TARGET, 10, 0.3)
    torch.testing.assert_close(distribution.sum(1), torch.ones(6))
    torch.testing.assert_close(distribution[0, :3], torch.tensor([0.73, 0.03, 0.03]))
    torch.testing.assert_close(LabelSmoothingCrossEntropy(0.3)(LOGITS, TARGET), F.cross_entropy(LOGITS, distribution.double()), rtol=1e-6, atol=0)
    assert smoothed(TARGET.view(2, 3), 10).shape == (2, 3, 10)


@pytest.mark.oracle("gradient descent on free logits")
@pytest.mark.parametrize(("classes", "epsilon", "published"), [(10, 0.1, math.log(91)), (5, 0.3, math.log(38 / 3)), (2, 0.5, math.log(3))])
def test_gradient_descent_stops_at_the_closed_form_gap(classes, epsilon, published):
    z = torch.linspace(-1, 1, classes, dtype=torch.float64)
    objective, target = LabelSmoothingCrossEntropy(epsilon), torch.tensor([1])
    for _ in range(700):
        z = z.detach().requires_grad_()
        objective(z[None], target).backward()
        z = z - 4 * z.grad
    others = torch.cat([z[:1], z[2:]])
    torch.testing.assert_close(z[1] - others, torch.full_like(others, logit_gap(classes, epsilon)), rtol=1e-6, atol=0)
    assert logit_gap(classes, epsilon) == pytest.approx(published, rel=1e-12)
    assert objective(z[None], target).item() == pytest.approx(least_loss(classes, epsilon), rel=1e-9)


def test_the_least_loss_is_the_entropy_of_the_target():
    for classes, epsilon in ((10, 0.1), (3, 0.5), (1000, 0.1)):
        entropy = torch.distributions.Categorical(smoothed(torch.tensor([0]), classes, epsilon).double()).entropy().item()
        assert least_loss(classes, epsilon) == pytest.approx(entropy, rel=1e-5)
    assert least_loss(10, 0.0) == 0 and least_loss(10, 1.0) == pytest.approx(math.log(10))
    assert least_loss(1000, 0.1) == pytest.approx(1.015, abs=1e-3)
    assert least_loss(10, 0.1) == pytest.approx(0.500, abs=1e-3)


def test_being_more_certain_costs_again():
    """Past the best gap the loss rises with epsilon times the other classes' share, as a straight line."""
    losses = [LabelSmoothingCrossEntropy(0.1)(torch.tensor([[g] + 9 * [0.0]]).double(), torch.tensor([0])).item() for g in (2, 4.51, 10, 30, 40)]
    assert losses[1] == min(losses)
    assert (losses[4] - losses[3]) / 10 == pytest.approx(0.1 * 9 / 10)


@pytest.mark.parametrize(("epsilon", "classes"), [(0.1, 10), (0.3, 4), (0.05, 2)])
def test_the_other_convention_puts_all_of_epsilon_on_the_wrong_classes(epsilon, classes):
    distribution = smoothed(torch.tensor([0]), classes, epsilon_over_all(epsilon, classes))[0]
    torch.testing.assert_close(distribution, torch.tensor([1 - epsilon] + [epsilon / (classes - 1)] * (classes - 1)))
    assert epsilon_over_all(epsilon, classes) > epsilon


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_logits_of_ten_thousand(dtype):
    z = torch.tensor([[1e4, -1e4]], dtype=dtype, requires_grad=True)
    value = LabelSmoothingCrossEntropy(0.1)(z, torch.tensor([0]))
    value.backward()
    assert value.item() == pytest.approx(0.05 * 2e4)
    torch.testing.assert_close(z.grad, torch.tensor([[0.05, -0.05]], dtype=dtype))


def test_nothing_to_learn_from_costs_nothing():
    assert LabelSmoothingCrossEntropy()(LOGITS, torch.full((6,), -100)).item() == 0


def test_defaults():
    rule = LabelSmoothingCrossEntropy()
    assert (rule.label_smoothing, rule.ignore_index, rule.reduction) == (0.1, -100, "mean")
    assert logit_gap(10) == logit_gap(10, 0.1) and least_loss(10) == least_loss(10, 0.1)
    assert torch.equal(smoothed(TARGET, 10), smoothed(TARGET, 10, 0.1))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LabelSmoothingCrossEntropy(1.1), "epsilon=1.1 is not between 0 and 1"),
        (lambda: LabelSmoothingCrossEntropy(-0.1), "epsilon=-0.1 is not"),
        (lambda: smoothed(TARGET, 10, 2.0), "epsilon=2.0 is not between 0 and 1"),
        (lambda: smoothed(TARGET, 9), "target holds 9; expected 0 to 8"),
        (lambda: logit_gap(10, 0.0), "epsilon=0.0 is not above 0"),
        (lambda: logit_gap(10, 1.5), "epsilon=1.5 is not above 0 and at most 1"),
        (lambda: least_loss(10, -1.0), "epsilon=-1.0 is not between 0 and 1"),
        (lambda: epsilon_over_all(0.9, 4), "epsilon=0.9 is not between 0 and 0.75"),
        (lambda: LabelSmoothingCrossEntropy()(LOGITS, TARGET[:3]), r"target has shape \(3,\); expected \(6,\)"),
    ],
)
def test_bad_values_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_largest_epsilon_of_the_other_convention_is_uniform():
    assert epsilon_over_all(0.75, 4) == 1
    assert logit_gap(4, 1.0) == 0


def test_numpy_variant_agrees(agree):
    for epsilon in (0.0, 0.1, 0.6):
        z = LOGITS[:1].clone().requires_grad_()
        value = LabelSmoothingCrossEntropy(epsilon)(z, TARGET[:1])
        agree(loss(LOGITS[0].numpy(), 0, epsilon), value)
        agree(push(LOGITS[0].numpy(), 0, epsilon), torch.autograd.grad(value, z)[0][0])
        agree(least(10, epsilon), torch.tensor(least_loss(10, epsilon)), rtol=1e-6)
    agree(gap(10, 0.1), torch.tensor(logit_gap(10, 0.1), dtype=torch.float64))
