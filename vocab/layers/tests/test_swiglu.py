import numpy as np
import pytest
import torch
from torch.nn import functional as F

from snippets.layers.swiglu import swiglu as numpy_swiglu
from vocab.layers.gated_linear_unit import GatedFeedForward
from vocab.layers.swiglu import SwiGLU, swiglu

D = torch.float64


def example():
    return SwiGLU(4, 6, beta=1.3, limit=2.0, offset=1.0).double(), (torch.randn(2, 5, 4, dtype=D),)


@pytest.mark.oracle("the formula with torch.nn.functional.silu")
@pytest.mark.parametrize("bias", [True, False])
def test_equals_the_formula_of_llama(bias):
    layer, x = SwiGLU(4, 6, bias=bias).double(), torch.randn(2, 5, 4, dtype=D)
    w3, w1 = layer.proj.weight.chunk(2)
    b3, b1 = layer.proj.bias.chunk(2) if bias else (None, None)
    y = F.linear(F.silu(F.linear(x, w1, b1)) * F.linear(x, w3, b3), layer.down.weight, layer.down.bias)
    torch.testing.assert_close(layer(x), y)
    assert (layer.down.bias is not None) == bias and SwiGLU(4).down.bias is None


@pytest.mark.oracle("finite differences (torch.autograd.gradcheck)")
def test_the_function_passes_gradcheck():
    gate, up = (torch.randn(7, dtype=D, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(swiglu, (gate, up))


@pytest.mark.oracle("closed form of the gradients")
def test_gradients_have_a_closed_form():
    gate, up = (torch.randn(9, dtype=D, requires_grad=True) for _ in range(2))
    for beta in (0.5, 1.0, 1.702):
        dg, du = torch.autograd.grad(swiglu(gate, up, beta=beta).sum(), (gate, up))
        g, s = gate.detach(), 1 / (1 + torch.exp(-beta * gate.detach()))
        torch.testing.assert_close(dg, up.detach() * s * (1 + beta * g * (1 - s)))
        torch.testing.assert_close(du, g * s)


@pytest.mark.oracle("float32, rounded once")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_rounded_only_once(dtype):
    gate, up = (3 * torch.randn(1000).to(dtype) for _ in range(2))
    assert torch.equal(swiglu(gate, up), (F.silu(gate.float()) * up.float()).to(dtype))


def test_beta_zero_halves_the_gate_and_a_large_beta_makes_it_a_relu():
    gate, up = torch.randn(50, dtype=D), torch.randn(50, dtype=D)
    torch.testing.assert_close(swiglu(gate, up, beta=0.0), gate / 2 * up)
    torch.testing.assert_close(swiglu(gate, up, beta=1e6), F.relu(gate) * up)
    layer, x = SwiGLU(4, 6, beta=1e6).double(), torch.randn(2, 5, 4, dtype=D)
    relu = GatedFeedForward(4, 6, activation="relu").double()
    relu.load_state_dict(layer.state_dict())
    torch.testing.assert_close(layer(x), relu(x))
    torch.testing.assert_close(SwiGLU(4, 6).beta, 1.0)


@pytest.mark.oracle("the hidden width of LLaMA 7B (Touvron et al. 2023)")
def test_default_width_is_that_of_llama():
    with torch.device("meta"):
        assert SwiGLU(4096).down.in_features == 11008
        assert SwiGLU(4096, multiple_of=1000).down.in_features == 11000
        assert SwiGLU(4096, 500).down.in_features == 500
        assert sum(p.numel() for p in SwiGLU(4096).parameters()) == 3 * 4096 * 11008


@pytest.mark.oracle("scipy.optimize.minimize_scalar")
def test_silu_has_a_floor_and_no_ceiling():
    """A widely copied description gives the gate of gpt-oss a range of about −1 to 50."""
    optimize = pytest.importorskip("scipy.optimize")
    floor = optimize.minimize_scalar(lambda g: g / (1 + np.exp(-g)), bounds=(-5, 0), method="bounded", options=dict(xatol=1e-9))
    grid = torch.linspace(-30, 30, 60001, dtype=D)
    values = swiglu(grid, torch.ones_like(grid))
    assert values.min().item() == pytest.approx(floor.fun, abs=1e-6) and floor.fun == pytest.approx(-0.2785, abs=1e-4)
    assert values.max() > 29.9
    assert swiglu(grid, torch.ones_like(grid), limit=7.0).max() < 7


def test_the_limit_cuts_the_gate_above_and_up_on_both_sides():
    gate, up = torch.tensor([9.0, -9.0, 1.0, 1.0, 1.0], dtype=D), torch.tensor([1.0, 1.0, 9.0, -9.0, 2.0], dtype=D)
    silu = F.silu(torch.tensor([7.0, -9.0, 1.0, 1.0, 1.0], dtype=D))
    torch.testing.assert_close(swiglu(gate, up, limit=7.0), silu * torch.tensor([1.0, 1.0, 7.0, -7.0, 2.0], dtype=D))
    torch.testing.assert_close(swiglu(gate, up), F.silu(gate) * up)


def around_the_limit():
    gate = torch.tensor([2.0, 2.5, -9.0, 1.0, 1.0, 1.0, 1.0], dtype=D).requires_grad_()
    return gate, torch.tensor([1.0, 1.0, 1.0, 2.0, 2.5, -2.0, -2.5], dtype=D).requires_grad_()


def test_a_number_on_the_limit_still_learns_and_one_beyond_does_not():
    gate, up = around_the_limit()
    dgate, dup = torch.autograd.grad(swiglu(gate, up, limit=2.0).sum(), (gate, up))
    assert (dgate != 0).tolist() == [True, False, True, True, True, True, True]
    assert (dup != 0).tolist() == [True, True, True, True, False, True, False]


@pytest.mark.interp
def test_kernel_agrees_on_the_limit(kernel_agrees):
    gate, up = around_the_limit()
    kernel_agrees("gated_unit", lambda backend: swiglu(gate, up, limit=2.0, backend=backend), (gate, up))


def test_fp16_overflows_without_the_limit():
    gate = up = torch.tensor([300.0], dtype=torch.float16)
    assert swiglu(gate, up).isinf().all()
    assert 48.9 < swiglu(gate, up, limit=7.0) < 49
    assert swiglu(gate.bfloat16(), up.bfloat16()).isfinite().all()


def test_a_gate_is_a_third_matrix_and_not_another_activation():
    """A widely copied description calls SwiGLU an activation that replaced ReLU."""
    layer, x = SwiGLU(4, 6).double(), torch.randn(2, 5, 4, dtype=D)
    assert sum(p.numel() for p in layer.parameters()) == 3 * 4 * 6
    before = layer(x)
    layer.proj.weight.data = torch.cat(layer.proj.weight.chunk(2)[::-1])  # up and gate change places
    assert not torch.allclose(layer(x), before, rtol=0.1)


def test_numpy_variant_agrees(agree):
    x = torch.randn(2, 5, 4, dtype=D)
    for limit, beta in ((None, 1.0), (0.2, 1.7)):
        layer = SwiGLU(4, 6, limit=limit, beta=beta).double()
        up, gate = (w.detach().numpy() for w in layer.proj.weight.chunk(2))
        agree(numpy_swiglu(x.numpy(), gate, up, layer.down.weight.detach().numpy(), beta, limit or np.inf), layer(x))


@pytest.mark.interp
@pytest.mark.parametrize("constants", [{}, {"beta": 1.702, "limit": 0.4, "offset": 1.0}], ids=["LLaMA", "gpt-oss"])
def test_kernel_agrees(constants, kernel_agrees):
    layer, x, halves = SwiGLU(4, 6, **constants).double(), *(torch.randn(*size, dtype=D, requires_grad=True) for size in ((2, 5, 4), (3, 8)))
    kernel_agrees("gated_unit", lambda backend: (layer(x), swiglu(*halves.chunk(2, -1), **constants, backend=backend)),
                  (x, *layer.parameters(), halves), module=layer, atol=1e-15)


def test_bad_settings_and_shapes_say_which_and_why():
    with pytest.raises(ValueError, match="limit=0.0 is not above 0; None sets no limit"):
        SwiGLU(4, limit=0.0)
    with pytest.raises(ValueError, match="multiple_of=0 is below 1"):
        SwiGLU(4, multiple_of=0)
    with pytest.raises(ValueError, match=r"gate has shape \(3,\) and up \(4,\); expected the same"):
        swiglu(torch.zeros(3), torch.zeros(4))
    for bad in [(torch.zeros(3).long(), torch.zeros(3)), (torch.zeros(3), torch.zeros(3).long())]:
        with pytest.raises(TypeError, match="has dtype torch.int64"):
            swiglu(*bad)
    for shape in [(5, 4), (2, 5, 3)]:
        with pytest.raises(ValueError, match=r"expected \(batch, time, d_model=4\)"):
            SwiGLU(4)(torch.zeros(shape))


@pytest.mark.oracle("transformers: GptOssExperts, with its limit, factor and offset")
def test_limit_and_offset_are_those_of_gpt_oss():
    gpt_oss = pytest.importorskip("transformers.models.gpt_oss.modeling_gpt_oss")
    from transformers import GptOssConfig

    experts = gpt_oss.GptOssExperts(GptOssConfig(hidden_size=8, intermediate_size=4, num_local_experts=1))
    gate, up = 6 * torch.randn(50, dtype=D), 6 * torch.randn(50, dtype=D)
    theirs = experts._apply_gate(torch.stack([gate, up], -1).flatten())
    torch.testing.assert_close(swiglu(gate, up, beta=1.702, limit=7.0, offset=1.0), theirs)


@pytest.mark.oracle("transformers: LlamaMLP with copied weights")
def test_equals_llama_with_copied_weights():
    llama = pytest.importorskip("transformers.models.llama.modeling_llama")
    from transformers import LlamaConfig

    theirs = llama.LlamaMLP(LlamaConfig(hidden_size=32, intermediate_size=6)).double()
    ours, x = SwiGLU(32, 6).double(), torch.randn(2, 5, 32, dtype=D)
    ours.proj.weight.data = torch.cat([theirs.up_proj.weight.data, theirs.gate_proj.weight.data])
    ours.down.weight.data = theirs.down_proj.weight.data
    torch.testing.assert_close(ours(x), theirs(x))
