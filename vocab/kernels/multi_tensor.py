"""One step of an optimizer for all tensors of a group in one launch: Lion, LAMB, Sophia, Adan.

Sources: the update rules of Chen et al. 2023, arXiv:2302.06675, program 1; You et al. 2020, arXiv:1904.00962, algorithm 2; Liu et al. 2023,
arXiv:2305.14342, algorithm 3; Xie et al. 2022, arXiv:2208.06677, algorithm 1. A table holds the addresses of every weight, gradient and
state, a list says which piece of which tensor a program has. Every number is read and written once, where a loop over operations reads and
writes all of them at each. LAMB's step depends on the norms of whole tensors, so it takes three launches: moments and the pieces' sums of
squares, their sums, the step. Tensors that cannot be read 16 bytes at a time have a launch of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate

import torch
from torch import Tensor

from vocab.kernels.dispatch import accumulate_in, accumulator, jit, register, tl, triton, use_triton
from vocab.kernels.spec import POINTER, Build, Cost, Spec, random

__all__ = ["FORMULAS", "SPEC", "applies", "fused", "multi_tensor", "reference"]

# Fewer numbers in all tensors together than this are not worth a launch. Provisional until measured here.
WORTHWHILE = 2**16
BLOCK, WARPS = 2048, 8
# Formula -> its states.
FORMULAS = {"lion": ("m",), "lamb": ("m", "v"), "sophia": ("m", "h"), "adan": ("m", "c", "n", "last")}


@jit
def _pointer(row, column, like, ALIGNED: tl.constexpr):
    found = tl.load(row + column).to(like.dtype)
    return tl.multiple_of(found, 16) if ALIGNED else found


@jit
def _read(x, at, inside, ACC: tl.constexpr):
    return tl.load(x + at, inside, other=0.0).to(ACC)


@jit
def _write(x, at, inside, value):
    tl.store(x + at, value.to(x.dtype.element_ty), inside)


@jit
def _step_kernel(
    like, table, pieces, sums, ratios, lr: tl.float64, decay: tl.float64, beta1: tl.float64, beta2: tl.float64, beta3: tl.float64,
    eps: tl.float64, fix1: tl.float64, fix2: tl.float64, fix3: tl.float64,
    FORMULA: tl.constexpr, MOVE: tl.constexpr, ALIGNED: tl.constexpr, ACC: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    piece = tl.program_id(0).to(tl.int64)
    tensor = tl.load(pieces + piece)
    # Addresses of weight, gradient, four states; then how many numbers, the first piece, whether LAMB leaves length and decay alone
    row = table + tensor * 9
    at = (piece - tl.load(row + 7)) * BLOCK + tl.arange(0, BLOCK)
    count = tl.load(row + 6)
    inside = at < (tl.multiple_of(count, 16) if ALIGNED else count)
    weight, gradient, first = _pointer(row, 0, like, ALIGNED), _pointer(row, 1, like, ALIGNED), _pointer(row, 2, like, ALIGNED)
    lr, decay, eps = tl.full((), lr, ACC), tl.full((), decay, ACC), tl.full((), eps, ACC)
    beta1, beta2, beta3 = tl.full((), beta1, ACC), tl.full((), beta2, ACC), tl.full((), beta3, ACC)
    fix1, fix2, fix3 = tl.full((), fix1, ACC), tl.full((), fix2, ACC), tl.full((), fix3, ACC)
    w, g, m = _read(weight, at, inside, ACC), _read(gradient, at, inside, ACC), _read(first, at, inside, ACC)
    if FORMULA == "lion":
        mixed = beta1 * m + (1.0 - beta1) * g
        sign = tl.where(mixed > 0.0, 1.0, tl.where(mixed < 0.0, -1.0, mixed))  # NaN stays
        w = (1.0 - lr * decay) * w - lr * sign
        _write(first, at, inside, beta2 * m + (1.0 - beta2) * g)
    elif FORMULA == "sophia":
        h = _read(_pointer(row, 3, like, ALIGNED), at, inside, ACC)
        m = beta1 * m + (1.0 - beta1) * g
        size = beta2 * h
        ratio = m / tl.where(size < eps, eps, size)
        ratio = tl.where(ratio > 1.0, 1.0, tl.where(ratio < -1.0, -1.0, ratio))
        w = (1.0 - lr * decay) * w - lr * ratio
        _write(first, at, inside, m)
    elif FORMULA == "adan":
        second, third, last = _pointer(row, 3, like, ALIGNED), _pointer(row, 4, like, ALIGNED), _pointer(row, 5, like, ALIGNED)
        change = g - _read(last, at, inside, ACC)
        ahead = g + beta2 * change
        m = beta1 * m + (1.0 - beta1) * g
        c = beta2 * _read(second, at, inside, ACC) + (1.0 - beta2) * change
        n = beta3 * _read(third, at, inside, ACC) + (1.0 - beta3) * ahead * ahead
        w = (w - lr * (m / fix1 + beta2 * c / fix2) / (tl.sqrt(n / fix3) + eps)) / (1.0 + lr * decay)
        _write(first, at, inside, m)
        _write(second, at, inside, c)
        _write(third, at, inside, n)
        _write(last, at, inside, g)
    else:
        second, alone = _pointer(row, 3, like, ALIGNED), tl.load(row + 8) != 0
        v = _read(second, at, inside, ACC)
        if not MOVE:
            m = beta1 * m + (1.0 - beta1) * g
            v = beta2 * v + (1.0 - beta2) * g * g
            _write(first, at, inside, m)
            _write(second, at, inside, v)
        direction = (m / fix1) / (tl.sqrt(v / fix2) + eps) + tl.where(alone, 0.0, decay) * w
        if MOVE:
            w -= lr * tl.load(ratios + tensor) * direction
        else:
            direction = tl.where(inside, direction, 0.0)
            tl.store(sums + 2 * piece, tl.sum(w * w, 0))
            tl.store(sums + 2 * piece + 1, tl.sum(direction * direction, 0))
    if FORMULA != "lamb" or MOVE:
        _write(weight, at, inside, w)


@jit
def _ratio_kernel(sums, table, ratios, limit: tl.float64, ACC: tl.constexpr, BLOCK: tl.constexpr):
    """Length of a tensor's weights over that of its direction, from the sums of its pieces, always in the same order."""
    tensor = tl.program_id(0).to(tl.int64)
    row = table + tensor * 9
    first, count = tl.load(row + 7), tl.cdiv(tl.load(row + 6), BLOCK)
    of_weight, of_step = tl.zeros((BLOCK,), ACC), tl.zeros((BLOCK,), ACC)
    for start in tl.range(0, count, BLOCK):
        there = start + tl.arange(0, BLOCK)
        of_weight += tl.load(sums + 2 * (first + there), there < count, other=0.0)
        of_step += tl.load(sums + 2 * (first + there) + 1, there < count, other=0.0)
    weight, step = tl.sqrt(tl.sum(of_weight, 0)), tl.sqrt(tl.sum(of_step, 0))
    ratio = tl.where((weight > 0.0) & (step > 0.0), weight / tl.where(step > 0.0, step, 1.0), 1.0)
    most = tl.full((), limit, ACC)
    ratio = tl.where(ratio > most, most, ratio)
    tl.store(ratios + tensor, tl.where(tl.load(row + 8) != 0, 1.0, ratio))


