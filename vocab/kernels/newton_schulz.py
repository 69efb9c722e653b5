"""Newton-Schulz orthogonalization of matrices, with symmetric products of which only one half is computed.

    A = X X^T,      B = b A + c A A,      X <- a X + B X

Source: the iteration is that of Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/. A is symmetric, so A A = A A^T is a product
of the same kind as the first: one kernel makes both, tiles on and below the diagonal alone, and stores the others as mirror images. The sum
with b A happens before that. The last product has no such half and is left to cuBLAS.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vocab.kernels.dispatch import accumulate_in, accumulator, jit, padded, register, tl, triton, use_triton
from vocab.kernels.spec import POINTER, Build, Cost, Spec, random

__all__ = ["SPEC", "applies", "fused", "newton_schulz", "reference"]

# N smaller side of a matrix, M larger side

QUINTIC = (3.4445, -4.775, 2.0315)
# Matrices whose smaller side is shorter have too few tiles to fill the GPU with half of them. Provisional until measured here.
WORTHWHILE = 2048
# Bytes of a number -> {up to so many rows: (rows of a tile, columns a step, warps, stages)}. Small matrices take small tiles, or they would
# have fewer of them than the GPU has processors. Products in float32 and float64 use no tensor cores and hold their operands in registers.
CONFIGS = {2: {1024: (64, 64, 4, 4), 2**31: (128, 64, 8, 4)}, 4: {1024: (32, 32, 4, 2), 2**31: (64, 32, 8, 2)}, 8: {2**31: (32, 32, 4, 2)}}


@jit
def _symmetric_kernel(
    x, addend, out, N, M, stride_batch, stride_row, stride_col, scale: tl.float64, share: tl.float64,
    SUM: tl.constexpr, ACC: tl.constexpr, BLOCK: tl.constexpr, BLOCK_M: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """``out = scale x x^T``, and ``+ share addend`` with ``SUM``; out and the symmetric addend are contiguous."""
    tiles = tl.cdiv(N, BLOCK)
    # Rows of tiles get longer by one. The longest alone or with none, the next with the shortest and so on fill a rectangle.
    width = tiles + 1 - tiles % 2
    count = tiles * (tiles + 1) // 2
    batch, place = (tl.program_id(0) // count).to(tl.int64), tl.program_id(0) % count
    low, place = tiles - 1 - place // width, place % width
    i = tl.where(place <= low, low, width - low - 2).to(tl.int64) * BLOCK
    j = tl.where(place <= low, place, place - low - 1).to(tl.int64) * BLOCK
    near, steps = tl.arange(0, BLOCK), tl.arange(0, BLOCK_M)
    row, col = near[:, None], near[None, :]
    in_row, in_col = row < N - i, col < N - j
    # A row of x is a column in the second factor: it is read so, and not turned over afterwards.
    left = x + batch * stride_batch + (i + row) * stride_row
    right = x + batch * stride_batch + (j + col) * stride_row
    total = tl.zeros((BLOCK, BLOCK), ACC)
    for start in tl.range(0, M, BLOCK_M, num_stages=STAGES):
        there = steps < M - start
        rows = tl.load(left + steps[None, :] * stride_col, in_row & there[None, :], other=0.0)
        cols = tl.load(right + steps[:, None] * stride_col, there[:, None] & in_col, other=0.0)
        total += tl.dot(rows, cols, out_dtype=ACC, input_precision="ieee")
        left += BLOCK_M * stride_col
        right += BLOCK_M * stride_col
    total *= tl.full((), scale, ACC)
    matrix = batch * N * N
    here = matrix + i * N + j + row * N + col
    if SUM:
        total += tl.full((), share, ACC) * tl.load(addend + here, in_row & in_col, other=0.0).to(ACC)
    result = total.to(out.dtype.element_ty)
    tl.store(out + here, result, in_row & in_col)
    if i > j:  # once more, mirrored
        tl.store(out + matrix + j * N + i + col * N + row, result, in_row & in_col)


def _config(dtype: torch.dtype, rows: int) -> tuple[int, int, int, int]:
    return next(config for most, config in CONFIGS[dtype.itemsize].items() if rows <= most)


def _symmetric(x: Tensor, out: Tensor, scale: float = 1.0, addend: Tensor | None = None, share: float = 0.0) -> Tensor:
    """``out = scale x x^T + share addend`` for every matrix of a batch."""
    batch, n, m = x.shape
    block, block_m, warps, stages = _config(x.dtype, n)
    tiles = -(-n // block)
    _symmetric_kernel[(batch * tiles * (tiles + 1) // 2,)](
        x, addend, out, n, m, *x.stride(), scale, share,
        SUM=addend is not None, ACC=accumulate_in(x.dtype), BLOCK=block, BLOCK_M=block_m, STAGES=stages, num_warps=warps,
    )  # fmt: skip
    return out


def _unit(x: Tensor, eps: float) -> Tensor:
    """Matrices of norm 1; the norm is taken in at least float32, as a sum of squares leaves float16 early."""
    norm = torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True, dtype=accumulator(x.dtype))
    return (x / norm.clamp(min=eps)).to(x.dtype)


def _launch(x, a, b, c, steps, eps):
    if not x.numel():
        return _fake(x, a, b, c, steps, eps)
    _, rows, columns = x.shape
    y = _unit(padded(x, -2, -1).contiguous(), eps)
    tall = y.shape[1] > y.shape[2]
    n = min(y.shape[1:])
    gram, mixed = (torch.empty((y.shape[0], n, n), dtype=y.dtype, device=y.device) for _ in range(2))
    for _ in range(steps):
        _symmetric(y.mT if tall else y, gram)
        _symmetric(gram, mixed, c, gram, b)
        y = torch.baddbmm(y, y, mixed, beta=a) if tall else torch.baddbmm(y, mixed, y, beta=a)
    return y[:, :rows, :columns].contiguous()


def _fake(x, a, b, c, steps, eps):
    return torch.empty(x.shape, dtype=x.dtype, device=x.device)


def _plain(x, a, b, c, steps, eps):
    return reference(x, (a, b, c), steps, eps).contiguous()


_run = register(
    "vocab::newton_schulz",
    "(Tensor x, float a, float b, float c, int steps, float eps) -> Tensor",
    launch=_launch,
    plain=_plain,
    fake=_fake,
)


def newton_schulz(
    x: Tensor, coefficients: tuple[float, float, float] = QUINTIC, steps: int = 5, eps: float = 1e-7, *, backend: str = "auto"
) -> Tensor:
    """Pushes all singular values of matrices toward 1 by the polynomial ``a s + b s^3 + c s^5``, after each matrix is given norm 1.

    The kernel adds up in float32 (float64 for float64) and rounds ``A``, ``B`` and ``X`` once each. It has no gradient.

    Args:
        x: ``(..., rows, columns)``, any strides.
        coefficients: ``a``, ``b``, ``c``.
        steps: Rounds.
        eps: Smallest norm that a matrix is divided by.
        backend: ``"auto"``, ``"torch"`` or ``"triton"``.

    Returns:
        Matrices of the same shape and dtype.
    """
    return (fused if applies(x, backend) else reference)(x, coefficients, steps, eps)


def applies(x: Tensor, backend: str, limit: str | None = None) -> bool:
    """Whether the kernel is to run; raises where it was asked for and cannot, for instance because of the caller's ``limit``."""
    limit = limit or (None if x.dtype in POINTER else f"x has dtype {x.dtype}")
    if x.requires_grad and torch.is_grad_enabled():
        limit = limit or "it has no gradient, which x asks for"
    return use_triton("newton_schulz", backend, x, limit=limit, worthwhile=min(x.shape[-2:]) >= WORTHWHILE)


