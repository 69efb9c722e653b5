"""Sending tokens to their experts and adding up what comes back, around a grouped matrix product.

Source: Gale et al. 2022, arXiv:2211.15841, section 5 (permute, compute without padding, un-permute and weigh), here with gathers only: every
output is written by one program, so nothing is added atomically and two runs are equal. Sorting is left to ``torch.sort``, the products to
``torch.nn.functional.grouped_mm``.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from vocab.kernels.dispatch import accumulate_in, accumulator, jit, register, tl, triton, use_triton
from vocab.kernels.spec import POINTER, Build, Cost, Spec, random

__all__ = ["SPEC", "applies", "combine", "grouped", "moe", "permute", "reference", "route"]

# N tokens, K experts of each, P = N K pairs, D columns, E experts

# Fewer numbers in all rows than this are not worth a launch. Provisional until measured here.
WORTHWHILE = 2**22
# Up to so many columns -> (columns a step, warps)
CONFIGS = {512: (512, 2), 2**31: (1024, 4)}


@jit
def _spread_kernel(
    x, place, weight, y, rows, dweight, D, K, ACC: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    pair = token * K + tl.program_id(1)
    row = tl.load(place + pair)
    factor = tl.full((), 1.0, ACC)
    if weight is not None:
        factor = tl.load(weight + pair).to(ACC)
    total = tl.zeros((BLOCK,), ACC)
    for start in range(0, D, BLOCK):
        cols = start + tl.arange(0, BLOCK)
        value = tl.load(x + token * D + cols, cols < D, other=0.0).to(ACC)
        if y is not None:
            total += value * tl.load(y + row * D + cols, cols < D, other=0.0).to(ACC)
        tl.store(rows + row * D + cols, (factor * value).to(rows.dtype.element_ty), cols < D)
    if y is not None:
        tl.store(dweight + pair, tl.sum(total, 0).to(dweight.dtype.element_ty))


@jit
def _combine_kernel(rows, place, weight, out, D, K, ACC: tl.constexpr, BLOCK: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    cols = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), ACC)
    for k in range(0, K):
        value = tl.load(rows + tl.load(place + token * K + k) * D + cols, cols < D, other=0.0).to(ACC)
        if weight is not None:
            value *= tl.load(weight + token * K + k).to(ACC)
        total += value
    tl.store(out + token * D + cols, total.to(out.dtype.element_ty), cols < D)


def _config(columns: int) -> tuple[int, int]:
    return next(config for most, config in CONFIGS.items() if columns <= most)


def _spread_launch(x, place, weight, y):
    rows, dweight = _spread_fake(x, place, weight, y)
    (n, d), k = x.shape, place.shape[1]
    if place.numel():
        block, warps = _config(d)
        _spread_kernel[(n, k)](
            x.contiguous(), place.contiguous(), None if weight is None else weight.contiguous(), None if y is None else y.contiguous(),
            rows, dweight, d, k, ACC=accumulate_in(x.dtype), BLOCK=block, num_warps=warps,
        )  # fmt: skip
    return rows, dweight


def _spread_fake(x, place, weight, y):
    rows = torch.empty((place.shape[0] * place.shape[1], x.shape[1]), dtype=x.dtype, device=x.device)
    return rows, torch.empty(place.shape if y is not None else (0,), dtype=x.dtype if weight is None else weight.dtype, device=x.device)


def _spread_plain(x, place, weight, y):
    rows, dweight = _spread_fake(x, place, weight, y)
    pairs = x[:, None].expand(*place.shape, x.shape[1])
    rows[place] = (pairs if weight is None else pairs * weight[..., None].to(accumulator(x.dtype))).to(x.dtype)
    if y is not None:
        dweight = (pairs.to(accumulator(x.dtype)) * y[place]).sum(-1).to(dweight.dtype)
    return rows, dweight


def _combine_launch(rows, place, weight):
    out = _combine_fake(rows, place, weight)
    n, k = place.shape
    if out.numel():
        block, warps = _config(rows.shape[1])
        _combine_kernel[(n, -(-rows.shape[1] // block))](
            rows.contiguous(), place.contiguous(), None if weight is None else weight.contiguous(), out, rows.shape[1], k,
            ACC=accumulate_in(rows.dtype), BLOCK=block, num_warps=warps,
        )  # fmt: skip
    return out


def _combine_fake(rows, place, weight):
    return torch.empty((place.shape[0], rows.shape[1]), dtype=rows.dtype, device=rows.device)


def _combine_plain(rows, place, weight):
    pairs = rows.to(accumulator(rows.dtype))[place]
    return (pairs if weight is None else pairs * weight[..., None]).sum(1).to(rows.dtype)


_spread = register(
    "vocab::moe_spread",
    "(Tensor x, Tensor place, Tensor? weight, Tensor? y) -> (Tensor, Tensor)",
    launch=_spread_launch,
    plain=_spread_plain,
    fake=_spread_fake,
)
_combine = register(
    "vocab::moe_combine",
    "(Tensor rows, Tensor place, Tensor? weight) -> Tensor",
    launch=_combine_launch,
    plain=_combine_plain,
    fake=_combine_fake,
)


class _Permute(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, place):
        ctx.save_for_backward(place)
        return _spread(x, place, None, None)[0]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, drows):
        return _combine(drows, *ctx.saved_tensors, None), None


class _Combine(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rows, place, weight):
        ctx.save_for_backward(rows, place, weight)
        return _combine(rows, place, weight)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, dout):
        rows, place, weight = ctx.saved_tensors
        drows, dweight = _spread(dout, place, weight, rows)
        return drows, None, dweight


def route(expert: Tensor, n_experts: int) -> tuple[Tensor, Tensor]:
    """Where each pair of a token and an expert stands when pairs are sorted by expert. The CPU waits for nothing.

    Among the pairs of one expert first choices come before second ones, and early tokens before late ones.

    Args:
        expert: The experts of each token ``(N, K)``, int64.
        n_experts: E.

    Returns:
        The place of each pair ``(N, K)``, and where each expert's rows end ``(E,)``, int32.
    """
    n, k = expert.shape
    ordered, order = expert.T.flatten().sort(stable=True)
    place = torch.empty_like(order)
    place[order] = torch.arange(n * k, device=expert.device)
    ends = torch.searchsorted(ordered, torch.arange(n_experts, device=expert.device), right=True)
    return place.view(k, n).T.contiguous(), ends.to(torch.int32)


def permute(x: Tensor, place: Tensor) -> Tensor:
    """Writes each token's row to its places, by the kernel: ``(N, D)`` -> ``(N K, D)``."""
    return _Permute.apply(x, place)


