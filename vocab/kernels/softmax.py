"""Softmax, log-softmax, sparsemax and 1.5-entmax of rows, with temperature and mask in the same pass, forward and backward.

All four are one family, the mappings that maximize p.z plus a Tsallis entropy of order alpha: 1 is softmax, 2 sparsemax. Sources: Martins
and Astudillo 2016, arXiv:1602.02068 (sparsemax); Peters, Niculae and Martins 2019, arXiv:1905.05702, equations 10 and 14 (entmax and its
gradient). Both find their threshold by sorting; a GPU bisects it in registers and then takes the closed form on the support.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from vocab.kernels.dispatch import accumulate_in, accumulator, jit, register, tl, triton, use_triton
from vocab.kernels.spec import POINTER, Build, Cost, Spec, random

__all__ = ["SPEC", "applies", "fused", "reference", "softmax"]

# N rows, D columns

ALPHAS = {"softmax": 1.0, "log_softmax": 1.0, "entmax15": 1.5, "sparsemax": 2.0}
# Fewer numbers than this are not worth a launch. Provisional until measured here.
WORTHWHILE = 2**22
# Block of columns -> warps. A row of at most this many columns stays in registers: one read, one write.
CONFIGS = {256: 1, 1024: 4, 4096: 8, 16_384: 16}
MOST_COLUMNS = {torch.float16: 16_384, torch.bfloat16: 16_384, torch.float32: 16_384, torch.float64: 1024}
# Longer rows of softmax and log-softmax are walked along twice.
LONG_BLOCK = {torch.float16: 4096, torch.bfloat16: 4096, torch.float32: 4096, torch.float64: 2048}
LONG_WARPS, LONG_STAGES = 8, 3


@jit
def _scores(x, mask, cols, inside, scale, ACC: tl.constexpr):
    """The logits times the scale; -inf where nothing takes part."""
    z = tl.load(x + cols, inside, other=0.0).to(ACC) * scale
    if mask is not None:
        inside = inside & (tl.load(mask + cols, inside, other=0) != 0)
    return tl.where(inside, z, float("-inf"))


@jit
def _threshold(z, POWER: tl.constexpr, STEPS: tl.constexpr, ACC: tl.constexpr):
    """tau with sum(max(z - tau, 0) ** POWER) = 1, for scores whose largest is 0."""
    low = tl.full((), -1.0, ACC)
    width = tl.full((), 1.0, ACC)
    for _ in range(STEPS):
        width *= 0.5
        above = tl.maximum(z - (low + width), 0.0)
        if POWER == 2:
            above *= above
        low = tl.where(tl.sum(above, 0) >= 1.0, low + width, low)
    # Now all that is missing is rounding: on the support the threshold has a closed form.
    kept = z > low
    count = tl.sum(kept.to(ACC), 0)
    mean = tl.sum(tl.where(kept, z, 0.0), 0) / count
    if POWER == 1:
        return mean - 1.0 / count
    rest = tl.where(kept, z - mean, 0.0)
    return mean - tl.sqrt(tl.maximum((1.0 - tl.sum(rest * rest, 0)) / count, 0.0))


@jit
def _forward_kernel(
    x, mask, y, D, x_stride, mask_stride, scale: tl.float64,
    KIND: tl.constexpr, STEPS: tl.constexpr, ACC: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    if mask is not None:
        mask += row * mask_stride
    cols = tl.arange(0, BLOCK)
    inside = cols < D
    z = _scores(x + row * x_stride, mask, cols, inside, tl.full((), scale, ACC), ACC)
    z -= tl.max(z, 0)
    if KIND == "sparsemax":
        result = tl.maximum(z - _threshold(z, 1, STEPS, ACC), 0.0)
    elif KIND == "entmax15":
        z *= 0.5
        result = tl.maximum(z - _threshold(z, 2, STEPS, ACC), 0.0)
        result *= result
    elif KIND == "log_softmax":
        result = z - tl.log(tl.sum(tl.exp(z), 0))
    else:
        result = tl.exp(z)
        result /= tl.sum(result, 0)
    # A maximum may pass a NaN over, and -inf less -inf, a row of nothing, is one.
    broken = tl.max((inside & (z != z)).to(tl.int32), 0) > 0
    tl.store(y + row * D + cols, tl.where(broken, float("nan"), result).to(y.dtype.element_ty), inside)


@jit
def _backward_kernel(
    dy, y, dx, D, scale: tl.float64, KIND: tl.constexpr, STEPS: tl.constexpr, ACC: tl.constexpr, BLOCK: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    cols = tl.arange(0, BLOCK)
    inside = cols < D
    grad = tl.load(dy + row * D + cols, inside, other=0.0).to(ACC)
    p = tl.load(y + row * D + cols, inside, other=0.0).to(ACC)
    if KIND == "log_softmax":
        result = grad - tl.where(inside, tl.exp(p), 0.0) * tl.sum(grad, 0)
    else:
        # The derivative is that of a mean with weights p ** (2 - alpha).
        if KIND == "sparsemax":
            weight = (p > 0.0).to(ACC)
        elif KIND == "entmax15":
            weight = tl.sqrt(p)
        else:
            weight = p
        result = weight * (grad - tl.sum(weight * grad, 0) / tl.sum(weight, 0))
    tl.store(dx + row * D + cols, (result * tl.full((), scale, ACC)).to(dx.dtype.element_ty), inside)


@jit
def _long_forward_kernel(
    x, mask, y, D, x_stride, mask_stride, scale: tl.float64,
    KIND: tl.constexpr, ACC: tl.constexpr, BLOCK: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    x, y, scale = x + row * x_stride, y + row * D, tl.full((), scale, ACC)
    if mask is not None:
        mask += row * mask_stride
    highest = tl.full((), float("-inf"), ACC)
    total = tl.zeros((), ACC)  # of exp(score - highest)
    for start in tl.range(0, D, BLOCK, num_stages=STAGES):
        cols = start + tl.arange(0, BLOCK)
        z = _scores(x, mask, cols, cols < D, scale, ACC)
        higher = tl.maximum(highest, tl.max(z, 0))
        base = tl.where(higher == float("-inf"), 0.0, higher)
        total = total * tl.exp(highest - base) + tl.sum(tl.exp(z - base), 0)
        highest = higher
    if KIND == "log_softmax":
        highest += tl.log(total)
    for start in tl.range(0, D, BLOCK, num_stages=STAGES):
        cols = start + tl.arange(0, BLOCK)
        z = _scores(x, mask, cols, cols < D, scale, ACC) - highest
        result = z if KIND == "log_softmax" else tl.exp(z) / total
        tl.store(y + cols, result.to(y.dtype.element_ty), cols < D)


@jit
def _long_backward_kernel(
    dy, y, dx, D, scale: tl.float64, KIND: tl.constexpr, ACC: tl.constexpr, BLOCK: tl.constexpr, STAGES: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    dy, y, dx = dy + row * D, y + row * D, dx + row * D
    total = tl.zeros((), ACC)
    for start in tl.range(0, D, BLOCK, num_stages=STAGES):
        cols = start + tl.arange(0, BLOCK)
        grad = tl.load(dy + cols, cols < D, other=0.0).to(ACC)
        if KIND != "log_softmax":
            grad *= tl.load(y + cols, cols < D, other=0.0).to(ACC)
        total += tl.sum(grad, 0)
    for start in tl.range(0, D, BLOCK, num_stages=STAGES):
        cols = start + tl.arange(0, BLOCK)
        grad = tl.load(dy + cols, cols < D, other=0.0).to(ACC)
        p = tl.load(y + cols, cols < D, other=0.0).to(ACC)
        result = grad - tl.exp(p) * total if KIND == "log_softmax" else p * (grad - total)
        tl.store(dx + cols, (result * tl.full((), scale, ACC)).to(dx.dtype.element_ty), cols < D)


def _block(columns: int) -> int:
    return next(block for block in CONFIGS if columns <= block)


def _launched(kernel, long_kernel, rows, columns, arguments, kind, dtype):
    """Runs the kernel that holds a whole row, or the one that walks along it."""
    constants = dict(KIND=kind, ACC=accumulate_in(dtype))
    if columns <= MOST_COLUMNS[dtype]:
        block = _block(columns)
        # As many halvings as the accumulator has digits.
        constants |= dict(STEPS=53 if dtype == torch.float64 else 24, BLOCK=block, num_warps=CONFIGS[block])
        kernel[(rows,)](*arguments, **constants)
    else:
        long_kernel[(rows,)](*arguments, **constants, BLOCK=LONG_BLOCK[dtype], STAGES=LONG_STAGES, num_warps=LONG_WARPS)


def _forward_launch(x, mask, kind, temperature):
    y = _forward_fake(x, mask, kind, temperature)
    if x.numel():
        x = x if x.stride(1) == 1 else x.contiguous()
        if mask is not None and (mask.stride(1) != 1 or len(mask) not in (1, len(x))):
            mask = mask.expand(x.shape).contiguous()
        by_bytes = None if mask is None else mask.view(torch.uint8)
        mask_stride = 0 if mask is None or len(mask) == 1 else mask.stride(0)
        arguments = (x, by_bytes, y, x.shape[1], x.stride(0), mask_stride, 1 / temperature)
        _launched(_forward_kernel, _long_forward_kernel, *x.shape, arguments, kind, x.dtype)
    return y


def _forward_fake(x, mask, kind, temperature):
    return torch.empty(x.shape, dtype=x.dtype, device=x.device)


def _backward_launch(dy, y, kind, temperature):
    dx = _backward_fake(dy, y, kind, temperature)
    if y.numel():
        arguments = (dy.contiguous(), y.contiguous(), dx, y.shape[1], 1 / temperature)
        _launched(_backward_kernel, _long_backward_kernel, *y.shape, arguments, kind, y.dtype)
    return dx


def _backward_fake(dy, y, kind, temperature):
    return torch.empty(y.shape, dtype=y.dtype, device=y.device)


def _backward_plain(dy, y, kind, temperature):
    grad, p = (t.to(accumulator(y.dtype)) for t in (dy, y))
    if kind == "log_softmax":
        result = grad - p.exp() * grad.sum(1, keepdim=True)
    else:
        weight = torch.where(p > 0, p ** (2 - ALPHAS[kind]), 0.0)
        result = weight * (grad - (weight * grad).sum(1, keepdim=True) / weight.sum(1, keepdim=True))
    return (result / temperature).to(y.dtype).contiguous()


_forward = register(
    "vocab::softmax_forward",
    "(Tensor x, Tensor? mask, str kind, float temperature) -> Tensor",
    launch=_forward_launch,
    plain=lambda x, mask, kind, temperature: reference(x, mask, kind=kind, temperature=temperature).contiguous(),
    fake=_forward_fake,
)
_backward = register(
    "vocab::softmax_backward",
    "(Tensor dy, Tensor y, str kind, float temperature) -> Tensor",
    launch=_backward_launch,
    plain=_backward_plain,
    fake=_backward_fake,
)


class _Softmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, mask, kind, temperature):
        y = _forward(x, mask, kind, temperature)
        ctx.save_for_backward(y)
        ctx.options = kind, temperature
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, dy):
        return _backward(dy, *ctx.saved_tensors, *ctx.options), None, None, None


def softmax(
    x: Tensor, mask: Tensor | None = None, *, kind: str = "softmax", temperature: float = 1.0, backend: str = "auto"
) -> Tensor:
    """A distribution over each row of ``x / temperature``, or its logarithm. Sums are kept in at least float32.

    Args:
        x: ``(..., D)``.
        mask: True where a score takes part; of a shape that broadcasts to that of ``x``. A row of which nothing takes part is
            NaN, as is its gradient.
        kind: ``"softmax"``, ``"log_softmax"``, ``"sparsemax"`` or ``"entmax15"``.
        temperature: Divides the scores; positive and finite.
        backend: ``"auto"``, ``"torch"`` or ``"triton"``.

    Returns:
        A tensor like ``x``.

    Raises:
        ValueError: If ``kind`` is another word.
    """
    if kind not in ALPHAS:
        raise ValueError(f"kind is {kind!r}; expected one of {', '.join(map(repr, ALPHAS))}")
    if applies(x, backend, kind):
        return fused(x, mask, kind=kind, temperature=temperature)
    return reference(x, mask, kind=kind, temperature=temperature)


def applies(x: Tensor, backend: str, kind: str = "softmax", limit: str | None = None) -> bool:
    """Whether the kernel is to run; raises where it was asked for and cannot, for instance because of the caller's ``limit``."""
    if x.dtype not in POINTER:
        limit = f"x has dtype {x.dtype}"
    elif kind in ("sparsemax", "entmax15") and x.shape[-1] > MOST_COLUMNS[x.dtype]:
        limit = f"a row of {x.shape[-1]} numbers is wider than the {MOST_COLUMNS[x.dtype]} that {kind} holds in registers in {x.dtype}"
    return use_triton("softmax", backend, x, limit=limit, worthwhile=x.numel() >= WORTHWHILE)


