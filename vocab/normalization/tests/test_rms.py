import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from snippets.normalization import rms as numpy_variant
from vocab.kernels.interpret import interpreting
from vocab.normalization.rms import RMSNorm, fold_into_linear, rms_norm


def example():
    module = RMSNorm(6, eps=0.01).double()
    nn.init.normal_(module.weight)
    return module, (torch.randn(2, 3, 6).double(), torch.randn(2, 3, 6).double())


def random(*shape, dtype=torch.float64):
    return torch.randn(shape, dtype=dtype)


@pytest.mark.oracle("torch.nn.functional.rms_norm")
@pytest.mark.parametrize("eps", [0.0, 1e-6, 0.5])
def test_equals_torch_rms_norm_with_gradients(eps):
    x, weight, grad = random(2, 3, 6).requires_grad_(), random(6).requires_grad_(), random(2, 3, 6)
    ours, theirs = rms_norm(x, weight, eps), F.rms_norm(x, (6,), weight, eps)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(torch.autograd.grad(ours, (x, weight), grad), torch.autograd.grad(theirs, (x, weight), grad))


@pytest.mark.oracle("transformers LlamaRMSNorm")
def test_equals_the_norm_of_llama():
    llama = pytest.importorskip("transformers.models.llama.modeling_llama").LlamaRMSNorm(32)
    nn.init.normal_(llama.weight)
    ours = RMSNorm(32)
    ours.load_state_dict(llama.state_dict())
    x = random(4, 32, dtype=torch.float32) * 1e-3  # small enough that the default eps shows
    torch.testing.assert_close(ours(x), llama(x))


@pytest.mark.oracle("transformers GemmaRMSNorm")
def test_equals_the_norm_of_gemma_which_stores_gamma_minus_one():
    gemma = pytest.importorskip("transformers.models.gemma.modeling_gemma").GemmaRMSNorm(32)
    ours = RMSNorm(32, unit_offset=True)
    x = random(4, 32, dtype=torch.float32)
    torch.testing.assert_close(ours(x), gemma(x))
    nn.init.normal_(gemma.weight)
    ours.load_state_dict(gemma.state_dict())
    torch.testing.assert_close(ours(x), gemma(x))
    bf16 = x.bfloat16()
    assert torch.equal(ours(bf16), gemma(bf16)), "Gemma rounds once, after the gain, as this does"


@pytest.mark.oracle("torch.nn.LayerNorm on rows of mean zero")
def test_equals_layer_norm_where_the_mean_is_zero_and_only_there():
    x, weight = random(5, 8), random(8)
    centred = x - x.mean(-1, keepdim=True)
    torch.testing.assert_close(rms_norm(centred, weight, 1e-5), F.layer_norm(x, (8,), weight, None, 1e-5))
    assert (rms_norm(x, weight) - F.layer_norm(x, (8,), weight)).abs().max() > 0.1


@pytest.mark.oracle("closed form of the distance to LayerNorm")
@pytest.mark.parametrize("ratio", [0.0, 0.3, 1.0, 5.0])
def test_distance_to_layer_norm_depends_on_mean_over_deviation_alone(ratio):
    z = random(64)
    z = (z - z.mean()) / z.std(correction=0)
    for std in (0.1, 3.0):
        row = ratio * std + std * z
        apart = (rms_norm(row, eps=0.0) - F.layer_norm(row, (64,), eps=0.0)).norm() / 64**0.5
        assert apart.item() == pytest.approx((2 - 2 / (1 + ratio**2) ** 0.5) ** 0.5, rel=1e-9, abs=1e-7)
        assert apart.item() == pytest.approx(numpy_variant.difference(ratio), rel=1e-9, abs=1e-7)


@pytest.mark.oracle("invariance to positive scale")
def test_scale_is_divided_out_and_a_shift_is_not():
    x = random(4, 8)
    torch.testing.assert_close(rms_norm(37.0 * x, eps=0.0), rms_norm(x, eps=0.0))
    torch.testing.assert_close(rms_norm(-2.0 * x, eps=0.0), -rms_norm(x, eps=0.0))
    assert (rms_norm(x + 1.0, eps=0.0) - rms_norm(x, eps=0.0)).abs().max() > 0.1


@pytest.mark.oracle("closed form of the output's root mean square")
@pytest.mark.parametrize("eps", [0.0, 1e-6, 0.3])
def test_output_has_root_mean_square_one_up_to_eps(eps):
    x = random(4, 8)
    before = x.square().mean(-1)
    torch.testing.assert_close(rms_norm(x, eps=eps).square().mean(-1), before / (before + eps))


@pytest.mark.oracle("closed form of the gradient")
def test_gradient_leaves_out_the_direction_of_the_output():
    x, weight, grad = random(3, 7).requires_grad_(), random(7).requires_grad_(), random(3, 7)
    found = torch.autograd.grad(rms_norm(x, weight, 0.0), (x, weight), grad)
    rstd = x.square().mean(-1, keepdim=True).rsqrt()
    normed, g = x * rstd, grad * weight
    torch.testing.assert_close(found[0], rstd * (g - normed * (g * normed).mean(-1, keepdim=True)))
    torch.testing.assert_close(found[1], (grad * normed).sum(0))
    torch.testing.assert_close((found[0] * x).sum(-1), torch.zeros(3, dtype=torch.float64), atol=1e-12, rtol=0)


@pytest.mark.parametrize("unit_offset", [False, True])
def test_a_fresh_module_has_gamma_one_and_dim_parameters(unit_offset):
    module = RMSNorm(8, unit_offset=unit_offset)
    x = random(3, 8, dtype=torch.float32)
    assert sum(p.numel() for p in module.parameters()) == 8
    torch.testing.assert_close(module(x), rms_norm(x, eps=1e-6), rtol=0, atol=0)
    bare = RMSNorm(8, elementwise_affine=False)
    assert not list(bare.parameters())
    torch.testing.assert_close(bare(x), module(x), rtol=0, atol=0)


