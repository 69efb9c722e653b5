"""Cross-entropy of rows of logits: one read forward, one read and one write backward, no table of probabilities.

Source: the running maximum and sum are those of Milakov and Gimelshein 2018, arXiv:1805.02867, algorithm 3. Eager PyTorch
writes the log-probabilities, as large as the logits, and with a softcap or a z-loss as many tables again.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from vocab.kernels.dispatch import accumulate_in, accumulator, jit, register, tl, triton, use_triton
from vocab.kernels.spec import POINTER, Build, Cost, Spec, random

__all__ = ["SPEC", "applies", "cross_entropy", "fused", "reference"]

# N rows, C classes

# Fewer logits than this are not worth a launch. Provisional until measured here.
WORTHWHILE = 2**22
# Up to so many classes -> (classes a step, warps, stages). Long rows take long steps: each one ends in a reduction over the program.
CONFIGS = {1024: (1024, 4, 1), 2**31: (4096, 8, 3)}


@jit
def _capped(x, cap, ACC: tl.constexpr):
    # tanh in terms of the logistic function, which the interpreter and every Triton have
    return cap * (2.0 * tl.sigmoid((2.0 * (x / cap)).to(ACC)) - 1.0)


@jit
def _forward_kernel(
    logits, target, loss, log_z, C, stride, ignore_index, smoothing: tl.float64, softcap: tl.float64,
    SMOOTH: tl.constexpr, CAP: tl.constexpr, ACC: tl.constexpr, BLOCK: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    logits += row * stride
    cap = tl.full((), softcap, ACC)
    highest = tl.full((), float("-inf"), ACC)
    total = tl.zeros((), ACC)  # of exp(logit - highest)
    plain = tl.zeros((), ACC)  # of the logits, which smoothing needs
    for start in tl.range(0, C, BLOCK, num_stages=STAGES):
        cols = start + tl.arange(0, BLOCK)
        x = tl.load(logits + cols, cols < C, other=float("-inf")).to(ACC)
        if CAP:
            x = tl.where(cols < C, _capped(x, cap, ACC), float("-inf"))
        if SMOOTH:
            plain += tl.sum(tl.where(cols < C, x, 0.0), 0)
        higher = tl.maximum(highest, tl.max(x, 0))
        # A row of nothing but -inf, or one with +inf, is not to subtract infinity from infinity.
        base = tl.where(tl.abs(higher) == float("inf"), 0.0, higher)
        total = total * tl.exp(highest - base) + tl.sum(tl.exp(x - base), 0)
        highest = higher
    base = tl.where(tl.abs(highest) == float("inf"), 0.0, highest)
    normalizer = base + tl.log(total)
    truth = tl.load(target + row)
    kept = truth != ignore_index
    wanted = tl.load(logits + truth, kept, other=0.0).to(ACC)
    if CAP:
        wanted = _capped(wanted, cap, ACC)
    cost = normalizer - wanted
    if SMOOTH:
        share = tl.full((), smoothing, ACC)
        cost = (1.0 - share) * cost + share * (normalizer - plain / C)
    tl.store(loss + row, tl.where(kept, cost, 0.0))
    tl.store(log_z + row, normalizer)


@jit
def _backward_kernel(
    dloss, dlog_z, logits, target, log_z, dlogits, C, stride, ignore_index, smoothing: tl.float64, softcap: tl.float64,
    CAP: tl.constexpr, ACC: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    cols = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = cols < C
    x = tl.load(logits + row * stride + cols, inside, other=0.0).to(ACC)
    if CAP:
        cap = tl.full((), softcap, ACC)
        x = _capped(x, cap, ACC)
    probability = tl.exp(x - tl.load(log_z + row))
    truth = tl.load(target + row)
    share = tl.full((), smoothing, ACC)
    result = tl.zeros((BLOCK,), ACC)
    if dloss is not None:
        upstream = tl.where(truth == ignore_index, 0.0, tl.load(dloss + row))
        result = upstream * (probability - tl.where(cols == truth, 1.0 - share, 0.0) - share / C)
    if dlog_z is not None:
        result += tl.load(dlog_z + row) * probability
    if CAP:
        ratio = x / cap
        result *= 1.0 - ratio * ratio
    tl.store(dlogits + row * C + cols, result.to(dlogits.dtype.element_ty), inside)


def _config(classes: int) -> tuple[int, int, int]:
    return next(config for most, config in CONFIGS.items() if classes <= most)


def _rows(logits: Tensor) -> Tensor:
    """Logits whose classes lie next to each other; rows may be apart, as in a padded vocabulary."""
    return logits if logits.stride(1) == 1 else logits.contiguous()


def _forward_launch(logits, target, ignore_index, smoothing, softcap):
    loss, log_z = _forward_fake(logits, target, ignore_index, smoothing, softcap)
    n, classes = logits.shape
    if n:
        block, warps, stages = _config(classes)
        logits = _rows(logits)
        _forward_kernel[(n,)](
            logits, target.contiguous(), loss, log_z, classes, logits.stride(0), ignore_index, smoothing, softcap,
            SMOOTH=smoothing > 0, CAP=softcap > 0, ACC=accumulate_in(logits.dtype), BLOCK=block, STAGES=stages, num_warps=warps,
        )  # fmt: skip
    return loss, log_z


def _forward_fake(logits, target, ignore_index, smoothing, softcap):
    shape, dtype = logits.shape[:1], accumulator(logits.dtype)
    return tuple(torch.empty(shape, dtype=dtype, device=logits.device) for _ in range(2))


def _forward_plain(logits, target, ignore_index, smoothing, softcap):
    return reference(logits, target, ignore_index=ignore_index, label_smoothing=smoothing, softcap=softcap)


def _backward_launch(dloss, dlog_z, logits, target, log_z, ignore_index, smoothing, softcap):
    dlogits = _backward_fake(dloss, dlog_z, logits, target, log_z, ignore_index, smoothing, softcap)
    n, classes = logits.shape
    if n:
        block, warps, _ = _config(classes)
        logits = _rows(logits)
        _backward_kernel[(n, -(-classes // block))](
            None if dloss is None else dloss.contiguous(), None if dlog_z is None else dlog_z.contiguous(),
            logits, target.contiguous(), log_z.contiguous(), dlogits, classes, logits.stride(0), ignore_index, smoothing, softcap,
            CAP=softcap > 0, ACC=accumulate_in(logits.dtype), BLOCK=block, num_warps=warps,
        )  # fmt: skip
    return dlogits


def _backward_fake(dloss, dlog_z, logits, target, log_z, ignore_index, smoothing, softcap):
    return torch.empty(logits.shape, dtype=logits.dtype, device=logits.device)


def _backward_plain(dloss, dlog_z, logits, target, log_z, ignore_index, smoothing, softcap):
    capped = _cap(logits.to(log_z.dtype), softcap)
    probability = (capped - log_z[:, None]).exp()
    result = torch.zeros_like(probability) if dlog_z is None else dlog_z[:, None] * probability
    if dloss is not None:
        kept = target != ignore_index
        truth = F.one_hot(torch.where(kept, target, 0), logits.shape[1])
        share = (1 - smoothing) * truth + smoothing / logits.shape[1]
        result = result + torch.where(kept, dloss, 0.0)[:, None] * (probability - share)
    if softcap:
        result = result * (1 - (capped / softcap).square())
    return result.to(logits.dtype).contiguous()


_forward = register(
    "vocab::cross_entropy_forward",
    "(Tensor logits, Tensor target, int ignore_index, float smoothing, float softcap) -> (Tensor, Tensor)",
    launch=_forward_launch,
    plain=_forward_plain,
    fake=_forward_fake,
)
_backward = register(
    "vocab::cross_entropy_backward",
    "(Tensor? dloss, Tensor? dlog_z, Tensor logits, Tensor target, Tensor log_z, int ignore_index, float smoothing, float softcap) "
    "-> Tensor",
    launch=_backward_launch,
    plain=_backward_plain,
    fake=_backward_fake,
)


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits, target, *options):
        loss, log_z = _forward(logits, target, *options)
        ctx.save_for_backward(logits, target, log_z)
        ctx.options = options
        ctx.set_materialize_grads(False)
        return loss, log_z

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, dloss, dlog_z):
        return _backward(dloss, dlog_z, *ctx.saved_tensors, *ctx.options), None, None, None, None


def cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    softcap: float = 0.0,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of every row, and the logarithm of its normalizer, with which a z-loss costs nothing more.

    Exponentials and sums are kept in float32 (float64 for float64 logits).

    Args:
        logits: ``(N, C)``; rows may be apart in memory.
        target: Class numbers ``(N,)``, int64. They are not looked at: a class that is not there reads outside of the logits.
        ignore_index: The number that means "no target": loss 0, no gradient of the loss.
        label_smoothing: Share of each target that is spread evenly over all classes.
        softcap: Logits become ``softcap * tanh(logits / softcap)`` first, as in Gemma 2; 0 for none.
        backend: ``"auto"``, ``"torch"`` or ``"triton"``.

    Returns:
        The loss ``(N,)`` and log Z ``(N,)``, both with gradient, in at least float32.
    """
    options = dict(ignore_index=ignore_index, label_smoothing=label_smoothing, softcap=softcap)
    return (fused if applies(logits, backend) else reference)(logits, target, **options)


