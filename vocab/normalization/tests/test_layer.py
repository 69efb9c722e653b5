import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from snippets.normalization import layer as numpy_variant
from vocab.normalization.layer import LayerNorm, layer_norm, moments, standardize
from vocab.normalization.rms import rms_norm

D = torch.float64


def example():
    module = LayerNorm(6, eps=0.01).double()
    nn.init.normal_(module.weight), nn.init.normal_(module.bias)
    return module, (torch.randn(2, 3, 6, dtype=D), torch.randn(2, 3, 6, dtype=D))


@pytest.mark.oracle("torch.nn.functional.layer_norm")
@pytest.mark.parametrize("eps", [1e-12, 1e-5, 0.5])
@pytest.mark.parametrize("shape", [(6,), (3, 6), (2, 3, 6)])
def test_equals_torch_layer_norm_with_gradients(shape, eps):
    x, grad = torch.randn(2, 2, 3, 6, dtype=D, requires_grad=True), torch.randn(2, 2, 3, 6, dtype=D)
    weight, bias = torch.randn(shape, dtype=D, requires_grad=True), torch.randn(shape, dtype=D, requires_grad=True)
    ours = layer_norm(x, weight, bias, eps, n_dims=len(shape))
    theirs = F.layer_norm(x, shape, weight, bias, eps)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    found, expected = (torch.autograd.grad(y, (x, weight, bias), grad) for y in (ours, theirs))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.oracle("torch.nn.LayerNorm")
@pytest.mark.parametrize("arguments", [{}, {"bias": False}, {"elementwise_affine": False}, {"eps": 0.1}])
def test_a_loaded_module_is_that_of_torch(arguments):
    theirs, ours = nn.LayerNorm((3, 6), **arguments).double(), LayerNorm((3, 6), **arguments).double()
    for parameter in theirs.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(2, 3, 6, dtype=D)
    torch.testing.assert_close(ours(x), F.layer_norm(x, (3, 6), eps=arguments.get("eps", 1e-5)))
    ours.load_state_dict(theirs.state_dict())
    torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.oracle("closed form of the output's mean and variance")
@pytest.mark.parametrize("eps", [1e-5, 0.3])
def test_rows_have_mean_zero_and_variance_one_up_to_eps(eps):
    x = 3 + 2 * torch.randn(5, 9, dtype=D)
    y = layer_norm(x, eps=eps)
    before = x.var(-1, correction=0)
    torch.testing.assert_close(y.mean(-1), torch.zeros(5, dtype=D))
    torch.testing.assert_close(y.var(-1, correction=0), before / (before + eps))


@pytest.mark.oracle("invariance to positive scale and to shifts")
def test_scale_and_shift_of_a_row_are_divided_out():
    x = torch.randn(4, 8, dtype=D)
    torch.testing.assert_close(layer_norm(37.0 * x + 5.0, eps=0.0), layer_norm(x, eps=0.0))
    torch.testing.assert_close(layer_norm(-2.0 * x, eps=0.0), -layer_norm(x, eps=0.0))
    assert (layer_norm(0.001 * x) - layer_norm(x)).abs().max() > 0.1, "eps ends the invariance where rows are quiet"
    torch.testing.assert_close(layer_norm(0.001 * x), F.layer_norm(0.001 * x, (8,)))


