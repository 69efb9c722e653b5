import pytest
import torch

from vocab.kernels.interpret import interpreting
from vocab.kernels.moe import combine, grouped, moe, permute, reference, route
from vocab.kernels.tests.harness import free_memory_or_skip

# One mistake each, as (what the file says, what it says instead); test_mutants.py makes them.
MUTANTS = {
    "a dropped mask": ("tl.load(x + token * D + cols, cols < D, other=0.0)", "tl.load(x + token * D + cols)"),
    "a store past the row": ("(factor * value).to(rows.dtype.element_ty), cols < D)", "(factor * value).to(rows.dtype.element_ty))"),
    "the sum past the row": ("total.to(out.dtype.element_ty), cols < D)", "total.to(out.dtype.element_ty))"),
    "the first choice only": ("for k in range(0, K):", "for k in range(0, 1):"),
    "every choice is the first": ("tl.load(place + token * K + k) * D", "tl.load(place + token * K) * D"),
    "the weight of the first choice": ("value *= tl.load(weight + token * K + k)", "value *= tl.load(weight + token * K)"),
    "rows go nowhere": ("rows + row * D + cols, (factor", "rows + pair * D + cols, (factor"),
    "the gradient without the weight": ("factor = tl.load(weight + pair).to(ACC)", "factor = tl.full((), 1.0, ACC)"),
    "the weights see the first step only": ("total += value * tl.load(y + row", "total = value * tl.load(y + row"),
    "the weights see another pair": ("tl.load(y + row * D + cols, cols < D", "tl.load(y + pair * D + cols, cols < D"),
    "one step too few": ("for start in range(0, D, BLOCK):", "for start in range(0, D - BLOCK, BLOCK):"),
    "another token": ("tl.store(out + token * D", "tl.store(out + (token ^ 1) * D"),
}
SANITIZED = None  # triton-viz cannot follow the gathered rows


def example(n=3, k=2, d=4, experts=5):
    expert = torch.rand(n, experts).argsort(1)[:, :k]
    place, _ = route(expert, experts)
    return torch.randn(n, d, dtype=torch.float64, requires_grad=True), place, torch.randn(n, k, dtype=torch.float64, requires_grad=True)


def test_route_sorts_by_expert_then_choice_then_token():
    expert = torch.tensor([[2, 0], [0, 2], [2, 1], [0, 2]])
    place, ends = route(expert, 4)
    pairs = sorted((expert[n, k].item(), k, n) for n in range(4) for k in range(2))
    assert [pairs[place[n, k]] for n in range(4) for k in range(2)] == [(expert[n, k].item(), k, n) for n in range(4) for k in range(2)]
    assert ends.tolist() == [3, 4, 8, 8] and ends.dtype == torch.int32


def test_reference_is_a_loop_over_pairs():
    x, place, weight = example()
    out, rows = reference(x, place, weight)
    for n in range(3):
        torch.testing.assert_close(out[n], sum(weight[n, k] * x[n] for k in range(2)))
        for k in range(2):
            assert torch.equal(rows[place[n, k]], x[n])


def test_operators_on_a_cpu_without_interpreter_are_the_closed_form():
    x, place, weight = example()
    rows, nothing = torch.ops.vocab.moe_spread(x, place, None, None)
    expected, sorted_rows = reference(x, place, weight)
    assert torch.equal(rows, sorted_rows) and nothing.numel() == 0
    torch.testing.assert_close(torch.ops.vocab.moe_combine(rows, place, weight), expected)
    y, dout = torch.randn_like(rows), torch.randn_like(x)
    drows, dweight = torch.ops.vocab.moe_spread(dout, place, weight, y)
    y.requires_grad_()
    torch.testing.assert_close((drows, dweight), torch.autograd.grad((y[place] * weight[..., None]).sum(1), (y, weight), dout))


@pytest.mark.interp
def test_gradcheck():
    x, place, weight = example(2, 2, 3)
    with interpreting():
        torch.autograd.gradcheck(lambda x, w: moe(x, place, w, backend="triton"), (x, weight))
        rows = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
        torch.autograd.gradcheck(lambda r, w: combine(r, place, w), (rows, weight))
        torch.autograd.gradcheck(lambda x: permute(x, place), x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("width", [8, 5])
def test_grouped_product_is_each_experts_own(dtype, width):
    """Aligned and in 32 bits by PyTorch's grouped product, otherwise one after the other; expert 1 has no row."""
    rows, weight = torch.randn(7, 16, dtype=dtype), torch.randn(3, width, 16, dtype=dtype)
    found = grouped(rows, weight, torch.tensor([3, 3, 7], dtype=torch.int32))
    torch.testing.assert_close(found, torch.cat([rows[:3] @ weight[0].T, rows[3:] @ weight[2].T]))


@pytest.mark.interp
def test_a_nan_stays_with_its_token():
    x, place, weight = (t.detach() for t in example())
    x[1] = torch.nan
    with interpreting():
        out, _ = moe(x, place, weight, backend="triton")
    assert out.isnan().all(1).tolist() == [False, True, False] and not out[[0, 2]].isnan().any()


@pytest.mark.gpu
def test_past_two_to_the_31_numbers():
    free_memory_or_skip(30)
    d = 8192
    n = 2**31 // (2 * d) + 3
    x = torch.zeros(n, d, dtype=torch.bfloat16, device="cuda")
    x[-1] = 1.0
    place, _ = route(torch.tensor([[0, 1]], device="cuda").expand(n, 2), 2)
    out, rows = moe(x, place, torch.ones(n, 2, dtype=torch.bfloat16, device="cuda"), backend="triton")
    assert (out[-1] == 2).all() and out.count_nonzero() == d and rows.count_nonzero() == 2 * d
