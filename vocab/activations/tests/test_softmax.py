import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from snippets import ops
from snippets.activations import softmax as numpy_variant
from vocab.activations.softmax import Softmax, softmax

D = torch.float64


def example():
    """For the contract suite: the function, logits, axis, temperature and mask."""
    mask = torch.tensor([[True, True, False, True], [True, False, False, True]])
    return softmax, (torch.randn(2, 4, dtype=D), -1, 0.7, mask)


def logits(*shape):
    return 3 * torch.randn(*shape, dtype=D)


@pytest.mark.oracle("torch.nn.functional.softmax")
@pytest.mark.parametrize("dim", [0, 1, 2, -1, -3])
def test_equals_pytorch_with_its_gradient_along_every_axis(dim):
    x, dy = logits(3, 4, 5).requires_grad_(), torch.randn(3, 4, 5, dtype=D)
    ours, theirs = softmax(x, dim), F.softmax(x, dim)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-14)
    torch.testing.assert_close(*(torch.autograd.grad(y, x, dy)[0] for y in (ours, theirs)), rtol=0, atol=1e-14)
    torch.testing.assert_close(Softmax(dim)(x), theirs)


@pytest.mark.oracle("scipy.special.softmax")
def test_equals_scipy_with_a_temperature():
    known = pytest.importorskip("scipy.special").softmax
    x = logits(6, 5)
    for temperature in (0.05, 1.0, 10.0):
        np.testing.assert_allclose(softmax(x, temperature=temperature).numpy(), known(x.numpy() / temperature, -1), rtol=1e-12)


def test_last_axis_and_temperature_one_are_the_defaults():
    x = logits(2, 3)
    torch.testing.assert_close(softmax(x), F.softmax(x, -1))
    torch.testing.assert_close(Softmax()(x), F.softmax(x, -1))


def test_sums_to_one_and_keeps_the_order():
    x = logits(50, 7)
    p = softmax(x)
    torch.testing.assert_close(p.sum(-1), torch.ones(50, dtype=D))
    assert torch.equal(p.argsort(-1), x.argsort(-1)) and (p > 0).all()


@pytest.mark.oracle("invariance to a common constant")
def test_a_constant_added_to_all_logits_changes_nothing():
    x = logits(5, 7)
    torch.testing.assert_close(softmax(x + 123.0), softmax(x))
    assert (softmax(2 * x) - softmax(x)).abs().max() > 0.01


@pytest.mark.oracle("torch.sigmoid")
def test_two_logits_are_a_sigmoid_of_their_difference():
    x = logits(9)
    torch.testing.assert_close(softmax(torch.stack([x, torch.zeros_like(x)]), 0)[0], torch.sigmoid(x))


@pytest.mark.oracle("finite differences of the Jacobian diag(p) − p pᵀ")
def test_jacobian_is_symmetric_with_rows_that_sum_to_zero_and_rank_n_minus_one():
    x = logits(5)
    p = softmax(x)
    jacobian = torch.diag(p) - torch.outer(p, p)
    steps = 1e-6 * torch.eye(5, dtype=D)
    found = (softmax(x + steps) - softmax(x - steps)) / 2e-6
    torch.testing.assert_close(found, jacobian, rtol=0, atol=1e-9)
    torch.testing.assert_close(torch.autograd.functional.jacobian(softmax, x), jacobian)
    torch.testing.assert_close(jacobian.sum(1), torch.zeros(5, dtype=D), rtol=0, atol=1e-15)
    assert torch.linalg.matrix_rank(jacobian, rtol=1e-10) == 4


@pytest.mark.oracle("limits of the temperature: argmax and uniform")
def test_temperature_goes_from_argmax_to_uniform():
    x = logits(20, 6)
    winner = F.one_hot(x.argmax(-1), 6).to(D)
    torch.testing.assert_close(softmax(x, temperature=0), winner, rtol=0, atol=0)
    torch.testing.assert_close(softmax(x, temperature=1e-6), winner)
    torch.testing.assert_close(softmax(x, temperature=1e9), torch.full_like(x, 1 / 6), rtol=1e-7, atol=0)
    torch.testing.assert_close(softmax(x, temperature=math.inf), torch.full_like(x, 1 / 6))
    assert softmax(torch.tensor([1.0, 2.0, 2.0]), temperature=0).tolist() == [0, 1, 0]


@pytest.mark.oracle("closed form: dH/dT = Var(x)/T³")
@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_entropy_rises_with_the_temperature_by_the_variance_of_the_logits(temperature):
    x = logits(6)

    def entropy(t):
        p = softmax(x, temperature=t)
        return -(p * p.log()).sum().item()

    p, h = softmax(x, temperature=temperature), 1e-5
    variance = (p * x**2).sum() - (p * x).sum() ** 2
    assert (entropy(temperature + h) - entropy(temperature - h)) / (2 * h) == pytest.approx(variance.item() / temperature**3, rel=1e-6)


def test_overflow_is_avoided_by_subtracting_the_maximum_and_log_softmax_avoids_underflow():
    """Erratum: log-softmax is said to be there against overflow."""
    x = torch.tensor([1e4, 1e4 - 1, -1e4])
    torch.testing.assert_close(softmax(x), torch.tensor([0.7310586, 0.2689414, 0.0]))
    assert (x.exp() / x.exp().sum()).isnan().any(), "without the maximum"
    small = torch.tensor([0.0, -1000.0])
    assert softmax(small).log()[1] == -math.inf and F.log_softmax(small, -1)[1] == -1000


