import numpy as np
import pytest
import torch
from torch.nn import functional as F

from snippets.layers.gated_linear_unit import GATES, SLOPES, gated_feed_forward
from snippets.layers.gated_linear_unit import glu as numpy_glu
from vocab.layers.gated_linear_unit import GatedFeedForward, GatedLinearUnit, glu, matched_width
from vocab.layers.linear import Linear

D = torch.float64
NAMES = dict(sigmoid="sigmoid", tanh="tanh", ReLU="relu", GELU="gelu", SiLU="silu")


def example():
    return GatedLinearUnit(4, 3).double(), (torch.randn(2, 5, 4, dtype=D),)


@pytest.mark.oracle("torch.nn.functional.glu")
@pytest.mark.parametrize("dim", [-1, 0, 1])
def test_the_function_equals_pytorchs(dim):
    x = torch.randn(6, 4, 8, dtype=D)
    torch.testing.assert_close(glu(x, dim), F.glu(x, dim))
    torch.testing.assert_close(glu(x), F.glu(x))


@pytest.mark.oracle("torch.nn.functional.glu of a joint torch.nn.functional.linear")
@pytest.mark.parametrize("bias", [True, False])
def test_the_layer_is_two_maps_values_first_and_gates_second(bias):
    layer, x = GatedLinearUnit(4, 3, bias=bias).double(), torch.randn(2, 5, 4, dtype=D)
    w, v = layer.proj.weight[:3], layer.proj.weight[3:]
    b, c = (layer.proj.bias[:3], layer.proj.bias[3:]) if bias else (0, 0)
    torch.testing.assert_close(layer(x), F.glu(F.linear(x, torch.cat([w, v]), torch.cat([b, c]) if bias else None)))
    torch.testing.assert_close(layer(x), (x @ w.T + b) * torch.sigmoid(x @ v.T + c))
    assert GatedLinearUnit(4, 3).proj.bias.shape == (6,)


def test_an_open_gate_gives_the_linear_map_and_a_shut_one_zero():
    layer, x = GatedLinearUnit(4, 3).double(), torch.randn(2, 5, 4, dtype=D)
    layer.proj.bias.data[3:] = 1e3
    torch.testing.assert_close(layer(x), F.linear(x, layer.proj.weight[:3], layer.proj.bias[:3]))
    layer.proj.bias.data[3:] = -1e3
    assert layer(x).abs().max() == 0


@pytest.mark.oracle("closed form of the gradients")
def test_gradients_pass_through_the_gate_and_through_the_value():
    x = torch.randn(7, 8, dtype=D, requires_grad=True)
    grad = torch.autograd.grad(glu(x).sum(), x)[0]
    a, g = x.detach()[:, :4], x.detach()[:, 4:]
    s = 1 / (1 + torch.exp(-g))
    torch.testing.assert_close(grad, torch.cat([s, a * s * (1 - s)], -1))


def test_without_a_function_on_the_gate_it_is_the_product_of_two_maps():
    layer, x = GatedLinearUnit(4, 3, activation="identity").double(), torch.randn(5, 4, dtype=D)
    a, g = F.linear(x, layer.proj.weight, layer.proj.bias).split(3, -1)
    torch.testing.assert_close(layer(x), a * g)


@pytest.mark.parametrize("name", NAMES.values())
def test_any_function_can_sit_on_the_gate(name):
    layer, x = GatedLinearUnit(4, 3, activation=name).double(), torch.randn(5, 4, dtype=D)
    a, g = F.linear(x, layer.proj.weight, layer.proj.bias).split(3, -1)
    torch.testing.assert_close(layer(x), a * getattr(torch.nn.functional, name)(g))


def test_a_large_value_still_has_a_gradient_which_a_tanh_on_it_destroys():
    """WaveNet's and the LSTM's gate is tanh(value) times sigmoid(gate); that is another unit."""
    x = torch.tensor([10.0, 1.0], dtype=D, requires_grad=True)
    kept = torch.autograd.grad(glu(x).sum(), x)[0][0]
    lost = torch.autograd.grad((torch.tanh(x[0]) * torch.sigmoid(x[1])), x)[0][0]
    assert kept == pytest.approx(1 / (1 + np.exp(-1.0))) and 0 < lost < 1e-7


