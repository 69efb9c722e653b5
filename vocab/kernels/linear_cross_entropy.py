"""The output projection and its cross-entropy, a chunk of rows at a time: all logits are never in memory at once.

Source: Hsu et al. 2024, arXiv:2410.10989 (FusedLinearCrossEntropy). The products are left to the libraries behind
``torch.mm``, which no kernel of ours beats. What is ours is the loss of a chunk, and its gradient in the memory of the logits,
by the kernels of ``vocab.kernels.cross_entropy``.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from vocab.kernels import cross_entropy as by_row
from vocab.kernels.dispatch import accumulate_in, accumulator, register, use_triton
from vocab.kernels.spec import POINTER, Cost, Spec, random

__all__ = ["SPEC", "applies", "fused", "linear_cross_entropy", "reference"]

# N rows, D columns, V vocabulary

# Fewer logits than this are not worth chunks. Provisional until measured here.
WORTHWHILE = 2**26


def _launch(hidden, weight, bias, target, ignore_index, softcap, chunk, skip_diagonal, for_hidden, for_weight, for_bias):
    loss, dhidden, dweight, dbias = _fake(hidden, weight, bias, target, ignore_index, softcap, chunk, skip_diagonal, for_hidden, for_weight, for_bias)
    rows, vocabulary = min(chunk, len(hidden)), len(weight)
    log_z, ones = torch.empty((rows,), dtype=loss.dtype, device=loss.device), torch.ones(rows, dtype=loss.dtype, device=loss.device)
    scratch = torch.empty((rows, vocabulary), dtype=hidden.dtype, device=hidden.device)
    # A sum of many chunks in 16 bits would stop growing.
    sum_weight = torch.zeros(dweight.shape, dtype=loss.dtype, device=loss.device)
    sum_bias = torch.zeros(dbias.shape, dtype=loss.dtype, device=loss.device)
    block, warps, stages = by_row._config(vocabulary)
    sizes = (vocabulary, vocabulary, ignore_index, 0.0, softcap)
    constants = dict(CAP=softcap > 0, ACC=accumulate_in(hidden.dtype), BLOCK=block, num_warps=warps)
    target = target.contiguous()
    for start in range(0, len(hidden), chunk):
        part, aims = hidden[start : start + chunk], target[start : start + chunk]
        n, logits = len(part), scratch[: len(part)]
        torch.mm(part, weight.T, out=logits)
        if bias is not None:
            logits += bias
        if skip_diagonal:
            logits.diagonal(start).fill_(float("-inf"))
        by_row._forward_kernel[(n,)](logits, aims, loss[start:], log_z, *sizes, SMOOTH=False, STAGES=stages, **constants)
        if not (for_hidden or for_weight or for_bias):
            continue
        # Every thread overwrites only what it has read itself, so the gradient can take the place of the logits. It is that of the
        # sum: divided by the number of rows, small probabilities would vanish in 16 bits.
        by_row._backward_kernel[(n, -(-vocabulary // block))](ones, None, logits, aims, log_z, logits, *sizes, **constants)
        if for_bias:
            sum_bias += logits.sum(0, dtype=sum_bias.dtype)
        if for_hidden:
            torch.mm(logits, weight, out=dhidden[start : start + n])
        if for_weight:
            sum_weight += logits.T @ part
    return loss, dhidden, dweight.copy_(sum_weight), dbias.copy_(sum_bias)


def _fake(hidden, weight, bias, target, ignore_index, softcap, chunk, skip_diagonal, for_hidden, for_weight, for_bias):
    acc = accumulator(hidden.dtype)

    def empty(shape, dtype):
        return torch.empty(shape, dtype=dtype, device=hidden.device)

    return (
        empty(hidden.shape[:1], acc), empty(hidden.shape if for_hidden else (0,), hidden.dtype),
        empty(weight.shape if for_weight else (0,), acc), empty(weight.shape[:1] if for_bias else (0,), acc),
    )  # fmt: skip


def _plain(hidden, weight, bias, target, ignore_index, softcap, chunk, skip_diagonal, for_hidden, for_weight, for_bias):
    empty = _fake(hidden, weight, bias, target, ignore_index, softcap, chunk, skip_diagonal, for_hidden, for_weight, for_bias)
    logits = F.linear(hidden, weight, bias)
    if skip_diagonal:
        logits.fill_diagonal_(float("-inf"))
    loss, log_z = by_row.reference(logits, target, ignore_index=ignore_index, softcap=softcap)
    dlogits = by_row._backward_plain(torch.ones_like(loss), None, logits, target, log_z, ignore_index, 0.0, softcap)
    wanted = (for_hidden, for_weight, for_bias)
    found = (dlogits @ weight, (dlogits.T @ hidden).to(loss.dtype), dlogits.sum(0, dtype=loss.dtype))
    return loss, *(x if asked else nothing for x, asked, nothing in zip(found, wanted, empty[1:]))


_chunked = register(
    "vocab::linear_cross_entropy",
    "(Tensor hidden, Tensor weight, Tensor? bias, Tensor target, int ignore_index, float softcap, int chunk, bool skip_diagonal, "
    "bool for_hidden, bool for_weight, bool for_bias) -> (Tensor, Tensor, Tensor, Tensor)",
    launch=_launch,
    plain=_plain,
    fake=_fake,
)


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, weight, bias, target, ignore_index, softcap, chunk, skip_diagonal):
        loss, *gradients = _chunked(hidden, weight, bias, target, ignore_index, softcap, chunk, skip_diagonal, *ctx.needs_input_grad[:3])
        count = (target != ignore_index).sum().clamp(min=1)
        ctx.save_for_backward(count, *gradients)
        ctx.dtypes = hidden.dtype, weight.dtype, None if bias is None else bias.dtype
        return loss.sum() / count

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, upstream):
        count, *gradients = ctx.saved_tensors
        asked = zip(gradients, ctx.dtypes, ctx.needs_input_grad)
        return *((upstream / count * g).to(dtype) if needed else None for g, dtype, needed in asked), *(None,) * 5


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    target: Tensor,
    *,
    bias: Tensor | None = None,
    ignore_index: int = -100,
    softcap: float = 0.0,
    chunk: int = 1024,
    backend: str = "auto",
) -> Tensor:
    """Mean cross-entropy of the logits ``hidden @ weight.T + bias``; its gradients are made in the forward pass and stored.

    Args:
        hidden: ``(N, D)``.
        weight: ``(V, D)``, the same dtype.
        target: Class numbers ``(N,)``, int64; not looked at.
        bias: ``(V,)``.
        ignore_index: The number that means "no target"; the mean is over the others, and over none it is 0.
        softcap: Logits become ``softcap * tanh(logits / softcap)`` first; 0 for none.
        chunk: Rows whose logits are in memory at a time.
        backend: ``"auto"``, ``"torch"`` or ``"triton"``.

    Returns:
        A scalar in at least float32. It has no second derivative with the kernel.
    """
    options = dict(bias=bias, ignore_index=ignore_index, softcap=softcap)
    if applies(hidden, weight, backend):
        return fused(hidden, weight, target, **options, chunk=chunk)
    return reference(hidden, weight, target, **options)


def applies(hidden: Tensor, weight: Tensor, backend: str) -> bool:
    """Whether the kernel is to run; raises where it was asked for and cannot."""
    limit = None if hidden.dtype in POINTER else f"hidden has dtype {hidden.dtype}"
    if hidden.dtype != weight.dtype:
        limit = f"hidden has dtype {hidden.dtype} and weight {weight.dtype}"
    worthwhile = len(hidden) * len(weight) >= WORTHWHILE
    return use_triton("linear_cross_entropy", backend, hidden, limit=limit, worthwhile=worthwhile)


def fused(hidden: Tensor, weight: Tensor, target: Tensor, *, bias: Tensor | None, ignore_index: int, softcap: float, chunk: int,
          skip_diagonal: bool = False) -> Tensor:  # fmt: skip
    """``linear_cross_entropy`` by the kernel, whatever the size; ``skip_diagonal`` leaves class i out for row i."""
    return _LinearCrossEntropy.apply(hidden, weight, bias, target, ignore_index, softcap, chunk, skip_diagonal)


def reference(
    hidden: Tensor, weight: Tensor, target: Tensor, *, bias: Tensor | None = None, ignore_index: int = -100, softcap: float = 0.0
) -> Tensor:
    """The same in plain torch, all logits at once."""
    loss, _ = by_row.reference(F.linear(hidden, weight, bias), target, ignore_index=ignore_index, softcap=softcap)
    return loss.sum() / (target != ignore_index).sum().clamp(min=1)


def _inputs(sizes, dtype, device):
    n, d, v = sizes["rows"], sizes["columns"], sizes["vocabulary"]
    target = torch.randint(v, (n,))
    target[::5] = -100
    hidden, weight = random((n, d), dtype, device), random((v, d), dtype, device, scale=max(d, 1) ** -0.5)
    return hidden.requires_grad_(), weight.requires_grad_(), target.to(device)


def _run(hidden, weight, target, *, biased=False, **options):
    bias = torch.linspace(-1, 1, len(weight), dtype=weight.dtype, device=weight.device) if biased else None
    return linear_cross_entropy(hidden, weight, target, bias=bias, **options)


def _cost(sizes, dtype, direction):
    n, d, v = sizes["rows"], sizes["columns"], sizes["vocabulary"]
    # forward with gradients: three products; backward: the stored gradients times a number
    if direction == "forward":
        return Cost(bytes=2 * (n + v) * d * dtype.itemsize, flops=6 * n * d * v)
    return Cost(bytes=2 * (n + v) * d * dtype.itemsize, flops=(n + v) * d)


def _two_steps(hidden, weight, target):
    return F.cross_entropy(F.linear(hidden, weight).to(accumulator(hidden.dtype)), target)


def _torch_native(hidden, weight, target):
    if not hasattr(F, "linear_cross_entropy"):
        raise ImportError("this torch has no F.linear_cross_entropy")
    return F.linear_cross_entropy(hidden, weight, target)


def _liger(hidden, weight, target):
    from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy

    return liger_fused_linear_cross_entropy(hidden, weight, target)


SPEC = Spec(
    name="linear_cross_entropy",
    summary="Output projection and cross-entropy with the logits of one chunk of rows in memory at a time.",
    run=_run,
    inputs=_inputs,
    dtypes=tuple(POINTER),
    shapes={
        "8192 x 4096 x 128256": {"rows": 8192, "columns": 4096, "vocabulary": 128_256},
        "8192 x 2048 x 32000": {"rows": 8192, "columns": 2048, "vocabulary": 32_000},
        "small, 256 x 256 x 1000": {"rows": 256, "columns": 256, "vocabulary": 1000},
    },
    tails=(
        {"rows": 1, "columns": 1, "vocabulary": 1},
        {"rows": 5, "columns": 3, "vocabulary": 63},
        {"rows": 4, "columns": 17, "vocabulary": 65},
        {"rows": 0, "columns": 4, "vocabulary": 7},
    ),
    probe={"rows": 8, "columns": 6, "vocabulary": 1030},
    cost=_cost,
    directions=("forward", "backward"),
    variants=({"chunk": 3}, {"chunk": 1024, "biased": True, "softcap": 2.0}),
    baselines={"linear, then F.cross_entropy": _two_steps, "F.linear_cross_entropy": _torch_native, "liger": _liger},
    # As a ratio of times; what is aimed at is an eighth of the memory.
    targets={
        "eager": {"8192 x 4096 x 128256": 1 / 1.15}, "compile": {"8192 x 4096 x 128256": 1 / 1.05}, "liger": {"8192 x 4096 x 128256": 3.0},
    },  # fmt: skip
    builds=(),  # its kernels are those of cross_entropy, and are compiled there
    gpu=tuple({"rows": n, "columns": d, "vocabulary": v} for n, d, v in ((1, 16, 65), (63, 65, 1000), (1500, 128, 5000))),
    operators=("linear_cross_entropy",),
)
