"""Residual add and RMSNorm in one pass over each row, forward and backward.

Source: Zhang and Sennrich 2019, arXiv:1910.07467, equation 4. Five elementwise and reduction kernels of eager PyTorch
become one that reads and writes every number once; what limits it is memory bandwidth.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from vocab.kernels.dispatch import accumulate_in, accumulator, jit, register, tl, triton, use_triton
from vocab.kernels.spec import POINTER, Build, Cost, Spec, random

__all__ = ["SPEC", "applies", "fused", "reference", "rms_norm"]

# N rows, D columns, P programs of the backward pass

# A row lives in the registers of one program. Wider ones spill: the compile gate measured where.
MOST_COLUMNS = {torch.float16: 16_384, torch.bfloat16: 16_384, torch.float32: 8192, torch.float64: 4096}
# Up to this width the backward pass has registers left to sum the weight's gradient on the way.
FUSED_COLUMNS = 4096
# Below this many numbers the launch costs more than the fusion saves. Provisional: taken from what Liger-Kernel
# measured on an H100, to be replaced by this repository's own measurements.
WORTHWHILE = 2**25
# Block of columns -> warps, chosen so that nothing spills on sm_90: 8 to 32 columns a thread.
FORWARD_WARPS = {256: 1, 512: 2, 1024: 4, 2048: 4, 4096: 8, 8192: 8, 16_384: 16}
BACKWARD_WARPS = {256: 2, 512: 4, 1024: 4, 2048: 8, 4096: 8, 8192: 16, 16_384: 32}
WEIGHT_COLUMNS, WEIGHT_WARPS = 512, 4


@jit
def _forward_kernel(
    x, residual, weight, y, stream, rstd, D, eps: tl.float64, OFFSET: tl.constexpr, ACC: tl.constexpr, BLOCK: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    cols = tl.arange(0, BLOCK)
    inside = cols < D
    start = row * D  # scalar, so that no thread carries a 64-bit offset for each of its columns
    value = tl.load(x + start + cols, inside, other=0.0).to(ACC)
    if residual is not None:
        added = value + tl.load(residual + start + cols, inside, other=0.0).to(ACC)
        # The norm must see what later layers will read, so the sum is rounded before it is normalised.
        rounded = added.to(stream.dtype.element_ty)
        tl.store(stream + start + cols, rounded, inside)
        value = rounded.to(ACC)
    scale = tl.rsqrt(tl.sum(value * value, 0) / D + tl.full((), eps, ACC))
    tl.store(rstd + row, scale)
    result = value * scale
    if weight is not None:
        result *= tl.load(weight + cols, inside, other=0.0).to(ACC) + OFFSET
    tl.store(y + start + cols, result.to(y.dtype.element_ty), inside)


@jit(do_not_specialize=["N", "ROWS"])
def _backward_kernel(
    dy, dstream, stream, weight, rstd, dx, partial, N, D, ROWS, OFFSET: tl.constexpr, ACC: tl.constexpr, BLOCK: tl.constexpr
):
    program = tl.program_id(0).to(tl.int64)
    cols = tl.arange(0, BLOCK)
    inside = cols < D
    if partial is not None:
        dweight = tl.zeros((BLOCK,), ACC)
    first = program * ROWS
    start = first * D
    rstd += first
    for _ in range(tl.minimum(ROWS, N - first)):
        scale = tl.load(rstd)
        normed = tl.load(stream + start + cols, inside, other=0.0).to(ACC) * scale
        grad = tl.load(dy + start + cols, inside, other=0.0).to(ACC)
        if weight is not None:
            if partial is not None:
                dweight += grad * normed
            grad *= tl.load(weight + cols, inside, other=0.0).to(ACC) + OFFSET
        result = scale * (grad - normed * (tl.sum(grad * normed, 0) / D))
        if dstream is not None:
            result += tl.load(dstream + start + cols, inside, other=0.0).to(ACC)
        tl.store(dx + start + cols, result.to(dx.dtype.element_ty), inside)
        start += D
        rstd += 1
    if partial is not None:
        # Each program keeps its own sum; adding them up afterwards is deterministic, atomics are not.
        tl.store(partial + program * D + cols, dweight, inside)


@jit(do_not_specialize=["N", "ROWS"])
def _weight_kernel(dy, stream, rstd, partial, N, D, ROWS, ACC: tl.constexpr, BLOCK: tl.constexpr):
    program = tl.program_id(0).to(tl.int64)
    cols = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = cols < D
    dweight = tl.zeros((BLOCK,), ACC)
    first = program * ROWS
    start = first * D
    rstd += first
    for _ in range(tl.minimum(ROWS, N - first)):
        normed = tl.load(stream + start + cols, inside, other=0.0).to(ACC) * tl.load(rstd)
        dweight += tl.load(dy + start + cols, inside, other=0.0).to(ACC) * normed
        start += D
        rstd += 1
    tl.store(partial + program * D + cols, dweight, inside)


def _block(columns: int) -> int:
    return max(256, 1 << (columns - 1).bit_length())


def _programs(x: Tensor) -> int:
    return 2 * torch.cuda.get_device_properties(x.device).multi_processor_count if x.is_cuda else 3


def _forward_launch(x, residual, weight, eps, unit_offset):
    y, stream, rstd = _forward_fake(x, residual, weight, eps, unit_offset)
    if x.numel():
        block = _block(x.shape[1])
        _forward_kernel[(len(x),)](
            x.contiguous(), None if residual is None else residual.contiguous(), None if weight is None else weight.contiguous(),
            y, stream, rstd, x.shape[1], eps,
            OFFSET=int(unit_offset), ACC=accumulate_in(x.dtype), BLOCK=block, num_warps=FORWARD_WARPS[block],
        )  # fmt: skip
    return y, stream, rstd


def _forward_fake(x, residual, weight, eps, unit_offset):
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    stream = torch.empty(x.shape if residual is not None else (0,), dtype=x.dtype, device=x.device)
    return y, stream, torch.empty(x.shape[:1], dtype=accumulator(x.dtype), device=x.device)


def _forward_plain(x, residual, weight, eps, unit_offset):
    y, stream = reference(x, weight, residual, eps=eps, unit_offset=unit_offset)
    rstd = (stream.to(accumulator(x.dtype)).square().mean(-1) + eps).rsqrt()
    return y.contiguous(), x.new_empty(0) if residual is None else stream.contiguous(), rstd


def _backward_launch(dy, dstream, stream, weight, rstd, unit_offset):
    dx, dweight = _backward_fake(dy, dstream, stream, weight, rstd, unit_offset)
    if not stream.numel():
        return dx, dweight.zero_()
    n, d = stream.shape
    dy, stream, rstd = dy.contiguous(), stream.contiguous(), rstd.contiguous()
    acc, block = accumulate_in(dy.dtype), _block(d)
    rows = -(-n // min(n, _programs(stream)))
    programs = -(-n // rows)
    partial = torch.empty((programs, d), dtype=rstd.dtype, device=dy.device) if weight is not None else None
    fused = d <= FUSED_COLUMNS
    _backward_kernel[(programs if fused else n,)](
        dy, None if dstream is None else dstream.contiguous(), stream, None if weight is None else weight.contiguous(),
        rstd, dx, partial if fused else None, n, d, rows if fused else 1,
        OFFSET=int(unit_offset), ACC=acc, BLOCK=block, num_warps=BACKWARD_WARPS[block],
    )  # fmt: skip
    if weight is None:
        return dx, dweight
    if not fused:
        grid = (programs, -(-d // WEIGHT_COLUMNS))
        _weight_kernel[grid](
            dy, stream, rstd, partial, n, d, rows, ACC=acc, BLOCK=WEIGHT_COLUMNS, num_warps=WEIGHT_WARPS
        )
    return dx, partial.sum(0).to(weight.dtype)


def _backward_fake(dy, dstream, stream, weight, rstd, unit_offset):
    shape, dtype = (stream.shape[1:], weight.dtype) if weight is not None else ((0,), dy.dtype)
    dx = torch.empty(stream.shape, dtype=dy.dtype, device=dy.device)
    return dx, torch.empty(shape, dtype=dtype, device=dy.device)


def _backward_plain(dy, dstream, stream, weight, rstd, unit_offset):
    normed = stream.to(rstd.dtype) * rstd[:, None]
    grad = dy.to(rstd.dtype)
    dweight = dy.new_empty(0) if weight is None else (grad * normed).sum(0).to(weight.dtype)
    if weight is not None:
        grad = grad * (weight.to(rstd.dtype) + int(unit_offset))
    dx = rstd[:, None] * (grad - normed * (grad * normed).mean(-1, keepdim=True))
    return (dx if dstream is None else dx + dstream).to(dy.dtype).contiguous(), dweight


_forward = register(
    "vocab::rms_norm_forward",
    "(Tensor x, Tensor? residual, Tensor? weight, float eps, bool unit_offset) -> (Tensor, Tensor, Tensor)",
    launch=_forward_launch,
    plain=_forward_plain,
    fake=_forward_fake,
)
_backward = register(
    "vocab::rms_norm_backward",
    "(Tensor dy, Tensor? dstream, Tensor stream, Tensor? weight, Tensor rstd, bool unit_offset) -> (Tensor, Tensor)",
    launch=_backward_launch,
    plain=_backward_plain,
    fake=_backward_fake,
)


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, residual, weight, eps, unit_offset):
        y, stream, rstd = _forward(x, residual, weight, eps, unit_offset)
        ctx.has_residual, ctx.unit_offset = residual is not None, unit_offset
        ctx.save_for_backward(stream if ctx.has_residual else x, weight, rstd)
        ctx.set_materialize_grads(False)
        return (y, stream) if ctx.has_residual else y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, dy, dstream=None):
        stream, weight, rstd = ctx.saved_tensors
        if dy is None:  # only the stream was used
            return dstream, dstream, None, None, None
        dx, dweight = _backward(dy, dstream, stream, weight, rstd, ctx.unit_offset)
        return dx, dx if ctx.has_residual else None, None if weight is None else dweight, None, None


def rms_norm(
    x: Tensor,
    weight: Tensor | None = None,
    residual: Tensor | None = None,
    *,
    eps: float = 1e-6,
    unit_offset: bool = False,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """RMSNorm over the last dimension, of ``x + residual`` where a residual is given.

    Sums are kept in float32 (float64 for float64 inputs); the result is rounded once, after the weight.

    Args:
        x: ``(..., D)``.
        weight: ``(D,)``.
        residual: Added to ``x`` first; same shape and dtype.
        eps: Added to the mean square under the root.
        unit_offset: The stored weight is gamma - 1, as in Gemma.
        backend: ``"auto"``, ``"torch"`` or ``"triton"``.

    Returns:
        The normalised tensor; with a residual also the sum ``x + residual``.
    """
    if applies(x, weight, backend):
        return fused(x, weight, residual, eps=eps, unit_offset=unit_offset)
    y, stream = reference(x, weight, residual, eps=eps, unit_offset=unit_offset)
    return y if residual is None else (y, stream)


def applies(x: Tensor, weight: Tensor | None, backend: str) -> bool:
    """Whether the kernel is to run; raises where it was asked for and cannot."""
    return use_triton("rms_norm", backend, x, limit=_limit(x, weight), worthwhile=x.numel() >= WORTHWHILE)


def fused(x: Tensor, weight: Tensor | None, residual: Tensor | None, *, eps: float, unit_offset: bool):
    """``rms_norm`` by the kernel, whatever the size."""
    flat = x.reshape(-1, x.shape[-1])
    out = _RMSNorm.apply(flat, None if residual is None else residual.reshape(flat.shape), weight, eps, unit_offset)
    return out.view(x.shape) if residual is None else tuple(o.view(x.shape) for o in out)


def _limit(x: Tensor, weight: Tensor | None) -> str | None:
    for name, tensor in (("x", x), ("weight", weight)):
        if tensor is not None and tensor.dtype not in POINTER:
            return f"{name} has dtype {tensor.dtype}"
    if x.shape[-1] > MOST_COLUMNS[x.dtype]:
        return f"a row of {x.shape[-1]} numbers is wider than the {MOST_COLUMNS[x.dtype]} that fit the registers in {x.dtype}"
    return None


def reference(
    x: Tensor, weight: Tensor | None = None, residual: Tensor | None = None, *, eps: float = 1e-6, unit_offset: bool = False
) -> tuple[Tensor, Tensor]:
    """The same in plain torch: the normalised tensor and what was normalised."""
    stream = x if residual is None else x + residual
    wide = stream.to(accumulator(x.dtype))
    y = wide * (wide.square().mean(-1, keepdim=True) + eps).rsqrt()
    if weight is not None:
        y = y * (weight.to(y.dtype) + int(unit_offset))
    return y.to(x.dtype), stream


def _inputs(sizes, dtype, device):
    n, d = sizes["rows"], sizes["columns"]
    return tuple(random(shape, dtype, device).requires_grad_() for shape in ((n, d), (d,), (n, d)))


def _cost(sizes, dtype, direction):
    numbers = sizes["rows"] * sizes["columns"]
    # forward reads x and residual, writes y and stream; backward reads dy, dstream and stream, writes dx
    return Cost(bytes=4 * numbers * dtype.itemsize, flops=(5 if direction == "forward" else 9) * numbers)


def _torch_native(x, weight, residual):
    stream = x + residual
    return F.rms_norm(stream, stream.shape[-1:], weight, 1e-6), stream


def _liger(x, weight, residual):
    from liger_kernel.transformers.functional import liger_fused_add_rms_norm

    return liger_fused_add_rms_norm(x, residual, weight, 1e-6)


def _builds():
    for dtype, pointer in POINTER.items():
        most, constants = MOST_COLUMNS[dtype], {"OFFSET": 0, "ACC": accumulate_in(dtype)}
        acc, ints = "*fp64" if dtype == torch.float64 else "*fp32", {"N": "i32", "D": "i32", "ROWS": "i32"}
        # The dtypes share one table: bfloat16 stands for all blocks, the others are compiled where registers are tight.
        for block in (b for b in FORWARD_WARPS if b <= most and (dtype == torch.bfloat16 or b in (most, FUSED_COLUMNS))):
            pointers = {name: pointer for name in ("x", "residual", "weight", "y", "stream")}
            signature = {**pointers, "rstd": acc, "D": "i32", "eps": "fp64"}

            def at(sizes, block=block):
                return _block(sizes["columns"]) == block

            yield Build("_forward_kernel", signature, {**constants, "BLOCK": block}, FORWARD_WARPS[block], at=at)
            pointers = {name: pointer for name in ("dy", "dstream", "stream", "weight", "dx")}
            signature = {**pointers, "rstd": acc, "partial": acc, **ints}
            if block > FUSED_COLUMNS:
                del signature["partial"]
            absent = {} if "partial" in signature else {"partial": None}
            yield Build("_backward_kernel", signature, {**constants, **absent, "BLOCK": block}, BACKWARD_WARPS[block], at=at)
        signature = {"dy": pointer, "stream": pointer, "rstd": acc, "partial": acc, **ints}
        constants = {"ACC": constants["ACC"], "BLOCK": WEIGHT_COLUMNS}
        yield Build("_weight_kernel", signature, constants, WEIGHT_WARPS, at=lambda sizes: sizes["columns"] > FUSED_COLUMNS)


SPEC = Spec(
    name="rms_norm",
    summary="Residual add and RMSNorm in one pass over each row.",
    run=lambda x, weight, residual, **options: rms_norm(x, weight, residual, **options),
    inputs=_inputs,
    dtypes=tuple(POINTER),
    shapes={
        "8192 x 8192": {"rows": 8192, "columns": 8192},
        "8192 x 16384": {"rows": 8192, "columns": 16_384},
        "8192 x 4096": {"rows": 8192, "columns": 4096},
        "small, 64 x 1024": {"rows": 64, "columns": 1024},
    },
    tails=(
        {"rows": 1, "columns": 1},
        {"rows": 5, "columns": 63},
        {"rows": 13, "columns": 65},
        {"rows": 7, "columns": 300},
        {"rows": 4, "columns": 256},
        {"rows": 0, "columns": 7},
    ),
    probe={"rows": 5, "columns": 300},
    cost=_cost,
    directions=("forward", "backward"),
    variants=({}, {"unit_offset": True, "eps": 0.1}),
    baselines={"F.rms_norm": _torch_native, "liger": _liger},
    targets={"eager": {"8192 x 8192": 2.0, "8192 x 16384": 2.0}, "compile": {"8192 x 8192": 1.15, "8192 x 16384": 1.15}},
    builds=tuple(_builds()) if triton else (),
    gpu=tuple({"rows": rows, "columns": d} for d in (1, 200, 500, 1000, 2000, 4096, 8191, 16_384) for rows in (1, 63, 300)),
    operators=("rms_norm_forward", "rms_norm_backward"),
)