def test_a_residual_is_added_first_and_the_sum_handed_on():
    module, (x, residual) = example()
    y, stream = module(x, residual)
    torch.testing.assert_close(stream, x + residual)
    torch.testing.assert_close(y, F.rms_norm(x + residual, (6,), module.weight, 0.01))
    torch.testing.assert_close(module(x), F.rms_norm(x, (6,), module.weight, 0.01))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("unit_offset", [False, True])
def test_gain_can_be_folded_into_the_next_linear_layer(unit_offset, bias):
    norm, linear, x = RMSNorm(6, unit_offset=unit_offset).double(), nn.Linear(6, 4, bias=bias).double(), random(3, 6)
    nn.init.normal_(norm.weight)
    kept = linear.weight.clone()
    folded = fold_into_linear(norm, linear)
    torch.testing.assert_close(folded(rms_norm(x)), linear(norm(x)))
    assert torch.equal(linear.weight, kept)
    bare = RMSNorm(6, elementwise_affine=False)
    torch.testing.assert_close(fold_into_linear(bare, linear)(x), linear(x))
    with pytest.raises(ValueError, match="linear.in_features=5 is not norm.dim=6"):
        fold_into_linear(norm, nn.Linear(5, 4))


def test_half_precision_is_normalised_in_single():
    x = torch.full((1, 8), 300.0, dtype=torch.float16)  # 300² overflows float16
    assert torch.equal(rms_norm(x), torch.ones_like(x))


def test_casting_before_the_gain_as_llama_does_is_another_function_in_bfloat16():
    """Two roundings instead of one: about a third of all numbers differ, and the error grows by more than a tenth."""
    x, weight = random(64, 256).bfloat16(), (1 + 0.2 * random(256)).bfloat16()
    exact = rms_norm(x.double(), weight.double())
    once, twice = rms_norm(x, weight), weight * rms_norm(x)
    assert 0.2 < (once != twice).double().mean() < 0.5
    assert (twice - exact).norm() > 1.1 * (once - exact).norm()


def test_erratum_eps_outside_the_root_is_another_formula():
    """A root mean square of 0.001 with eps = 1e-6: 0.71 with eps inside, 0.999 with eps outside."""
    x = torch.tensor([[0.001, -0.001]], dtype=torch.float64)
    outside = x / (x.square().mean(-1, keepdim=True).sqrt() + 1e-6)
    assert rms_norm(x)[0, 0].item() == pytest.approx(0.5**0.5) and outside[0, 0].item() == pytest.approx(1 / 1.001)


def test_numpy_variant_agrees(agree):
    module, (x, _) = example()
    agree(numpy_variant.rms_norm(x.numpy(), module.weight.detach().numpy(), 0.01), module(x))
    agree(numpy_variant.layer_norm(x.numpy(), eps=0.01), F.layer_norm(x, (6,), eps=0.01))


@pytest.mark.interp
def test_kernel_agrees(kernel_agrees):
    module, inputs = example()
    kernel_agrees("rms_norm", lambda _: module(*inputs), (module.weight, *(x.requires_grad_() for x in inputs)), module=module)


@pytest.mark.interp
def test_kernel_knows_the_unit_offset_and_the_missing_gain(agree):
    pytest.importorskip("triton")
    x = random(3, 6)
    for module in (RMSNorm(6, 0.1, unit_offset=True, backend="triton"), RMSNorm(6, 0.1, elementwise_affine=False, backend="triton")):
        with interpreting():
            agree(module.double()(x), F.rms_norm(x, (6,), None, 0.1), of="triton", rtol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(dim=0), "dim=0 is not positive"),
        (dict(dim=4, eps=-1e-6), "eps=-1e-06 is negative"),
        (dict(dim=4, eps=float("nan")), "eps=nan"),
        (dict(dim=4, elementwise_affine=False, unit_offset=True), "unit_offset=True needs a weight"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        RMSNorm(**arguments)


def test_smallest_arguments_are_allowed():
    assert RMSNorm(1, eps=0.0)(torch.tensor([[-5.0]])).item() == -1.0


@pytest.mark.parametrize("shape", [(2, 5), (6, 2), ()])
def test_wrong_last_dimension_names_the_expected_one(shape):
    with pytest.raises(ValueError, match=r"expected \(\.\.\., dim=6\)"):
        RMSNorm(6)(torch.zeros(shape))


@pytest.mark.parametrize(
    ("residual", "message"),
    [
        (torch.zeros(3, 6), r"residual is \(3, 6\) torch.float32; expected \(2, 6\) torch.float32 as x"),
        (torch.zeros(2, 6).double(), "torch.float64; expected"),
        (torch.zeros(2, 5), r"residual has shape \(2, 5\); expected \(\.\.\., dim=6\)"),
    ],
)
def test_a_residual_unlike_x_is_refused(residual, message):
    with pytest.raises(ValueError, match=message):
        RMSNorm(6)(torch.zeros(2, 6), residual)


def test_shown_with_its_settings():
    assert repr(RMSNorm(6, unit_offset=True)) == "RMSNorm(6, eps=1e-06, unit_offset=True)"


def test_demo_says_that_the_norms_agree_without_a_mean():
    assert "0% of their length apart" in numpy_variant.show(mean=0.0)[-1]["caption"]
    assert np.allclose(numpy_variant.difference(np.array([0.0, 1e9])), [0.0, 2**0.5])