def applies(logits: Tensor, backend: str, limit: str | None = None) -> bool:
    """Whether the kernel is to run; raises where it was asked for and cannot, for instance because of the caller's ``limit``."""
    limit = limit or (None if logits.dtype in POINTER else f"logits has dtype {logits.dtype}")
    return use_triton("cross_entropy", backend, logits, limit=limit, worthwhile=logits.numel() >= WORTHWHILE)


def fused(logits: Tensor, target: Tensor, *, ignore_index: int, label_smoothing: float, softcap: float) -> tuple[Tensor, Tensor]:
    """``cross_entropy`` by the kernel, whatever the size."""
    return _CrossEntropy.apply(logits, target, ignore_index, label_smoothing, softcap)


def _cap(x: Tensor, softcap: float) -> Tensor:
    return softcap * torch.tanh(x / softcap) if softcap else x


def reference(
    logits: Tensor, target: Tensor, *, ignore_index: int = -100, label_smoothing: float = 0.0, softcap: float = 0.0
) -> tuple[Tensor, Tensor]:
    """The same in plain torch."""
    x = _cap(logits.to(accumulator(logits.dtype)), softcap)
    log_z = x.logsumexp(1)
    kept = target != ignore_index
    cost = log_z - x.gather(1, torch.where(kept, target, 0)[:, None])[:, 0]
    if label_smoothing:
        cost = (1 - label_smoothing) * cost + label_smoothing * (log_z - x.mean(1))
    return torch.where(kept, cost, 0.0), log_z


