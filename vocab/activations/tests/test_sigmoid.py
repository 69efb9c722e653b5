import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from snippets.activations import sigmoid as numpy_variant
from vocab.activations.sigmoid import Sigmoid, log_sigmoid, logit, sigmoid
from vocab.activations.tests.measure import GRID, expectation, same, slope

FAR = torch.linspace(-1000, 1000, 4001, dtype=torch.float64)


def example():
    """For the contract suite: the function and its input."""
    return sigmoid, (torch.tensor([-2.0, -0.3, 0.0, 0.7, 3.0], dtype=torch.float64),)


@pytest.mark.oracle("torch.sigmoid")
def test_equals_pytorch_with_its_gradient():
    same(sigmoid, torch.sigmoid)
    same(sigmoid, torch.sigmoid, FAR)


@pytest.mark.oracle("scipy.special: expit, logit, log_expit")
def test_equals_scipy_far_out_without_overflow():
    special = pytest.importorskip("scipy.special")
    np.testing.assert_allclose(sigmoid(FAR).numpy(), special.expit(FAR.numpy()), rtol=1e-14, atol=1e-300)
    np.testing.assert_allclose(log_sigmoid(FAR).numpy(), special.log_expit(FAR.numpy()), rtol=1e-14, atol=3e-9)
    p = np.linspace(0, 1, 1001)
    np.testing.assert_allclose(logit(torch.from_numpy(p)).numpy(), special.logit(p), rtol=1e-12, atol=1e-14)


def test_output_is_an_open_interval_not_two_values():
    """Erratum: the output is sometimes given as "0 or 1". Only rounding reaches the ends."""
    y = sigmoid(torch.linspace(-36, 36, 1001, dtype=torch.float64))
    assert (y > 0).all() and (y < 1).all() and len(y.unique()) > 900
    assert sigmoid(torch.tensor([17.0])) == 1.0 > sigmoid(torch.tensor([16.0])), "float32 rounds to 1"


@pytest.mark.oracle("symmetry about 1/2")
def test_both_sides_add_up_to_one():
    torch.testing.assert_close(sigmoid(GRID) + sigmoid(-GRID), torch.ones_like(GRID), rtol=0, atol=3e-16)


@pytest.mark.oracle("closed form of the derivative")
def test_derivative_is_s_times_one_minus_s_and_at_most_a_quarter():
    found, s = slope(sigmoid), torch.sigmoid(GRID)
    torch.testing.assert_close(found, s * (1 - s), rtol=1e-12, atol=0)
    assert found.max() == 0.25 and GRID[found.argmax()] == 0.0


def test_is_the_first_of_a_softmax_over_x_and_zero():
    """Erratum: "a softmax of one number" would be 1 for every x; it takes a second logit, fixed at 0."""
    pair = torch.stack([GRID, torch.zeros_like(GRID)])
    torch.testing.assert_close(sigmoid(GRID), pair.softmax(0)[0])
    assert (GRID[:, None].softmax(1) == 1).all()


@pytest.mark.oracle("(1 + tanh(x/2)) / 2")
def test_is_a_shifted_tanh():
    torch.testing.assert_close(sigmoid(GRID), (1 + torch.tanh(GRID / 2)) / 2)


def test_logit_finds_the_log_odds():
    x = torch.linspace(-15, 15, 601, dtype=torch.float64)
    torch.testing.assert_close(logit(sigmoid(x)), x, rtol=0, atol=1e-9)
    same(logit, torch.logit, torch.linspace(0.01, 0.99, 99, dtype=torch.float64), atol=1e-12)


def test_eps_keeps_the_log_odds_finite():
    p = torch.tensor([-1.0, 0.0, 0.3, 1.0, 2.0], dtype=torch.float64)
    torch.testing.assert_close(logit(p, 0.1), torch.logit(p, 0.1))
    torch.testing.assert_close(logit(p, 0.5), torch.zeros_like(p))
    assert logit(p, 0.0).tolist()[::4] == [-math.inf, math.inf]
    assert logit(p)[[0, 4]].isnan().all()


@pytest.mark.oracle("torch.nn.functional.logsigmoid")
def test_logarithm_stays_finite_where_the_sigmoid_is_zero():
    same(log_sigmoid, F.logsigmoid)
    x = torch.tensor([-200.0])
    assert torch.log(sigmoid(x)) == -math.inf and log_sigmoid(x) == -200.0


def test_the_textbook_formula_divides_by_infinity():
    x = torch.tensor([-89.0], requires_grad=True)
    y = torch.exp(-x)
    assert y.isinf(), "so 1 / (1 + exp(-x)) is exactly 0, and exp(x) / (1 + exp(x)) would be NaN on the other side"
    assert sigmoid(x).item() == pytest.approx(math.exp(-89), rel=2e-6, abs=0) != 0
    (1 / (1 + y)).backward()
    assert x.grad.isnan().item(), "and its gradient is 0 · inf"
    x.grad = None
    sigmoid(x).backward()
    assert x.grad.isfinite()


@pytest.mark.oracle("torch.nn.functional.binary_cross_entropy_with_logits")
def test_loss_needs_the_logits_once_the_probability_is_rounded():
    x = torch.tensor([20.0, -3.0])
    target = torch.tensor([0.0, 1.0])
    ours = -(target * log_sigmoid(x) + (1 - target) * log_sigmoid(-x)).mean()
    torch.testing.assert_close(ours, F.binary_cross_entropy_with_logits(x, target))
    assert torch.log(1 - sigmoid(x))[0] == -math.inf


def test_moments_of_a_normal_input():
    assert expectation(sigmoid) == pytest.approx(1 / 2, rel=1e-12)
    assert expectation(lambda z: sigmoid(z) ** 2) == pytest.approx(0.293, abs=5e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_rounded_once(dtype):
    x = torch.linspace(-9, 9, 1001).to(dtype)
    torch.testing.assert_close(sigmoid(x), sigmoid(x.float()).to(dtype), rtol=0, atol=0)


def test_layer_is_the_function():
    torch.testing.assert_close(Sigmoid()(GRID), sigmoid(GRID), rtol=0, atol=0)


def test_bad_arguments_are_named():
    for function, name in ((sigmoid, "x"), (log_sigmoid, "x"), (logit, "p")):
        with pytest.raises(TypeError, match=f"{name} has dtype torch.int64"):
            function(torch.ones(3, dtype=torch.int64))
        with pytest.raises(TypeError, match=f"{name} is a list"):
            function([0.5])
    for eps in (-0.1, 0.6, math.nan):
        with pytest.raises(ValueError, match=f"eps={eps} is not between 0 and 1/2"):
            logit(GRID, eps)


def test_numpy_variant_agrees(agree):
    x = torch.linspace(-40, 40, 801, dtype=torch.float64)
    agree(numpy_variant.sigmoid(x.numpy()), sigmoid(x))
    agree(numpy_variant.slope(GRID.numpy()), slope(sigmoid))
    p = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
    agree(numpy_variant.logit(p.numpy()), logit(p))


@pytest.mark.oracle("autograd through the chain")
def test_chain_in_numpy_multiplies_the_slopes(agree):
    x = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    y = x
    for _ in range(6):
        y = sigmoid(2.5 * y - 0.7)
    y.backward()
    values, factors = numpy_variant.chain(0.5, 2.5, -0.7, 6)
    agree([values[-1], factors[-1]], [y.item(), x.grad.item()])
    assert (factors <= (2.5 / 4) ** np.arange(7)).all()
