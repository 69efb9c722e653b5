import itertools
import math

import pytest
import torch
from torch.nn import functional as F

from vocab.kernels.gated_unit import ACTIVATIONS, SPEC, gated_unit, reference
from vocab.kernels.interpret import interpreting
from vocab.kernels.tests.harness import DTYPES, free_memory_or_skip, relative

D = torch.float64
# One mistake each, as (what the file says, what it says instead); test_mutants.py makes them.
MUTANTS = {
    "a dropped mask": ("tl.load(dy + row * W + start + cols, inside, other=0.0)", "tl.load(dy + row * W + start + cols)"),
    "a store past the row": ("tl.store(y + row * W + start + cols, value.to(y.dtype.element_ty), inside)", "tl.store(y + row * W + start + cols, value.to(y.dtype.element_ty))"),
    "the second block is the first": ("tl.program_id(0) % blocks).to(tl.int64) * BLOCK\n    cols = tl.arange(0, BLOCK)\n    inside = cols < W - start\n    cap = tl.full((), limit, ACC)\n    g =", "tl.program_id(0) % 1).to(tl.int64) * BLOCK\n    cols = tl.arange(0, BLOCK)\n    inside = cols < W - start\n    cap = tl.full((), limit, ACC)\n    g ="),
    "silu without its steepness": ("s = tl.sigmoid(beta * g)", "s = tl.sigmoid(g)"),
    "the slope of silu without its steepness": ("1.0 + beta * g * (1.0 - s)", "1.0 + g * (1.0 - s)"),
    "the exact GELU without its density": ("s + 0.3989422804014327 * g * tl.exp(-0.5 * g * g)", "s"),
    "a slip in the tanh form": ("0.044715 * g * g * g", "0.44715 * g * g * g"),
    "the tanh form's slope without its cubic part": ("(1.0 + 0.134145 * g * g)", "1.0"),
    "the sigmoid's slope is its value": ("slope = value * (1.0 - value)", "slope = value"),
    "a ReLU that is open for negative gates": ("tl.where(off, 0.0, g), tl.where(off, 0.0, 1.0)", "tl.where(off, 0.0, g), tl.where(off, 1.0, 1.0)"),
    "the square's slope without its two": ("value * value, 2.0 * value", "value * value, value"),
    "no offset on the way back": ("grad *= u + tl.full((), offset, ACC)", "grad *= u"),
    "the limit on both sides of the gate": ("        g = tl.where(g > cap, cap, g)\n    value, _", "        g = tl.where(tl.abs(g) > cap, cap, g)\n    value, _"),
    "up is cut off on one side": ("u = tl.where(u > cap, cap, tl.where(u < -cap, -cap, u))\n        value", "u = tl.where(u > cap, cap, u)\n        value"),
    "what was cut off still learns": ("grad = tl.where(cut, 0.0, grad)", "grad = tl.where(cut, grad, grad)"),
    "up learns beyond its limit": ("through = tl.where(tl.abs(u) > cap, 0.0, through)", "through = tl.where(u > cap, 0.0, through)"),
    "the halves' gradients change places": ("dgate, dup = _halves(found[0]", "dup, dgate = _halves(found[0]"),
    "views read as if they were dense": ("dense = all(t is None or t.is_contiguous() for t in tensors)", "dense = True"),
}
# triton-viz cannot follow a kernel that calls another function, and takes a view for as large as its numbers.
SANITIZED = None


@pytest.mark.parametrize(
    ("activation", "formula"),
    [
        ("silu", lambda g: g / (1 + math.exp(-1.3 * g))),
        ("gelu", lambda g: g * 0.5 * math.erfc(-g / math.sqrt(2))),
        ("gelu_tanh", lambda g: 0.5 * g * (1 + math.tanh(math.sqrt(2 / math.pi) * (g + 0.044715 * g**3)))),
        ("relu", lambda g: max(g, 0.0)),
        ("sigmoid", lambda g: 1 / (1 + math.exp(-g))),
        ("squared_relu", lambda g: max(g, 0.0) ** 2),
    ],
)
def test_reference_is_the_formula_number_by_number(activation, formula):
    gate, up = (2 * torch.randn(2, 3, 4, dtype=D)).unbind()
    y = reference(gate, up, activation=activation, beta=1.3 if activation == "silu" else 1.0, limit=1.5, offset=0.5)
    for found, g, u in zip(y.flatten().tolist(), gate.flatten().tolist(), up.flatten().tolist()):
        assert found == pytest.approx(formula(min(g, 1.5)) * (max(-1.5, min(u, 1.5)) + 0.5), rel=1e-12, abs=1e-15)
    alone = reference(gate, activation=activation)
    torch.testing.assert_close(reference(torch.cat((gate, up), 1), order="gate_up", activation=activation), alone * up)
    torch.testing.assert_close(reference(torch.cat((up, gate), 1), order="up_gate", activation=activation), alone * up)