def fused(x: Tensor, mask: Tensor | None = None, *, kind: str, temperature: float = 1.0) -> Tensor:
    """``softmax`` by the kernel, whatever the size."""
    *outer, columns = x.shape
    rows = math.prod(outer)
    if mask is not None:
        one_row = mask.numel() == mask.shape[-1] == columns
        mask = mask.reshape(1, columns) if one_row else mask.expand(x.shape).reshape(rows, columns)
    return _Softmax.apply(x.reshape(rows, columns), mask, kind, float(temperature)).view(x.shape)


def reference(x: Tensor, mask: Tensor | None = None, *, kind: str = "softmax", temperature: float = 1.0) -> Tensor:
    """The same in plain torch; the sparse ones by sorting, as in the papers."""
    z = x.to(accumulator(x.dtype)) / temperature
    if mask is not None:
        z = z.masked_fill(~mask, -torch.inf)
    if kind == "log_softmax":
        return F.log_softmax(z, -1).to(x.dtype)
    if kind == "softmax" or not x.numel():
        return F.softmax(z, -1).to(x.dtype)
    power = 1 if kind == "sparsemax" else 2
    z = (z - z.detach().amax(-1, keepdim=True)) / power
    threshold = _sorted_threshold(z.detach().sort(-1, descending=True).values, power)
    kept = z.detach() > threshold
    count, inner = kept.sum(-1, keepdim=True).to(z.dtype), torch.where(kept, z, 0.0)
    mean = inner.sum(-1, keepdim=True) / count
    if power == 1:
        threshold = mean - 1 / count
    else:
        threshold = mean - ((1 - torch.where(kept, z - mean, 0.0).square().sum(-1, keepdim=True)) / count).clamp(min=0).sqrt()
    p = torch.where(kept, z - threshold, 0.0) ** power
    return torch.where(z.isnan().any(-1, keepdim=True), torch.nan, p).to(x.dtype)


