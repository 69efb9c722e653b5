import numpy as np
import pytest
import torch
from torch.nn import functional as F

from snippets.layers.geglu import fit
from snippets.layers.geglu import geglu as numpy_geglu
from vocab.layers.gated_linear_unit import GatedFeedForward
from vocab.layers.geglu import GEGLU

D = torch.float64


def example():
    return GEGLU(4, 6).double(), (torch.randn(2, 5, 4, dtype=D),)


@pytest.mark.oracle("the formula with torch.nn.functional.gelu")
@pytest.mark.parametrize("approximate", ["none", "tanh"])
@pytest.mark.parametrize("bias", [True, False])
def test_equals_the_formula(approximate, bias):
    layer, x = GEGLU(4, 6, approximate=approximate, bias=bias).double(), torch.randn(2, 5, 4, dtype=D)
    up, gate = F.linear(x, layer.proj.weight, layer.proj.bias).chunk(2, -1)
    y = F.linear(F.gelu(gate, approximate=approximate) * up, layer.down.weight, layer.down.bias)
    torch.testing.assert_close(layer(x), y, rtol=1e-12, atol=1e-14)


def test_the_default_is_exact_and_without_bias():
    layer, x = GEGLU(6).double(), torch.randn(2, 5, 6, dtype=D)
    up, gate = (x @ layer.proj.weight.T).chunk(2, -1)
    torch.testing.assert_close(layer(x), (F.gelu(gate) * up) @ layer.down.weight.T, rtol=1e-12, atol=1e-14)
    assert layer.down.in_features == 16 and layer.proj.bias is None


@pytest.mark.oracle("torch.nn.Sequential with a GELU")
def test_with_up_fixed_to_one_it_is_a_plain_gelu_network():
    layer, x = GEGLU(4, 6, bias=True).double(), torch.randn(2, 5, 4, dtype=D)
    layer.proj.weight.data[:6], layer.proj.bias.data[:6] = 0, 1
    plain = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.GELU(), torch.nn.Linear(6, 4)).double()
    plain[0].weight.data, plain[0].bias.data = layer.proj.weight.data[6:], layer.proj.bias.data[6:]
    plain[2].load_state_dict(layer.down.state_dict())
    torch.testing.assert_close(layer(x), plain(x))


def test_the_two_forms_differ_by_less_than_five_ten_thousandths_per_gate():
    exact, tanh = GEGLU(1, 1), GEGLU(1, 1, approximate="tanh")
    gate = torch.linspace(-8, 8, 16001, dtype=D)
    worst = (exact.activation(gate) - tanh.activation(gate)).abs().max()
    assert 4.7e-4 < worst < 4.8e-4


@pytest.mark.parametrize(("name", "exact"), [("gelu", True), ("silu", True), ("relu", True), ("sigmoid", False)])
def test_two_units_make_a_square_exactly_unless_the_gate_is_a_plain_sigmoid(name, exact):
    """s(x) − s(−x) = x for the three gates, so x·s(x) + (−x)·s(−x) = x²."""
    layer = GatedFeedForward(1, 2, activation=name).double()
    layer.proj.weight.data = torch.tensor([[1.0], [-1.0], [1.0], [-1.0]], dtype=D)
    layer.down.weight.data = torch.ones(1, 2, dtype=D)
    x = torch.linspace(-2, 2, 41, dtype=D).view(1, -1, 1)
    assert torch.allclose(layer(x), x**2) == exact
    if not exact:
        torch.testing.assert_close(layer(x), x * torch.tanh(x / 2))


@pytest.mark.oracle("the widths of T5 1.1")
def test_t5_1_1_gives_up_width_for_the_gate():
    with torch.device("meta"):
        gated = sum(p.numel() for p in GEGLU(768, 2048).parameters())
    assert gated == 3 * 768 * 2048 == 2 * 768 * 3072  # as many as T5's ungated 3072


def test_numpy_variant_agrees(agree):
    layer, x = GEGLU(4, 6).double(), torch.randn(2, 5, 4, dtype=D)
    up, gate = (w.detach().numpy() for w in layer.proj.weight.chunk(2))
    agree(numpy_geglu(x.numpy(), gate, up, layer.down.weight.detach().numpy()), layer(x))


@pytest.mark.interp
@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_kernel_agrees(approximate, kernel_agrees):
    layer, x = GEGLU(4, 6, approximate=approximate).double(), torch.randn(2, 5, 4, dtype=D, requires_grad=True)
    kernel_agrees("gated_unit", lambda _: layer(x), (x, *layer.parameters()), module=layer, atol=1e-15)


@pytest.mark.oracle("torch.autograd with the same start")
def test_the_demos_hand_written_training_is_gradient_descent(agree):
    acts = dict(sigmoid=torch.sigmoid, ReLU=F.relu, GELU=F.gelu, SiLU=F.silu)
    x, names, units = np.linspace(-2, 2, 9), [*acts, "GELU"], [3, 3, 3, 3, 5]
    y, losses = fit(x, x**2, names, units, [True] * 4 + [False], 0.05, np.random.default_rng(1), steps=20)
    start = np.random.default_rng(1).normal(size=(5, 5)) * 0.7
    for i, name in enumerate(names):
        p = torch.tensor(start[:, : units[i]], requires_grad=True)
        if i == 4:
            p.data[0], p.data[1] = 0, 1
        t = torch.from_numpy(x)[:, None]
        for step in range(20):
            v, c, g, b, w = p
            out = ((v * t + c) * acts[name](g * t + b) * w).sum(1)
            loss = ((out - t[:, 0] ** 2) ** 2).mean()
            grad = torch.autograd.grad(loss, p)[0]
            if i == 4:
                grad[:2] = 0
            assert losses[step, i] == pytest.approx(loss.item())
            p.data -= 0.05 * grad / max(1, grad.norm() / 4)
        agree(y[i], out)


def test_bad_settings_and_shapes_say_which_and_why():
    with pytest.raises(ValueError, match="approximate='sigmoid' is neither 'none' nor 'tanh'"):
        GEGLU(4, approximate="sigmoid")
    for shape in [(5, 4), (2, 5, 3)]:
        with pytest.raises(ValueError, match=r"expected \(batch, time, d_model=4\)"):
            GEGLU(4)(torch.zeros(shape))


@pytest.mark.oracle("transformers: T5DenseGatedActDense with copied weights")
def test_equals_t5_1_1_with_copied_weights_while_t5_1_0_has_a_relu():
    """A widely copied list calls T5 a GELU model; the first T5 has a plain ReLU network."""
    t5 = pytest.importorskip("transformers.models.t5.modeling_t5")
    from transformers import T5Config

    first = T5Config(d_model=4, d_ff=6)
    assert first.dense_act_fn == "relu" and not first.is_gated_act
    config = T5Config(d_model=4, d_ff=6, feed_forward_proj="gated-gelu", dropout_rate=0.0)
    assert config.dense_act_fn == "gelu_new"
    theirs = t5.T5DenseGatedActDense(config).double()
    ours, x = GEGLU(4, 6, approximate="tanh").double(), torch.randn(2, 5, 4, dtype=D)
    ours.proj.weight.data = torch.cat([theirs.wi_1.weight.data, theirs.wi_0.weight.data])
    ours.down.weight.data = theirs.wo.weight.data
    torch.testing.assert_close(ours(x), theirs(x))
