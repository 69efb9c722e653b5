import pytest
import torch

from vocab.kernels.dispatch import triton
from vocab.kernels.interpret import interpreting
from vocab.kernels.multi_tensor import FORMULAS, OPTIONS, applies, fused, multi_tensor, reference
from vocab.kernels.tests.harness import DTYPES, free_memory_or_skip

# One mistake each, as (what the file says, what it says instead); test_mutants.py makes them.
MUTANTS = {
    "a read past the tensor": ("tl.load(x + at, inside, other=0.0)", "tl.load(x + at)"),
    "a store past the tensor": ("tl.store(x + at, value.to(x.dtype.element_ty), inside)", "tl.store(x + at, value.to(x.dtype.element_ty))"),
    "every piece is the first of its tensor": ("(piece - tl.load(row + 7)) * BLOCK", "(piece - piece) * BLOCK"),
    "pieces are counted over all tensors": ("(piece - tl.load(row + 7)) * BLOCK", "piece * BLOCK"),
    "the last piece is left out": ("[-(-n // BLOCK) for n in counts]", "[n // BLOCK for n in counts]"),
    "one tensor for all": ("tensor = tl.load(pieces + piece)", "tensor = tl.load(pieces)"),
    "the gradient is a state": ("_pointer(row, 1, like, ALIGNED)", "_pointer(row, 2, like, ALIGNED)"),
    "Lion keeps the short average": ("_write(first, at, inside, beta2 * m + (1.0 - beta2) * g)", "_write(first, at, inside, mixed)"),
    "Lion's step is not a sign": ("lr * sign", "lr * mixed"),
    "Sophia is not clipped below": ("tl.where(ratio < -1.0, -1.0, ratio)", "ratio"),
    "Sophia divides by nothing": ("tl.where(size < eps, eps, size)", "size"),
    "Sophia's mean is not kept": ("w = (1.0 - lr * decay) * w - lr * ratio\n        _write(first, at, inside, m)", "w = (1.0 - lr * decay) * w - lr * ratio"),
    "Adan looks ahead with another rate": ("ahead = g + beta2 * change", "ahead = g + beta1 * change"),
    "Adan subtracts its decay": ("/ (1.0 + lr * decay)", "* (1.0 - lr * decay)"),
    "Adan forgets the last gradient": ("        _write(last, at, inside, g)\n", ""),
    "Adan's states in another order": ("second, third, last = _pointer(row, 3,", "second, third, last = _pointer(row, 4,"),
    "LAMB's moments move twice": ("        if not MOVE:\n", "        if True:\n"),
    "LAMB's step without ratio": ("lr * tl.load(ratios + tensor) * direction", "lr * direction"),
    "LAMB decays what stands alone": ("tl.where(alone, 0.0, decay) * w", "decay * w"),
    "LAMB rescales what stands alone": ("tl.where(tl.load(row + 8) != 0, 1.0, ratio)", "ratio"),
    "LAMB's ratio without limit": ("tl.where(ratio > most, most, ratio)", "ratio"),
    "norms of the first piece": ("tl.cdiv(tl.load(row + 6), BLOCK)", "1"),
    "norms of another tensor's pieces": ("sums + 2 * (first + there), there", "sums + 2 * there, there"),
    "one average without correction": ("(tl.sqrt(v / fix2) + eps)", "(tl.sqrt(v) + eps)"),
}  # fmt: skip
# triton-viz knows the tensors that a kernel is given, and these are behind addresses in a table; the bounds check of the other tests knows them.
SANITIZED = None


def tensors(*shapes, kinds=4, dtype=torch.float64):
    """Weights, gradients and states, the second and third of them not negative."""
    found = [[torch.randn(shape, dtype=dtype) for shape in shapes] for _ in range(2 + kinds)]
    return [[x.abs() for x in group] if i in (3, 4) else group for i, group in enumerate(found)]


def step(formula, weights, grads, *states, backend="triton", **options):
    """One step of copies; returns weights and states."""
    weights, *states = ([x.clone() for x in group] for group in (weights, *states[: len(FORMULAS[formula])]))
    if backend == "triton":
        fused(formula, weights, grads, *states, **OPTIONS[formula] | options)
    else:
        reference(weights, grads, [x for s in states for x in s], formula, **OPTIONS[formula] | options)
    return weights, *states


