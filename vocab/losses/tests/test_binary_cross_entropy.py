import math

import pytest
import torch
from torch.nn import functional as F

from snippets.losses.binary_cross_entropy import bce, bce_slope, naive
from vocab.losses.binary_cross_entropy import BCEWithLogits
from vocab.losses.cross_entropy import CrossEntropy

LOGITS = 4 * torch.randn(6, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
SOFT = torch.rand(6, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
HARD = SOFT.round()
WEIGHT, POS_WEIGHT = torch.tensor([[0.5], [2.0], [0.0], [1.0], [3.0], [1.5]]).double(), torch.tensor([0.3, 1.0, 7.0]).double()


def example():
    """For the contract suite: a small instance and its inputs."""
    return BCEWithLogits(pos_weight=torch.tensor([2.0, 0.5])), (torch.randn(3, 2).double(), 0.1 + 0.8 * torch.rand(3, 2).double())


@pytest.mark.oracle("torch.nn.functional.binary_cross_entropy_with_logits")
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize(("weight", "pos_weight"), [(None, None), (WEIGHT, None), (None, POS_WEIGHT), (WEIGHT, POS_WEIGHT)])
def test_value_and_gradient_equal_pytorchs(weight, pos_weight, reduction):
    for target in (SOFT, HARD):
        pair = []
        for function in (BCEWithLogits(weight, pos_weight, reduction),
                         lambda z, y: F.binary_cross_entropy_with_logits(z, y, weight, reduction=reduction, pos_weight=pos_weight)):
            z = LOGITS.clone().requires_grad_()
            value = function(z, target)
            pair.append((value, *torch.autograd.grad(value.sum(), z)))
        torch.testing.assert_close(*pair, rtol=1e-12, atol=1e-14)


@pytest.mark.oracle("stable identity max(z, 0) - z y + log(1 + exp(-|z|))")
def test_equals_the_identity_that_never_overflows():
    z = torch.cat([torch.linspace(-40, 40, 101).double(), torch.tensor([-1000.0, 1000.0]).double()])
    for y in (0.0, 0.3, 1.0):
        expected = z.clamp(min=0) - z * y + torch.log1p(torch.exp(-z.abs()))
        torch.testing.assert_close(BCEWithLogits(reduction="none")(z, torch.full_like(z, y)), expected, rtol=1e-9, atol=1e-16)


@pytest.mark.oracle("gradient worked out: sigmoid(z) minus y")
def test_gradient_is_probability_minus_truth():
    z = LOGITS.clone().requires_grad_()
    BCEWithLogits(reduction="sum")(z, SOFT).backward()
    torch.testing.assert_close(z.grad, 1 / (1 + torch.exp(-LOGITS)) - SOFT, rtol=1e-11, atol=1e-14)


def test_two_classes_with_logits_zero_and_z_are_the_same_question():
    for target in (0, 1):
        z = LOGITS[:, 0]
        two = torch.stack([torch.zeros_like(z), z], 1)
        expected = CrossEntropy(reduction="none")(two, torch.full((6,), target))
        torch.testing.assert_close(BCEWithLogits(reduction="none")(z, torch.full_like(z, target)), expected)


@pytest.mark.parametrize("y", [0.1, 0.5, 0.8])
def test_the_best_answer_to_a_soft_target_is_the_target_and_costs_its_entropy(y):
    p = torch.linspace(0.001, 0.999, 999, dtype=torch.float64)
    losses = BCEWithLogits(reduction="none")(torch.logit(p), torch.full_like(p, y))
    assert p[losses.argmin()].item() == pytest.approx(y, abs=1e-9)
    assert losses.min().item() == pytest.approx(-y * math.log(y) - (1 - y) * math.log(1 - y))


@pytest.mark.parametrize("weight", [0.2, 9.0])
def test_pos_weight_shifts_the_best_logit_by_its_logarithm(weight):
    """So probabilities are wrong, and subtracting the logarithm from every logit mends them."""
    frequency, z = 0.1, torch.linspace(-6, 6, 120_001, dtype=torch.float64)
    losses = BCEWithLogits(pos_weight=torch.tensor(weight), reduction="none")(z, torch.full_like(z, frequency))
    best = z[losses.argmin()].item()
    assert best == pytest.approx(math.log(frequency / (1 - frequency)) + math.log(weight), abs=1e-4)
    if weight == 9.0:
        assert best == pytest.approx(0, abs=1e-4)  # negatives over positives: a balanced question


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_logits_of_ten_thousand_have_finite_losses_and_gradients(dtype):
    z = torch.tensor([1e4, -1e4, 1e4, -1e4], dtype=dtype, requires_grad=True)
    y = torch.tensor([1, 0, 0, 1], dtype=dtype)
    losses = BCEWithLogits(reduction="none")(z, y)
    assert losses.dtype == torch.float32
    torch.testing.assert_close(losses, torch.tensor([0, 0, 1e4, 1e4]), rtol=2e-3, atol=0)
    losses.sum().backward()
    torch.testing.assert_close(z.grad, torch.tensor([0, 0, 1, -1], dtype=dtype))
    assert BCEWithLogits(reduction="sum")(z.repeat(10), y.repeat(10)).item() == pytest.approx(2e5, rel=2e-3)  # more than 16 bits hold


def test_a_loss_of_probabilities_is_blind_where_it_is_most_wrong():
    """PyTorch's BCELoss clamps the logarithm at -100; the gradient through a saturated sigmoid is 0."""
    z = torch.tensor([-200.0], requires_grad=True)
    value = F.binary_cross_entropy(torch.sigmoid(z), torch.ones(1))
    value.backward()
    assert (value.item(), z.grad.item()) == (100.0, 0.0)
    ours = z.detach().requires_grad_()
    BCEWithLogits()(ours, torch.ones(1)).backward()
    assert ours.grad.item() == -1
    half = torch.sigmoid(torch.tensor([9.0], dtype=torch.float16))
    assert half.item() == 1, "in 16 bits a logit of 9 is certainty already"
    assert torch.sigmoid(torch.tensor([17.0])).item() == 1 != torch.sigmoid(torch.tensor([16.0])).item()


def test_the_mean_over_nothing_is_zero():
    z = torch.zeros(0, 3, requires_grad=True)
    value = BCEWithLogits()(z, torch.zeros(0, 3))
    value.backward()
    assert value.item() == 0 and F.binary_cross_entropy_with_logits(z, torch.zeros(0, 3)).isnan()


def test_second_derivatives():
    z, y = LOGITS[:2].clone().requires_grad_(), SOFT[:2]
    assert torch.autograd.gradgradcheck(lambda z: BCEWithLogits(pos_weight=POS_WEIGHT)(z, y), (z,))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(reduction="avg"), "reduction='avg' is not"),
        (dict(weight=torch.tensor([1.0, -2.0])), "weight holds -2.0; expected numbers of 0 or more"),
        (dict(pos_weight=torch.tensor([math.nan])), "pos_weight holds nan"),
    ],
)
def test_bad_options_say_which_and_why(options, message):
    with pytest.raises(ValueError, match=message):
        BCEWithLogits(**options)