def _inputs(sizes, dtype, device):
    n, classes = sizes["rows"], sizes["classes"]
    target = torch.randint(classes, (n,))
    target[::5] = -100
    return random((n, classes), dtype, device, scale=3.0, shift=1.0).requires_grad_(), target.to(device)


def _cost(sizes, dtype, direction):
    numbers = sizes["rows"] * sizes["classes"]
    # forward reads the logits; backward reads them and writes the gradient
    return Cost(bytes=(1 if direction == "forward" else 2) * numbers * dtype.itemsize, flops=4 * numbers)


def _torch_native(logits, target):
    return F.cross_entropy(logits.to(accumulator(logits.dtype)), target, reduction="none")


def _liger(logits, target):
    from liger_kernel.transformers.functional import liger_cross_entropy

    return liger_cross_entropy(logits, target, reduction="none")


def _builds():
    for dtype, pointer in POINTER.items():
        acc = "*fp64" if dtype == torch.float64 else "*fp32"
        for block, warps, stages in CONFIGS.values():
            if dtype != torch.bfloat16 and block < 4096:
                continue  # the dtypes share one table

            def at(sizes, block=block):
                return _config(sizes["classes"])[0] == block

            scalars = {"C": "i32", "stride": "i64", "ignore_index": "i32", "smoothing": "fp64", "softcap": "fp64"}
            for smooth in (False, True):
                signature = {"logits": pointer, "target": "*i64", "loss": acc, "log_z": acc, **scalars}
                constants = {"SMOOTH": smooth, "CAP": smooth, "ACC": accumulate_in(dtype), "BLOCK": block, "STAGES": stages}
                yield Build("_forward_kernel", signature, constants, warps, multiples=("C", "stride"), at=at)
                signature = {"logits": pointer, "dloss": acc, "dlog_z": acc, "target": "*i64", "log_z": acc, "dlogits": pointer, **scalars}
                constants = {"CAP": smooth, "ACC": accumulate_in(dtype), "BLOCK": block}
                yield Build("_backward_kernel", signature, constants, warps, multiples=("C", "stride"), at=at)


SPEC = Spec(
    name="cross_entropy",
    summary="Cross-entropy and log-normalizer of each row of logits, without storing probabilities.",
    run=cross_entropy,
    inputs=_inputs,
    dtypes=tuple(POINTER),
    shapes={
        "4096 x 131072": {"rows": 4096, "classes": 131_072},
        "8192 x 32000": {"rows": 8192, "classes": 32_000},
        "small, 256 x 1000": {"rows": 256, "classes": 1000},
    },
    tails=(
        {"rows": 1, "classes": 1},
        {"rows": 5, "classes": 63},
        {"rows": 3, "classes": 65},
        {"rows": 2, "classes": 4099},
        {"rows": 0, "classes": 7},
    ),
    probe={"rows": 5, "classes": 9000},
    cost=_cost,
    directions=("forward", "backward"),
    variants=({}, {"label_smoothing": 0.1, "softcap": 5.0}),
    baselines={"F.cross_entropy": _torch_native, "liger": _liger},
    targets={"eager": {"4096 x 131072": 2.0, "8192 x 32000": 2.0}, "compile": {"4096 x 131072": 1.4, "8192 x 32000": 1.4}},
    builds=tuple(_builds()) if triton else (),
    gpu=tuple({"rows": n, "classes": c} for n, c in ((1, 1), (63, 65), (300, 1024), (65, 4099), (63, 50_257))),
    operators=("cross_entropy_forward", "cross_entropy_backward"),
)
