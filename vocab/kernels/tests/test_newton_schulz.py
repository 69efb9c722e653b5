import pytest
import torch

from vocab.kernels.interpret import interpreting
from vocab.kernels.newton_schulz import _symmetric, newton_schulz, reference
from vocab.kernels.tests.harness import free_memory_or_skip

CUBIC = (1.5, -0.5, 0.0)
# One mistake each, as (what the file says, what it says instead); test_mutants.py makes them.
MUTANTS = {
    "rows of the next matrix": ("tl.load(left + steps[None, :] * stride_col, in_row & there[None, :], other=0.0)", "tl.load(left + steps[None, :] * stride_col, there[None, :], other=0.0)"),
    "columns beyond the last": ("there[:, None] & in_col, other=0.0)", "in_col, other=0.0)"),
    "a store past the matrix": ("tl.store(out + here, result, in_row & in_col)", "tl.store(out + here, result)"),
    "no mirror image": ("    if i > j:  # once more, mirrored", "    if i < j:"),
    "a mirror image not turned": ("j * N + i + col * N + row, result", "j * N + i + row * N + col, result"),
    "the mirror image in the wrong place": ("out + matrix + j * N + i +", "out + matrix + i * N + j +"),
    "one tile too few in a row": ("width = tiles + 1 - tiles % 2", "width = tiles - tiles % 2"),
    "short rows left out": ("tl.where(place <= low, low, width - low - 2)", "low"),
    "short rows begin late": ("tl.where(place <= low, place, place - low - 1)", "tl.where(place <= low, place, place - low)"),
    "a factor stands still": ("        right += BLOCK_M * stride_col\n", ""),
    "one step too few": ("tl.range(0, M, BLOCK_M, num_stages=STAGES)", "tl.range(0, M - BLOCK_M, BLOCK_M, num_stages=STAGES)"),
    "every matrix the first": ("left = x + batch * stride_batch +", "left = x +"),
    "the first product is not added": ("total += tl.full((), share, ACC) *", "total += 0.0 *"),
    "scaled after the sum": ("_symmetric(gram, mixed, c, gram, b)", "_symmetric(gram, mixed, c, gram, b * c)"),
    "one round too few": ("for _ in range(steps):\n        _symmetric", "for _ in range(steps - 1):\n        _symmetric"),
    "X is not kept": ("torch.baddbmm(y, mixed, y, beta=a)", "torch.baddbmm(y, mixed, y, beta=0)"),
}  # fmt: skip
# Direction, and a mask whose loss triton-viz must see.
SANITIZED = ("forward", "tl.store(out + here, result, in_row & in_col)", "tl.store(out + here, result)")


def matrices(*shape, dtype=torch.float64):
    return torch.randn(shape, dtype=dtype)


def polynomial(x, coefficients, steps):
    """The rounds on singular values, as numbers, between the singular vectors of an SVD."""
    u, s, v = torch.linalg.svd(x, full_matrices=False)
    s = s / s.norm(dim=-1, keepdim=True)
    a, b, c = coefficients
    for _ in range(steps):
        s = a * s + b * s**3 + c * s**5
    return u @ (s[..., None] * v)


@pytest.mark.parametrize("shape", [(5, 3), (3, 7), (2, 4, 4), (2, 3, 6, 5)])
def test_reference_is_a_polynomial_of_singular_values(shape):
    x = matrices(*shape)
    for coefficients in (CUBIC, (3.4445, -4.775, 2.0315)):
        torch.testing.assert_close(reference(x, coefficients, 4), polynomial(x, coefficients, 4), rtol=1e-9, atol=1e-12)


@pytest.mark.interp
@pytest.mark.parametrize("shape", [(40, 33), (2, 33, 40)])
def test_kernel_converges_to_the_polar_factor(shape):
    u, s, v = torch.linalg.svd(matrices(*shape), full_matrices=False)
    x = u @ ((1 + s / s.amax(-1, keepdim=True))[..., None] * v)  # no small singular value: ten rounds are enough
    with interpreting():
        found = newton_schulz(x, CUBIC, 10, backend="triton")
    torch.testing.assert_close(found, u @ v, rtol=0, atol=1e-10)