@pytest.mark.parametrize(("activation", "order"), list(itertools.product(ACTIVATIONS, ["", "gate_up", "up_gate", "alone"])))
def test_operators_on_a_cpu_without_interpreter_agree_with_autograd(activation, order):
    gate, up = (2 * torch.randn(5, 4, dtype=D) for _ in range(2))
    options = {"activation": activation, "beta": 1.3, "limit": 1.0, "offset": 0.3}
    up = up.requires_grad_() if not order else None
    gate, order = gate.requires_grad_(), "" if order == "alone" else order
    expected, dy = reference(gate, up, order=order, **options), torch.randn(5, 2 if order else 4, dtype=D)
    arguments = (gate, up, order, *options.values())
    torch.testing.assert_close(torch.ops.vocab.gated_unit_forward(*arguments), expected)
    found = torch.ops.vocab.gated_unit_backward(dy, *arguments)
    wanted = [gate] if up is None else [gate, up]
    for ours, truth in zip(found, torch.autograd.grad(expected, wanted, dy)):
        torch.testing.assert_close(ours, truth)


@pytest.mark.interp
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradcheck(activation):
    gate, up = (torch.randn(1, 3, dtype=D, requires_grad=True) for _ in range(2))
    with interpreting():
        torch.autograd.gradcheck(lambda g, u: gated_unit(g, u, activation=activation, offset=1.0, backend="triton"), (gate, up))
    with interpreting():
        torch.autograd.gradcheck(lambda g: gated_unit(g, order="up_gate", activation=activation, limit=1.5, backend="triton"), torch.randn(1, 4, dtype=D, requires_grad=True))


@pytest.mark.interp
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_far_gates_are_open_or_shut_and_not_nan(activation):
    gate = torch.tensor([[-3e4, -60.0, 0.0, 60.0]], dtype=torch.float32, requires_grad=True)
    with interpreting():
        y = gated_unit(gate, activation=activation, backend="triton")
        (slope,) = torch.autograd.grad(y.sum(), gate)
    expected = {"sigmoid": [0.0, 0.0, 0.5, 1.0], "squared_relu": [0.0, 0.0, 0.0, 3600.0]}.get(activation, [0.0, 0.0, 0.0, 60.0])
    slopes = {"sigmoid": [0, 0, 0.25, 0], "relu": [0, 0, 0, 1], "squared_relu": [0, 0, 0, 120]}.get(activation, [0, 0, 0.5, 1])
    torch.testing.assert_close(y, torch.tensor([expected]), rtol=0, atol=1e-6)
    torch.testing.assert_close(slope, torch.tensor([slopes], dtype=torch.float32), rtol=0, atol=1e-6)


@pytest.mark.interp
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_nan_in_either_half_comes_out(activation):
    gate, up = torch.tensor([[torch.nan, 1.0, 1.0]]), torch.tensor([[1.0, torch.nan, 1.0]])
    with interpreting():
        for limit in (0.0, 0.5):
            assert gated_unit(gate, up, activation=activation, limit=limit, backend="triton").isnan().tolist() == [[True, True, False]]