def fused(x: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> Tensor:
    """``newton_schulz`` by the kernel, whatever the size."""
    return _run(x.reshape(x.shape[:-2].numel(), *x.shape[-2:]), *coefficients, steps, eps).view(x.shape)


def reference(x: Tensor, coefficients: tuple[float, float, float] = QUINTIC, steps: int = 5, eps: float = 1e-7) -> Tensor:
    """The same in plain torch."""
    tall = x.shape[-2] > x.shape[-1]
    norm = torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True, dtype=accumulator(x.dtype))
    y = (x / norm.clamp(min=eps)).to(x.dtype)
    y = y.mT if tall else y
    a, b, c = coefficients
    for _ in range(steps):
        gram = y @ y.mT
        y = a * y + (b * gram + c * gram @ gram) @ y
    return y.mT if tall else y


def _inputs(sizes, dtype, device):
    return (random((sizes["batch"], sizes["rows"], sizes["columns"]), dtype, device),)


def _cost(sizes, dtype, direction):
    batch, (n, m), rounds = sizes["batch"], sorted((sizes["rows"], sizes["columns"])), 5
    # A round reads X, A twice, B, X twice and writes A, B, X; two of its products need half of their multiplications.
    numbers = batch * rounds * (4 * n * m + 5 * n * n)
    return Cost(bytes=numbers * dtype.itemsize, flops=batch * rounds * (n * n * m + n * n * n + 2 * n * n * m))