def _sorted_threshold(z: Tensor, power: int) -> Tensor:
    """The threshold of rows in descending order: that of the longest beginning whose last score is above its own threshold."""
    finite = z.clamp(min=-2)  # as good as -inf: scores more than 1 below the largest never count
    count = torch.arange(1, z.shape[-1] + 1, device=z.device, dtype=z.dtype)
    mean = finite.cumsum(-1) / count
    if power == 1:
        tau = mean - 1 / count
    else:
        spread = finite.square().cumsum(-1) - count * mean.square()
        tau = mean - ((1 - spread) / count).clamp(min=0).sqrt()
    last = (finite > tau).sum(-1, keepdim=True).clamp(min=1) - 1
    return tau.gather(-1, last)


def _inputs(sizes, dtype, device):
    n, d = sizes["rows"], sizes["columns"]
    mask = torch.rand(n, d) < 0.8
    mask[:, :1] = True
    return random((n, d), dtype, device, scale=0.5).requires_grad_(), mask.to(device)


def _run(x, mask, *, kind="softmax", masked=True, temperature=0.7, backend="auto"):
    return softmax(x, mask if masked else None, kind=kind, temperature=temperature, backend=backend)


def _cost(sizes, dtype, direction):
    numbers = sizes["rows"] * sizes["columns"]
    # forward reads x and one byte of mask, writes y; backward reads dy and y, writes dx
    return Cost(bytes=numbers * (2 * dtype.itemsize + 1 if direction == "forward" else 3 * dtype.itemsize), flops=5 * numbers)


