import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from snippets.adapters.qlora import FORMATS
from snippets.adapters.qlora import quantize as numpy_quantize
from vocab.adapters.qlora import NF4, QLoRALinear, quantize_nf4

D = torch.float64


def made(r=2, inputs=6, outputs=4, **settings):
    layer = QLoRALinear(nn.Linear(inputs, outputs), r, 3.0, **{"compute_dtype": D, "block_size": 4, **settings})
    nn.init.normal_(layer.B)
    return layer.double()


def example():
    """For the contract suite: a layer with a change, and its input."""
    return made(), (torch.randn(3, 6, dtype=D),)


@pytest.mark.oracle("quantiles of the normal distribution (scipy.stats.norm.ppf)")
def test_the_levels_are_quantiles_of_a_normal_distribution():
    norm = pytest.importorskip("scipy.stats").norm
    offset = (1 - 1 / 30 + 1 - 1 / 32) / 2  # the mean of the outermost quantiles of 15 and of 16 equal parts
    above, below = norm.ppf(np.linspace(offset, 0.5, 9)[:-1]), -norm.ppf(np.linspace(offset, 0.5, 8)[:-1])
    expected = np.sort(np.concatenate([above, [0.0], below])) / above.max()
    np.testing.assert_allclose(NF4, expected, atol=2e-7)
    assert NF4[0] == -1 and NF4[7] == 0 and NF4[15] == 1 and NF4[6] != -NF4[8]


