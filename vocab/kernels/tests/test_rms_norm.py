import pytest
import torch
from torch.nn import functional as F

from vocab.kernels import rms_norm as ops
from vocab.kernels.interpret import interpreting
from vocab.kernels.rms_norm import reference, rms_norm
from vocab.kernels.tests.harness import free_memory_or_skip

# One mistake each, as (what the file says, what it says instead); test_mutants.py makes them.
MUTANTS = {
    "a dropped mask": ("tl.load(x + start + cols, inside, other=0.0)", "tl.load(x + start + cols)"),
    "a dropped mask on the way back": ("tl.load(dstream + start + cols, inside, other=0.0)", "tl.load(dstream + start + cols)"),
    "a store past the row": ("tl.store(y + start + cols, result.to(y.dtype.element_ty), inside)", "tl.store(y + start + cols, result.to(y.dtype.element_ty))"),
    "the mean over the block": ("tl.sum(value * value, 0) / D", "tl.sum(value * value, 0) / BLOCK"),
    "eps left out": (" + tl.full((), eps, ACC)", ""),
    "the residual left out of the norm": ("value = rounded.to(ACC)", "value = tl.load(x + start + cols, inside, other=0.0).to(ACC)"),
    "unit offset left out": ("tl.load(weight + cols, inside, other=0.0).to(ACC) + OFFSET\n    tl.store", "tl.load(weight + cols, inside, other=0.0).to(ACC)\n    tl.store"),
    "no projection in dx": ("(grad - normed * (tl.sum(grad * normed, 0) / D))", "grad"),
    "the wrong sign in dx": ("result = scale * (grad - normed *", "result = scale * (grad + normed *"),
    "the stream's gradient left out": ("if dstream is not None:\n", "if False:\n"),
    "one row too few": ("range(tl.minimum(ROWS, N - first)):\n        scale", "range(tl.minimum(ROWS, N - first) - 1):\n        scale"),
    "the last program runs on": ("range(tl.minimum(ROWS, N - first)):\n        scale", "range(ROWS):\n        scale"),
    "dweight after the weight": ("dweight += grad * normed\n            grad *= tl.load(weight + cols, inside, other=0.0).to(ACC) + OFFSET", "grad *= tl.load(weight + cols, inside, other=0.0).to(ACC) + OFFSET\n            dweight += grad * normed"),
}
# Direction, and a mask whose loss triton-viz must see. It cannot follow the backward pass, whose loop depends on the program.
SANITIZED = ("forward", "tl.load(x + start + cols, inside, other=0.0)", "tl.load(x + start + cols)")


def tensors(*shapes, dtype=torch.float64):
    return [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes]


def test_reference_is_torch_rms_norm_of_the_sum():
    x, residual, weight = tensors((3, 4, 5), (3, 4, 5), 5)
    y, stream = reference(x, weight, residual, eps=0.01)
    torch.testing.assert_close(stream, x + residual)
    torch.testing.assert_close(y, F.rms_norm(x + residual, (5,), weight, 0.01))
    torch.testing.assert_close(reference(x, weight - 1, eps=0.01, unit_offset=True)[0], F.rms_norm(x, (5,), weight, 0.01))


def test_operators_on_a_cpu_without_interpreter_are_the_closed_form():
    x, weight, dy, dstream = tensors((4, 6), 6, (4, 6), (4, 6))
    y, stream, rstd = torch.ops.vocab.rms_norm_forward(x, torch.ones_like(x), weight, 0.1, True)
    expected, added = reference(x, weight, torch.ones_like(x), eps=0.1, unit_offset=True)
    torch.testing.assert_close((y, stream), (expected, added))
    found = torch.ops.vocab.rms_norm_backward(dy, dstream, stream, weight, rstd, True)
    torch.testing.assert_close(found, torch.autograd.grad((expected, added), (x, weight), (dy, dstream)))


@pytest.mark.interp
@pytest.mark.parametrize("unit_offset", [False, True])
@pytest.mark.parametrize("has_residual", [False, True])
@pytest.mark.parametrize("has_weight", [False, True])
def test_gradcheck(has_weight, has_residual, unit_offset):
    x, weight, residual = tensors((2, 5), 5, (2, 5))
    given = [x, *([weight] if has_weight else []), *([residual] if has_residual else [])]

    def run(x, *rest):
        rest = list(rest)
        w = rest.pop(0) if has_weight else None
        return rms_norm(x, w, rest.pop(0) if has_residual else None, eps=0.1, unit_offset=unit_offset, backend="triton")

    with interpreting():
        torch.autograd.gradcheck(run, given)


@pytest.mark.interp
def test_wide_rows_sum_the_weights_gradient_in_a_kernel_of_its_own(monkeypatch):
    monkeypatch.setattr(ops, "FUSED_COLUMNS", 4)
    monkeypatch.setattr(ops, "WEIGHT_COLUMNS", 16)
    x, weight, residual = tensors((7, 37), 37, (7, 37))
    with interpreting():
        found = rms_norm(x, weight, residual, eps=0.1, backend="triton")
        found = torch.autograd.grad(sum(y.square().sum() for y in found), (x, weight, residual))
    expected = reference(x, weight, residual, eps=0.1)
    expected = torch.autograd.grad(sum(y.square().sum() for y in expected), (x, weight, residual))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.interp
def test_any_number_of_leading_dimensions_and_a_weight_of_another_dtype():
    x = torch.randn(2, 3, 4, 5)
    weight = torch.randn(5, dtype=torch.float64, requires_grad=True)
    with interpreting():
        found = rms_norm(x, weight, backend="triton")
        (gradient,) = torch.autograd.grad(found.sum(), weight)
    assert found.dtype == torch.float32 and gradient.dtype == torch.float64
    torch.testing.assert_close(found, F.rms_norm(x, (5,), weight.float(), 1e-6))


@pytest.mark.interp
def test_a_nan_stays_in_its_row():
    x = torch.randn(3, 5)
    x[1, 2] = torch.nan
    with interpreting():
        y = rms_norm(x, backend="triton")
    assert torch.equal(y.isnan().all(1), torch.tensor([False, True, False])) and not y[0].isnan().any()


@pytest.mark.interp
def test_a_row_too_wide_for_the_registers_is_refused():
    with interpreting(), pytest.raises(RuntimeError, match="a row of 4097 numbers is wider than the 4096"):
        rms_norm(torch.zeros(1, 4097, dtype=torch.float64), backend="triton")


@pytest.mark.gpu
def test_past_two_to_the_31_numbers():
    free_memory_or_skip(30)
    columns = 8192
    rows = 2**31 // columns + 3
    x = torch.ones(rows, columns, dtype=torch.bfloat16, device="cuda").requires_grad_()
    with torch.no_grad():
        x[-2:] = torch.arange(1, columns + 1, device="cuda") / columns
    y = rms_norm(x, backend="triton")
    torch.testing.assert_close(y[-2:], reference(x[-2:])[0])
    y.backward(torch.ones_like(y))
    last = x.detach()[-2:].clone().requires_grad_()
    reference(last)[0].backward(torch.ones_like(last))
    torch.testing.assert_close(x.grad[-2:], last.grad)
