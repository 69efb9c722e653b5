"""First-order recurrence ``h_t = a_t h_{t-1} + b_t`` over a whole sequence, and its gradient, which is the same backwards in time.

A tree of joins in plain PyTorch passes over memory in every round. Here a program owns a block of channels and keeps their
states in registers. Where channels alone do not fill the GPU, time is cut into chunks: a first pass gives each chunk's
product of decays and its end state from zero, the recurrence over these gives each chunk's start, a last pass runs the chunks.

Source: Blelloch 1990, CMU-CS-90-190, section 1.4; the gradient as a scan in reverse: Martin and Cundy 2018, arXiv:1709.04057,
section 2.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vocab.kernels.dispatch import accumulate_in, accumulator, jit, register, tl, triton, use_triton
from vocab.kernels.spec import POINTER, Build, Cost, Spec, random

__all__ = ["SPEC", "applies", "fused", "reference", "scan"]

# O outer, T time, I inner; a channel is one place of (O, I)

# Fewer steps than this are not worth a launch. Provisional until measured here.
WORTHWHILE_STEPS = 8
# Chunks are made until so many recurrences run side by side: half of the threads that an H200 holds, 132 times 2,048.
PARALLEL = 2**17
SHORTEST = 8  # steps of a chunk; a multiple of all STEPS
# Whether time is innermost -> (channels, steps at once, warps, stages). If so, a thread reads several steps of its own channel at once.
CONFIGS = {False: (64, 1, 1, 4), True: (32, 4, 1, 1)}


@jit
def _step(tile, now):
    """The column of a tile that ``now`` marks; the mask is folded away, so that no thread asks another."""
    return tl.sum(tl.where(now, tile, 0.0), 1)


@jit(do_not_specialize=["chunk"])
def _summary_kernel(
    a, b, decay, end, T, chunk, channels, inner, a_outer, a_time, a_inner, b_outer, b_time, b_inner,
    GRADIENT: tl.constexpr, REVERSE: tl.constexpr, ACC: tl.constexpr, BLOCK: tl.constexpr, STEPS: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    channel = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    live = channel < channels
    outer, lane = channel // inner, channel % inner
    a_rows = a + (outer * a_outer + lane * a_inner)[:, None]
    b_rows = b + (outer * b_outer + lane * b_inner)[:, None]
    steps = tl.arange(0, STEPS)
    product = tl.full((BLOCK,), 1.0, ACC)
    state = tl.zeros((BLOCK,), ACC)
    for done in tl.range(0, chunk, STEPS, num_stages=STAGES):
        time = tl.multiple_of(tl.program_id(1) * chunk + (chunk - STEPS - done if REVERSE else done), STEPS) + steps
        inside = live[:, None] & (time < T)[None, :]
        far = time.to(tl.int64)[None, :]  # times a stride it may exceed 32 bits
        # Past the end a step keeps the state as it is.
        keep = tl.load(a_rows + far * a_time, inside, other=1.0).to(ACC)
        add = tl.load(b_rows + far * b_time, inside, other=0.0).to(ACC)
        if GRADIENT:
            add *= keep
        for i in tl.static_range(STEPS):
            now = steps[None, :] == (STEPS - 1 - i if REVERSE else i)
            kept = _step(keep, now)
            product *= kept
            state = kept * state + _step(add, now)
    place = (outer * tl.num_programs(1) + tl.program_id(1)) * inner + lane
    tl.store(decay + place, product, live)
    tl.store(end + place, state, live)


@jit(do_not_specialize=["chunk"])
def _forward_kernel(
    a, b, h0, ends, h, T, chunk, channels, inner, a_outer, a_time, a_inner, b_outer, b_time, b_inner,
    REVERSE: tl.constexpr, ACC: tl.constexpr, BLOCK: tl.constexpr, STEPS: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    channel = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    live = channel < channels
    outer, lane = channel // inner, channel % inner
    number, chunks = tl.program_id(1), tl.num_programs(1)
    a_rows = a + (outer * a_outer + lane * a_inner)[:, None]
    b_rows = b + (outer * b_outer + lane * b_inner)[:, None]
    h_rows = h + (outer * T * inner + lane)[:, None]
    steps = tl.arange(0, STEPS)
    state = tl.zeros((BLOCK,), ACC)
    if ends is not None:
        earlier = number + 1 if REVERSE else number - 1
        there = live & (earlier >= 0) & (earlier < chunks)
        state += tl.load(ends + (outer * chunks + earlier) * inner + lane, there, other=0.0)
    if h0 is not None:
        state += tl.load(h0 + channel, live & (number == (chunks - 1 if REVERSE else 0)), other=0.0)
    for done in tl.range(0, chunk, STEPS, num_stages=STAGES):
        time = tl.multiple_of(number * chunk + (chunk - STEPS - done if REVERSE else done), STEPS) + steps
        inside = live[:, None] & (time < T)[None, :]
        far = time.to(tl.int64)[None, :]
        keep = tl.load(a_rows + far * a_time, inside, other=1.0).to(ACC)
        add = tl.load(b_rows + far * b_time, inside, other=0.0).to(ACC)
        out = tl.zeros((BLOCK, STEPS), ACC)
        for i in tl.static_range(STEPS):
            now = steps[None, :] == (STEPS - 1 - i if REVERSE else i)
            state = _step(keep, now) * state + _step(add, now)
            out = tl.where(now, state[:, None], out)
        tl.store(h_rows + far * inner, out.to(h.dtype.element_ty), inside)


@jit(do_not_specialize=["chunk"])
def _backward_kernel(
    dh, a, h, h0, ends, da, db, dh0, T, chunk, channels, inner, a_outer, a_time, a_inner,
    REVERSE: tl.constexpr, ACC: tl.constexpr, BLOCK: tl.constexpr, STEPS: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    channel = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    live = channel < channels
    outer, lane = channel // inner, channel % inner
    number, chunks = tl.program_id(1), tl.num_programs(1)
    a_rows = a + (outer * a_outer + lane * a_inner)[:, None]
    steps = tl.arange(0, STEPS)
    first = tl.zeros((BLOCK,), ACC)
    if h0 is not None:
        first += tl.load(h0 + channel, live, other=0.0)
    carried = tl.zeros((BLOCK,), ACC)  # gradient that a step hands to the state before it
    if ends is not None:
        later = number + 1 if REVERSE else number - 1
        there = live & (later >= 0) & (later < chunks)
        carried += tl.load(ends + (outer * chunks + later) * inner + lane, there, other=0.0)
    for done in tl.range(0, chunk, STEPS, num_stages=STAGES):
        time = tl.multiple_of(number * chunk + (chunk - STEPS - done if REVERSE else done), STEPS) + steps
        inside = live[:, None] & (time < T)[None, :]
        far = time.to(tl.int64)[None, :]
        place = (outer[:, None] * T + far) * inner + lane[:, None]
        keep = tl.load(a_rows + far * a_time, inside, other=1.0).to(ACC)
        upstream = tl.load(dh + place, inside, other=0.0).to(ACC)
        begins = (time == (0 if REVERSE else T - 1))[None, :]  # where the scan began this pass ends
        before = tl.load(h + place + (-inner if REVERSE else inner), inside & ~begins, other=0.0).to(ACC)
        before += tl.where(begins, first[:, None], 0.0)
        out = tl.zeros((BLOCK, STEPS), ACC)
        for i in tl.static_range(STEPS):
            now = steps[None, :] == (STEPS - 1 - i if REVERSE else i)
            gradient = _step(upstream, now) + carried
            carried = _step(keep, now) * gradient
            out = tl.where(now, gradient[:, None], out)
        tl.store(db + place, out.to(db.dtype.element_ty), inside)
        tl.store(da + place, (out * before).to(da.dtype.element_ty), inside)
    tl.store(dh0 + channel, carried, live & (number == (0 if REVERSE else chunks - 1)))


def _chunk(time: int, channels: int) -> int:
    """Steps of a chunk: not so few that the pass over chunks is longer than a chunk; all steps where channels are enough."""
    chunk = SHORTEST
    while chunk < time and (chunk * chunk < time or chunk * PARALLEL < time * channels):
        chunk *= 2
    return chunk


def _run(kernel, a, tensors, chunk, strided, reverse, **more):
    """Launches one pass; ``tensors`` are the kernel's pointers, ``strided`` those whose strides it takes."""
    outer, time, inner = a.shape
    block, steps, warps, stages = CONFIGS[inner == 1]
    kernel[(-(-outer * inner // block), -(-time // chunk))](
        *tensors, time, chunk, outer * inner, inner, *(s for x in strided for s in x.stride()),
        **more, REVERSE=reverse, ACC=accumulate_in(a.dtype), BLOCK=block, STEPS=steps, STAGES=stages, num_warps=warps,
    )  # fmt: skip


def _ends(a, b, h0, chunk, reverse, gradient):
    """The state after every chunk, or None where there is one chunk."""
    outer, time, inner = a.shape
    chunks = -(-time // chunk)
    if chunks == 1:
        return None
    wide = accumulator(a.dtype)
    decay, end, ends = (torch.empty((outer, chunks, inner), dtype=wide, device=a.device) for _ in range(3))
    _run(_summary_kernel, a, (a, b, decay, end), chunk, (a, b), reverse, GRADIENT=gradient)
    whole = -(-chunks // SHORTEST) * SHORTEST
    _run(_forward_kernel, decay, (decay, end, h0, None, ends), whole, (decay, end), reverse)
    return ends


def _forward_launch(a, b, h0, reverse):
    h = _forward_fake(a, b, h0, reverse)
    if h.numel():
        chunk = _chunk(a.shape[1], a.shape[0] * a.shape[2])
        h0 = None if h0 is None else h0.contiguous()
        ends = _ends(a, b, h0, chunk, reverse, False)
        _run(_forward_kernel, a, (a, b, h0, ends, h), chunk, (a, b), reverse)
    return h


def _forward_fake(a, b, h0, reverse):
    return torch.empty(b.shape, dtype=b.dtype, device=b.device)


def _forward_plain(a, b, h0, reverse):
    return _states(a, b, h0, reverse).to(b.dtype).contiguous()


def _backward_launch(dh, a, h, h0, reverse):
    da, db, dh0 = _backward_fake(dh, a, h, h0, reverse)
    if h.numel():
        chunk = _chunk(a.shape[1], a.shape[0] * a.shape[2])
        dh, h0 = dh.contiguous(), None if h0 is None else h0.contiguous()
        # What is handed back is a recurrence too: carried <- a (dh + carried).
        ends = _ends(a, dh, None, chunk, not reverse, True)
        _run(_backward_kernel, a, (dh, a, h.contiguous(), h0, ends, da, db, dh0), chunk, (a,), not reverse)
    return da, db, dh0


def _backward_fake(dh, a, h, h0, reverse):
    da, db = (torch.empty(h.shape, dtype=h.dtype, device=h.device) for _ in range(2))
    return da, db, torch.empty((h.shape[0], h.shape[2]), dtype=accumulator(h.dtype), device=h.device)


def _backward_plain(dh, a, h, h0, reverse):
    if reverse:
        *timed, dh0 = _backward_plain(dh.flip(1), a.flip(1), h.flip(1), h0, False)
        return *(x.flip(1) for x in timed), dh0
    a, wide = a.to(accumulator(a.dtype)), h.to(accumulator(h.dtype))
    shifted = torch.cat([a[:, 1:], torch.zeros_like(a[:, :1])], 1)  # h_t reaches h_{t+1} through a_{t+1}
    gradient = _states(shifted, dh, None, True)
    first = torch.zeros_like(wide[:, 0]) if h0 is None else h0
    before = torch.cat([first[:, None], wide[:, :-1]], 1)
    return (gradient * before).to(h.dtype), gradient.to(h.dtype).contiguous(), a[:, 0] * gradient[:, 0]


_forward = register(
    "vocab::scan_forward",
    "(Tensor a, Tensor b, Tensor? h0, bool reverse) -> Tensor",
    launch=_forward_launch,
    plain=_forward_plain,
    fake=_forward_fake,
)
_backward = register(
    "vocab::scan_backward",
    "(Tensor dh, Tensor a, Tensor h, Tensor? h0, bool reverse) -> (Tensor, Tensor, Tensor)",
    launch=_backward_launch,
    plain=_backward_plain,
    fake=_backward_fake,
)


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(ctx, a, b, h0, reverse):
        h = _forward(a, b, h0, reverse)
        ctx.save_for_backward(a, h, h0)
        ctx.reverse = reverse
        return h

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, dh):
        a, h, h0 = ctx.saved_tensors
        da, db, dh0 = _backward(dh, a, h, h0, ctx.reverse)
        return da, db, None if h0 is None else dh0, None


def scan(a: Tensor, b: Tensor, h0: Tensor | None = None, *, reverse: bool = False, backend: str = "auto") -> Tensor:
    """All states of ``h_t = a_t * h_{t-1} + b_t``.

    States are kept in float32 (float64 for float64) and rounded once, when they are written.

    Args:
        a: What is kept of the state, ``(O, T, I)``; a decay that was expanded over an axis is not copied.
        b: What is added, of the shape and dtype of ``a``.
        h0: The state before the first step, ``(O, I)``; zero if not given.
        reverse: Whether time runs backwards, ``h_t = a_t * h_{t+1} + b_t``.
        backend: ``"auto"``, ``"torch"`` or ``"triton"``.

    Returns:
        The states ``(O, T, I)`` in the dtype of ``b``.
    """
    return (fused if applies(a, b, 1, backend) else reference)(a, b, h0, reverse=reverse)


def applies(a: Tensor, b: Tensor, axis: int, backend: str) -> bool:
    """Whether the kernel is to run over time on ``axis``; raises where it was asked for and cannot."""
    limit = None
    if b.dtype not in POINTER:
        limit = f"b has dtype {b.dtype}"
    elif a.dtype != b.dtype:
        limit = f"a has dtype {a.dtype} and b {b.dtype}"
    return use_triton("scan", backend, b, limit=limit, worthwhile=b.shape[axis] >= WORTHWHILE_STEPS)


def fused(a: Tensor, b: Tensor, h0: Tensor | None = None, *, reverse: bool = False) -> Tensor:
    """``scan`` by the kernel, whatever the size."""
    return _Scan.apply(a, b, None if h0 is None else h0.to(accumulator(b.dtype)), reverse)


def reference(a: Tensor, b: Tensor, h0: Tensor | None = None, *, reverse: bool = False) -> Tensor:
    """The same in plain torch: in each round every step takes in twice as much of its past."""
    return _states(a, b, h0, reverse).to(b.dtype)


def _states(a: Tensor, b: Tensor, h0: Tensor | None, reverse: bool) -> Tensor:
    if reverse:
        return _states(a.flip(1), b.flip(1), h0, False).flip(1)
    wide = accumulator(b.dtype)
    keep, h = a.to(wide), b.to(wide)
    if h0 is not None and a.shape[1]:
        h = torch.cat([keep[:, :1] * h0.to(wide)[:, None] + h[:, :1], h[:, 1:]], 1)
    span = 1
    while span < a.shape[1]:
        h = torch.cat([h[:, :span], keep[:, span:] * h[:, :-span] + h[:, span:]], 1)
        keep = torch.cat([keep[:, :span], keep[:, span:] * keep[:, :-span]], 1)
        span *= 2
    return h


def _inputs(sizes, dtype, device):
    shape = sizes["outer"], sizes["time"], sizes["inner"]
    # Decays on both sides of 0, most of them near 1 in size
    a = torch.tanh(random(shape, torch.float32, "cpu", scale=2.0)).to(device=device, dtype=dtype).requires_grad_()
    b = random(shape, dtype, device).requires_grad_()
    return a, b, random((shape[0], shape[2]), accumulator(dtype), device).requires_grad_()


def _spec_run(a, b, h0, *, time_last=False, backend="auto", **options):
    if time_last:
        a, b = (x.transpose(1, 2).reshape(-1, x.shape[1], 1) for x in (a, b))
        h0 = h0.reshape(-1, 1)
    return scan(a, b, h0, **options, backend=backend)


def _cost(sizes, dtype, direction):
    numbers = sizes["outer"] * sizes["time"] * sizes["inner"]
    # forward reads a and b and writes h; backward reads dh, a and h and writes two gradients
    passes, flops = (3, 2) if direction == "forward" else (5, 3)
    return Cost(bytes=passes * numbers * dtype.itemsize, flops=flops * numbers)


def _associative_scan(a, b, h0):
    from torch._higher_order_ops.associative_scan import associative_scan

    wide = accumulator(b.dtype)
    a, h = a.to(wide), b.to(wide)
    h = torch.cat([a[:, :1] * h0[:, None] + h[:, :1], h[:, 1:]], 1)
    mode = "pointwise" if b.is_cuda else "generic"
    return associative_scan(lambda x, y: (y[0] * x[0], y[0] * x[1] + y[1]), (a, h), dim=1, combine_mode=mode)[1].to(b.dtype)


def _builds():
    for dtype, pointer in POINTER.items():
        acc = "*fp64" if dtype == torch.float64 else "*fp32"
        for last, (block, steps, warps, stages) in CONFIGS.items():
            def at(sizes, last=last):
                return (sizes["inner"] == 1) == last

            flags = {"ACC": accumulate_in(dtype), "BLOCK": block, "STEPS": steps, "STAGES": stages}
            # The stride that is 1, and the strides that are not
            ones, apart = ("time", ("outer",)) if last else ("inner", ("outer", "time"))
            multiples = ("T", "channels", "inner", *(f"{x}_{axis}" for x in "ab" for axis in apart))

            def build(kernel, pointers, reverse, strided, ones=ones, flags=flags, multiples=multiples, warps=warps, at=at, last=last, **more):
                sizes = {n: "i32" for n in ("T", "chunk", "channels", "inner")}
                strides = {f"{x}_{axis}": "i64" for x in strided for axis in ("outer", "time", "inner")}
                fixed = {n: 1 for n in (*(f"{x}_{ones}" for x in strided), *(["inner"] if last else []))}
                signature = {n: t for n, t in {**pointers, **sizes, **strides}.items() if n not in fixed}
                return Build(kernel, signature, {**more, **flags, **fixed, "REVERSE": reverse}, warps, multiples=multiples, at=at)

            for reverse in (False, True):
                if dtype == torch.bfloat16 or not reverse:  # the dtypes share one table
                    pointers = {"a": pointer, "b": pointer, "decay": acc, "end": acc}
                    yield build("_summary_kernel", pointers, reverse, "ab", GRADIENT=reverse)
                    pointers = {"a": pointer, "b": pointer, "h0": acc, "ends": acc, "h": pointer}
                    yield build("_forward_kernel", pointers, reverse, "ab")
                    pointers = {n: pointer for n in ("dh", "a", "h", "da", "db")} | {n: acc for n in ("h0", "ends", "dh0")}
                    yield build("_backward_kernel", pointers, not reverse, "a")


SPEC = Spec(
    name="scan",
    summary="All states of a first-order linear recurrence, forward or backward in time.",
    run=_spec_run,
    inputs=_inputs,
    dtypes=tuple(POINTER),
    shapes={
        "8 x 4096 x 2048": {"outer": 8, "time": 4096, "inner": 2048},
        "1 x 65536 x 512": {"outer": 1, "time": 65_536, "inner": 512},
        "time last, 16384 x 2048": {"outer": 16_384, "time": 2048, "inner": 1},
        "small, 4 x 128 x 64": {"outer": 4, "time": 128, "inner": 64},
    },
    tails=(
        {"outer": 1, "time": 1, "inner": 1},
        {"outer": 2, "time": 63, "inner": 3},
        {"outer": 1, "time": 9, "inner": 65},
        {"outer": 33, "time": 13, "inner": 1},
        {"outer": 2, "time": 5, "inner": 0},
    ),
    probe={"outer": 5, "time": 11, "inner": 7},
    cost=_cost,
    directions=("forward", "backward"),
    variants=({}, {"time_last": True}, {"time_last": True, "reverse": True}),
    baselines={"associative_scan": _associative_scan},
    targets={
        "eager": {"8 x 4096 x 2048": 20.0, "1 x 65536 x 512": 20.0},
        "associative_scan": {"8 x 4096 x 2048": 3.0, "1 x 65536 x 512": 3.0},
    },
    builds=tuple(_builds()) if triton else (),
    gpu=tuple({"outer": o, "time": t, "inner": i} for o, t, i in ((1, 1, 1), (3, 63, 65), (65, 1000, 1), (2, 5000, 33), (3, 33, 70_001))),
    operators=("scan_forward", "scan_backward"),
)
