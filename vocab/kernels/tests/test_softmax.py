import numpy as np
import pytest
import torch

from vocab.kernels import softmax as ops
from vocab.kernels.interpret import interpreting
from vocab.kernels.softmax import reference, softmax
from vocab.kernels.tests.harness import free_memory_or_skip

# One mistake each, as (what the file says, what it says instead); test_mutants.py makes them.
MUTANTS = {
    "a dropped mask": ("tl.load(x + cols, inside, other=0.0).to(ACC) * scale", "tl.load(x + cols).to(ACC) * scale"),
    "columns beyond the last": ("return tl.where(inside, z, float(\"-inf\"))", "return z"),
    "everything takes part": ("(tl.load(mask + cols, inside, other=0) != 0)", "(tl.load(mask + cols, inside, other=0) != 7)"),
    "no temperature": ("tl.load(x + cols, inside, other=0.0).to(ACC) * scale", "tl.load(x + cols, inside, other=0.0).to(ACC)"),
    "the maximum stays in the logarithm": ("result = z - tl.log(tl.sum(tl.exp(z), 0))", "result = z - tl.log(tl.sum(tl.exp(z * 0.99), 0))"),
    "the sum over the block": ("result /= tl.sum(result, 0)", "result /= tl.sum(result, 0) + 1e-3"),
    "bisection goes the wrong way": ("tl.sum(above, 0) >= 1.0, low + width, low", "tl.sum(above, 0) < 1.0, low + width, low"),
    "bisection stops too early": ("for _ in range(STEPS):", "for _ in range(2):"),
    "entmax without its half": ("z *= 0.5\n", "z *= 1.0\n"),
    "entmax not squared": ("result *= result\n    elif", "result *= 1.0\n    elif"),
    "the threshold of one score": ("return mean - 1.0 / count", "return mean - 1.0"),
    "log-softmax learns too little": ("tl.where(inside, tl.exp(p), 0.0) * tl.sum(grad, 0)", "tl.where(inside, tl.exp(p), 0.0) * tl.sum(grad * 0.5, 0)"),
    "sparsemax's gradient off the support": ("weight = (p > 0.0).to(ACC)", "weight = (p > -1.0).to(ACC)"),
    "entmax's gradient weighs by p": ("weight = tl.sqrt(p)", "weight = p"),
    "no mean is subtracted": ("(grad - tl.sum(weight * grad, 0) / tl.sum(weight, 0))", "grad"),
    "the gradient without temperature": ("_backward_kernel(\n    dy, y, dx, D, scale: tl.float64, KIND: tl.constexpr, STEPS: tl.constexpr, ACC: tl.constexpr, BLOCK: tl.constexpr\n):\n", "_backward_kernel(\n    dy, y, dx, D, scale: tl.float64, KIND: tl.constexpr, STEPS: tl.constexpr, ACC: tl.constexpr, BLOCK: tl.constexpr\n):\n    scale = 1.0\n"),
    "a store past the row": ("(result * tl.full((), scale, ACC)).to(dx.dtype.element_ty), inside)", "(result * tl.full((), scale, ACC)).to(dx.dtype.element_ty))"),
}
# Direction, and a mask whose loss triton-viz must see.
SANITIZED = ("forward", "result).to(y.dtype.element_ty), inside)", "result).to(y.dtype.element_ty))")
KINDS = pytest.mark.parametrize("kind", list(ops.ALPHAS))


def objective(p, z, alpha):
    """What each mapping maximizes over all distributions: p.z plus the Tsallis entropy of order alpha."""
    if alpha == 1:
        return (p * z - torch.special.xlogy(p, p)).sum(-1)
    return (p * z).sum(-1) + ((p - p**alpha).sum(-1)) / (alpha * (alpha - 1))


@pytest.mark.parametrize("kind", ["softmax", "entmax15", "sparsemax"])
def test_reference_maximizes_the_score_plus_its_entropy(kind):
    """No other distribution does better, and the conditions of the optimum hold: equal slopes where p > 0, none higher where p = 0."""
    z = torch.randn(4, 9, dtype=torch.float64) * 2
    p = reference(z, kind=kind)
    torch.testing.assert_close(p.sum(-1), torch.ones(4, dtype=torch.float64))
    best = objective(p, z, ops.ALPHAS[kind])
    for _ in range(200):
        other = torch.distributions.Dirichlet(torch.full((9,), 0.3, dtype=torch.float64)).sample((4,))
        mixed = p + torch.rand(4, 1, dtype=torch.float64) * (other - p)
        assert (objective(mixed, z, ops.ALPHAS[kind]) <= best + 1e-12).all()


def test_sparsemax_is_the_projection_onto_the_simplex_and_small_ones_are_worked_out_by_hand():
    optimize = pytest.importorskip("scipy.optimize")
    z = np.array([0.9, 0.2, -0.4, 0.7])
    found = optimize.minimize(lambda p: ((p - z) ** 2).sum(), np.full(4, 0.25), bounds=[(0, 1)] * 4,
                              constraints={"type": "eq", "fun": lambda p: p.sum() - 1}, tol=1e-14)  # fmt: skip
    np.testing.assert_allclose(reference(torch.tensor(z), kind="sparsemax").numpy(), found.x, atol=1e-7)
    torch.testing.assert_close(reference(torch.tensor([0.5, 0.0, -2.0]), kind="sparsemax"), torch.tensor([0.75, 0.25, 0.0]))
    # of two scores d apart, 1.5-entmax gives (1/sqrt(2 - d^2/8) ... ) the roots of a + b = d/2 apart with a^2 + b^2 = 1
    d = 0.6
    p = reference(torch.tensor([d, 0.0], dtype=torch.float64), kind="entmax15")
    a = d / 4 + (0.5 - d * d / 16) ** 0.5
    torch.testing.assert_close(p, torch.tensor([a * a, 1 - a * a], dtype=torch.float64))
    assert reference(torch.tensor([2.1, 0.0]), kind="entmax15").tolist() == [1.0, 0.0]


