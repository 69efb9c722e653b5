import numpy as np
import pytest
import torch
from torch.nn import functional as F

from snippets.layers.reglu import reglu as numpy_reglu
from snippets.layers.reglu import reglu_skipping
from vocab.layers.reglu import ReGLU

D = torch.float64


def example():
    return ReGLU(4, 6).double(), (torch.randn(2, 5, 4, dtype=D),)


def maps(layer):
    up, gate = layer.proj.weight.detach().chunk(2)
    return up, gate, layer.down.weight.detach()


@pytest.mark.oracle("the formula with torch.nn.functional.relu")
@pytest.mark.parametrize("bias", [True, False])
def test_equals_the_formula(bias):
    layer, x = ReGLU(4, 6, bias=bias).double(), torch.randn(2, 5, 4, dtype=D)
    up, gate = F.linear(x, layer.proj.weight, layer.proj.bias).chunk(2, -1)
    torch.testing.assert_close(layer(x), F.linear(F.relu(gate) * up, layer.down.weight, layer.down.bias))
    assert ReGLU(6).down.in_features == 16 and ReGLU(6).down.bias is None


def test_with_equal_maps_it_is_the_squared_relu_network():
    layer, x = ReGLU(4, 6).double(), torch.randn(2, 5, 4, dtype=D)
    layer.proj.weight.data[:6] = layer.proj.weight.data[6:]
    _, gate, down = maps(layer)
    torch.testing.assert_close(layer(x), F.linear(F.relu(x @ gate.T).square(), down))


@pytest.mark.oracle("homogeneity of degree two")
def test_twice_the_input_gives_four_times_the_output():
    layer, x = ReGLU(4, 6).double(), torch.randn(2, 5, 4, dtype=D)
    for c in (0.25, 2.0, 3.7):
        torch.testing.assert_close(layer(c * x), c**2 * layer(x))
    assert not torch.allclose(layer(-x), layer(x))


def test_skipping_closed_units_changes_no_bit():
    """With whole numbers every sum is exact, so the order in which a library adds cannot matter."""
    layer, x = ReGLU(6, 40).double(), torch.randint(-5, 6, (1, 9, 6)).double()
    for p in layer.parameters():
        p.data = torch.randint(-5, 6, p.shape).double()
    up, gate, down = maps(layer)
    for t in range(9):
        open_ = x[0, t] @ gate.T > 0
        assert 0 < open_.sum() < 40
        skipped = (F.linear(x[0, t], up[open_]) * F.linear(x[0, t], gate[open_])) @ down[:, open_].T
        assert torch.equal(skipped, layer(x)[0, t])


def test_skipping_changes_no_bit_of_a_sum_in_the_same_order():
    layer, x = ReGLU(4, 40).double(), torch.randn(4, dtype=D)
    up, gate, down = maps(layer)
    hidden = F.relu(x @ gate.T) * (x @ up.T)
    terms = down[0] * hidden
    assert sum(terms.tolist()) == sum(terms[hidden != 0].tolist()) and (hidden == 0).any()


@pytest.mark.oracle("the normal distribution function")
def test_sparsity_is_the_share_of_closed_gates():
    layer, x = ReGLU(64, 400, bias=True).double(), torch.randn(8, 200, 64, dtype=D)
    _, gate, _ = maps(layer)
    for shift in (0.0, -0.5, 0.4):
        layer.proj.bias.data[:400], layer.proj.bias.data[400:] = 3.0, shift
        expected = torch.distributions.Normal(0.0, 1.0).cdf(-shift / gate.norm(dim=1)).mean()
        assert layer.sparsity(x) == pytest.approx(expected.item(), abs=0.005)
    assert layer.sparsity(x).dtype == D and not layer.sparsity(x.requires_grad_()).requires_grad
    assert ReGLU(4, 6).sparsity(torch.zeros(1, 2, 4)) == 1


def test_a_gate_that_never_opens_gets_no_gradient_in_either_branch():
    layer, x = ReGLU(4, 6, bias=True).double(), torch.rand(2, 5, 4, dtype=D)
    layer.proj.weight.data[6 + 2], layer.proj.bias.data[6 + 2] = -1, 0  # the gate of unit 2
    layer(x).square().sum().backward()
    for weight in (layer.proj.weight.grad, layer.proj.bias.grad[:, None], layer.down.weight.grad.T):
        rows = weight.abs().sum(1)
        assert rows[2] == 0 and rows.sum() > 0
    assert layer.proj.weight.grad[8].abs().sum() == 0 and layer.proj.weight.grad[6:].abs().sum() > 0


def test_numpy_variant_agrees(agree):
    layer, x = ReGLU(4, 12, bias=True).double(), torch.randn(5, 4, dtype=D)
    layer.proj.bias.data[:12], layer.down.bias.data[:] = 0, 0
    up, gate, down = (w.numpy() for w in maps(layer))
    b = layer.proj.bias.detach().numpy()[12:]
    agree(numpy_reglu(x.numpy(), gate, up, down, b), layer(x[None])[0])
    total = 0
    for t in range(5):
        y, used = reglu_skipping(x[t].numpy(), gate, up, down, b * 0)
        agree(y, numpy_reglu(x[t].numpy(), gate, up, down))
        total += used
    layer.proj.bias.data[:] = 0
    np.testing.assert_allclose(1 - total / 60, layer.sparsity(x[None]))


@pytest.mark.interp
def test_kernel_agrees(agree):
    pytest.importorskip("triton")
    from vocab.kernels.dispatch import watch
    from vocab.kernels.interpret import interpreting

    layer, x, found = ReGLU(4, 6).double(), torch.randn(2, 5, 4, dtype=D, requires_grad=True), []
    for layer.backend in ("triton", "torch"):
        with interpreting(), watch() as seen:
            y = layer(x)
            found.append((y, *torch.autograd.grad(y.square().sum(), (x, *layer.parameters()))))
        assert seen == [f"gated_unit:{layer.backend}"]
    for ours, plain in zip(*found, strict=True):
        agree(ours, plain, of="triton", rtol=1e-12, atol=1e-15)


def test_wrong_shapes_name_the_expected_one():
    for shape in [(5, 4), (2, 5, 3)]:
        for call in (ReGLU(4), ReGLU(4).sparsity):
            with pytest.raises(ValueError, match=r"expected \(batch, time, d_model=4\)"):
                call(torch.zeros(shape))
