"""Causal linear attention, plain or with a memory that decays: states between chunks, masked products within them.

    S_t = exp(log_decay_t) S_{t-1} + k_t^T v_t,      o_t = q_t S_t

Source: Katharopoulos et al. 2020, arXiv:2006.16236, equations 10 to 12; in chunks and with a decay: Sun et al. 2023, arXiv:2307.08621,
equation 7, and Dao and Gu 2024, arXiv:2405.21060, section 6. Two kernels do all of it. One hands states from chunk to chunk; backwards in
time, with queries in the place of keys, these are the gradients of states. The other mixes the rows of a chunk and reads the state:
``out_i = sum_j (a_i . b_j) L_ij x_j + w_i a_i S``. That is o for (q, k, v), and with time reversed or S transposed the gradient of v for
(k, q, do), of q for (do, v, k), of k for (v, do, q). Nothing that a kernel has multiplied is ever turned over.

Logarithms of decays are added up over each segment of a chunk by itself and exponentiated last. No sum is subtracted from another and
nothing is divided, so nothing overflows while decays are at most 1, short segments keep their digits, and ``-inf`` clears the state.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vocab.kernels.dispatch import accumulate_in, accumulator, jit, padded, register, tl, triton, use_triton
from vocab.kernels.spec import POINTER, Build, Cost, Spec, random

__all__ = ["SPEC", "applies", "fused", "linear_attention", "reference"]

# B batch, T time, G heads of queries and keys, H heads of values, K width of a query or key, V of a value, N chunks, c steps of a chunk

# Fewer steps than this are not worth a launch. Provisional until measured here.
WORTHWHILE_STEPS = 128
# Bytes of a number -> (steps of a chunk, rows and columns of a tile, warps, stages of states and of mixing). Products in float32 and
# float64 use no tensor cores, and their operands take two and four times the registers.
CONFIGS = {2: (64, 64, 4, 3, 2), 4: (32, 32, 4, 1, 1), 8: (32, 32, 8, 1, 1)}


@jit
def _place(x, batch, head, first, rows, dims, T, H, D):
    """Addresses of rows of one head, counted from the step ``first``, and which of them are there."""
    return x + ((batch * T + first) * H + head) * D + rows * (H * D) + dims, (rows < T - first) & (dims < D)


@jit
def _load(x, batch, head, first, rows, dims, T, H, D):
    here, inside = _place(x, batch, head, first, rows, dims, T, H, D)
    return tl.load(here, inside, other=0.0)


@jit
def _dot(a, b, ACC: tl.constexpr):
    return tl.dot(a, b, out_dtype=ACC, input_precision="ieee")


@jit
def _kept(log, rows, cols, REVERSE: tl.constexpr):
    """What is left at a row's step of the state before the chunk; reversed: at the chunk's end of what the row's step wrote."""
    return tl.exp(tl.sum(tl.where(cols > rows if REVERSE else cols <= rows, log[None, :], 0.0), 1))