@pytest.mark.oracle("a batch of one")
def test_a_row_does_not_know_of_its_batch():
    module, _ = example()
    x = torch.randn(64, 6, dtype=D)
    for row in (0, 17, 63):
        torch.testing.assert_close(module(x[row : row + 1]), module(x)[row : row + 1], rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(module.eval()(x), module.train()(x), rtol=0, atol=0)


@pytest.mark.oracle("closed form of the gradient")
def test_gradient_is_a_projection_that_leaves_out_two_directions():
    x, weight, grad = (torch.randn(3, 7, dtype=D, requires_grad=True), torch.randn(7, dtype=D), torch.randn(3, 7, dtype=D))
    (found,) = torch.autograd.grad(layer_norm(x, weight, eps=0.0), x, grad)
    rstd = x.var(-1, correction=0, keepdim=True).rsqrt()
    normed, g = (x - x.mean(-1, keepdim=True)) * rstd, grad * weight
    closed = rstd * (g - g.mean(-1, keepdim=True) - normed * (g * normed).mean(-1, keepdim=True))
    torch.testing.assert_close(found, closed)
    torch.testing.assert_close(found.sum(-1), torch.zeros(3, dtype=D), atol=1e-12, rtol=0)
    torch.testing.assert_close((found * x).sum(-1), torch.zeros(3, dtype=D), atol=1e-12, rtol=0)


@pytest.mark.oracle("geometry: a unit sphere at right angles to the vector of ones")
def test_output_over_root_d_lies_on_the_unit_sphere_orthogonal_to_ones():
    y = layer_norm(5 + torch.randn(9, 16, dtype=D), eps=0.0) / 16**0.5
    torch.testing.assert_close(y.norm(dim=-1), torch.ones(9, dtype=D))
    torch.testing.assert_close(y @ torch.ones(16, dtype=D), torch.zeros(9, dtype=D), atol=1e-12, rtol=0)


@pytest.mark.oracle("float64")
def test_a_large_mean_does_not_eat_the_variance_in_single_precision():
    """E[x²] - E[x]² subtracts two numbers near 10⁸, of which float32 keeps seven digits."""
    x = 1e4 + torch.randn(8, 64)
    exact = layer_norm(x.double())
    assert (layer_norm(x) - exact).abs().max() < 2e-3
    one_pass = x.square().mean(-1, keepdim=True) - x.mean(-1, keepdim=True).square()
    assert not ((x - x.mean(-1, keepdim=True)) * (one_pass + 1e-5).rsqrt() - exact).abs().max() < 0.5


def test_half_precision_is_normalised_in_single_and_rounded_once():
    x = torch.tensor([[-300.0, 300.0]], dtype=torch.float16)  # 300² overflows float16
    assert layer_norm(x).tolist() == [[-1.0, 1.0]] and layer_norm(x).dtype == torch.float16
    x, weight, bias = torch.randn(64, 32).bfloat16(), torch.randn(32).bfloat16(), torch.randn(32).bfloat16()
    exact = layer_norm(x.double(), weight.double(), bias.double())
    assert (layer_norm(x, weight, bias) != exact.bfloat16()).double().mean() < 0.01
    mean, variance = moments(x, (-1,))
    assert mean.dtype == variance.dtype == standardize(x, (mean, variance), 0.0).dtype == torch.float32


def test_a_residual_is_added_first_and_the_sum_handed_on():
    module, (x, residual) = example()
    y, stream = module(x, residual)
    torch.testing.assert_close(stream, x + residual)
    torch.testing.assert_close(y, F.layer_norm(x + residual, (6,), module.weight, module.bias, 0.01))
    two = LayerNorm((3, 6)).double()
    torch.testing.assert_close(two(x, residual)[0], F.layer_norm(x + residual, (3, 6)))


def test_on_images_the_channels_must_come_last():
    """`nn.LayerNorm(C)` on (B, C, H, W) takes the width for the channels: an error, or, if W = C, the wrong numbers."""
    x = torch.randn(2, 4, 4, 4, dtype=D) * torch.tensor([1.0, 2.0, 5.0, 9.0], dtype=D)[:, None, None]
    wrong, right = LayerNorm(4).double()(x), LayerNorm(4).double()(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    torch.testing.assert_close(right.mean(1), torch.zeros(2, 4, 4, dtype=D), atol=1e-12, rtol=0)
    assert wrong.mean(1).abs().max() > 0.1
    with pytest.raises(ValueError, match=r"x has shape \(2, 4, 4, 4\); its last dimensions must be normalized_shape=\(5,\)"):
        LayerNorm(5).double()(x)


@pytest.mark.oracle("transformers T5LayerNorm and LlamaRMSNorm")
def test_erratum_t5_and_llama_do_not_subtract_a_mean():
    t5 = pytest.importorskip("transformers.models.t5.modeling_t5").T5LayerNorm(16)
    llama = pytest.importorskip("transformers.models.llama.modeling_llama").LlamaRMSNorm(16)
    x = 1 + torch.randn(4, 16)
    for norm in (t5, llama):
        torch.testing.assert_close(norm(x), rms_norm(x))
        assert (norm(x) - layer_norm(x)).abs().max() > 0.1


@pytest.mark.oracle("published settings: BERT, GPT-2")
def test_erratum_eps_is_not_one_value_for_all_transformers():
    transformers = pytest.importorskip("transformers")
    assert transformers.BertConfig().layer_norm_eps == 1e-12
    assert transformers.GPT2Config().layer_norm_epsilon == 1e-5 == LayerNorm(1).eps


def test_numpy_variant_agrees(agree):
    module, (x, _) = example()
    weight, bias = module.weight.detach().numpy(), module.bias.detach().numpy()
    agree(numpy_variant.layer_norm(x.numpy(), weight, bias, 0.01), module(x))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(normalized_shape=()), r"normalized_shape=\(\) needs one or more sizes"),
        (dict(normalized_shape=(3, 0)), r"normalized_shape=\(3, 0\) needs one or more sizes from 1 upwards"),
        (dict(normalized_shape=4, eps=-1e-6), "eps=-1e-06 is negative"),
        (dict(normalized_shape=4, eps=float("nan")), "eps=nan"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        LayerNorm(**arguments)


def test_smallest_arguments_are_allowed():
    assert LayerNorm(1)(torch.tensor([[-5.0]])).item() == 0.0, "one number has no deviation: only the bias is left"
    assert LayerNorm(2, eps=0.0)(torch.tensor([1.0, 3.0])).tolist() == [-1.0, 1.0]


@pytest.mark.parametrize("shape", [(2, 5), (6, 2), ()])
def test_wrong_last_dimensions_are_named(shape):
    with pytest.raises(ValueError, match=r"its last dimensions must be normalized_shape=\(6,\)"):
        LayerNorm(6)(torch.zeros(shape))


@pytest.mark.parametrize(
    ("residual", "message"),
    [
        (torch.zeros(3, 6), r"residual is \(3, 6\) torch.float32; expected \(2, 6\) torch.float32 as x"),
        (torch.zeros(2, 6).double(), "torch.float64; expected"),
    ],
)
def test_a_residual_unlike_x_is_refused(residual, message):
    with pytest.raises(ValueError, match=message):
        LayerNorm(6)(torch.zeros(2, 6), residual)


def test_parameters_and_what_is_shown():
    assert sum(p.numel() for p in LayerNorm(8).parameters()) == 16
    assert sum(p.numel() for p in LayerNorm(8, bias=False).parameters()) == 8
    assert not list(LayerNorm(8, elementwise_affine=False).parameters())
    assert repr(LayerNorm(6, 0.5)) == "LayerNorm((6,), eps=0.5)"


@pytest.mark.parametrize("mean", [-3.0, 2.0])
def test_demo_ends_on_the_circle_whatever_the_mean(mean):
    side, above = numpy_variant.show(mean=mean)[:2]
    radius = np.linalg.norm(above["groups"]["output"], axis=1)
    assert np.allclose(radius, math.sqrt(3), rtol=1e-3)
    assert np.allclose(np.array(side["groups"]["output"])[:, 1], 0)
    assert not np.allclose(np.array(numpy_variant.show(mean=mean, norm="RMSNorm")[0]["groups"]["output"])[:, 1], 0)


def test_what_is_no_floating_point_tensor_is_named():
    with pytest.raises(TypeError, match="x has dtype torch.int64"):
        LayerNorm(6)(torch.zeros(2, 6, dtype=torch.int64))
    with pytest.raises(TypeError, match="residual is a list"):
        LayerNorm(6)(torch.zeros(2, 6), [0.0])
