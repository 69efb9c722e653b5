import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from snippets.activations.gelu import coin
from snippets.activations.gelu import gelu as numpy_gelu
from snippets.activations.gelu import slope
from vocab.activations.gelu import GELU, gelu

GRID = torch.linspace(-8, 8, 16001, dtype=torch.float64)


def example():
    """For the contract suite: the function and its input."""
    return gelu, (torch.tensor([-2.0, -0.3, 0.0, 0.7, 3.0], dtype=torch.float64),)


@pytest.mark.oracle("torch.nn.functional.gelu")
@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_equals_pytorch_with_its_gradient(approximate):
    x = GRID.clone().requires_grad_()
    ours, theirs = gelu(x, approximate), F.gelu(x, approximate=approximate)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-15)
    grads = [torch.autograd.grad(y.sum(), x)[0] for y in (ours, theirs)]
    torch.testing.assert_close(*grads, rtol=0, atol=2e-14)


@pytest.mark.oracle("x · scipy.special.ndtr(x)")
def test_is_x_times_the_normal_cdf_to_the_last_digits_even_far_in_the_tail():
    ndtr = pytest.importorskip("scipy.special").ndtr
    x = np.linspace(-30, 8, 7601)
    np.testing.assert_allclose(gelu(torch.from_numpy(x)).numpy(), x * ndtr(x), rtol=1e-12)
    middle = x[np.abs(x) < 2]
    np.testing.assert_allclose(gelu(torch.from_numpy(middle)).numpy(), middle * ndtr(middle), rtol=0, atol=1e-15)


@pytest.mark.oracle("transformers.activations: gelu, gelu_new, quick_gelu")
@pytest.mark.parametrize(("name", "approximate"), [("gelu", "none"), ("gelu_new", "tanh"), ("quick_gelu", "sigmoid")])
def test_the_names_of_checkpoints_mean_these_forms(name, approximate):
    activations = pytest.importorskip("transformers.activations").ACT2FN
    torch.testing.assert_close(gelu(GRID, approximate), activations[name](GRID), rtol=0, atol=2e-15)


def test_the_sigmoid_form_is_silu_with_a_steeper_gate():
    torch.testing.assert_close(gelu(GRID, "sigmoid"), F.silu(1.702 * GRID) / 1.702)


@pytest.mark.oracle("mean over Bernoulli masks (Monte Carlo)")
def test_is_the_mean_of_keeping_x_with_probability_phi():
    x = torch.tensor([-2.0, -0.5, 0.5, 2.0], dtype=torch.float64)
    gates = torch.distributions.Normal(0.0, 1.0).cdf(x)
    masks = torch.bernoulli(gates.expand(400_000, -1))
    error = (gates * (1 - gates) / 400_000).sqrt() * x.abs()
    assert ((masks * x).mean(0) - gelu(x)).abs().lt(4 * error).all()
    found = coin(x.numpy(), 100_000, np.random.default_rng(0))
    assert (np.abs(found - gelu(x).numpy()) < 4 * 2 * error.numpy()).all()


@pytest.mark.parametrize("approximate", ["none", "tanh", "sigmoid"])
def test_half_the_gate_is_open_at_zero(approximate):
    zero = torch.zeros((), dtype=torch.float64, requires_grad=True)
    gelu(zero, approximate).backward()
    assert zero.grad.item() == 0.5


@pytest.mark.parametrize("approximate", ["none", "tanh", "sigmoid"])
def test_what_x_loses_minus_x_keeps(approximate):
    torch.testing.assert_close(gelu(GRID, approximate) - gelu(-GRID, approximate), GRID)


def test_minimum_is_where_the_page_says():
    y = gelu(torch.linspace(-1, -0.5, 50001, dtype=torch.float64))
    assert y.min().item() == pytest.approx(-0.16997, abs=5e-6)
    assert -1 + 0.5 * y.argmin().item() / 50000 == pytest.approx(-0.75179, abs=1e-5)


@pytest.mark.oracle("closed form of the derivative")
def test_derivative_is_gate_plus_x_times_density():
    x = GRID.clone().requires_grad_()
    (found,) = torch.autograd.grad(gelu(x).sum(), x)
    normal = torch.distributions.Normal(torch.zeros((), dtype=torch.float64), 1.0)
    torch.testing.assert_close(found, normal.cdf(GRID) + GRID * normal.log_prob(GRID).exp())
    assert GRID[found.argmax()].item() == pytest.approx(math.sqrt(2), abs=1e-3)
    assert found.max().item() == pytest.approx(1.1289, abs=5e-5)


@pytest.mark.parametrize(("approximate", "largest", "where"), [("tanh", 4.73e-4, 2.699), ("sigmoid", 0.02033, 2.270)])
def test_largest_error_of_each_replacement(approximate, largest, where):
    error = (gelu(GRID) - gelu(GRID, approximate)).abs()
    assert error.max().item() == pytest.approx(largest, rel=2e-3)
    assert GRID[error.argmax()].abs().item() == pytest.approx(where, abs=2e-3)


