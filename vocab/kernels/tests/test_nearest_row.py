from contextlib import nullcontext

import numpy as np
import pytest
import torch

from vocab.kernels.interpret import interpreting
from vocab.kernels.nearest_row import SPEC, nearest_row, reference
from vocab.kernels.tests.harness import DTYPES, free_memory_or_skip

BOTH = pytest.mark.parametrize("backend", ["torch", pytest.param("triton", marks=pytest.mark.interp)])

# One mistake each, as (what the file says, what it says instead); test_mutants.py makes them.
MUTANTS = {
    "a dropped mask on the rows": ("tl.where(inside_k[None, :], length[None, :] - 2.0 * product, float(\"inf\"))", "length[None, :] - 2.0 * product"),
    "a dropped mask on the columns": ("inside_n[:, None] & (d < D)[None, :], other=0.0)\n            b", "inside_n[:, None], other=0.0)\n            b"),
    "a store past the end": ("tl.store(distance + n_start + local_n, total, inside_n)", "tl.store(distance + n_start + local_n, total)"),
    "the wrong scale": ("- 2.0 * product", "- product"),
    "no length of the row": ("length += tl.sum(wide * wide, 0)", "length += 0.0 * tl.sum(wide, 0)"),
    "the place in the tile": ("first = k_start + tl.min", "first = tl.min"),
    "the last tile wins": ("closer = lowest < best", "closer = lowest < float(\"inf\")"),
    "one tile too few": ("range(0, K, BLOCK_K)", "range(0, K - BLOCK_K, BLOCK_K)"),
    "one row of the origin only": ("b -= origin[:, None]", "b -= origin[:, None] * 0.5"),
    "the distance of the next row": ("rows + (which[:, None].to(tl.int64) * D", "rows + ((which[:, None].to(tl.int64) ^ 1) * D"),
}
SANITIZED = None  # triton-viz cannot follow the gathered row


@pytest.fixture(autouse=True)
def _interpreted(request):
    with interpreting() if request.node.get_closest_marker("interp") else nullcontext():
        yield


def test_reference_is_the_smallest_of_scipys_distances():
    distance = pytest.importorskip("scipy.spatial.distance")
    x, rows = torch.randn(40, 6, dtype=torch.float64), torch.randn(23, 6, dtype=torch.float64)
    table = distance.cdist(x.numpy(), rows.numpy(), "sqeuclidean")
    index, squared = reference(x, rows)
    np.testing.assert_array_equal(index.numpy(), table.argmin(1))
    np.testing.assert_allclose(squared.numpy(), table.min(1), rtol=1e-12)


def test_reference_in_several_parts_is_the_same():
    x, rows = torch.randn(5, 3), torch.randn(700_000, 3)
    index, squared = reference(x, rows)
    for i in range(5):
        assert squared[i] == (x[i] - rows).square().sum(1).min() and index[i] == (x[i] - rows).square().sum(1).argmin()


@BOTH
def test_of_equally_close_rows_the_lowest_wins(backend):
    rows = torch.randn(200, 4).round()
    rows[[70, 3, 150]] = torch.tensor([9.0, 9.0, 9.0, 9.0])
    rows[[10, 20]] = torch.tensor([[-20.0, 0.0, 0.0, 0.0], [-22.0, 0.0, 0.0, 0.0]])
    x = torch.tensor([[9.0, 9.0, 9.0, 8.0], [-21.0, 0.0, 0.0, 0.0]])
    index, squared = nearest_row(x, rows, backend=backend)
    assert index.tolist() == [3, 10] and squared.tolist() == [1.0, 1.0]


@pytest.mark.interp
@pytest.mark.parametrize(("dtype", "worst"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_far_from_the_origin_the_distance_is_still_the_smallest(dtype, worst):
    x, rows = torch.randn(70, 5, dtype=dtype) + 3000, torch.randn(90, 5, dtype=dtype) + 3000
    index, squared = nearest_row(x, rows, backend="triton")
    _, smallest = reference(x, rows)
    torch.testing.assert_close(squared, smallest, rtol=worst, atol=0)
    torch.testing.assert_close((x - rows[index]).square().sum(1), squared, rtol=worst, atol=0)


@BOTH
def test_a_nan_is_not_passed_over(backend):
    x, rows = torch.randn(3, 4), torch.randn(5, 4)
    broken = x.clone()
    broken[1, 2] = torch.nan
    assert torch.equal(nearest_row(broken, rows, backend=backend)[1].isnan(), torch.tensor([False, True, False]))
    for k in (0, 3):
        broken = rows.clone()
        broken[k, 1] = torch.nan
        assert nearest_row(x, broken, backend=backend)[1].isnan().all()


@BOTH
def test_half_precision_distances_are_single(backend):
    x, rows = torch.randn(20, 6).half(), torch.randn(9, 6).half()
    index, squared = nearest_row(x, rows, backend=backend)
    expected = (x.double()[:, None] - rows.double()).square().sum(-1).min(1)
    assert squared.dtype == torch.float32 and torch.equal(index, expected.indices)
    torch.testing.assert_close(squared.double(), expected.values, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("x", "rows", "message"),
    [
        (torch.zeros(2, 3), torch.zeros(4, 2), r"x has shape \(2, 3\) and rows \(4, 2\); expected \(N, D\) and \(K, D\)"),
        (torch.zeros(2, 3), torch.zeros(0, 3), "K at least 1"),
        (torch.zeros(3), torch.zeros(4, 3), r"x has shape \(3,\)"),
        (torch.zeros(2, 3), torch.zeros(4, 3).double(), "x has dtype torch.float32 and rows torch.float64"),
    ],
)
def test_what_does_not_fit_is_named(x, rows, message):
    with pytest.raises(ValueError, match=message):
        nearest_row(x, rows)


@pytest.mark.gpu
@DTYPES
@pytest.mark.parametrize("sizes", SPEC.gpu)
def test_finds_the_smallest_distance(sizes, dtype):
    """Distances are compared, not indices: of two rows that close either is right."""
    x, table = SPEC.inputs(sizes, dtype, "cuda")
    index, squared = nearest_row(x, table, backend="triton")
    _, smallest = reference(x.double(), table.double())
    torch.testing.assert_close((x.double() - table[index].double()).square().sum(1), smallest, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(squared.double(), smallest, rtol=1e-5, atol=1e-5)


@pytest.mark.gpu
def test_past_two_to_the_31_numbers():
    free_memory_or_skip(20)
    columns = 64
    x = torch.zeros(2**31 // columns + 5, columns, dtype=torch.bfloat16, device="cuda")
    x[-1] = 1.0
    rows = torch.stack([torch.zeros(columns), torch.ones(columns)]).to(x)
    index, squared = nearest_row(x, rows, backend="triton")
    assert index[-1] == 1 and index.sum() == 1 and squared.max() == 0