@pytest.mark.parametrize(
    ("options", "target", "message"),
    [
        ({}, torch.zeros(4), r"target has shape \(4,\); expected that of logits, \(4, 2\)"),
        ({}, torch.full((4, 2), 255.0), "target holds 255.0; expected numbers from 0 to 1"),
        ({}, torch.full((4, 2), 1.5), "target holds 1.5"),
        ({}, torch.full((4, 2), -1.0), "target holds -1.0"),
        (dict(pos_weight=torch.ones(3)), torch.zeros(4, 2), r"pos_weight has shape \(3,\), which does not broadcast to that of logits, \(4, 2\)"),
        (dict(weight=torch.ones(1, 4, 2)), torch.zeros(4, 2), r"weight has shape \(1, 4, 2\), which does not"),
    ],
)
def test_bad_input_is_named(options, target, message):
    with pytest.raises(ValueError, match=message):
        BCEWithLogits(**options)(torch.zeros(4, 2), target)


def test_weights_of_size_one_and_zero_are_allowed():
    loss = BCEWithLogits(weight=torch.ones(1), pos_weight=torch.zeros(1), reduction="none")
    torch.testing.assert_close(loss(torch.zeros(2, 2), torch.eye(2)), math.log(2) * (1 - torch.eye(2)))


def test_targets_must_be_floats():
    for bad in (torch.zeros(3).long(), torch.zeros(3).bool()):
        with pytest.raises(TypeError, match="target has dtype"):
            BCEWithLogits()(torch.zeros(3), bad)
    with pytest.raises(TypeError, match="logits has dtype torch.int64"):
        BCEWithLogits()(torch.zeros(3).long(), torch.zeros(3))
    with pytest.raises(TypeError, match="pos_weight is a list"):
        BCEWithLogits(pos_weight=[1.0, 2.0])


def test_numpy_variant_agrees(agree):
    for weight in (1.0, 5.0):
        z = LOGITS.clone().requires_grad_()
        losses = BCEWithLogits(pos_weight=torch.tensor(weight), reduction="none")(z, SOFT)
        agree(bce(LOGITS.numpy(), SOFT.numpy(), weight), losses)
        agree(bce_slope(LOGITS.numpy(), SOFT.numpy(), weight), torch.autograd.grad(losses.sum(), z)[0])
    agree(naive(LOGITS.numpy(), HARD.numpy()), BCEWithLogits(reduction="none")(LOGITS, HARD))