@pytest.mark.oracle("minimax fit of the normal CDF")
def test_both_constants_are_the_best_ones_for_the_gate():
    minimize = pytest.importorskip("scipy.optimize").minimize_scalar
    from scipy.special import expit, ndtr

    x = np.linspace(-8, 8, 20001)
    cubic = minimize(lambda c: np.abs(ndtr(x) - expit(2 * math.sqrt(2 / math.pi) * (x + c * x**3))).max(),
                     bounds=(0.04, 0.05), method="bounded")
    slope_ = minimize(lambda a: np.abs(ndtr(x) - expit(a * x)).max(), bounds=(1.5, 1.9), method="bounded")
    assert cubic.x == pytest.approx(0.044715, abs=2e-6)
    assert slope_.x == pytest.approx(1.702, abs=5e-4)
    # so the module's gates reach those errors, and no other constants would
    gates = {form: gelu(torch.from_numpy(x[x != 0]), form).numpy() / x[x != 0] for form in ("tanh", "sigmoid")}
    for form, best in (("tanh", cubic.fun), ("sigmoid", slope_.fun)):
        assert np.abs(gates[form] - ndtr(x[x != 0])).max() == pytest.approx(best, rel=4e-3)


@pytest.mark.oracle("quadrature of the closed form 1/3 + 1/(2π√3)")
def test_second_moment_of_a_normal_input_sets_the_gain():
    nodes, weights = np.polynomial.hermite_e.hermegauss(120)
    weights = weights / math.sqrt(2 * math.pi)
    moment = (weights * gelu(torch.from_numpy(nodes)).numpy() ** 2).sum()
    assert moment == pytest.approx(1 / 3 + 1 / (2 * math.pi * math.sqrt(3)), rel=1e-9)
    assert moment == pytest.approx(0.4252, abs=5e-5)
    assert moment**-0.5 == pytest.approx(1.5335, abs=5e-5)


def test_one_plus_erf_loses_the_tail_that_erfc_keeps():
    x = torch.tensor([-5.5, -9.0])
    naive = x * (1 + torch.erf(x / math.sqrt(2))) / 2
    exact = torch.tensor([-1.0444259e-07, -1.0157293e-18])
    torch.testing.assert_close(gelu(x), exact, rtol=1e-5, atol=0)
    assert naive[0] / exact[0] > 1.5 and naive[1] == 0


def test_half_precision_does_not_cube_itself_to_infinity():
    def copied(x):  # the formula as it stands in many repositories
        return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * torch.pow(x, 3))))

    for function, finite in ((copied, False), (lambda x: gelu(x, "tanh"), True)):
        x = torch.tensor([200.0], dtype=torch.float16, requires_grad=True)
        y = function(x)
        y.backward()
        assert y.item() == 200.0, "the forward pass hides it: tanh(inf) is 1"
        assert x.grad.isfinite().item() is finite
    assert gelu(torch.ones(2, dtype=torch.bfloat16)).dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_rounded_once(dtype):
    x = torch.linspace(-6, 6, 1001).to(dtype)
    for approximate in ("none", "tanh", "sigmoid"):
        torch.testing.assert_close(gelu(x, approximate), gelu(x.double(), approximate).to(dtype), rtol=0, atol=0)


def test_t5_1_0_uses_relu_and_t5_1_1_a_gated_gelu():
    """Erratum: T5 is often listed among the models that use GELU."""
    transformers = pytest.importorskip("transformers")
    first, second = transformers.T5Config(), transformers.T5Config(feed_forward_proj="gated-gelu")
    assert (first.dense_act_fn, first.is_gated_act) == ("relu", False)
    assert (second.dense_act_fn, second.is_gated_act) == ("gelu_new", True)


def test_gpt_2_is_defined_by_the_tanh_form_and_clip_by_the_sigmoid_form():
    """Erratum: neither is a mere speed-up of the exact form for weights that were trained with it."""
    transformers = pytest.importorskip("transformers")
    assert transformers.GPT2Config().activation_function == "gelu_new"
    assert transformers.CLIPTextConfig().hidden_act == transformers.CLIPVisionConfig().hidden_act == "quick_gelu"
    assert transformers.BertConfig().hidden_act == transformers.ViTConfig().hidden_act == "gelu"
    x = torch.tensor([-2.7, 2.7], dtype=torch.float64)
    assert (gelu(x) - gelu(x, "tanh")).abs().min() > 4e-4


def test_layer_is_the_function():
    torch.testing.assert_close(GELU()(GRID), gelu(GRID), rtol=0, atol=0)
    torch.testing.assert_close(GELU("tanh")(GRID), gelu(GRID, "tanh"), rtol=0, atol=0)
    assert repr(GELU("tanh")) == "GELU(approximate='tanh')"


def test_unknown_form_is_named_at_once():
    for call in (lambda: gelu(GRID, "fast"), lambda: GELU("fast")):
        with pytest.raises(ValueError, match="approximate='fast' is not 'none', 'tanh' or 'sigmoid'"):
            call()


def test_numbers_that_are_no_floats_are_refused():
    with pytest.raises(TypeError, match="x has dtype torch.int64"):
        gelu(torch.ones(3, dtype=torch.int64))


@pytest.mark.parametrize(("form", "approximate"), [("exact", "none"), ("tanh", "tanh"), ("sigmoid", "sigmoid")])
def test_numpy_variant_agrees(agree, form, approximate):
    x = torch.linspace(-5, 5, 501, dtype=torch.float64)
    agree(numpy_gelu(x.numpy(), form), gelu(x, approximate))


def test_numpy_slope_agrees(agree):
    x = torch.linspace(-5, 5, 501, dtype=torch.float64, requires_grad=True)
    agree(slope(x.detach().numpy()), torch.autograd.grad(gelu(x).sum(), x)[0])
