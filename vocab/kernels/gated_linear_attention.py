"""Causal linear attention whose memory decays by another factor in every row and at every step.

    S_t = diag(exp(log_decay_t)) S_{t-1} + k_t^T v_t,      o_t = q_t S_t

Source: Yang et al. 2024, arXiv:2312.06635, section 4, on how chunks go together. Within a chunk the decay between steps s and t differs
from row to row of the state, so it must be in the factors of a product and not outside. It would take exponentials of both signs, which
overflow, were all factors to refer to one step. Here halves of a chunk are halved again and again. Every pair s < t comes apart at one
level: s in the left half of a block and t in the right. There the query has decayed since the middle and the key until the middle. Both
exponents are sums of logarithms of one sign, so no factor exceeds 1 while decays do not, and one that underflows belongs to a product that
does. The sums are put together from those of halves, never subtracted: ``-inf`` clears a row and nothing becomes NaN. A chunk of 64 steps
takes six products on the tensor cores in the place of one.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from vocab.kernels import linear_attention as scalar
from vocab.kernels.dispatch import accumulate_in, accumulator, jit, register, tl, triton, use_triton
from vocab.kernels.linear_attention import _close, _dot, _load, _place
from vocab.kernels.spec import POINTER, Build, Cost, Spec, random

__all__ = ["SPEC", "applies", "fused", "gated_linear_attention", "reference"]

# B batch, T time, G heads of queries and keys, H heads of values, K width of a query or key, V of a value, N chunks, c steps of a chunk

# Fewer steps than this are not worth a launch. Provisional until measured here.
WORTHWHILE_STEPS = 128
# Bytes of a number -> (levels: a chunk has 2**levels steps; rows and columns of a tile, warps). Products in float32 and float64 use no
# tensor cores, and their operands take two and four times the registers.
CONFIGS = {2: (6, 32, 8), 4: (4, 32, 4), 8: (4, 32, 4)}


@jit
def _wider(log, sums, batch, head, first, steps, dims, N, H, D, level, LEVELS: tl.constexpr, UP: tl.constexpr):
    """Makes a step's sum over its half of a block one over the block: down from the block's start (UP), or on to its end."""
    place = (steps >> level) + (-1 if UP else 1)
    count = N << LEVELS
    here, inside = _place(sums, batch, head, 2 * count - (2 * count >> level) + (first >> level), place, dims, 2 * count - N, H, D)
    return log + tl.load(here, inside & (((steps >> level) & 1) == (1 if UP else 0)), other=0.0)


@jit
def _start(sums, batch, head, first, steps, dims, N, H, D, LEVELS: tl.constexpr, UP: tl.constexpr):
    """Sums over blocks of one step: the step's own decay is one of what it reads, not of what it writes."""
    log = _load(sums, batch, head, first, steps, dims, 2 * (N << LEVELS) - N, H, D)
    return log if UP else tl.zeros_like(log)