def _lengths(counts: tuple[int, ...]) -> list[int]:
    return [-(-n // BLOCK) for n in counts]


def _on(device: torch.device, host: Tensor) -> tuple[Tensor, Tensor]:
    """A copy there, and what it is copied from: page-locked, so that nobody waits for it."""
    host = host.pin_memory() if device.type == "cuda" else host
    return host.to(device, non_blocking=True), host


def _table(addresses: tuple[tuple[int, ...], ...], counts: tuple[int, ...], alone: tuple[int, ...], device: torch.device):
    starts = accumulate(_lengths(counts), initial=0)
    rows = [[*row, *[0] * (6 - len(row)), n, start, one] for row, n, start, one in zip(addresses, counts, starts, alone)]
    return _on(device, torch.tensor(rows))


def _pieces(counts: tuple[int, ...], device: torch.device):
    """To which tensor each piece belongs."""
    return _on(device, torch.repeat_interleave(torch.tensor(_lengths(counts))))


# Weights and states stay where they are, and gradients mostly return to the same places. A stream does not wait for the copy of another, so
# each has its own.
_stored = lru_cache(maxsize=64)(lambda stream, make, *key: make(*key))
# A graph copies again at every replay, and its copies hold nothing before the first: what is made for one is kept, and not shared.
_captured = []


def _made(make, *key):
    device = key[-1]
    if device.type != "cuda":
        return make(*key)[0]
    if torch.cuda.is_current_stream_capturing():
        _captured.append(make(*key))
        return _captured[-1][0]
    return _stored(torch.cuda.current_stream(device).cuda_stream, make, *key)[0]


def _launch(weights, grads, states, formula, lr, decay, betas, eps, fixes, limit, alone):
    torch.autograd.graph.increment_version((*weights, *states))
    grads, n = [g.to(w.dtype).contiguous() for w, g in zip(weights, grads)], len(weights)
    rows = [(w, g, *states[i::n]) for i, (w, g) in enumerate(zip(weights, grads))]
    numbers = (lr, decay, *betas, *[0.0] * (3 - len(betas)), eps, *fixes, *[1.0] * (3 - len(fixes)))
    # Tensors that can be read 16 bytes at a time, which are nearly all, are not held up by one that cannot.
    even = [w.numel() % 16 == 0 and all(x.data_ptr() % 16 == 0 for x in row) for w, row in zip(weights, rows)]
    for aligned in (True, False):
        chosen = [i for i in range(n) if even[i] == aligned and weights[i].numel()]
        if chosen:
            _step([rows[i] for i in chosen], [alone[i] for i in chosen], formula, numbers, limit, aligned)


def _step(rows, alone, formula, numbers, limit, aligned):
    like = rows[0][0]
    counts = tuple(row[0].numel() for row in rows)
    table = _made(_table, tuple(tuple(x.data_ptr() for x in row) for row in rows), counts, tuple(alone), like.device)
    pieces = _made(_pieces, counts, like.device)
    if not like.is_cuda:
        table.reached = [x for row in rows for x in row]  # for the interpreter's bounds check
    acc, sums, ratios = accumulate_in(like.dtype), None, None
    if formula == "lamb":
        sums = torch.empty((pieces.numel(), 2), dtype=accumulator(like.dtype), device=like.device)
        ratios = torch.empty((len(rows),), dtype=sums.dtype, device=like.device)

    def step(move):
        _step_kernel[(pieces.numel(),)](
            like, table, pieces, sums, ratios, *numbers,
            FORMULA=formula, MOVE=move, ALIGNED=aligned, ACC=acc, BLOCK=BLOCK, num_warps=WARPS,
        )  # fmt: skip

    step(False)
    if formula == "lamb":
        _ratio_kernel[(len(rows),)](sums, table, ratios, limit, ACC=acc, BLOCK=BLOCK, num_warps=WARPS)
        step(True)


def _plain(weights, grads, states, formula, lr, decay, betas, eps, fixes, limit, alone):
    reference(weights, grads, states, formula, lr, decay, betas, eps, fixes, limit, alone)


def _fake(*arguments):
    return None


_run = register(
    "vocab::multi_tensor",
    "(Tensor(a!)[] weights, Tensor[] grads, Tensor(b!)[] states, str formula, float lr, float decay, float[] betas, float eps, "
    "float[] fixes, float limit, int[] alone) -> ()",
    launch=_launch,
    plain=_plain,
    fake=_fake,
)


def applies(backend: str, *written: Tensor | Sequence[Tensor]) -> bool:
    """Whether the kernel is to run on these weights and states; raises where it was asked for and cannot."""
    tensors, limit = [x for group in written for x in _several(group)], None
    first = tensors[0]
    if first.dtype not in POINTER:
        limit = f"a weight has dtype {first.dtype}"
    elif any(x.dtype != first.dtype or x.device != first.device for x in tensors):
        limit = "weights and states are not all of one dtype on one device"
    elif not all(x.is_contiguous() for x in tensors):
        limit = "a weight or state is not contiguous"
    return use_triton("multi_tensor", backend, first, limit=limit, worthwhile=sum(w.numel() for w in _several(written[0])) >= WORTHWHILE)


def _several(x: Tensor | Sequence[Tensor]) -> list[Tensor]:
    return [x] if isinstance(x, Tensor) else list(x)


def fused(
    formula: str, weights: Tensor | Sequence[Tensor], grads: Tensor | Sequence[Tensor], *states: Tensor | Sequence[Tensor], lr: float,
    decay: float, betas: Sequence[float], eps: float = 0.0, fixes: Sequence[float] = (), limit: float = float("inf"),
    alone: Sequence[bool] = (),
) -> None:
    """One step of many tensors by the kernel, in place.

    Args:
        formula: One of ``FORMULAS``.
        weights: Contiguous, of one dtype on one device; one tensor or many, as gradients and states are.
        grads: As many, of the same dtype; they are left as they are.
        states: One argument for each state that ``FORMULAS`` names, laid out as the weights.
        lr: Learning rate.
        decay: Weight decay.
        betas: Decay rates; Sophia's second is rho.
        eps: Added to the root, or Sophia's smallest denominator.
        fixes: ``1 - beta**t`` of each average, where the formula corrects it; 1 where left out.
        limit: LAMB's largest ratio.
        alone: For each tensor, whether LAMB leaves it without ratio and decay.
    """
    weights, flat = _several(weights), [x for state in states for x in _several(state)]
    alone = [int(x) for x in alone] or [0] * len(weights)
    _run(weights, _several(grads), flat, formula, lr, decay, list(betas), eps, list(fixes), limit, alone)


def reference(
    weights: Sequence[Tensor], grads: Sequence[Tensor], states: Sequence[Tensor], formula: str, lr: float, decay: float,
    betas: Sequence[float], eps: float = 0.0, fixes: Sequence[float] = (), limit: float = float("inf"), alone: Sequence[bool] = (),
) -> None:
    """The same in plain torch, tensor by tensor, with ``states`` one list, all of the first state first."""
    fixes = (*fixes, *[1.0] * (3 - len(fixes)))
    for i, (weight, grad) in enumerate(zip(weights, grads)):
        kept = [states[i + k * len(weights)] for k in range(len(FORMULAS[formula]))]
        w, g, m, *rest = (x.to(accumulator(weight.dtype)) for x in (weight, grad, *kept))
        if formula == "lion":
            mixed = betas[0] * m + (1 - betas[0]) * g
            w, new = (1 - lr * decay) * w - lr * torch.where(mixed == 0, mixed, mixed / mixed.abs()), [betas[1] * m + (1 - betas[1]) * g]
        elif formula == "sophia":
            m = betas[0] * m + (1 - betas[0]) * g
            w, new = (1 - lr * decay) * w - lr * (m / (betas[1] * rest[0]).clamp(min=eps)).clamp(-1, 1), [m]
        elif formula == "adan":
            change = g - rest[2]
            m = betas[0] * m + (1 - betas[0]) * g
            c = betas[1] * rest[0] + (1 - betas[1]) * change
            n = betas[2] * rest[1] + (1 - betas[2]) * (g + betas[1] * change) ** 2
            w = (w - lr * (m / fixes[0] + betas[1] * c / fixes[1]) / ((n / fixes[2]).sqrt() + eps)) / (1 + lr * decay)
            new = [m, c, n, g]
        else:
            m, v = betas[0] * m + (1 - betas[0]) * g, betas[1] * rest[0] + (1 - betas[1]) * g * g
            free = bool(alone) and alone[i]
            direction = (m / fixes[0]) / ((v / fixes[1]).sqrt() + eps) + (0.0 if free else decay) * w
            long, step = w.norm(), direction.norm()
            ratio = torch.where((long > 0) & (step > 0), long / step, 1.0).clamp(max=limit)
            w, new = w - lr * (1.0 if free else ratio) * direction, [m, v]
        for old, value in zip((weight, *kept), (w, *new)):
            old.copy_(value)


# What the tests and the benchmark step with.
OPTIONS = {
    "lion": dict(lr=0.01, decay=0.1, betas=(0.9, 0.99)),
    "lamb": dict(lr=0.01, decay=0.1, betas=(0.9, 0.999), eps=1e-6, fixes=(0.271, 0.003)),
    "sophia": dict(lr=0.01, decay=0.1, betas=(0.965, 0.9), eps=0.1),
    "adan": dict(lr=0.01, decay=1.0, betas=(0.98, 0.92, 0.99), eps=1e-8, fixes=(1 - 0.98**3, 1 - 0.92**3, 1 - 0.99**3)),
}


def multi_tensor(
    *tensors: Tensor, formula: str = "adan", limit: float = float("inf"), backend: str = "auto"
) -> tuple[Tensor, ...]:
    """One step of copies, for tests and benchmark: weights, gradients and four states in, weights and the formula's states out.

    Args:
        tensors: All weights, then all gradients, then all of each state.
        formula: One of ``FORMULAS``.
        limit: LAMB's largest ratio.
        backend: ``"auto"``, ``"torch"`` or ``"triton"``.
    """
    n, kinds = len(tensors) // 6, len(FORMULAS[formula])
    copies = [torch.empty(x.shape, dtype=x.dtype, device=x.device).copy_(x.detach()) for x in tensors]
    weights, grads, *states = (copies[i * n : (i + 1) * n] for i in range(2 + kinds))
    options = OPTIONS[formula] | {"limit": limit, "alone": [w.ndim < 2 for w in weights]}
    if applies(backend, weights, *states):
        fused(formula, weights, grads, *states, **options)
    else:
        reference(weights, grads, [x for state in states for x in state], formula, **options)
    return *weights, *(x for state in states for x in state)


def _shapes(sizes):
    n = sizes["numbers"]
    return [(n,), *[(3, n // 2)] * sizes["more"], (1,)]


def _inputs(sizes, dtype, device):
    shapes = _shapes(sizes)
    signed = [random(shape, dtype, device) for _ in range(4) for shape in shapes]  # weights, gradients, m, and v or h or c
    n = len(shapes)
    signed[3 * n :] = [x.abs() for x in signed[3 * n :]]
    return *signed, *(random(shape, dtype, device).abs() for shape in shapes), *(random(shape, dtype, device) for shape in shapes)


def _cost(sizes, dtype, direction):
    numbers = sum(torch.Size(shape).numel() for shape in _shapes(sizes))
    # Adan reads weight, gradient and four states and writes five of them.
    return Cost(bytes=11 * numbers * dtype.itemsize, flops=25 * numbers)


def _foreach(*tensors):
    """Adan as the entry takes it without the kernel, one torch operation on all tensors after the other."""
    from vocab.optimizers.adan import Adan

    n = len(tensors) // 6
    weights, grads, *states = ([x.detach().clone() for x in tensors[i * n : (i + 1) * n]] for i in range(6))
    params, options = [torch.nn.Parameter(w) for w in weights], OPTIONS["adan"]
    optimizer = Adan(params, options["lr"], options["betas"], options["eps"], options["decay"], foreach=True, backend="torch")
    for p, grad, *buffers in zip(params, grads, *states):
        p.grad = grad
        optimizer.state[p] = {"step": 2, **dict(zip(FORMULAS["adan"], buffers))}
    optimizer.step()
    return *(p.detach() for p in params), *(x for state in states for x in state)


def _builds():
    for dtype, pointer in POINTER.items():
        if dtype == torch.float16:
            continue  # bfloat16 shares its configuration
        acc = {"ACC": accumulate_in(dtype), "BLOCK": BLOCK}
        total = "*fp64" if dtype == torch.float64 else "*fp32"
        numbers = dict.fromkeys(("lr", "decay", "beta1", "beta2", "beta3", "eps", "fix1", "fix2", "fix3"), "fp64")
        for formula, move in (("lion", False), ("sophia", False), ("adan", False), ("lamb", False), ("lamb", True)):
            signature = {"like": pointer, "table": "*i64", "pieces": "*i64", **numbers}
            signature |= {"sums": total, "ratios": total} if formula == "lamb" else {}
            nothing = {} if formula == "lamb" else {"sums": None, "ratios": None}
            for aligned in (True, False):
                yield Build("_step_kernel", signature, {"FORMULA": formula, "MOVE": move, "ALIGNED": aligned, **nothing, **acc}, WARPS)
        if dtype != torch.bfloat16:
            signature = {"sums": total, "table": "*i64", "ratios": total, "limit": "fp64"}
            yield Build("_ratio_kernel", signature, acc, WARPS)


SPEC = Spec(
    name="multi_tensor",
    summary="One step of Lion, LAMB, Sophia or Adan for many tensors at once.",
    run=multi_tensor,
    inputs=_inputs,
    dtypes=tuple(POINTER),
    shapes={
        "50 x 3 M": {"numbers": 2**21, "more": 50},
        "1000 x 100 k": {"numbers": 2**16, "more": 1000},
        "small, 30 x 1500": {"numbers": 1000, "more": 30},
    },
    tails=tuple({"numbers": n, "more": more} for n, more in ((1, 1), (63, 2), (65, 1), (4099, 1), (0, 1))),
    probe={"numbers": 2100, "more": 2},
    cost=_cost,
    directions=("forward",),
    variants=({"formula": "adan"}, {"formula": "lion"}, {"formula": "sophia"}, {"formula": "lamb"}, {"formula": "lamb", "limit": 1.5}),
    baselines={"foreach": _foreach},
    targets={"foreach": {"1000 x 100 k": 1.2}, "compile": {"50 x 3 M": 1.2}},
    builds=tuple(_builds()) if triton else (),
    gpu=({"numbers": 1, "more": 1}, {"numbers": 63, "more": 3}, {"numbers": 100_003, "more": 20}),
    operators=("multi_tensor",),
    smooth=False,  # a sign flips where a sum is nearly 0
)
