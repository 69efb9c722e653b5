"""The nearest row of a table for every input row, without the matrix of all distances.

With 65,536 inputs and 1,024 rows that matrix is 256 MiB in float32; writing and reading it takes longer than the arithmetic.
Each program keeps a block of inputs, streams all rows past them and remembers only the best so far.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vocab.kernels.dispatch import accumulate_in, accumulator, jit, register, tl, triton, use_triton
from vocab.kernels.spec import POINTER, Build, Cost, Spec, random

__all__ = ["SPEC", "nearest_row", "reference"]

# N inputs, K rows of the table, D columns

# Fewer distances than this are not worth a launch. Provisional until measured here.
WORTHWHILE = 2**20
# dtype -> (inputs, rows, columns a tile, warps, pipeline stages)
CONFIGS = {
    torch.float16: (128, 128, 32, 8, 3),
    torch.bfloat16: (128, 128, 32, 8, 3),
    torch.float32: (64, 64, 16, 4, 2),
    torch.float64: (32, 32, 16, 4, 2),
}


@jit(do_not_specialize=["N", "K"])
def _nearest_kernel(
    x, rows, index, distance, N, K, D,
    CENTRED: tl.constexpr, ACC: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    # Scalar starts and narrow offsets within the tile: 64-bit safe, and no thread carries wide addresses.
    n_start = tl.program_id(0).to(tl.int64) * BLOCK_N
    local_n, local_k = tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_K)
    inside_n = n_start + local_n < N
    x += n_start * D
    best = tl.full((BLOCK_N,), float("inf"), ACC)
    which = tl.zeros((BLOCK_N,), tl.int32)
    tile = rows
    for k_start in range(0, K, BLOCK_K):
        inside_k = k_start + local_k < K
        product = tl.zeros((BLOCK_N, BLOCK_K), ACC)
        length = tl.zeros((BLOCK_K,), ACC)
        for d_start in range(0, D, BLOCK_D):
            d = d_start + tl.arange(0, BLOCK_D)
            a = tl.load(x + (local_n[:, None] * D + d[None, :]), inside_n[:, None] & (d < D)[None, :], other=0.0)
            b = tl.load(tile + (local_k[None, :] * D + d[:, None]), inside_k[None, :] & (d < D)[:, None], other=0.0)
            if CENTRED:
                # |b|^2 - 2ab cancels badly far from the origin; distances do not change when the origin moves.
                origin = tl.load(rows + d, d < D, other=0.0)
                a -= origin[None, :]
                b -= origin[:, None]
            product = tl.dot(a, b, product, input_precision="ieee", out_dtype=ACC)
            wide = b.to(ACC)
            length += tl.sum(wide * wide, 0)
        score = tl.where(inside_k[None, :], length[None, :] - 2.0 * product, float("inf"))
        # A NaN must win, or a broken table would be passed over in silence.
        score = tl.where(score != score, float("-inf"), score)
        lowest = tl.min(score, 1)
        first = k_start + tl.min(tl.where(score == lowest[:, None], local_k[None, :], BLOCK_K), 1)
        closer = lowest < best
        which = tl.where(closer, first, which)
        best = tl.where(closer, lowest, best)
        tile += BLOCK_K * D
    # The score is short of |x|^2 and carries the product's rounding: the distance is worth one more row.
    total = tl.zeros((BLOCK_N,), ACC)
    for d_start in range(0, D, BLOCK_D):
        d = d_start + tl.arange(0, BLOCK_D)
        inside = inside_n[:, None] & (d < D)[None, :]
        a = tl.load(x + (local_n[:, None] * D + d[None, :]), inside, other=0.0).to(ACC)
        b = tl.load(rows + (which[:, None].to(tl.int64) * D + d[None, :]), inside, other=0.0).to(ACC)
        total += tl.sum((a - b) * (a - b), 1)
    tl.store(index + n_start + local_n, which.to(tl.int64), inside_n)
    tl.store(distance + n_start + local_n, total, inside_n)


def _launch(x, rows):
    index, distance = _fake(x, rows)
    n, d = x.shape
    if n:
        block_n, block_k, block_d, warps, stages = CONFIGS[x.dtype]
        _nearest_kernel[(-(-n // block_n),)](
            x.contiguous(), rows.contiguous(), index, distance, n, len(rows), d,
            CENTRED=_centred(x.dtype), ACC=accumulate_in(x.dtype), BLOCK_N=block_n, BLOCK_K=block_k, BLOCK_D=block_d,
            num_warps=warps, num_stages=stages,
        )  # fmt: skip
    return index, distance


def _centred(dtype: torch.dtype) -> bool:
    # Half precision has lost those digits in the inputs already, and moving the origin would round them once more.
    return dtype in (torch.float32, torch.float64)


def _fake(x, rows):
    index = torch.empty(x.shape[:1], dtype=torch.int64, device=x.device)
    return index, torch.empty(x.shape[:1], dtype=accumulator(x.dtype), device=x.device)


_nearest = register(
    "vocab::nearest_row",
    "(Tensor x, Tensor rows) -> (Tensor, Tensor)",
    launch=_launch,
    plain=lambda x, rows: reference(x, rows),
    fake=_fake,
)


def nearest_row(x: Tensor, rows: Tensor, *, backend: str = "auto") -> tuple[Tensor, Tensor]:
    """Which row of ``rows`` is closest to each row of ``x``, and how far it is.

    Args:
        x: ``(N, D)``.
        rows: ``(K, D)``, the same dtype and at least one row.
        backend: ``"auto"``, ``"torch"`` or ``"triton"``.

    Returns:
        The index ``(N,)``, the lowest of equally close rows, and the squared Euclidean distance ``(N,)`` in at least
        float32. Neither has a gradient. A NaN in ``x`` or in ``rows`` gives a NaN distance.

    Raises:
        ValueError: If there is no row to be nearest, or the shapes or dtypes do not fit.
    """
    if x.ndim != 2 or rows.ndim != 2 or x.shape[1] != rows.shape[1] or len(rows) == 0:
        raise ValueError(f"x has shape {tuple(x.shape)} and rows {tuple(rows.shape)}; expected (N, D) and (K, D) with K at least 1")
    if x.dtype != rows.dtype:
        raise ValueError(f"x has dtype {x.dtype} and rows {rows.dtype}; expected the same")
    limit = None if x.dtype in POINTER else f"x has dtype {x.dtype}"
    with torch.no_grad():
        if use_triton("nearest_row", backend, x, limit=limit, worthwhile=len(x) * len(rows) >= WORTHWHILE):
            return _nearest(x, rows)
        return reference(x, rows)


def reference(x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """The same in plain torch: every difference, a few input rows at a time."""
    x, rows = x.to(accumulator(x.dtype)), rows.to(accumulator(rows.dtype))
    some = max(1, (2**26 if x.is_cuda else 2**22) // max(1, rows.numel()))  # a CPU's caches are smaller than a GPU is wide
    nearest = [(part[:, None] - rows).square().sum(-1).min(1) for part in x.split(some)]
    return torch.cat([m.indices for m in nearest]), torch.cat([m.values for m in nearest])


def _inputs(sizes, dtype, device):
    return tuple(random((sizes[size], sizes["columns"]), dtype, device) for size in ("inputs", "rows"))


def _cost(sizes, dtype, direction):
    n, k, d = sizes["inputs"], sizes["rows"], sizes["columns"]
    return Cost(bytes=(n + k) * d * dtype.itemsize + n * (8 + accumulator(dtype).itemsize), flops=2 * n * k * d)


def _expanded(x, rows):
    score = (rows * rows).sum(1) - 2 * x @ rows.T
    found = score.min(1)
    return found.indices, found.values + (x * x).sum(1)


def _cdist(x, rows):
    found = torch.cdist(x[None], rows[None])[0].min(1)
    return found.indices, found.values.square()


def _flash_kmeans(x, rows):
    from flash_kmeans.assign_euclid_triton import euclid_assign_triton

    return euclid_assign_triton(x[None], rows[None], (x * x).sum(1)[None])[0]


def _builds():
    for dtype, (block_n, block_k, block_d, warps, stages) in CONFIGS.items():
        pointer, acc = POINTER[dtype], "*fp64" if dtype == torch.float64 else "*fp32"
        signature = {"x": pointer, "rows": pointer, "index": "*i64", "distance": acc, "N": "i32", "K": "i32", "D": "i32"}
        constants = {"CENTRED": _centred(dtype), "ACC": accumulate_in(dtype), "BLOCK_N": block_n, "BLOCK_K": block_k, "BLOCK_D": block_d}
        yield Build("_nearest_kernel", signature, constants, warps, stages, tensor_cores={2: "wgmma", 4: "", 8: "mma"}[dtype.itemsize])


SPEC = Spec(
    name="nearest_row",
    summary="Index of and squared distance to the nearest row, without the matrix of all distances.",
    run=nearest_row,
    inputs=_inputs,
    dtypes=tuple(POINTER),
    shapes={
        "65536 x 1024 x 128": {"inputs": 65_536, "rows": 1024, "columns": 128},
        "65536 x 16384 x 64": {"inputs": 65_536, "rows": 16_384, "columns": 64},
        "small, 512 x 100 x 3": {"inputs": 512, "rows": 100, "columns": 3},
    },
    tails=(
        {"inputs": 1, "rows": 1, "columns": 1},
        {"inputs": 63, "rows": 65, "columns": 3},
        {"inputs": 65, "rows": 200, "columns": 70},
        {"inputs": 0, "rows": 5, "columns": 4},
        {"inputs": 5, "rows": 3, "columns": 0},
    ),
    probe={"inputs": 70, "rows": 67, "columns": 18},
    cost=_cost,
    directions=("forward",),
    baselines={"expanded square": _expanded, "torch.cdist": _cdist, "flash-kmeans": _flash_kmeans},
    targets={
        "expanded square": {"65536 x 1024 x 128": 8.0, "65536 x 16384 x 64": 8.0},
        "compile": {"65536 x 1024 x 128": 5.0},
        "flash-kmeans": {"65536 x 1024 x 128": 0.9},
    },
    builds=tuple(_builds()) if triton else (),
    gpu=tuple({"inputs": n, "rows": k, "columns": d} for n, k, d in ((1, 1, 1), (63, 65, 3), (257, 129, 70), (500, 1000, 128))),
    smooth=False,
    operators=("nearest_row",),
)