@KINDS
def test_reference_has_the_gradient_of_finite_differences(kind):
    z = torch.tensor([[0.3, -0.2, 1.0, 0.1], [2.0, 0.0, 0.1, -3.0]], dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(lambda x: reference(x, kind=kind, temperature=0.8), z)


@KINDS
def test_operators_on_a_cpu_without_interpreter_are_the_closed_form(kind):
    x = torch.randn(3, 6, dtype=torch.float64, requires_grad=True)
    y = torch.ops.vocab.softmax_forward(x, None, kind, 0.7)
    expected = reference(x, kind=kind, temperature=0.7)
    torch.testing.assert_close(y, expected)
    dy = torch.randn_like(y)
    torch.testing.assert_close(torch.ops.vocab.softmax_backward(dy, y, kind, 0.7), torch.autograd.grad(expected, x, dy)[0])


@pytest.mark.interp
@KINDS
def test_gradcheck(kind):
    z = torch.tensor([[0.3, -0.2, 1.0], [2.0, 0.0, 0.1]], dtype=torch.float64, requires_grad=True)
    with interpreting():
        torch.autograd.gradcheck(lambda x: softmax(x, kind=kind, temperature=0.8, backend="triton"), z)


@pytest.mark.interp
@pytest.mark.parametrize("kind", ["softmax", "log_softmax"])
@pytest.mark.parametrize("masked", [False, True])
def test_rows_too_long_for_registers_are_walked_along(kind, masked, monkeypatch):
    monkeypatch.setattr(ops, "MOST_COLUMNS", dict.fromkeys(ops.MOST_COLUMNS, 8))
    monkeypatch.setattr(ops, "LONG_BLOCK", dict.fromkeys(ops.LONG_BLOCK, 16))
    x = torch.randn(2, 37, dtype=torch.float64, requires_grad=True)
    mask = (torch.rand(2, 37) < 0.7) | (torch.arange(37) == 5) if masked else None
    upstream = torch.randn(2, 37, dtype=torch.float64)
    if masked:
        upstream = upstream * mask  # log-softmax is -inf elsewhere
    with interpreting():
        y = softmax(x, mask, kind=kind, temperature=0.6, backend="triton")
        (found,) = torch.autograd.grad(y, x, upstream)
    expected = reference(x, mask, kind=kind, temperature=0.6)
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(found, torch.autograd.grad(expected, x, upstream)[0], rtol=1e-12, atol=1e-14)


@pytest.mark.interp
@KINDS
def test_one_mask_for_all_rows_and_a_mask_that_broadcasts(kind):
    x = torch.randn(2, 3, 5, dtype=torch.float64)
    with interpreting():
        for mask in (torch.tensor([True, False, True, True, False]), torch.tensor([[[True]], [[False]]]) | torch.eye(3, 5).bool()):
            y = softmax(x, mask, kind=kind, backend="triton")
            torch.testing.assert_close(y, reference(x, mask, kind=kind), rtol=1e-12, atol=1e-14)
            hidden = y[~mask.expand(x.shape)]
            assert (hidden == (-torch.inf if kind == "log_softmax" else 0)).all()


@pytest.mark.interp
@KINDS
def test_extreme_scores_and_rows_of_nothing(kind):
    x = torch.tensor([[1e4, -1e4, 0.0], [-torch.inf, 0.0, 0.0], [-torch.inf] * 3, [0.0, torch.nan, 0.0]])
    with interpreting():
        y = softmax(x, kind=kind, backend="triton")
    p = y.exp() if kind == "log_softmax" else y
    torch.testing.assert_close(p[:2], torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.5, 0.5]]))
    assert y[2:].isnan().all()


@pytest.mark.interp
def test_sparse_rows_too_wide_for_the_registers_are_refused():
    with interpreting(), pytest.raises(RuntimeError, match="a row of 1025 numbers is wider than the 1024 that sparsemax holds in registers"):
        softmax(torch.zeros(1, 1025, dtype=torch.float64), kind="sparsemax", backend="triton")
    with pytest.raises(ValueError, match="kind is 'hardmax'; expected one of 'softmax', 'log_softmax', 'entmax15', 'sparsemax'"):
        softmax(torch.zeros(1, 3), kind="hardmax")


@pytest.mark.gpu
@pytest.mark.parametrize("columns", [8192, 65_536])
def test_past_two_to_the_31_numbers(columns):
    free_memory_or_skip(30)
    x = torch.zeros(2**31 // columns + 3, columns, dtype=torch.bfloat16, device="cuda").requires_grad_()
    with torch.no_grad():
        x[-1, -1] = 12.0
    y = softmax(x, backend="triton")
    torch.testing.assert_close(y[-2:], reference(x[-2:]))
    y.backward(x.detach())
    last = x.detach()[-2:].clone().requires_grad_()
    reference(last).backward(last.detach())
    torch.testing.assert_close(x.grad[-2:], last.grad)