@jit(do_not_specialize=["T", "N"])
def _states_kernel(
    k, v, log_decay, start, states, last, T, H, HK, HV, DK, DV, N,
    REVERSE: tl.constexpr, ACC: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    head, batch = tl.program_id(0) % H, (tl.program_id(0) // H).to(tl.int64)
    row = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)[:, None]
    col = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)[None, :]
    tile, there = row * DV + col, (row < DK) & (col < DV)
    steps = tl.arange(0, CHUNK)
    memory = tl.zeros((BLOCK, BLOCK), ACC)
    if start is not None:
        memory += tl.load(start + (batch * H + head) * DK * DV + tile, there, other=0.0)
    for done in tl.range(0, N, num_stages=STAGES):
        chunk = N - 1 - done if REVERSE else done
        tl.store(states + ((batch * H + head) * N + chunk) * DK * DV + tile, memory, there)
        first = chunk * CHUNK
        key = _load(k, batch, head // (H // HK), first, steps[None, :], row, T, HK, DK)  # a column a step
        value = _load(v, batch, head // (H // HV), first, steps[:, None], col, T, HV, DV)
        if log_decay is not None:
            log = _load(log_decay, batch, head, first, steps, 0, T, H, 1)
            value = (value.to(ACC) * _kept(log, steps[:, None], steps[None, :], not REVERSE)[:, None]).to(value.dtype)
            memory *= tl.exp(tl.sum(log, 0))
        memory += _dot(key, value, ACC)
    tl.store(last + (batch * H + head) * DK * DV + tile, memory, there)


@jit(do_not_specialize=["T", "N"])
def _mix_kernel(
    a, b, x, y, log_decay, states, before, out, dlog, T, H, HA, HX, DA, DX, N,
    REVERSE: tl.constexpr, TURNED: tl.constexpr, ACC: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    chunk, rest = tl.program_id(0) % N, tl.program_id(0) // N
    head, batch = rest % H, (rest // H).to(tl.int64)
    first, from_a, from_x = chunk * CHUNK, head // (H // HA), head // (H // HX)
    rows, cols = tl.arange(0, CHUNK)[:, None], tl.arange(0, CHUNK)[None, :]
    dims = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)[None, :]
    states += ((batch * H + head) * N + chunk) * DA * DX
    weight, read, passed = tl.zeros((CHUNK, CHUNK), ACC), tl.zeros((CHUNK, BLOCK), ACC), tl.zeros((), ACC)
    for start in tl.range(0, DA, BLOCK, num_stages=STAGES):
        wide = start + tl.arange(0, BLOCK)
        asking = _load(a, batch, from_a, first, rows, wide[None, :], T, HA, DA)
        weight += _dot(asking, _load(b, batch, from_a, first, cols, wide[:, None], T, HA, DA), ACC)
        tile = wide[:, None] + dims * DA if TURNED else wide[:, None] * DX + dims
        there = (wide[:, None] < DA) & (dims < DX)
        memory = tl.load(states + tile, there, other=0.0)
        if before is not None:
            earlier = before + ((batch * H + head) * N + chunk) * DA * DX
            passed += tl.sum(tl.sum(tl.load(earlier + tile, there, other=0.0) * memory, 1), 0)
        # A state is a sum of many terms: it is brought to the size of 1 before it is rounded to 16 bits.
        size = tl.max(tl.max(tl.abs(memory), 1), 0)
        size = tl.where(size == 0.0, 1.0, size)
        read += _dot(asking, (memory / size).to(asking.dtype), ACC) * size
    if log_decay is not None:
        log = _load(log_decay, batch, head, first, tl.arange(0, CHUNK), 0, T, H, 1)
        # Each column, or row, adds up the steps after its own, down to the row, or up to the column.
        terms = tl.where(cols > rows, log[None, :], 0.0) if REVERSE else tl.where(rows > cols, log[:, None], 0.0)
        weight *= tl.exp(tl.cumsum(terms, 1 if REVERSE else 0))
    weight = tl.where(cols >= rows if REVERSE else cols <= rows, weight, 0.0)
    mixing = _load(x, batch, from_x, first, rows, dims, T, HX, DX)
    mixed = _dot(weight.to(mixing.dtype), mixing, ACC)
    if log_decay is not None:
        read *= _kept(log, rows, cols, REVERSE)[:, None]
    here, inside = _place(out, batch, head, first, rows, dims, T, H, DX)
    tl.store(here, (mixed + read).to(out.dtype.element_ty), inside)
    if dlog is not None:
        # The decay of a step is a factor of what was there before it and is read at it or later.
        own = _load(y, batch, from_x, first, rows, dims, T, HX, DX)
        share = tl.sum(own.to(ACC) * read, 1)
        if REVERSE:  # what earlier steps of the chunk wrote and later chunks read, and what has passed the whole chunk
            total = tl.sum(tl.where(rows < cols, share[:, None], 0.0), 0)
            total += passed * tl.exp(tl.sum(log, 0))
        else:  # what later steps of the chunk read, from before the chunk and from earlier steps of it
            total = tl.sum(tl.where(rows >= cols, share[:, None], 0.0), 0)
            upright = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)[:, None]
            pairs = weight * _dot(own, _load(x, batch, from_x, first, cols, upright, T, HX, DX), ACC)
            pairs = tl.cumsum(pairs, 0, reverse=True)
            total += tl.sum(tl.where(cols < rows, pairs, 0.0), 1)
        batches = tl.num_programs(0) // (N * H)
        here, inside = _place(dlog, tl.program_id(1) * batches + batch, head, first, tl.arange(0, CHUNK), 0, T, H, 1)
        tl.store(here, total, inside)


def _states(k, v, log_decay, start, reverse):
    """The state before each chunk and after the last; reversed: the gradient of the state after each chunk and before the first."""
    (batch, time, heads, width), keys = v.shape, k.shape[3]
    chunk, block, warps, stages, _ = CONFIGS[v.dtype.itemsize]
    count = -(-time // chunk)
    states = torch.empty((batch, heads, count, keys, width), dtype=accumulator(v.dtype), device=v.device)
    last = torch.empty((batch, heads, keys, width), dtype=states.dtype, device=v.device)
    if last.numel():
        _states_kernel[(batch * heads, -(-keys // block), -(-width // block))](
            k, v, log_decay, start, states, last, time, heads, k.shape[2], heads, keys, width, count,
            REVERSE=reverse, ACC=accumulate_in(v.dtype), CHUNK=chunk, BLOCK=block, STAGES=stages, num_warps=warps,
        )  # fmt: skip
    return states, last


def _mix(a, b, x, log_decay, states, reverse, turned=False, y=None, before=None):
    """``sum_j (a_i . b_j) L_ij x_j + w_i a_i S``, and with y and the other states what a block of columns adds to the decay's gradient."""
    (batch, time, from_a, wide), from_x, width = a.shape, x.shape[2], x.shape[3]
    heads, count = states.shape[1:3]
    chunk, block, warps, _, stages = CONFIGS[x.dtype.itemsize]
    blocks = -(-width // block)
    out = torch.empty((batch, time, heads, width), dtype=x.dtype, device=x.device)
    dlog = None if y is None else torch.empty((blocks, batch, time, heads), dtype=states.dtype, device=x.device)
    if out.numel():
        _mix_kernel[(count * heads * batch, blocks)](
            a, b, x, y, log_decay, states, before, out, dlog, time, heads, from_a, from_x, wide, width, count,
            REVERSE=reverse, TURNED=turned, ACC=accumulate_in(x.dtype), CHUNK=chunk, BLOCK=block, STAGES=stages, num_warps=warps,
        )  # fmt: skip
    return out, dlog


def _close(*tensors):
    return (x if x is None else x.contiguous() for x in tensors)


def _forward_launch(q, k, v, log_decay, state):
    q, k, v, log_decay, state = _close(q, k, v, log_decay, state)
    states, last = _states(k, v, log_decay, state, False)
    return _mix(q, k, v, log_decay, states, False)[0], last


def _forward_fake(q, k, v, log_decay, state):
    last = torch.empty((v.shape[0], v.shape[2], k.shape[3], v.shape[3]), dtype=accumulator(v.dtype), device=v.device)
    return torch.empty(v.shape, dtype=v.dtype, device=v.device), last


def _forward_plain(q, k, v, log_decay, state):
    return tuple(x.contiguous() for x in reference(q, k, v, log_decay, state))


def _backward_launch(dout, dlast, q, k, v, log_decay, state, for_decay):
    dout, dlast, q, k, v, log_decay, state = _close(dout, dlast, q, k, v, log_decay, state)
    states, _ = _states(k, v, log_decay, state, False)
    dstates, dstate = _states(q, dout, log_decay, dlast, True)
    dv, _ = _mix(k, q, dout, log_decay, dstates, True)
    dq, from_q = _mix(dout, v, k, log_decay, states, False, True, q if for_decay else None)
    dk, from_k = _mix(v, dout, q, log_decay, dstates, True, True, *((k, states) if for_decay else ()))
    dlog = (from_q + from_k).sum(0) if for_decay else torch.empty((0,), dtype=dstate.dtype, device=q.device)
    # Heads that share queries and keys have each made a gradient of their own.
    dq, dk = (x if x.shape == q.shape else x.unflatten(2, (q.shape[2], -1)).sum(3) for x in (dq, dk))
    return dq, dk, dv, dlog, dstate


def _backward_fake(dout, dlast, q, k, v, log_decay, state, for_decay):
    _, dstate = _forward_fake(q, k, v, log_decay, state)
    dlog = torch.empty(v.shape[:3] if for_decay else (0,), dtype=dstate.dtype, device=q.device)
    return *(torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (q, k, v)), dlog, dstate


def _backward_plain(dout, dlast, q, k, v, log_decay, state, for_decay):
    *empty, dlog, memory = _backward_fake(dout, dlast, q, k, v, log_decay, state, for_decay)
    wide, share = memory.dtype, v.shape[2] // k.shape[2]
    dout, v = dout.to(wide), v.to(wide)
    q, k = (x.to(wide).repeat_interleave(share, 2) for x in (q, k))
    decay = torch.ones(v.shape[:3], dtype=wide, device=v.device) if log_decay is None else log_decay.exp()
    decay = decay if decay.dim() == 4 else decay[..., None]  # a number a step, or one for each row of the state
    memory = torch.zeros_like(memory) if state is None else state
    states = [memory]
    for t in range(v.shape[1]):
        memory = decay[:, t, ..., None] * memory + k[:, t, :, :, None] * v[:, t, :, None]
        states.append(memory)
    gradient = torch.zeros_like(memory) if dlast is None else dlast
    dq, dk, dv, da = torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v), torch.zeros_like(decay)
    for t in reversed(range(v.shape[1])):
        gradient = gradient + q[:, t, :, :, None] * dout[:, t, :, None]
        dq[:, t] = (states[t + 1] @ dout[:, t, :, :, None])[..., 0]
        dk[:, t], dv[:, t] = (gradient @ v[:, t, :, :, None])[..., 0], (k[:, t, :, None] @ gradient)[..., 0, :]
        da[:, t] = (gradient * states[t]).sum(3).sum_to_size(da[:, t].shape)
        gradient = decay[:, t, ..., None] * gradient
    found = dq.unflatten(2, (-1, share)).sum(3), dk.unflatten(2, (-1, share)).sum(3), dv
    return *(x.to(e.dtype) for x, e in zip(found, empty)), (da * decay).view(log_decay.shape) if for_decay else dlog, gradient.contiguous()


_forward = register(
    "vocab::linear_attention_forward",
    "(Tensor q, Tensor k, Tensor v, Tensor? log_decay, Tensor? state) -> (Tensor, Tensor)",
    launch=_forward_launch,
    plain=_forward_plain,
    fake=_forward_fake,
)
_backward = register(
    "vocab::linear_attention_backward",
    "(Tensor dout, Tensor? dlast, Tensor q, Tensor k, Tensor v, Tensor? log_decay, Tensor? state, bool for_decay) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    launch=_backward_launch,
    plain=_backward_plain,
    fake=_backward_fake,
)


class _LinearAttention(torch.autograd.Function):
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
        *found, dlog, dstate = _backward(dout, dlast, q, k, v, log_decay, state, ctx.needs_input_grad[3])
        return *found, dlog if ctx.needs_input_grad[3] else None, None if state is None else dstate


def linear_attention(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor | None = None, state: Tensor | None = None, *, backend: str = "auto"
) -> tuple[Tensor, Tensor]:
    """Reads ``o_t = q_t S_t`` from a memory ``S_t = exp(log_decay_t) S_{t-1} + k_t^T v_t``.

    States and sums are kept in float32 (float64 for float64). In 16 bits the factors of products are rounded once more on the way.

    Args:
        q: Queries ``(B, T, G, K)``.
        k: Keys ``(B, T, G, K)``; G divides H, and head i reads query and key head ``i // (H / G)``.
        v: Values ``(B, T, H, V)``.
        log_decay: Logarithms of what is kept: a number per head ``(H,)``, per step and head ``(B, T, H)``, or, in plain torch, one for
            each row of the state ``(B, T, H, K)``, for which ``gated_linear_attention`` has the kernel; ``-inf`` clears. All is kept if
            not given.
        state: The memory before the first step ``(B, H, K, V)``; empty if not given.
        backend: ``"auto"``, ``"torch"`` or ``"triton"``.

    Returns:
        o ``(B, T, H, V)`` in the dtype of ``v`` and the memory after the last step ``(B, H, K, V)`` in at least float32.
    """
    return (fused if applies(q, k, v, log_decay, backend) else reference)(q, k, v, log_decay, state)


def applies(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor | None, backend: str, limit: str | None = None) -> bool:
    """Whether the kernel is to run; raises where it was asked for and cannot, for instance because of the caller's ``limit``."""
    for name, tensor in (("q", q), ("k", k), ("v", v)):
        if tensor.dtype not in POINTER or tensor.dtype != q.dtype:
            limit = limit or f"{name} has dtype {tensor.dtype}" + (f" and q {q.dtype}" if tensor.dtype in POINTER else "")
    if log_decay is not None and log_decay.dim() == 4:
        limit = limit or "log_decay has a number for each row of the state; gated_linear_attention takes these"
    return use_triton("linear_attention", backend, v, limit=limit, worthwhile=v.shape[1] >= WORTHWHILE_STEPS)


def fused(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor | None = None, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """``linear_attention`` by the kernel, whatever the size."""
    wide = accumulator(v.dtype)
    if log_decay is not None:
        log_decay = log_decay.to(wide).expand(v.shape[:3])
    state = None if state is None else padded(state.to(wide), -2, -1)
    out, last = _LinearAttention.apply(padded(q, -1), padded(k, -1), padded(v, -1), log_decay, state)
    return out[..., : v.shape[3]], last[..., : q.shape[3], : v.shape[3]]


def reference(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor | None = None, state: Tensor | None = None, *, chunk: int = 64
) -> tuple[Tensor, Tensor]:
    """The same in plain torch, also in chunks."""
    wide, heads = accumulator(v.dtype), v.shape[2]
    q, k = (x.to(wide).repeat_interleave(heads // k.shape[2], 2).transpose(1, 2) for x in (q, k))
    values = v.to(wide).transpose(1, 2)
    log = torch.zeros((heads,), dtype=wide, device=v.device) if log_decay is None else log_decay.to(wide)
    by_row = log.dim() == 4
    log = (log if by_row else log.expand(v.shape[:3])[..., None]).transpose(1, 2)
    memory = values.new_zeros(len(v), heads, k.shape[3], v.shape[3]) if state is None else state.to(wide)
    outs = [values[:, :, :0]]
    for start in range(0, v.shape[1], chunk):
        q_c, k_c, v_c, log_c = (x[:, :, start : start + chunk] for x in (q, k, values, log))
        steps = torch.arange(log_c.shape[2], device=v.device)
        later = (steps[:, None] >= steps)[..., None]
        # Entry (t, s) adds up the steps s + 1 to t.
        terms = torch.where(later & (steps[:, None] > steps)[..., None], log_c[:, :, :, None], 0.0)
        kept = terms.cumsum(2).masked_fill(~later, float("-inf")).exp()
        scores = torch.einsum("bhtk,bhsk,bhtsk->bhts", q_c, k_c, kept) if by_row else q_c @ k_c.mT * kept[..., 0]
        since = log_c.cumsum(2).exp()
        outs.append(scores @ v_c + (since * q_c) @ memory)
        memory = since[:, :, -1, :, None] * memory + (kept[:, :, -1] * k_c).mT @ v_c
    return torch.cat(outs, 2).transpose(1, 2).to(v.dtype), memory


def _inputs(sizes, dtype, device):
    batch, time, heads, groups = (sizes[n] for n in ("batch", "time", "heads", "groups"))
    q, k = (random((batch, time, groups, sizes["keys"]), dtype, device, scale=sizes["keys"] ** -0.5) for _ in range(2))
    v = random((batch, time, heads, sizes["values"]), dtype, device)
    # Memories of a step to a thousand
    log_decay = -random((batch, time, heads), torch.float32, "cpu", scale=1.5, shift=-3.0).exp().to(device, accumulator(dtype))
    state = random((batch, heads, sizes["keys"], sizes["values"]), accumulator(dtype), device)
    return tuple(x.requires_grad_() for x in (q, k, v, log_decay, state))


def _spec_run(q, k, v, log_decay, state, *, decay=True, **options):
    out, last = linear_attention(q, k, v, *((log_decay, state) if decay else ()), **options)
    return out, last.to(v.dtype)  # in 16 bits its terms have been rounded, and it is compared so


def _cost(sizes, dtype, direction):
    steps, keys, values = sizes["batch"] * sizes["time"], sizes["keys"], sizes["values"]
    read = 2 * sizes["groups"] * keys + sizes["heads"] * values  # numbers of q, k and v a step
    # forward: two products with a state and half of two within a chunk of 64; backward: five and six, and two to know the states again
    products = steps * sizes["heads"] * (keys * values, 64 * (keys + values) / 2)
    if direction == "forward":
        return Cost(bytes=steps * (read + sizes["heads"] * values) * dtype.itemsize, flops=2 * (2 * products[0] + products[1]))
    return Cost(bytes=steps * (2 * read + sizes["heads"] * values) * dtype.itemsize, flops=2 * (5 * products[0] + 3 * products[1]))


def _quadratic(q, k, v, log_decay, state):
    """All T x T weights at once."""
    out, last = reference(q, k, v, log_decay, state, chunk=max(v.shape[1], 1))
    return out, last.to(v.dtype)


def _fla(q, k, v, log_decay, state):
    from fla.ops.simple_gla import chunk_simple_gla

    share = v.shape[2] // k.shape[2]
    q, k = (x.repeat_interleave(share, 2) for x in (q, k))
    out, last = chunk_simple_gla(q, k, v, log_decay, scale=1.0, initial_state=state, output_final_state=True)
    return out, last.to(v.dtype)


def _builds():
    for dtype, pointer in POINTER.items():
        if dtype == torch.float16:
            continue  # shares the table of bfloat16
        acc, cores = ("*fp64" if dtype == torch.float64 else "*fp32"), {2: "wgmma", 4: "", 8: "mma"}[dtype.itemsize]
        chunk, block, warps, *stages = CONFIGS[dtype.itemsize]
        constants = {"ACC": accumulate_in(dtype), "CHUNK": chunk, "BLOCK": block}
        for reverse in (False, True):
            pointers = {"k": pointer, "v": pointer, **dict.fromkeys(("log_decay", "start", "states", "last"), acc)}
            sizes = dict.fromkeys(("T", "H", "HK", "HV", "DK", "DV", "N"), "i32")
            more = {**constants, "REVERSE": reverse, "STAGES": stages[0]}
            yield Build("_states_kernel", {**pointers, **sizes}, more, warps, 1, cores, ("DK", "DV"))
            for turned in (False, True):
                pointers = {"a": pointer, "b": pointer, "x": pointer, "log_decay": acc, "states": acc, "out": pointer}
                if turned:
                    pointers |= {"y": pointer, "dlog": acc, **({"before": acc} if reverse else {})}
                absent = dict.fromkeys({"y", "before", "dlog"} - set(pointers))
                sizes = dict.fromkeys(("T", "H", "HA", "HX", "DA", "DX", "N"), "i32")
                more = {**constants, **absent, "REVERSE": reverse, "TURNED": turned, "STAGES": stages[1]}
                yield Build("_mix_kernel", {**pointers, **sizes}, more, warps, 1, cores, ("DA", "DX"))


def _sizes(batch, time, heads, groups, keys, values):
    return {"batch": batch, "time": time, "heads": heads, "groups": groups, "keys": keys, "values": values}


SPEC = Spec(
    name="linear_attention",
    summary="Causal linear attention with or without decay, in chunks, without storing a state a step or a table of weights.",
    run=_spec_run,
    inputs=_inputs,
    dtypes=tuple(POINTER),
    shapes={
        "4 x 8192, 16 heads of 128": _sizes(4, 8192, 16, 16, 128, 128),
        "4 x 8192, 32 heads of 64, one key head": _sizes(4, 8192, 32, 1, 128, 64),
        "small, 1 x 512, 4 heads of 64": _sizes(1, 512, 4, 4, 64, 64),
    },
    tails=(
        _sizes(1, 1, 1, 1, 1, 1),
        _sizes(1, 63, 2, 1, 3, 5),
        _sizes(2, 65, 1, 1, 5, 3),
        _sizes(1, 5, 1, 1, 65, 34),
        _sizes(1, 0, 2, 1, 3, 4),
    ),
    probe=_sizes(1, 34, 1, 1, 33, 5),
    cost=_cost,
    directions=("forward", "backward"),
    variants=({}, {"decay": False}),
    baselines={"quadratic": _quadratic, "fla": _fla},
    targets={"compile": {"4 x 8192, 16 heads of 128": 2.0}, "fla": {"4 x 8192, 16 heads of 128": 0.9}},
    builds=tuple(_builds()) if triton else (),
    gpu=(
        _sizes(1, 1, 1, 1, 16, 16), _sizes(2, 130, 4, 2, 63, 40), _sizes(1, 513, 4, 4, 64, 64), _sizes(2, 300, 4, 1, 128, 65),
        _sizes(1, 1000, 2, 2, 100, 128),
    ),  # fmt: skip
    operators=("linear_attention_forward", "linear_attention_backward"),
)