@pytest.mark.oracle("Gauss-Hermite quadrature of the squared sigmoid")
def test_a_gate_around_zero_divides_the_variance_by_more_than_three():
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    kept = (weights / weights.sum() / (1 + np.exp(-nodes)) ** 2).sum()
    assert kept == pytest.approx(0.2934, abs=1e-4) and 1 / kept == pytest.approx(3.41, abs=0.01)
    x = torch.randn(400_000, 2, dtype=D)
    assert glu(x).square().mean() == pytest.approx(kept, rel=0.02)
    assert glu(torch.cat([x[:, :1], 0 * x[:, 1:]], 1)).square().mean() == pytest.approx(0.25, rel=0.02)


def test_twice_the_parameters_of_a_linear_layer():
    gated, plain = (sum(p.numel() for p in layer.parameters()) for layer in (GatedLinearUnit(5, 7), Linear(5, 7)))
    assert gated == 2 * plain


def test_a_sigmoid_gate_couples_no_two_units_and_a_softmax_gate_couples_all():
    """A widely copied description says that the gate may be a sigmoid or a softmax."""
    x = torch.randn(8, dtype=D)
    ours = torch.autograd.functional.jacobian(glu, x)[:, 4:]
    assert torch.equal(ours, ours.diag().diag())
    softmax = torch.autograd.functional.jacobian(lambda x: x[:4] * x[4:].softmax(0), x)[:, 4:]
    assert (softmax.abs() > 1e-6).all()


def test_halving_the_input_is_not_the_same_as_projecting_it_twice():
    """A widely copied page defines the unit in both ways. They agree if the matrix picks the halves, and only then."""
    layer, x = GatedLinearUnit(6, 3, bias=False).double(), torch.randn(5, 6, dtype=D)
    assert not torch.allclose(layer(x), glu(x))
    layer.proj.weight.data = torch.eye(6, dtype=D)
    torch.testing.assert_close(layer(x), glu(x))


@pytest.mark.oracle("the hidden widths of LLaMA (Touvron et al. 2023)")
@pytest.mark.parametrize(("d_model", "d_ff"), [(4096, 11008), (5120, 13824), (6656, 17920), (8192, 22016)])
def test_matched_width_is_that_of_llama(d_model, d_ff):
    assert matched_width(d_model, 256) == d_ff


@pytest.mark.parametrize("d_model", [48, 50, 64])
def test_matched_width_has_the_weights_of_an_ungated_layer(d_model):
    with torch.device("meta"):
        weights = sum(p.numel() for p in GatedFeedForward(d_model).parameters())
    assert 0 <= 8 * d_model**2 - weights < 3 * d_model
    assert matched_width(d_model) == 8 * d_model // 3
    assert matched_width(3, 8) == 8 and matched_width(3, 7) == 14


@pytest.mark.oracle("the formula with three torch.nn.functional.linear")
@pytest.mark.parametrize("bias", [True, False])
def test_feed_forward_is_a_gated_unit_and_a_way_back(bias):
    layer, x = GatedFeedForward(4, 6, activation="silu", bias=bias).double(), torch.randn(2, 5, 4, dtype=D)
    up, gate = F.linear(x, layer.proj.weight, layer.proj.bias).split(6, -1)
    torch.testing.assert_close(layer(x), F.linear(up * F.silu(gate), layer.down.weight, layer.down.bias))
    assert (layer.down.bias is not None) == bias


def test_feed_forward_defaults():
    layer, x = GatedFeedForward(5).double(), torch.randn(1, 2, 5, dtype=D)
    assert layer.proj.bias is None and layer.down.bias is None and layer.down.in_features == 13
    torch.testing.assert_close(layer(x), F.glu(x @ layer.proj.weight.T) @ layer.down.weight.T)
    assert GatedFeedForward(6, multiple_of=10).down.in_features == 20