@pytest.mark.parametrize("formula", FORMULAS)
def test_reference_is_the_formula_number_by_number(formula):
    """Written out for plain numbers; LAMB for a tensor of one number, whose norm is its size."""
    groups = tensors((1,), (1,), (1,))
    o = OPTIONS[formula] | {"limit": 3.0}
    found = step(formula, *groups, backend="torch", limit=3.0)
    b, lr, decay = o["betas"], o["lr"], o["decay"]
    for i in range(3):
        w, g, m, *rest = (group[i].item() for group in groups)
        if formula == "lion":
            u = b[0] * m + (1 - b[0]) * g
            expected = [w - lr * ((u > 0) - (u < 0) + decay * w), b[1] * m + (1 - b[1]) * g]
        elif formula == "sophia":
            m = b[0] * m + (1 - b[0]) * g
            expected = [w - lr * decay * w - lr * min(max(m / max(b[1] * rest[0], o["eps"]), -1), 1), m, rest[0]]
        elif formula == "adan":
            d = g - rest[2]
            m, c, n = b[0] * m + (1 - b[0]) * g, b[1] * rest[0] + (1 - b[1]) * d, b[2] * rest[1] + (1 - b[2]) * (g + b[1] * d) ** 2
            move = (m / o["fixes"][0] + b[1] * c / o["fixes"][1]) / ((n / o["fixes"][2]) ** 0.5 + o["eps"])
            expected = [(w - lr * move) / (1 + lr * decay), m, c, n, g]
        else:
            m, v = b[0] * m + (1 - b[0]) * g, b[1] * rest[0] + (1 - b[1]) * g * g
            r = m / o["fixes"][0] / ((v / o["fixes"][1]) ** 0.5 + o["eps"]) + decay * w
            expected = [w - lr * min(abs(w) / abs(r), o["limit"]) * r, m, v]
        torch.testing.assert_close([group[i].item() for group in found], expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("formula", FORMULAS)
def test_operator_on_a_cpu_without_interpreter_is_the_reference(formula):
    groups = tensors((5,), (2, 3))
    assert triton is None or not triton.knobs.runtime.interpret
    torch.testing.assert_close(step(formula, *groups), step(formula, *groups, backend="torch"))


@pytest.mark.interp
@pytest.mark.parametrize("formula", FORMULAS)
def test_tensors_of_any_shape_in_one_step_as_one_by_one(formula):
    shapes = (2, 3), (), (0,), (2049,), (4, 1, 5)
    groups = tensors(*shapes)
    with interpreting():
        together = step(formula, *groups)
        apart = [step(formula, *([group[i]] for group in groups)) for i in range(len(shapes))]
    for kind, group in enumerate(together):
        for i, x in enumerate(group):
            assert torch.equal(x, apart[i][kind][0]), (kind, i)


@pytest.mark.interp
@pytest.mark.parametrize("formula", FORMULAS)
def test_gradients_are_left_as_they_are_and_autograd_hears_of_the_weights(formula):
    weights, grads, *states = tensors((3, 4), (5,))
    grads[0] = grads[0].t().contiguous().t()
    kept, before = [g.clone() for g in grads], [w.clone() for w in weights]
    expected = step(formula, weights, grads, *states, backend="torch")[0]
    versions = [w._version for w in weights]
    with interpreting():
        fused(formula, weights, grads, *states[: len(FORMULAS[formula])], **OPTIONS[formula])
    torch.testing.assert_close(weights, expected)
    assert all(map(torch.equal, grads, kept)) and not any(map(torch.equal, weights, before))
    assert all(w._version > version for w, version in zip(weights, versions))


@pytest.mark.interp
@pytest.mark.parametrize("formula", FORMULAS)
def test_a_nan_spoils_its_own_number_alone(formula):
    """LAMB's too: where a norm is no number its ratio is 1, as in the entry."""
    groups = tensors((4, 4), (4, 4))
    groups[1][0][1, 2] = torch.nan
    with interpreting():
        first, second = step(formula, *groups)[0]
    assert first.isnan().sum() == 1 and first[1, 2].isnan() and not second.isnan().any()


@pytest.mark.interp
def test_no_gradient_and_no_memory_is_no_step():
    zeros = [[torch.zeros(3, 3)] for _ in range(4)]
    with interpreting():
        for formula in FORMULAS:
            weights, *_ = step(formula, [torch.ones(3, 3)], *zeros, zeros[0], decay=0.0)
            assert torch.equal(weights[0], torch.ones(3, 3))
        weights, *_ = step("lamb", [torch.zeros(2, 2)], [torch.ones(2, 2)], *zeros[:2])
    assert weights[0].abs().min() > 0, "weights of zero have no length, and leave zero all the same"


@pytest.mark.interp
def test_what_it_cannot_do_is_refused():
    with interpreting():
        for weights, message in (
            ([torch.zeros(2, 3).t()], "a weight or state is not contiguous"),
            ([torch.zeros(2), torch.zeros(2).double()], "not all of one dtype"),
            ([torch.zeros(2, dtype=torch.complex64)], "dtype torch.complex64"),
        ):
            with pytest.raises(RuntimeError, match=message):
                applies("triton", weights)
            assert not applies("auto", weights)


@pytest.mark.gpu
def test_past_two_to_the_31_numbers():
    free_memory_or_skip(40)
    weights = [torch.ones(3, device="cuda", dtype=torch.bfloat16), torch.ones(2**31 + 5, device="cuda", dtype=torch.bfloat16)]
    grads, m = [-torch.ones_like(w) for w in weights], [torch.zeros_like(w) for w in weights]
    fused("lion", weights, grads, m, lr=1.0, decay=0.0, betas=(0.5, 0.5))
    assert all((w == 2).all() and (x == -0.5).all() for w, x in zip(weights, m))


@pytest.mark.gpu
@DTYPES
@pytest.mark.parametrize("formula", FORMULAS)
def test_on_the_gpu_it_is_the_reference(formula, dtype):
    groups = [[x.cuda() for x in group] for group in tensors((300, 64), (7,), (33, 65), (4096,), dtype=dtype)]
    torch.testing.assert_close(step(formula, *groups), step(formula, *groups, backend="torch"))


@pytest.mark.gpu
def test_the_table_follows_tensors_to_other_addresses():
    for _ in range(3):
        groups = [[x.cuda() for x in group] for group in tensors((300, 30), (7,))]
        torch.testing.assert_close(step("adan", *groups), step("adan", *groups, backend="torch"))