def test_two_labels_cannot_both_be_likely():
    """Erratum: it suits classes of which exactly one is true. For several at once, each needs its own sigmoid."""
    x = torch.tensor([9.0, 9.0, -9.0])
    assert softmax(x).max() < 0.51
    assert (torch.sigmoid(x)[:2] > 0.999).all()


def test_a_softmax_before_cross_entropy_leaves_a_loss_that_cannot_fall():
    target = torch.arange(10)
    perfect = 1000 * torch.eye(10)
    assert F.cross_entropy(perfect, target) == 0
    assert F.cross_entropy(softmax(perfect), target).item() == pytest.approx(math.log(1 + 9 / math.e), rel=1e-5)
    assert math.log(1 + 9 / math.e) == pytest.approx(1.46, abs=5e-3)


@pytest.mark.oracle("rank of the logits")
def test_narrow_states_bound_the_rank_of_what_a_vocabulary_softmax_can_say():
    states, vocabulary = torch.randn(40, 3, dtype=D), torch.randn(30, 3, dtype=D)
    spoken = softmax(states @ vocabulary.T).log()
    assert torch.linalg.matrix_rank(spoken, rtol=1e-9) == 4, "three of the states and one of the normalisation"


@pytest.mark.oracle("softmax of the logits that take part")
@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_masked_logits_get_zero_and_the_others_are_as_without_them(temperature):
    x, mask = logits(4, 6), torch.tensor([True, False, True, True, False, True])
    p = softmax(x, -1, temperature, mask)
    torch.testing.assert_close(p[:, mask], softmax(x[:, mask], temperature=temperature))
    assert (p[:, ~mask] == 0).all()
    torch.testing.assert_close(softmax(x, -1, math.inf, mask)[:, mask], torch.full((4, 4), 0.25, dtype=D))


def test_where_nothing_takes_part_there_is_no_answer():
    x, mask = logits(2, 3), torch.tensor([[True, True, True], [False, False, False]])
    for temperature in (0, 1.0):
        assert softmax(x, -1, temperature, mask).isnan().tolist() == [[False] * 3, [True] * 3]
    x[0, 1] = math.nan
    for temperature in (0, 1.0):
        assert softmax(x, -1, temperature)[0].isnan().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_rounded_once(dtype):
    x = logits(5, 300).to(dtype)
    torch.testing.assert_close(softmax(x), softmax(x.float()).to(dtype), rtol=0, atol=0)
    assert softmax(x, temperature=0).dtype == dtype


@pytest.mark.parametrize("dim", [2, -3])
def test_an_axis_that_is_not_there_is_named(dim):
    with pytest.raises(ValueError, match=rf"dim={dim} is not an axis of x, whose shape is \(2, 3\)"):
        softmax(logits(2, 3), dim)


def test_other_bad_arguments_are_named():
    x = logits(2, 3)
    for temperature in (-0.1, math.nan):
        with pytest.raises(ValueError, match=f"temperature={temperature} is negative or no number"):
            softmax(x, -1, temperature)
    for shape in ((2,), (1, 2, 3), (3, 3)):
        with pytest.raises(ValueError, match="mask has shape .*, which does not broadcast"):
            softmax(x, mask=torch.ones(shape, dtype=torch.bool))
    with pytest.raises(TypeError, match="mask has dtype torch.float32; expected torch.bool"):
        softmax(x, mask=torch.ones(2, 3))
    with pytest.raises(TypeError, match="x has dtype torch.int64"):
        softmax(torch.ones(3, dtype=torch.int64))
    assert softmax(x, mask=torch.ones(2, 1, dtype=torch.bool)).isfinite().all()


def test_layer_shows_its_axis():
    assert repr(Softmax(1)) == "Softmax(dim=1)" and isinstance(Softmax(), nn.Module)


@pytest.mark.interp
@pytest.mark.parametrize("dim", [0, 1, -1])
def test_kernel_agrees(dim, kernel_agrees):
    x, mask = torch.randn(3, 5, 7, dtype=torch.float64, requires_grad=True), torch.arange(105).view(3, 5, 7) % 4 != 1
    kernel_agrees("softmax", lambda backend: softmax(x, dim, 0.7, mask, backend=backend), (x,))


def test_numpy_variant_agrees(agree):
    x = logits(6)
    for temperature in (0.05, 1.0, 10.0):
        agree(numpy_variant.softmax(x.numpy(), temperature), softmax(x, temperature=temperature))
    agree(numpy_variant.jacobian(numpy_variant.softmax(x.numpy())), torch.autograd.functional.jacobian(softmax, x), atol=1e-15)
    agree(ops.softmax(x.numpy()), softmax(x))


def test_entropy_in_numpy_is_that_of_a_categorical_distribution(agree):
    x = logits(6)
    agree(numpy_variant.entropy(numpy_variant.softmax(x.numpy())), torch.distributions.Categorical(logits=x).entropy())
    assert numpy_variant.entropy(np.array([1.0, 0.0])) == 0