@pytest.mark.interp
def test_any_number_of_dimensions_and_columns_that_are_not_neighbours():
    x = torch.randn(3, 2, 4, dtype=D)
    with interpreting():
        for shape in ((), (24,), (3, 0), (0, 4), (2, 3, 4)):
            part = x.flatten()[: math.prod(shape)].reshape(shape)
            torch.testing.assert_close(gated_unit(part, activation="squared_relu", backend="triton"), F.relu(part).square())
        gate, up = x[..., 0::2], x[..., 1::2]  # interleaved, as in gpt-oss
        torch.testing.assert_close(gated_unit(gate, up, backend="triton"), F.silu(gate) * up)
        gate, up = x.transpose(0, 2).chunk(2)
        torch.testing.assert_close(gated_unit(gate, up, backend="triton"), F.silu(gate) * up)


@pytest.mark.interp
def test_halves_of_one_tensor_are_read_where_they_lie_and_their_gradient_is_one_tensor(monkeypatch):
    both = torch.randn(3, 8, dtype=D, requires_grad=True)
    copies = []
    contiguous = torch.Tensor.contiguous
    monkeypatch.setattr(torch.Tensor, "contiguous", lambda x, *a, **k: (copies.append(x.shape), contiguous(x, *a, **k))[1])
    with interpreting():
        up, gate = both.detach().chunk(2, 1)
        y = gated_unit(gate, up, backend="triton")
        assert not copies
        packed = gated_unit(both, order="up_gate", backend="triton")
    node, path = packed.grad_fn, []
    while node is not None:
        path.append(node.name())
        node = node.next_functions[0][0] if node.next_functions else None
    assert set(path) == {"ViewBackward0", "_GatedUnitBackward", "torch::autograd::AccumulateGrad"}, "no cat and no split on the way"
    assert torch.equal(packed, y)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((torch.zeros(2, 4),), {"activation": "swish"}, "activation='swish' or order='' is none of silu, gelu"),
        ((torch.zeros(2, 4),), {"order": "up"}, "order='up' is none of .*'', 'gate_up', 'up_gate'"),
        ((torch.zeros(2, 5),), {"order": "up_gate"}, "order='up_gate' needs both halves in gate: it has 5 columns, and up is None"),
        ((torch.zeros(2, 4), torch.zeros(2, 4)), {"order": "gate_up"}, "it has 4 columns, and up is not None"),
        ((torch.zeros(2, 4), torch.zeros(2, 3)), {}, r"up is \(2, 3\) torch.float32; expected \(2, 4\) torch.float32 as gate"),
        ((torch.zeros(2, 4), torch.zeros(2, 4).half()), {}, "torch.float16; expected"),
    ],
)
def test_what_does_not_fit_is_named(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        gated_unit(*arguments, **options)


@pytest.mark.interp
def test_a_dtype_without_kernel_is_refused_by_name():
    with interpreting(), pytest.raises(RuntimeError, match="gate has dtype torch.complex64; backend='torch' computes the same"):
        gated_unit(torch.zeros(2, 2, dtype=torch.complex64), backend="triton")


@pytest.mark.gpu
@DTYPES
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_on_the_gpu(activation, dtype):
    both = SPEC.inputs({"rows": 65, "units": 1030}, dtype, "cuda")[0].detach()
    exact = reference(both.double(), order="up_gate", activation=activation)
    ours, theirs = gated_unit(both, order="up_gate", activation=activation, backend="triton"), reference(both, order="up_gate", activation=activation)
    assert relative(ours.double(), exact) <= 2 * relative(theirs.double(), exact) + torch.finfo(dtype).eps / 4


@pytest.mark.gpu
def test_past_two_to_the_31_numbers():
    free_memory_or_skip(24)
    both = torch.zeros(2**31 // 4096 + 3, 4096, dtype=torch.bfloat16, device="cuda")
    both[-1] = torch.linspace(-3, 3, 4096)
    both.requires_grad_()
    y = gated_unit(both, order="up_gate", backend="triton")
    expected = reference(both[-2:], order="up_gate")
    assert torch.equal(y[-2:], expected)
    (gradient,) = torch.autograd.grad(y, both, torch.ones_like(y))
    torch.testing.assert_close(gradient[-2:], torch.autograd.grad(expected, both, torch.ones_like(expected))[0][-2:])
    del y, gradient
    assert torch.equal(gated_unit(both.detach().view(-1), activation="squared_relu", backend="triton")[-4096:], reference(both[-1], activation="squared_relu"))