@jit(do_not_specialize=["T", "N"])
def _states_kernel(
    k, v, sums, start, states, last, T, H, HK, HV, DK, DV, N,
    REVERSE: tl.constexpr, ACC: tl.constexpr, LEVELS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    head, batch = tl.program_id(0) % H, (tl.program_id(0) // H).to(tl.int64)
    row = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)[:, None]
    col = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)[None, :]
    tile, there = row * DV + col, (row < DK) & (col < DV)
    steps = tl.arange(0, 1 << LEVELS)
    memory = tl.zeros((BLOCK, BLOCK), ACC)
    if start is not None:
        memory += tl.load(start + (batch * H + head) * DK * DV + tile, there, other=0.0)
    for done in tl.range(0, N, num_stages=1):
        chunk = N - 1 - done if REVERSE else done
        tl.store(states + ((batch * H + head) * N + chunk) * DK * DV + tile, memory, there)
        first = chunk << LEVELS
        key = _load(k, batch, head // (H // HK), first, steps[None, :], row, T, HK, DK)  # a column a step
        log = _start(sums, batch, head, first, steps[None, :], row, N, H, DK, LEVELS, REVERSE)
        for level in tl.range(0, LEVELS, num_stages=1):
            log = _wider(log, sums, batch, head, first, steps[None, :], row, N, H, DK, level, LEVELS, REVERSE)
        value = _load(v, batch, head // (H // HV), first, steps[:, None], col, T, HV, DV)
        passed = _load(sums, batch, head, 2 * ((N << LEVELS) - N) + chunk, 0, row, 2 * (N << LEVELS) - N, H, DK)
        memory = memory * tl.exp(passed) + _dot((key.to(ACC) * tl.exp(log)).to(key.dtype), value, ACC)
    tl.store(last + (batch * H + head) * DK * DV + tile, memory, there)


@jit(do_not_specialize=["T", "N"])
def _values_kernel(
    a, b, x, sums, states, out, T, H, HA, HX, DA, DX, N,
    REVERSE: tl.constexpr, ACC: tl.constexpr, LEVELS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """``sum_j sum_k a_ik L_ijk b_jk x_j + sum_k w_ik a_ik S_k``: o, and with time reversed the gradient of v."""
    chunk, rest = tl.program_id(0) % N, tl.program_id(0) // N
    head, batch = rest % H, (rest // H).to(tl.int64)
    first, from_a, from_x = chunk << LEVELS, head // (H // HA), head // (H // HX)
    rows, cols = tl.arange(0, 1 << LEVELS)[:, None], tl.arange(0, 1 << LEVELS)[None, :]
    dims = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)[None, :]
    states += ((batch * H + head) * N + chunk) * DA * DX
    weight, read = tl.zeros((1 << LEVELS, 1 << LEVELS), ACC), tl.zeros((1 << LEVELS, BLOCK), ACC)
    for start in tl.range(0, DA, BLOCK, num_stages=1):
        wide, tall = start + tl.arange(0, BLOCK)[None, :], start + tl.arange(0, BLOCK)[:, None]
        asking = _load(a, batch, from_a, first, rows, wide, T, HA, DA)
        asked = _load(b, batch, from_a, first, cols, tall, T, HA, DA)
        own = _start(sums, batch, head, first, rows, wide, N, H, DA, LEVELS, not REVERSE)
        other = _start(sums, batch, head, first, cols, tall, N, H, DA, LEVELS, REVERSE)
        weight += tl.where(rows == cols, _dot(asking, asked, ACC), 0.0)
        for level in tl.range(0, LEVELS, num_stages=1):
            pairs = _dot((asking.to(ACC) * tl.exp(own)).to(asking.dtype), (asked.to(ACC) * tl.exp(other)).to(asked.dtype), ACC)
            weight += tl.where(_apart(rows, cols, level, REVERSE), pairs, 0.0)
            own = _wider(own, sums, batch, head, first, rows, wide, N, H, DA, level, LEVELS, not REVERSE)
            other = _wider(other, sums, batch, head, first, cols, tall, N, H, DA, level, LEVELS, REVERSE)
        memory, size = _memory(states + tall * DX + dims, (tall < DA) & (dims < DX))
        read += _dot((asking.to(ACC) * tl.exp(own)).to(asking.dtype), (memory / size).to(asking.dtype), ACC) * size
    mixing = _load(x, batch, from_x, first, rows, dims, T, HX, DX)
    here, inside = _place(out, batch, head, first, rows, dims, T, H, DX)
    tl.store(here, (_dot(weight.to(mixing.dtype), mixing, ACC) + read).to(out.dtype.element_ty), inside)


@jit(do_not_specialize=["T", "N"])
def _keys_kernel(
    a, b, x, y, sums, states, before, out, dlog, T, H, HA, HX, DA, DX, N,
    REVERSE: tl.constexpr, ACC: tl.constexpr, LEVELS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """``sum_j (a_i . b_j) L_ijk x_jk + w_ik (a_i S^T)_k``: the gradient of q, reversed that of k; and its part of the decay's."""
    chunk, rest = tl.program_id(0) % N, tl.program_id(0) // N
    head, batch = rest % H, (rest // H).to(tl.int64)
    first, from_a, from_x = chunk << LEVELS, head // (H // HA), head // (H // HX)
    rows, cols = tl.arange(0, 1 << LEVELS)[:, None], tl.arange(0, 1 << LEVELS)[None, :]
    dims = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)[None, :]
    states += ((batch * H + head) * N + chunk) * DA * DX
    weight, read = tl.zeros((1 << LEVELS, 1 << LEVELS), ACC), tl.zeros((1 << LEVELS, BLOCK), ACC)
    passed = tl.zeros((BLOCK,), ACC)
    for start in tl.range(0, DA, BLOCK, num_stages=1):
        wide, tall = start + tl.arange(0, BLOCK)[None, :], start + tl.arange(0, BLOCK)[:, None]
        asking = _load(a, batch, from_a, first, rows, wide, T, HA, DA)
        weight += _dot(asking, _load(b, batch, from_a, first, cols, tall, T, HA, DA), ACC)
        tile, there = tall + dims * DA, (tall < DA) & (dims < DX)
        memory, size = _memory(states + tile, there)
        if before is not None:
            earlier = before + ((batch * H + head) * N + chunk) * DA * DX
            passed += tl.sum(tl.load(earlier + tile, there, other=0.0) * memory, 0)
        read += _dot(asking, (memory / size).to(asking.dtype), ACC) * size
    mixing = _load(x, batch, from_x, first, rows, dims, T, HX, DX)
    own = _load(y, batch, from_x, first, rows, dims, T, HX, DX).to(ACC)
    here = _start(sums, batch, head, first, rows, dims, N, H, DX, LEVELS, not REVERSE)
    other = _start(sums, batch, head, first, rows, dims, N, H, DX, LEVELS, REVERSE)
    mixed = _dot(tl.where(rows == cols, weight, 0.0).to(mixing.dtype), mixing, ACC)
    # A pair that comes apart at a level passes the decays of its right half down to t, and those of its left half after s.
    total = tl.zeros((1 << LEVELS, BLOCK), ACC)
    for level in tl.range(0, LEVELS, num_stages=1):
        pairs = tl.where(_apart(rows, cols, level, REVERSE), weight, 0.0)
        part = tl.exp(here) * _dot(pairs.to(mixing.dtype), (mixing.to(ACC) * tl.exp(other)).to(mixing.dtype), ACC)
        mixed += part
        passing = (rows > cols if REVERSE else rows <= cols) & (rows >> level == cols >> level)
        total += _dot(tl.where(passing, 1.0, 0.0).to(mixing.dtype), (own * part).to(mixing.dtype), ACC)
        here = _wider(here, sums, batch, head, first, rows, dims, N, H, DX, level, LEVELS, not REVERSE)
        other = _wider(other, sums, batch, head, first, rows, dims, N, H, DX, level, LEVELS, REVERSE)
    read *= tl.exp(here)
    passing = rows > cols if REVERSE else rows <= cols
    total += _dot(tl.where(passing, 1.0, 0.0).to(mixing.dtype), (own * read).to(mixing.dtype), ACC)
    if before is not None:
        log = _load(sums, batch, head, 2 * ((N << LEVELS) - N) + chunk, 0, dims, 2 * (N << LEVELS) - N, H, DX)
        total += passed[None, :] * tl.exp(log)
    there, inside = _place(out, batch, head, first, rows, dims, T, H, DX)
    tl.store(there, (mixed + read).to(out.dtype.element_ty), inside)
    there, inside = _place(dlog, batch, head, first, rows, dims, T, H, DX)
    tl.store(there, total, inside)


@jit
def _apart(rows, cols, level, REVERSE: tl.constexpr):
    """Pairs whose earlier step is in the left half of a block, and the later one in its right half of 2**level steps."""
    later, earlier = (cols, rows) if REVERSE else (rows, cols)
    return ((later >> level) == (earlier >> level) + 1) & (((later >> level) & 1) == 1)


@jit
def _memory(here, there):
    """A state and the size of its largest number, by which it is divided before it is rounded to 16 bits."""
    memory = tl.load(here, there, other=0.0)
    size = tl.max(tl.max(tl.abs(memory), 1), 0)
    return memory, tl.where(size == 0.0, 1.0, size)


def _sums(log_decay: Tensor, levels: int) -> Tensor:
    """Sums over 1, 2, 4, ... and all steps of each chunk, one length after the other: ``(B, (2c - 1) N, H, K)``."""
    rows = [F.pad(log_decay, (0, 0, 0, 0, 0, -log_decay.shape[1] % 2**levels))]
    for _ in range(levels):
        rows.append(rows[-1].unflatten(1, (-1, 2)).sum(2))
    return torch.cat(rows, 1)


def _states(k, v, sums, start, reverse):
    (batch, time, heads, width), keys = v.shape, k.shape[3]
    levels, block, warps = CONFIGS[v.dtype.itemsize]
    count = -(-time // 2**levels)
    states = torch.empty((batch, heads, count, keys, width), dtype=accumulator(v.dtype), device=v.device)
    last = torch.empty((batch, heads, keys, width), dtype=states.dtype, device=v.device)
    if last.numel():
        _states_kernel[(batch * heads, -(-keys // block), -(-width // block))](
            k, v, sums, start, states, last, time, heads, k.shape[2], heads, keys, width, count,
            REVERSE=reverse, ACC=accumulate_in(v.dtype), LEVELS=levels, BLOCK=block, num_warps=warps,
        )  # fmt: skip
    return states, last


def _run(kernel, a, b, x, sums, states, outs, reverse, more=(), also=()):
    """Launches a program for each chunk of each head and each block of the columns of x."""
    batch, time, from_a, wide = a.shape
    heads, count = states.shape[1:3]
    levels, block, warps = CONFIGS[x.dtype.itemsize]
    if outs[0].numel():
        kernel[(count * heads * batch, -(-x.shape[3] // block))](
            a, b, x, *more, sums, states, *also, *outs, time, heads, from_a, x.shape[2], wide, x.shape[3], count,
            REVERSE=reverse, ACC=accumulate_in(x.dtype), LEVELS=levels, BLOCK=block, num_warps=warps,
        )  # fmt: skip
    return outs


def _forward_launch(q, k, v, log_decay, state):
    out, _ = _forward_fake(q, k, v, log_decay, state)
    q, k, v, state = _close(q, k, v, state)
    sums = _sums(log_decay, CONFIGS[v.dtype.itemsize][0])
    states, last = _states(k, v, sums, state, False)
    return *_run(_values_kernel, q, k, v, sums, states, (out,), False), last


def _forward_fake(q, k, v, log_decay, state):
    return scalar._forward_fake(q, k, v, None, state)


def _forward_plain(q, k, v, log_decay, state):
    return tuple(x.contiguous() for x in reference(q, k, v, log_decay, state))


def _backward_launch(dout, dlast, q, k, v, log_decay, state):
    dout, dlast, q, k, v, state = _close(dout, dlast, q, k, v, state)
    sums = _sums(log_decay, CONFIGS[v.dtype.itemsize][0])
    states, _ = _states(k, v, sums, state, False)
    dstates, dstate = _states(q, dout, sums, dlast, True)
    shape = *v.shape[:3], k.shape[3]
    dq, dk = (torch.empty(shape, dtype=q.dtype, device=q.device) for _ in range(2))
    of_reads, of_writes = (torch.empty(shape, dtype=states.dtype, device=q.device) for _ in range(2))
    (dv,) = _run(_values_kernel, k, q, dout, sums, dstates, (torch.empty(v.shape, dtype=v.dtype, device=v.device),), True)
    _run(_keys_kernel, dout, v, k, sums, states, (dq, of_reads), False, (q,), (None,))
    _run(_keys_kernel, v, dout, q, sums, dstates, (dk, of_writes), True, (k,), (states,))
    # Heads that share queries and keys have each made a gradient of their own.
    dq, dk = (x if x.shape == q.shape else x.unflatten(2, (q.shape[2], -1)).sum(3) for x in (dq, dk))
    return dq, dk, dv, of_reads + of_writes, dstate


def _backward_fake(dout, dlast, q, k, v, log_decay, state):
    *found, _, dstate = scalar._backward_fake(dout, dlast, q, k, v, None, state, False)
    return *found, torch.empty((*v.shape[:3], k.shape[3]), dtype=dstate.dtype, device=q.device), dstate


def _backward_plain(dout, dlast, q, k, v, log_decay, state):
    return scalar._backward_plain(dout, dlast, q, k, v, log_decay, state, True)


_forward = register(
    "vocab::gated_linear_attention_forward",
    "(Tensor q, Tensor k, Tensor v, Tensor log_decay, Tensor? state) -> (Tensor, Tensor)",
    launch=_forward_launch,
    plain=_forward_plain,
    fake=_forward_fake,
)
_backward = register(
    "vocab::gated_linear_attention_backward",
    "(Tensor dout, Tensor? dlast, Tensor q, Tensor k, Tensor v, Tensor log_decay, Tensor? state) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    launch=_backward_launch,
    plain=_backward_plain,
    fake=_backward_fake,
)


class _GatedLinearAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v, log_decay, state):
        ctx.save_for_backward(q, k, v, log_decay, state)
        ctx.set_materialize_grads(False)
        return _forward(q, k, v, log_decay, state)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, dout, dlast):
        q, k, v, log_decay, state = ctx.saved_tensors
        dout = torch.zeros_like(v) if dout is None else dout
        *found, dstate = _backward(dout, dlast, q, k, v, log_decay, state)
        return *found, None if state is None else dstate


def gated_linear_attention(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, state: Tensor | None = None, *, backend: str = "auto"
) -> tuple[Tensor, Tensor]:
    """Reads ``o_t = q_t S_t`` from a memory ``S_t = diag(exp(log_decay_t)) S_{t-1} + k_t^T v_t``.

    States and sums are kept in float32 (float64 for float64). In 16 bits the factors of products are rounded once more on the way.

    Args:
        q: Queries ``(B, T, G, K)``.
        k: Keys ``(B, T, G, K)``; G divides H, and head i reads query and key head ``i // (H / G)``.
        v: Values ``(B, T, H, V)``.
        log_decay: Logarithms of what each row of the memory keeps ``(B, T, H, K)``; ``-inf`` clears it.
        state: The memory before the first step ``(B, H, K, V)``; empty if not given.
        backend: ``"auto"``, ``"torch"`` or ``"triton"``.

    Returns:
        o ``(B, T, H, V)`` in the dtype of ``v`` and the memory after the last step ``(B, H, K, V)`` in at least float32.
    """
    return (fused if applies(q, k, v, backend) else reference)(q, k, v, log_decay, state)


def applies(q: Tensor, k: Tensor, v: Tensor, backend: str, limit: str | None = None) -> bool:
    """Whether the kernel is to run; raises where it was asked for and cannot, for instance because of the caller's ``limit``."""
    for name, tensor in (("q", q), ("k", k), ("v", v)):
        if tensor.dtype not in POINTER or tensor.dtype != q.dtype:
            limit = limit or f"{name} has dtype {tensor.dtype}" + (f" and q {q.dtype}" if tensor.dtype in POINTER else "")
    return use_triton("gated_linear_attention", backend, v, limit=limit, worthwhile=v.shape[1] >= WORTHWHILE_STEPS)


def fused(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """``gated_linear_attention`` by the kernel, whatever the size."""
    wide = accumulator(v.dtype)
    return _GatedLinearAttention.apply(q, k, v, log_decay.to(wide), None if state is None else state.to(wide))


def reference(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The same in plain torch, also in chunks."""
    return scalar.reference(q, k, v, log_decay, state, chunk=16)  # a decay for every pair of steps and key: short chunks


def _inputs(sizes, dtype, device):
    q, k, v, _, state = scalar._inputs(sizes, dtype, device)
    shape = *v.shape[:3], sizes["keys"]
    log_decay = -random(shape, torch.float32, "cpu", scale=1.5, shift=-3.0).exp().to(device, accumulator(dtype))
    return q, k, v, log_decay.requires_grad_(), state


def _spec_run(*inputs, **options):
    out, last = gated_linear_attention(*inputs, **options)
    return out, last.to(out.dtype)  # in 16 bits its terms have been rounded, and it is compared so


def _cost(sizes, dtype, direction):
    plain = scalar._cost(sizes, dtype, direction)
    decays = sizes["batch"] * sizes["time"] * sizes["heads"] * sizes["keys"] * accumulator(dtype).itemsize
    return Cost(bytes=plain.bytes + decays * (1 if direction == "forward" else 2), flops=plain.flops)


def _fla(q, k, v, log_decay, state):
    from fla.ops.gla import chunk_gla

    share = v.shape[2] // k.shape[2]
    q, k = (x.repeat_interleave(share, 2) for x in (q, k))
    out, last = chunk_gla(q, k, v, log_decay, scale=1.0, initial_state=state, output_final_state=True)
    return out, last.to(v.dtype)


def _builds():
    for dtype, pointer in POINTER.items():
        if dtype == torch.float16:
            continue  # shares the table of bfloat16
        acc, cores = ("*fp64" if dtype == torch.float64 else "*fp32"), {2: "wgmma", 4: "", 8: "mma"}[dtype.itemsize]
        levels, block, warps = CONFIGS[dtype.itemsize]
        narrow = "mma" if cores else ""  # tiles of the state have less than 64 rows
        for reverse in (False, True):
            constants = {"ACC": accumulate_in(dtype), "LEVELS": levels, "BLOCK": block, "REVERSE": reverse}
            sizes = dict.fromkeys(("T", "H", "HK", "HV", "DK", "DV", "N"), "i32")
            pointers = {"k": pointer, "v": pointer, **dict.fromkeys(("sums", "start", "states", "last"), acc)}
            yield Build("_states_kernel", {**pointers, **sizes}, constants, warps, 1, narrow, ("DK", "DV"))
            sizes = dict.fromkeys(("T", "H", "HA", "HX", "DA", "DX", "N"), "i32")
            pointers = {"a": pointer, "b": pointer, "x": pointer, "sums": acc, "states": acc, "out": pointer}
            yield Build("_values_kernel", {**pointers, **sizes}, constants, warps, 1, cores, ("DA", "DX"))
            pointers |= {"y": pointer, "dlog": acc}
            there = {"before": acc} if reverse else {}
            absent = {} if reverse else {"before": None}
            yield Build("_keys_kernel", {**pointers, **there, **sizes}, {**constants, **absent}, warps, 1, cores, ("DA", "DX"))


_sizes = scalar._sizes
SPEC = Spec(
    name="gated_linear_attention",
    summary="Causal linear attention with a decay for every step and row of the memory, in chunks, by factors that never exceed 1.",
    run=_spec_run,
    inputs=_inputs,
    dtypes=tuple(POINTER),
    shapes={
        "4 x 8192, 16 heads of 128": _sizes(4, 8192, 16, 16, 128, 128),
        "4 x 8192, 16 heads of 64": _sizes(4, 8192, 16, 16, 64, 64),
        "small, 1 x 512, 4 heads of 64": _sizes(1, 512, 4, 4, 64, 64),
    },
    tails=(
        _sizes(1, 1, 1, 1, 1, 1),
        _sizes(1, 63, 1, 1, 3, 5),
        _sizes(2, 17, 2, 1, 5, 3),
        _sizes(1, 5, 1, 1, 65, 34),
        _sizes(1, 0, 2, 1, 3, 4),
    ),
    probe=_sizes(1, 18, 1, 1, 5, 3),
    cost=_cost,
    directions=("forward", "backward"),
    baselines={"fla": _fla},
    targets={"compile": {"4 x 8192, 16 heads of 128": 2.0}, "fla": {"4 x 8192, 16 heads of 128": 0.9}},
    builds=tuple(_builds()) if triton else (),
    gpu=scalar.SPEC.gpu,
    operators=("gated_linear_attention_forward", "gated_linear_attention_backward"),
)