@pytest.mark.interp
@pytest.mark.parametrize("rows", [1, 20, 40, 70, 100, 140])
def test_a_symmetric_product_is_all_there_and_symmetric_to_the_bit(rows):
    """Any number of tiles, odd or even; what no program writes stays NaN."""
    x = matrices(2, rows, 24)
    out, addend = torch.full((2, rows, rows), torch.nan, dtype=torch.float64), matrices(2, rows, rows)
    addend = addend + addend.mT
    with interpreting():
        _symmetric(x, out, 0.5, addend, -2.0)
    torch.testing.assert_close(out, 0.5 * x @ x.mT - 2 * addend)
    assert torch.equal(out, out.mT)


@pytest.mark.interp
def test_rows_of_a_transposed_matrix_are_read_by_their_stride():
    x = matrices(2, 9, 37).mT
    with interpreting():
        found = _symmetric(x, torch.full((2, 37, 37), torch.nan, dtype=torch.float64))
    torch.testing.assert_close(found, x @ x.mT)


def test_operator_on_a_cpu_without_interpreter_is_the_same():
    x = matrices(2, 5, 3)
    torch.testing.assert_close(torch.ops.vocab.newton_schulz(x, 3.4445, -4.775, 2.0315, 5, 1e-7), reference(x))
    assert torch.ops.vocab.newton_schulz(x, *CUBIC, 5, 1e-7).is_contiguous()


@pytest.mark.interp
def test_zeros_stay_zeros_and_a_nan_spoils_its_own_matrix_alone():
    x = matrices(3, 4, 6, dtype=torch.float32)
    x[0], x[1, 2, 3] = 0, torch.nan
    with interpreting():
        found = newton_schulz(x, steps=1, backend="triton")
    assert not found[0].any() and found[1].isnan().all()
    torch.testing.assert_close(found[2], reference(x[2], steps=1))


@pytest.mark.interp
@pytest.mark.parametrize("size", [1e-4, 3e4])
def test_the_norm_does_not_leave_half_precision(size):
    """A sum of squares of such numbers is 0 or infinite in float16."""
    x = matrices(4, 6, dtype=torch.float32).sign()
    x[0, 0] *= 2
    with interpreting():
        found = newton_schulz((size * x).half(), steps=2, backend="triton")
    torch.testing.assert_close(found.float(), reference(x, steps=2), rtol=0, atol=3e-3)


@pytest.mark.interp
def test_small_norms_fade_and_no_rounds_normalize():
    x = matrices(3, 5)
    with interpreting():
        torch.testing.assert_close(newton_schulz(x, steps=0, backend="triton"), x / x.norm())
        torch.testing.assert_close(newton_schulz(x, steps=0, eps=1e3, backend="triton"), x / 1e3)


@pytest.mark.interp
def test_what_it_cannot_do_is_refused():
    x = matrices(3, 5)
    with interpreting():
        with pytest.raises(RuntimeError, match="it has no gradient, which x asks for"):
            newton_schulz(x.requires_grad_(), backend="triton")
        with torch.no_grad():
            assert not newton_schulz(x, steps=0, backend="triton").requires_grad
        with pytest.raises(RuntimeError, match="x has dtype torch.complex64"):
            newton_schulz(torch.zeros(2, 2, dtype=torch.complex64), backend="triton")
    assert reference(x).requires_grad, "plain torch differentiates it"


@pytest.mark.gpu
@pytest.mark.parametrize("shape", [(8195, 512, 512), (1, 130, 2**24 + 3), (1, 2**24 + 3, 130)], ids=str)
def test_past_two_to_the_31_numbers(shape):
    free_memory_or_skip(40)
    x = torch.zeros(shape, dtype=torch.bfloat16, device="cuda")
    x[-1, -100:, -100:] = torch.randn(100, 100, device="cuda").bfloat16()
    found = newton_schulz(x, steps=3, backend="triton")[-1, -100:, -100:]
    exact = reference(x[-1, -100:, -100:].double(), steps=3)
    assert (found - exact).norm() <= 0.03 * exact.norm()