def combine(rows: Tensor, place: Tensor, weight: Tensor) -> Tensor:
    """Adds up the rows of each token, times their weights ``(N, K)``, by the kernel: ``(N K, D)`` -> ``(N, D)``."""
    return _Combine.apply(rows, place, weight)


def grouped(rows: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    """``rows @ weight[e].T`` for the rows of each expert: PyTorch's grouped product where it has one.

    Args:
        rows: ``(P, D)``, those of the first expert first.
        weight: ``(E, F, D)``.
        ends: Where each expert's rows end ``(E,)``, int32.
    """
    # Its rows must begin at multiples of 16 bytes, and it knows no float64.
    aligned = all(size * rows.itemsize % 16 == 0 for size in weight.shape[1:])
    if hasattr(F, "grouped_mm") and aligned and rows.dtype != torch.float64:
        return F.grouped_mm(rows, weight.transpose(1, 2), offs=ends)
    counts = ends.diff(prepend=ends.new_zeros(1)).tolist()
    return torch.cat([part @ w.T for part, w in zip(rows.split(counts), weight)])


def moe(x: Tensor, place: Tensor, weight: Tensor, *, backend: str = "auto") -> tuple[Tensor, Tensor]:
    """The rows of all pairs in order of their experts, and their weighted sum over each token's pairs, without experts between.

    Args:
        x: ``(N, D)``.
        place: As ``route`` gives it, ``(N, K)``.
        weight: ``(N, K)``.
        backend: ``"auto"``, ``"torch"`` or ``"triton"``.

    Returns:
        ``(N, D)`` and ``(N K, D)``.
    """
    if applies(x, place.shape[1], backend):
        rows = permute(x, place)
        return combine(rows, place, weight), rows
    return reference(x, place, weight)


def applies(x: Tensor, top_k: int, backend: str) -> bool:
    """Whether the kernels are to run; raises where they were asked for and cannot."""
    limit = None if x.dtype in POINTER else f"x has dtype {x.dtype}"
    return use_triton("moe", backend, x, limit=limit, worthwhile=x.numel() * top_k >= WORTHWHILE)


def reference(x: Tensor, place: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The same in plain torch."""
    token = torch.empty(place.numel(), dtype=torch.int64, device=x.device)
    token[place.flatten()] = torch.arange(len(x), device=x.device).repeat_interleave(place.shape[1])
    rows = x[token]
    wide = rows.to(accumulator(x.dtype))[place] * weight[..., None].to(accumulator(x.dtype))
    return wide.sum(1).to(x.dtype), rows


def _inputs(sizes, dtype, device):
    n, k, d = sizes["tokens"], sizes["choices"], sizes["columns"]
    experts = max(8, k)
    expert = torch.rand(n, experts).argsort(1)[:, :k]
    return random((n, d), dtype, device).requires_grad_(), route(expert, experts)[0].to(device), random((n, k), dtype, device).requires_grad_()


def _cost(sizes, dtype, direction):
    n, k, d = sizes["tokens"], sizes["choices"], sizes["columns"]
    # forward reads x, writes the rows, reads them and writes the sum; backward the same the other way, and reads the rows for the weights
    tables = 2 + 2 * k if direction == "forward" else 2 + 3 * k
    return Cost(bytes=tables * n * d * dtype.itemsize, flops=(2 if direction == "forward" else 4) * n * k * d)


def _index_add(x, place, weight):
    n, k = place.shape
    token = torch.empty(n * k, dtype=torch.int64, device=x.device)
    token[place.flatten()] = torch.arange(n, device=x.device).repeat_interleave(k)
    rows = x.index_select(0, token)
    sorted_weight = torch.empty(n * k, dtype=weight.dtype, device=x.device).index_put((place.flatten(),), weight.flatten())
    return torch.zeros_like(x).index_add(0, token, rows * sorted_weight[:, None]), rows


def _builds():
    for dtype, pointer in POINTER.items():
        for block, warps in CONFIGS.values():
            if dtype != torch.bfloat16 and block < 1024:
                continue  # the dtypes share one table

            def at(sizes, block=block):
                return _config(sizes["columns"])[0] == block

            constants = {"ACC": accumulate_in(dtype), "BLOCK": block}
            sizes = {"D": "i32", "K": "i32"}
            signature = {"x": pointer, "place": "*i64", "weight": pointer, "y": pointer, "rows": pointer, "dweight": pointer, **sizes}
            yield Build("_spread_kernel", signature, constants, warps, multiples=("D",), at=at)
            signature = {"rows": pointer, "place": "*i64", "weight": pointer, "out": pointer, **sizes}
            yield Build("_combine_kernel", signature, constants, warps, multiples=("D",), at=at)


def _sizes(tokens, choices, columns):
    return {"tokens": tokens, "choices": choices, "columns": columns}


SPEC = Spec(
    name="moe",
    summary="Rows of tokens in order of their experts, and the weighted sum of what comes back, around a grouped matrix product.",
    run=moe,
    inputs=_inputs,
    dtypes=tuple(POINTER),
    shapes={
        "32768 tokens, 2 of 8, x 4096": _sizes(32_768, 2, 4096),
        "16384 tokens, 8 of 64, x 2048": _sizes(16_384, 8, 2048),
        "small, 256 tokens, 2 of 8, x 256": _sizes(256, 2, 256),
    },
    tails=(_sizes(1, 1, 1), _sizes(5, 2, 63), _sizes(3, 3, 65), _sizes(2, 2, 1030), _sizes(0, 2, 4), _sizes(3, 2, 0)),
    probe=_sizes(4, 2, 1030),
    cost=_cost,
    directions=("forward", "backward"),
    baselines={"index_select and index_add": _index_add},
    targets={"index_select and index_add": {"32768 tokens, 2 of 8, x 4096": 1.5}},
    builds=tuple(_builds()) if triton else (),
    gpu=tuple(_sizes(*s) for s in ((1, 1, 1), (63, 2, 65), (300, 8, 512), (65, 3, 2050))),
    operators=("moe_spread", "moe_combine"),
)
