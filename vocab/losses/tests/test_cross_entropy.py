import math
from itertools import product

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from snippets.losses.cross_entropy import cross_entropy, push
from vocab.losses.cross_entropy import CrossEntropy

C = 5
LOGITS = 3 * torch.randn(6, C, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
TARGET = torch.tensor([[0, 1], [4, -100], [2, 2], [-100, 3], [1, 0], [3, 4]])
SHARES = torch.softmax(torch.randn(6, C, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64), 1)
WEIGHT = torch.tensor([0.5, 2.0, 1.0, 0.1, 3.0], dtype=torch.float64)


def example():
    """For the contract suite: a small instance and its inputs."""
    return CrossEntropy(), (torch.randn(4, 3).double(), torch.tensor([0, 2, -100, 1]))


def value_and_slope(function, logits):
    z = logits.clone().requires_grad_()
    value = function(z)
    return value, torch.autograd.grad((value * torch.linspace(1, 2, value.numel()).view_as(value)).sum(), z)[0]


@pytest.mark.oracle("torch.nn.functional.cross_entropy")
@pytest.mark.parametrize(("weight", "smoothing", "reduction"), [*product((None, WEIGHT), (0.0, 0.3, 1.0), ("mean", "sum", "none"))])
@pytest.mark.parametrize("target", [TARGET, SHARES], ids=["classes", "probabilities"])
def test_value_and_gradient_equal_pytorchs(target, weight, smoothing, reduction):
    ours = CrossEntropy(weight, label_smoothing=smoothing, reduction=reduction)
    options = dict(weight=weight, label_smoothing=smoothing, reduction=reduction)
    for rows in (slice(None), slice(0, 1)):
        got = value_and_slope(lambda z: ours(z, target[rows]), LOGITS[rows])
        torch.testing.assert_close(got, value_and_slope(lambda z: F.cross_entropy(z, target[rows], **options), LOGITS[rows]),
                                   rtol=1e-12, atol=1e-12)


@pytest.mark.oracle("gradient worked out: softmax minus one-hot")
def test_gradient_is_probability_minus_truth_and_sums_to_zero():
    z = LOGITS[..., 0].clone().requires_grad_()
    target = TARGET[[0, 1, 2, 4, 4, 5], 0]
    CrossEntropy(reduction="sum")(z, target).backward()
    e = np.exp(z.detach().numpy())
    expected = e / e.sum(1, keepdims=True) - np.eye(C)[target]
    np.testing.assert_allclose(z.grad.numpy(), expected, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(z.grad.sum(1), torch.zeros(6).double())


@pytest.mark.parametrize("classes", [2, 10, 50_257])
def test_equal_logits_cost_the_logarithm_of_the_number_of_classes(classes):
    value = CrossEntropy()(torch.full((3, classes), 7.0).double(), torch.tensor([0, 1, classes - 1])).item()
    assert value == pytest.approx(math.log(classes), rel=1e-12)
    assert math.log(50_257) == pytest.approx(10.8, abs=0.05)


def test_a_constant_added_to_all_logits_changes_nothing():
    torch.testing.assert_close(CrossEntropy()(LOGITS + 1234.5, TARGET), CrossEntropy()(LOGITS, TARGET), rtol=1e-11, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_logits_of_ten_thousand_have_finite_losses_and_gradients(dtype):
    z = torch.tensor([[1e4, -1e4], [1e4, -1e4]], dtype=dtype, requires_grad=True)
    losses = CrossEntropy(reduction="none")(z, torch.tensor([0, 1]))
    assert losses.dtype == torch.float32
    torch.testing.assert_close(losses, torch.tensor([0.0, 2e4]), rtol=1e-2, atol=0)
    losses.sum().backward()
    torch.testing.assert_close(z.grad, torch.tensor([[0, 0], [1, -1]], dtype=dtype))


def test_a_sum_of_16_bit_losses_does_not_overflow():
    z = torch.tensor([[1e4, -1e4]] * 10, dtype=torch.float16)
    target = torch.ones(10).long()
    assert F.cross_entropy(z, target, reduction="sum").isinf()
    assert CrossEntropy(reduction="sum")(z, target).item() == pytest.approx(2e5)


def test_probabilities_of_an_impossible_class_may_be_zero():
    z = torch.tensor([[0.0, 0.0, -math.inf]], requires_grad=True)
    value = CrossEntropy()(z, torch.tensor([[0.5, 0.5, 0.0]]))
    value.backward()
    assert value.item() == pytest.approx(math.log(2))
    assert torch.equal(z.grad, torch.zeros(1, 3))
    assert CrossEntropy()(z, torch.tensor([[0.5, 0.4, 0.1]])).isinf()
    assert F.cross_entropy(z, torch.tensor([[0.5, 0.5, 0.0]])).isnan(), "0 times infinity"


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_nothing_to_learn_from_costs_nothing(smoothing):
    """PyTorch's mean is NaN here, which one step carries into all weights of a model whose loss adds this one to others."""
    z, none = LOGITS[..., 0].clone().requires_grad_(), torch.full((6,), -100)
    value = CrossEntropy(label_smoothing=smoothing)(z, none)
    value.backward()
    assert value.item() == 0 and torch.equal(z.grad, torch.zeros_like(z))
    assert F.cross_entropy(z, none).isnan()
    assert CrossEntropy()(z[:0], none[:0]).item() == 0 == CrossEntropy()(z[:0], z[:0]).item()


def test_ignored_rows_may_hold_anything_and_do_not_count():
    z = torch.cat([LOGITS[..., 0], torch.full((1, C), -math.inf).double()])
    target = torch.tensor([0, 1, 2, 3, 4, 255, 255])
    loss = CrossEntropy(ignore_index=255)
    torch.testing.assert_close(loss(z, target), loss(z[:5], target[:5]))
    assert torch.equal(CrossEntropy(ignore_index=255, reduction="none")(z, target)[5:], torch.zeros(2).double())


def test_the_weighted_mean_divides_by_the_weights_of_the_targets():
    z, target = LOGITS[:2, :, 0], torch.tensor([1, 3])
    each = CrossEntropy(reduction="none")(z, target)
    expected = (2.0 * each[0] + 0.1 * each[1]) / 2.1
    torch.testing.assert_close(CrossEntropy(WEIGHT)(z, target), expected)
    one = CrossEntropy(WEIGHT)(z[:1], target[:1])
    torch.testing.assert_close(one, each[0])  # a batch of one class does not feel its weight at all


def test_a_softmax_too_many_keeps_even_a_perfect_classifier_at_1_46():
    perfect = torch.eye(10)
    twice = CrossEntropy()(torch.softmax(1000 * perfect, 1), torch.arange(10)).item()
    assert twice == pytest.approx(math.log(1 + 9 / math.e), abs=1e-5) == pytest.approx(1.46, abs=5e-3)
    assert CrossEntropy()(1000 * perfect, torch.arange(10)).item() == 0


def test_logarithm_of_a_softmax_is_infinite_where_the_loss_is_100_or_more():
    z = torch.tensor([[0.0, 120.0]])
    assert -torch.softmax(z, 1).log()[0, 0] == math.inf
    assert CrossEntropy()(z, torch.tensor([0])).item() == pytest.approx(120)


def test_second_derivatives():
    z = LOGITS[:2, :3].clone().requires_grad_()
    for loss in (CrossEntropy(label_smoothing=0.2), CrossEntropy(WEIGHT[:3])):
        assert torch.autograd.gradgradcheck(lambda z: loss(z, torch.tensor([[0, 1], [2, -100]])), (z,))


def test_class_numbers_may_be_of_any_integer_dtype():
    expected = CrossEntropy()(LOGITS, TARGET)
    for dtype in (torch.int32, torch.int16):
        assert torch.equal(CrossEntropy()(LOGITS, TARGET.to(dtype)), expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(reduction="avg"), "reduction='avg' is not 'mean', 'sum' or 'none'"),
        (dict(label_smoothing=1.1), "label_smoothing=1.1 is not between 0 and 1"),
        (dict(label_smoothing=-0.1), "label_smoothing=-0.1 is not"),
        (dict(weight=torch.tensor([1.0, -2.0])), "weight holds -2.0; expected numbers of 0 or more"),
        (dict(weight=torch.ones(2, 2)), r"weight has shape \(2, 2\); expected \(classes\)"),
    ],
)
def test_bad_options_say_which_and_why(options, message):
    with pytest.raises(ValueError, match=message):
        CrossEntropy(**options)


@pytest.mark.parametrize(
    ("logits", "target", "error", "message"),
    [
        (torch.zeros(3), torch.zeros(3).long(), ValueError, r"logits has shape \(3,\); expected \(N, C\) or \(N, C, \.\.\.\)"),
        (torch.zeros(3, 0), torch.zeros(3).long(), ValueError, r"logits has shape \(3, 0\)"),
        (torch.zeros(3, 4), torch.zeros(3, 1).long(), ValueError, r"target has shape \(3, 1\); expected \(3,\)"),
        (torch.zeros(3, 4), torch.tensor([0, 4, 1]), ValueError, "target holds 4; expected 0 to 3, or -100 for none"),
        (torch.zeros(3, 4), torch.tensor([0, -1, 1]), ValueError, "target holds -1; expected 0 to 3"),
        (torch.zeros(3, 4), torch.zeros(3, 5), ValueError, r"target has shape \(3, 5\); expected that of logits, \(3, 4\)"),
        (torch.zeros(3, 4), torch.zeros(3), TypeError, "target has dtype torch.float32; expected an integer dtype"),
        (torch.zeros(3, 4).long(), torch.zeros(3).long(), TypeError, "logits has dtype torch.int64"),
    ],
)
def test_bad_input_is_named(logits, target, error, message):
    with pytest.raises(error, match=message):
        CrossEntropy()(logits, target)


def test_weights_of_another_number_of_classes_are_refused():
    with pytest.raises(ValueError, match="weight has 5 classes; logits has 4"):
        CrossEntropy(WEIGHT)(torch.zeros(3, 4), torch.zeros(3).long())


def test_weights_follow_the_module_and_its_logits():
    loss = CrossEntropy(WEIGHT)
    assert loss.state_dict().keys() == {"weight"}
    torch.testing.assert_close(loss(LOGITS.float(), TARGET), loss(LOGITS, TARGET).float())


@pytest.mark.interp
@pytest.mark.parametrize(("weight", "smoothing", "reduction"), [(None, 0.0, "mean"), (None, 0.3, "sum"), (WEIGHT, 0.0, "mean"), (WEIGHT, 0.0, "none")])
def test_kernel_agrees(weight, smoothing, reduction, kernel_agrees):
    loss, z = CrossEntropy(weight, label_smoothing=smoothing, reduction=reduction), LOGITS.clone().requires_grad_()
    kernel_agrees("cross_entropy", lambda _: loss(z, TARGET), (z,), module=loss, atol=1e-15)


@pytest.mark.interp
def test_kernel_says_what_it_does_not_take():
    pytest.importorskip("triton")
    from vocab.kernels.interpret import interpreting

    with interpreting():
        with pytest.raises(RuntimeError, match="target holds probabilities; backend='torch' computes the same"):
            CrossEntropy(backend="triton")(LOGITS, SHARES)
        with pytest.raises(RuntimeError, match="label smoothing has class weights"):
            CrossEntropy(WEIGHT, label_smoothing=0.1, backend="triton")(LOGITS, TARGET)


def test_numpy_variant_agrees(agree):
    z, target = LOGITS[..., 0].clone().requires_grad_(), TARGET[[0, 1, 2, 4, 4, 5], 0]
    for weight in (None, WEIGHT):
        losses = CrossEntropy(weight, reduction="none")(z, target)
        agree(cross_entropy(z.detach().numpy(), target.numpy(), None if weight is None else weight.numpy()), losses)
    (slope,) = torch.autograd.grad(CrossEntropy(reduction="sum")(z, target), z)
    agree(push(z.detach().numpy(), target.numpy()), slope)


def test_with_one_class_nothing_can_be_wrong():
    assert CrossEntropy()(torch.randn(3, 1), torch.tensor([0, -100, 0])).item() == 0