def _torch_native(x):
    """With the sums inside the products, as in ``torch.optim.Muon``."""
    a, b, c = QUINTIC
    y = _unit(x, 1e-7)
    y = y.mT if x.shape[1] > x.shape[2] else y
    for _ in range(5):
        gram = y @ y.mT
        y = torch.baddbmm(y, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), y, beta=a)
    return y.mT if x.shape[1] > x.shape[2] else y


def _flash_muon(x):
    from flash_muon import fast_newtonschulz

    return torch.stack([fast_newtonschulz(matrix, steps=5) for matrix in x])


def _builds():
    for dtype, pointer in POINTER.items():
        if dtype == torch.float16:
            continue  # bfloat16 shares its table
        for block, block_m, warps, stages in CONFIGS[dtype.itemsize].values():
            # X X^T of a wide matrix, X^T X of a tall one, whose rows are then columns, and the product of the symmetric matrix
            for layout in ("wide", "tall", "again"):

                def at(sizes, dtype=dtype, block=block, layout=layout):
                    chosen = _config(dtype, min(sizes["rows"], sizes["columns"]))[0] == block
                    return chosen and layout in ("again", "tall" if sizes["rows"] > sizes["columns"] else "wide")

                constants = {"SUM": layout == "again", "ACC": accumulate_in(dtype), "BLOCK": block, "BLOCK_M": block_m, "STAGES": stages}
                constants |= {"stride_row" if layout == "tall" else "stride_col": 1} | ({} if layout == "again" else {"addend": None})
                integers = [n for n in ("N", "M", "stride_batch", "stride_row", "stride_col") if n not in constants]
                signature = {"x": pointer, "addend": pointer, "out": pointer, **dict.fromkeys(integers, "i32")}
                signature |= {"scale": "fp64", "share": "fp64"}
                signature = {n: t for n, t in signature.items() if n not in constants}
                cores = {2: "wgmma", 4: "", 8: "mma"}[dtype.itemsize]
                yield Build("_symmetric_kernel", signature, constants, warps, tensor_cores=cores, multiples=tuple(integers), at=at)


SPEC = Spec(
    name="newton_schulz",
    summary="Orthogonalization of matrices by Newton-Schulz rounds, symmetric products at half of their cost.",
    run=newton_schulz,
    inputs=_inputs,
    dtypes=tuple(POINTER),
    shapes={
        "4096 x 4096": {"batch": 1, "rows": 4096, "columns": 4096},
        "4 x 4096 x 11008": {"batch": 4, "rows": 4096, "columns": 11_008},
        "8192 x 8192": {"batch": 1, "rows": 8192, "columns": 8192},
        "small, 768 x 3072": {"batch": 1, "rows": 768, "columns": 3072},
    },
    tails=(
        {"batch": 1, "rows": 1, "columns": 1},
        {"batch": 2, "rows": 63, "columns": 65},
        {"batch": 1, "rows": 129, "columns": 65},
        {"batch": 1, "rows": 200, "columns": 17},
        {"batch": 1, "rows": 5, "columns": 0},
        {"batch": 0, "rows": 3, "columns": 4},
    ),
    probe={"batch": 2, "rows": 70, "columns": 75},
    cost=_cost,
    directions=("forward",),
    variants=({"steps": 2},),
    baselines={"baddbmm": _torch_native, "flash-muon": _flash_muon},
    targets={"eager": {"4096 x 4096": 1.4, "8192 x 8192": 1.4}, "baddbmm": {"4096 x 4096": 1.25, "8192 x 8192": 1.25}},
    builds=tuple(_builds()) if triton else (),
    gpu=tuple(
        {"batch": b, "rows": r, "columns": c} for b, r, c in ((1, 1, 1), (2, 63, 65), (3, 300, 130), (1, 1100, 1300), (1, 2100, 1090))
    ),
    operators=("newton_schulz",),
)