def _three_passes(x, mask):
    return F.softmax((x / 0.7).masked_fill(~mask, -torch.inf), -1)


def _liger(x, mask):
    from liger_kernel.transformers.functional import liger_softmax

    return liger_softmax((x / 0.7).masked_fill(~mask, -torch.inf))


def _builds():
    for dtype, pointer in POINTER.items():
        most, acc = MOST_COLUMNS[dtype], {"ACC": accumulate_in(dtype)}
        inputs = {"x": pointer, "mask": "*u8", "y": pointer, "D": "i32", "x_stride": "i64", "mask_stride": "i64", "scale": "fp64"}
        gradients = {"dy": pointer, "y": pointer, "dx": pointer, "D": "i32", "scale": "fp64"}
        for block, warps in CONFIGS.items():
            if block > most or dtype != torch.bfloat16 and block != most:
                continue  # the dtypes share one table: the others are compiled where registers are tight

            def at(sizes, block=block, most=most):
                return sizes["columns"] <= most and _block(sizes["columns"]) == block

            for kind in ("softmax", "log_softmax", "entmax15", "sparsemax") if block == most else ("softmax", "entmax15"):
                constants = {"KIND": kind, "STEPS": 53 if dtype == torch.float64 else 24, **acc, "BLOCK": block}
                yield Build("_forward_kernel", inputs, constants, warps, multiples=("D", "x_stride", "mask_stride"), at=at)
                yield Build("_backward_kernel", gradients, constants, warps, multiples=("D",), at=at)
        for kind in ("softmax", "log_softmax"):

            def beyond(sizes, most=most):
                return sizes["columns"] > most

            constants = {"KIND": kind, **acc, "BLOCK": LONG_BLOCK[dtype], "STAGES": LONG_STAGES}
            yield Build("_long_forward_kernel", inputs, constants, LONG_WARPS, multiples=("D", "x_stride", "mask_stride"), at=beyond)
            yield Build("_long_backward_kernel", gradients, constants, LONG_WARPS, multiples=("D",), at=beyond)