@pytest.mark.oracle("brute force over 16 levels")
@pytest.mark.parametrize("shape", [(8, 16), (5, 7), (3,)])
def test_every_number_goes_to_the_nearest_level_of_its_block(shape):
    w = torch.randn(shape)
    found = quantize_nf4(w, 16, double_quant=False).dequantize()
    assert found.shape == w.shape
    for i, value in enumerate(w.flatten()):
        block = w.flatten()[i // 16 * 16 : i // 16 * 16 + 16]
        candidates = torch.tensor(NF4) * block.abs().max()
        best = (candidates - value).abs().min()
        assert (found.flatten()[i] - value).abs() <= best + 1e-6


def test_numbers_on_the_grid_survive():
    w = 3.0 * torch.tensor(NF4).repeat(4)
    torch.testing.assert_close(quantize_nf4(w, 16, double_quant=False).dequantize(), w, rtol=1e-6, atol=0)
    assert torch.equal(quantize_nf4(torch.zeros(10)).dequantize(), torch.zeros(10)), "no division by zero"


def test_bits_per_weight():
    w = torch.randn(64 * 256, 2)
    assert quantize_nf4(w, 64, double_quant=False).bits() == 4.5
    assert quantize_nf4(w, 64).bits() == pytest.approx(4 + 8 / 64 + 32 / (64 * 256)) == pytest.approx(4.127, abs=1e-3)
    assert 4.5 - quantize_nf4(w, 64).bits() == pytest.approx(0.373, abs=1e-3)
    q = quantize_nf4(w, 64)
    stored = sum(8 * b.numel() * b.element_size() for n, b in q.named_buffers() if n not in ("levels", "scale_mean"))
    assert stored == pytest.approx(q.bits() * w.numel())


def test_rounding_the_scales_costs_little():
    w = torch.randn(256, 256)
    single, double = (quantize_nf4(w, 64, double_quant=x).dequantize() for x in (False, True))
    assert 0 < (double - single).norm() / w.norm() < 0.01 < (single - w).norm() / w.norm()


@pytest.mark.oracle("uniform 4-bit levels, worked out here")
def test_for_normal_weights_the_error_is_below_that_of_equal_steps():
    w = torch.randn(512, 64)
    step = w.abs().amax(1, keepdim=True) / 7
    uniform = (w / step).round() * step
    nf4 = quantize_nf4(w, 64, double_quant=False).dequantize()
    ratio = ((nf4 - w).square().mean() / (uniform - w).square().mean()).item()
    assert 0.6 < ratio < 0.85
    flat = 2 * torch.rand(512, 64) - 1
    step = flat.abs().amax(1, keepdim=True) / 7
    worse = (quantize_nf4(flat, 64, double_quant=False).dequantize() - flat).square().mean()
    assert worse > ((flat / step).round() * step - flat).square().mean(), "for uniform numbers equal steps are better"


def test_at_the_start_it_is_the_layer_with_the_rounded_weight():
    base, x = nn.Linear(64, 32), torch.randn(5, 64)
    layer = QLoRALinear(base, 4, compute_dtype=torch.float32)
    torch.testing.assert_close(layer(x), F.linear(x, quantize_nf4(base.weight).dequantize(), base.bias))
    assert (layer(x) - base(x)).abs().max() > 1e-3, "rounding is not free"
    assert {n for n, p in layer.named_parameters() if p.requires_grad} == {"A", "B"} == {n for n, _ in layer.named_parameters()}


@pytest.mark.parametrize("bias", [True, False])
def test_output_and_gradients_are_those_of_lora_on_the_rounded_weight(bias):
    layer = QLoRALinear(nn.Linear(6, 4, bias=bias), 2, 3.0, compute_dtype=D, block_size=4)
    nn.init.normal_(layer.B)
    layer, x = layer.double(), torch.randn(3, 6, dtype=D, requires_grad=True)
    a, b = (p.detach().clone().requires_grad_() for p in (layer.A, layer.B))
    expected = x @ (layer.weight.dequantize() + 1.5 * b @ a).T + (0 if layer.bias is None else layer.bias)
    out = layer(x)
    torch.testing.assert_close(out, expected)
    found = torch.autograd.grad(out.square().sum(), (x, layer.A, layer.B))
    for f, e in zip(found, torch.autograd.grad(expected.square().sum(), (x, a, b))):
        torch.testing.assert_close(f, e)


def test_merging_makes_a_plain_layer_and_rounding_that_again_changes_it():
    layer, x = made(inputs=64, outputs=32, block_size=64), torch.randn(3, 64)
    merged = layer.merge()
    assert type(merged) is nn.Linear and layer.unmerge() is layer
    torch.testing.assert_close(merged(x).double(), layer(x.double()), rtol=1e-4, atol=1e-5)
    again = quantize_nf4(merged.weight).dequantize()
    assert (again - merged.weight).norm() / layer.change().norm() > 0.01


def test_products_are_computed_in_the_compute_dtype_and_returned_as_they_came():
    layer = QLoRALinear(nn.Linear(64, 32), 4)
    assert layer.compute_dtype == torch.bfloat16
    x = torch.randn(2, 64)
    assert layer(x).dtype == torch.float32 and layer(x.half()).dtype == torch.float16
    exact = copy.deepcopy(layer)
    exact.compute_dtype = torch.float32
    assert 0 < (layer(x) - exact(x)).abs().max() < 0.05


def test_codes_travel_with_the_state_dict():
    layer, other, x = made(), made(), torch.randn(3, 6, dtype=D)
    other.load_state_dict(layer.state_dict())
    torch.testing.assert_close(other(x), layer(x), rtol=0, atol=0)
    assert layer.state_dict()["weight.codes"].dtype == torch.uint8


def test_dropout_thins_the_change_only():
    layer, x = made(dropout=0.5), torch.ones(100, 6, dtype=D)
    assert layer.eval()(x).std(0).max() < 1e-12 < layer.train()(x).std(0).max()


@pytest.mark.parametrize(("call", "error", "message"), [
    (lambda: quantize_nf4(torch.zeros(0)), ValueError, "w is empty"),
    (lambda: quantize_nf4(torch.zeros(4), 3), ValueError, "block_size=3 is not an even number"),
    (lambda: quantize_nf4(torch.zeros(4), 0), ValueError, "block_size=0 is not an even number"),
    (lambda: quantize_nf4(torch.zeros(4, dtype=torch.long)), TypeError, "w has dtype torch.int64"),
    (lambda: QLoRALinear(nn.Identity()), TypeError, "base is a Identity; expected torch.nn.Linear"),
    (lambda: made(r=5), ValueError, "r=5 is not from 1 to 4"),
    (lambda: made()(torch.zeros(2, 5, dtype=D)), ValueError, r"x has shape \(2, 5\); expected \(..., in_features=6\)"),
])
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
    assert quantize_nf4(torch.ones(1), 2).dequantize().tolist() == [1.0]


def test_numpy_variant_agrees(agree):
    w = torch.randn(10, 64)
    agree(numpy_quantize(w.numpy().astype(np.float64), FORMATS["NF4"], 64), quantize_nf4(w, 64, double_quant=False).dequantize())