def test_numpy_variant_agrees(agree):
    for ours, theirs in NAMES.items():
        layer, x = GatedFeedForward(4, 6, activation=theirs).double(), torch.randn(2, 5, 4, dtype=D)
        up, gate = (w.detach().numpy() for w in layer.proj.weight.chunk(2))
        agree(gated_feed_forward(x.numpy(), up, gate, layer.down.weight.detach().numpy(), GATES[ours]), layer(x))
    x = torch.randn(5, 8, dtype=D)
    agree(numpy_glu(x.numpy()), glu(x))


@pytest.mark.interp
@pytest.mark.parametrize("name", ["sigmoid", "silu", "gelu", "gelu_tanh", "relu"])
def test_kernel_agrees(name, kernel_agrees):
    layer, x = GatedFeedForward(4, 6, activation=name, bias=True).double(), torch.randn(2, 5, 4, dtype=D, requires_grad=True)
    kernel_agrees("gated_unit", lambda _: layer(x), (x, *layer.parameters()), module=layer, atol=1e-15)


@pytest.mark.interp
def test_kernel_says_which_gate_it_does_not_have():
    pytest.importorskip("triton")
    from vocab.kernels.interpret import interpreting

    with interpreting(), pytest.raises(RuntimeError, match="it has no activation 'tanh'; backend='torch' computes the same"):
        GatedLinearUnit(4, 3, activation="tanh", backend="triton")(torch.zeros(2, 4))


@pytest.mark.parametrize("name", GATES)
def test_the_slopes_of_the_demo_are_those_of_autograd(name):
    g = torch.linspace(-4, 4, 50, dtype=D, requires_grad=True)
    slope = torch.autograd.grad(getattr(F, NAMES[name])(g).sum(), g)[0]
    np.testing.assert_allclose(SLOPES[name](g.detach().numpy()), slope, atol=1e-12)


def test_bad_settings_and_shapes_say_which_and_why():
    with pytest.raises(ValueError, match="x has size 7 in dimension -1, which does not split into values and gates"):
        glu(torch.zeros(2, 7))
    with pytest.raises(TypeError, match="x has dtype torch.int64"):
        glu(torch.zeros(2, 8).long())
    with pytest.raises(ValueError, match="x has size 3 in dimension 0"):
        glu(torch.zeros(3, 8), 0)
    with pytest.raises(ValueError, match="activation='softmax' is none of"):
        GatedLinearUnit(4, 3, activation="softmax")
    with pytest.raises(ValueError, match="multiple_of=0 is below 1"):
        matched_width(4, 0)
    with pytest.raises(ValueError, match=r"expected \(\.\.\., in_features=4\)"):
        GatedLinearUnit(4, 3)(torch.zeros(2, 5))
    for shape in [(5, 4), (2, 5, 3)]:
        with pytest.raises(ValueError, match=r"expected \(batch, time, d_model=4\)"):
            GatedFeedForward(4)(torch.zeros(shape))


@pytest.mark.oracle("transformers: the layers of GPT-2, T5 1.1 and LLaMA")
def test_gpt2_has_no_gate_while_t5_1_1_and_llama_have_one():
    """A widely copied list names GPT-2 and GPT-3 as users of gated units."""
    gpt2, t5, llama = (pytest.importorskip(f"transformers.models.{m}.modeling_{m}") for m in ("gpt2", "t5", "llama"))
    from transformers import GPT2Config, LlamaConfig, T5Config

    with torch.device("meta"):
        layers = [
            gpt2.GPT2MLP(32, GPT2Config(n_embd=8)),
            t5.T5LayerFF(T5Config(d_model=8, d_ff=32)).DenseReluDense,
            t5.T5LayerFF(T5Config(d_model=8, d_ff=32, feed_forward_proj="gated-gelu")).DenseReluDense,
            llama.LlamaMLP(LlamaConfig(hidden_size=32, intermediate_size=32)),
        ]
    assert [sum(p.ndim == 2 for p in layer.parameters()) for layer in layers] == [2, 2, 3, 3]