SPEC = Spec(
    name="softmax",
    summary="Softmax, log-softmax, sparsemax and entmax of rows, with temperature and mask in the same pass.",
    run=_run,
    inputs=_inputs,
    dtypes=tuple(POINTER),
    shapes={
        "16384 x 8192": {"rows": 16_384, "columns": 8192},
        "4096 x 65536": {"rows": 4096, "columns": 65_536},
        "small, 64 x 512": {"rows": 64, "columns": 512},
    },
    tails=(
        {"rows": 1, "columns": 1},
        {"rows": 3, "columns": 63},
        {"rows": 2, "columns": 65},
        {"rows": 2, "columns": 300},
        {"rows": 0, "columns": 7},
        {"rows": 3, "columns": 0},
    ),
    probe={"rows": 3, "columns": 300},
    cost=_cost,
    directions=("forward", "backward"),
    variants=({}, {"kind": "log_softmax", "masked": False}, {"kind": "entmax15"}, {"kind": "sparsemax", "masked": False}),
    baselines={"divide, masked_fill, F.softmax": _three_passes, "liger": _liger},
    targets={"eager": {"16384 x 8192": 1.8, "4096 x 65536": 1.8}, "compile": {"16384 x 8192": 1.2, "4096 x 65536": 1.2}},
    builds=tuple(_builds()) if triton else (),
    gpu=tuple({"rows": n, "columns": d} for n, d in ((1, 1), (63, 65), (300, 1000), (17, 4095), (33, 16_384), (5, 40_000))),
    operators=("softmax_forward", "softmax_backward"),
)
