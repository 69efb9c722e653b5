"""Mamba's scan: decays, states, read-out, skip and gate of a whole sequence without a table of states.

Plain PyTorch writes decays, inputs and states of size B T E N to memory, N times as much as the input. Here a program owns some
channels of one sequence and keeps their N numbers each in registers from the first step to the last. For the gradient it
stores the states of every eighth step and computes the others again, eight at a time, in registers.

Source: Gu and Dao 2023, arXiv:2312.00752, algorithm 2 and section 3.3.2 (states stay on chip and are recomputed).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from vocab.kernels.dispatch import accumulate_in, accumulator, jit, register, tl, triton, use_triton
from vocab.kernels.scan import reference as states
from vocab.kernels.spec import POINTER, Build, Cost, Spec, random

__all__ = ["SPEC", "applies", "fused", "reference", "selective_scan"]

# B batch, T time, E channels, N numbers of state per channel

# Fewer steps than this are not worth a launch. Provisional until measured here.
WORTHWHILE_STEPS = 8
# Numbers of state up to -> (channels a program, warps)
CONFIGS = {16: (32, 4), 64: (8, 4), 256: (2, 4)}


@jit(do_not_specialize=["T"])
def _forward_kernel(
    u, dt, A, B, C, D, z, h0, y, starts, end, T, z_batch, z_time,
    E: tl.constexpr, N: tl.constexpr, ACC: tl.constexpr, BLOCK: tl.constexpr, STATE: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    blocks: tl.constexpr = (E + BLOCK - 1) // BLOCK
    batch = (tl.program_id(0) // blocks).to(tl.int64)
    channel = (tl.program_id(0) % blocks).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    number = tl.arange(0, STATE)
    live, kept = channel < E, number < N
    whole = live[:, None] & kept[None, :]
    place = channel[:, None] * N + number[None, :]
    rate = tl.load(A + place, whole, other=0.0)
    h = tl.zeros((BLOCK, STATE), ACC)
    if h0 is not None:
        h += tl.load(h0 + batch * E * N + place, whole, other=0.0)
    time = tl.full((), 0, tl.int64)
    for _ in tl.range(0, T, STEPS):
        if starts is not None:
            tl.store(starts + (batch * tl.cdiv(T, STEPS) + time // STEPS) * E * N + place, h, whole)
        for _ in tl.static_range(STEPS):
            # A step past the end is one of no duration: nothing decays and nothing is written.
            now, there = live & (time < T), kept & (time < T)
            row = batch * T + time
            drive = tl.load(u + row * E + channel, now, other=0.0).to(ACC)
            step = tl.load(dt + row * E + channel, now, other=0.0).to(ACC)
            written = tl.load(B + row * N + number, there, other=0.0).to(ACC)
            read = tl.load(C + row * N + number, there, other=0.0).to(ACC)
            h = tl.exp(step[:, None] * rate) * h + (step * drive)[:, None] * written[None, :]
            out = tl.sum(h * read[None, :], 1)
            if D is not None:
                out += tl.load(D + channel, live, other=0.0) * drive
            if z is not None:
                gate = tl.load(z + batch * z_batch + time * z_time + channel, now, other=0.0).to(ACC)
                out *= gate * tl.sigmoid(gate)
            tl.store(y + row * E + channel, out.to(y.dtype.element_ty), now)
            time += 1
    tl.store(end + batch * E * N + place, h, whole)


@jit(do_not_specialize=["T"])
def _backward_kernel(
    dy, dend, u, dt, A, B, C, D, z, starts, du, ddt, dA, dB, dC, dD, dz, dh0, T, z_batch, z_time,
    E: tl.constexpr, N: tl.constexpr, ACC: tl.constexpr, BLOCK: tl.constexpr, STATE: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    # E and N are constants so that the rows of eight steps lie at fixed distances: as variables they take all registers.
    blocks: tl.constexpr = (E + BLOCK - 1) // BLOCK
    batch, block = (tl.program_id(0) // blocks).to(tl.int64), tl.program_id(0) % blocks
    channel = block.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    number = tl.arange(0, STATE)
    live, kept = channel < E, number < N
    whole = live[:, None] & kept[None, :]
    place = channel[:, None] * N + number[None, :]
    rate = tl.load(A + place, whole, other=0.0)
    carried = tl.load(dend + batch * E * N + place, whole, other=0.0)  # gradient of the state after a step
    drate = tl.zeros((BLOCK, STATE), ACC)
    skip, dskip = tl.zeros((BLOCK,), ACC), tl.zeros((BLOCK,), ACC)
    if D is not None:
        skip += tl.load(D + channel, live, other=0.0)
    first = tl.full((), 0, tl.int64) + (tl.cdiv(T, STEPS) - 1) * STEPS
    for _ in tl.range(0, T, STEPS):
        h = tl.load(starts + (batch * tl.cdiv(T, STEPS) + first // STEPS) * E * N + place, whole, other=0.0)
        past = ()
        for i in tl.static_range(STEPS):
            time = first + i
            now = live & (time < T)
            row = batch * T + time
            drive = tl.load(u + row * E + channel, now, other=0.0).to(ACC)
            step = tl.load(dt + row * E + channel, now, other=0.0).to(ACC)
            written = tl.load(B + row * N + number, kept & (time < T), other=0.0).to(ACC)
            past = past + (h,)
            h = tl.exp(step[:, None] * rate) * h + (step * drive)[:, None] * written[None, :]
        for i in tl.static_range(STEPS):
            time = first + (STEPS - 1 - i)
            now, there = live & (time < T), kept & (time < T)
            row = batch * T + time
            drive = tl.load(u + row * E + channel, now, other=0.0).to(ACC)
            step = tl.load(dt + row * E + channel, now, other=0.0).to(ACC)
            decay = tl.exp(step[:, None] * rate)
            before = decay * past[STEPS - 1 - i]
            written = tl.load(B + row * N + number, there, other=0.0).to(ACC)
            read = tl.load(C + row * N + number, there, other=0.0).to(ACC)
            upstream = tl.load(dy + row * E + channel, now, other=0.0).to(ACC)
            h = before + (step * drive)[:, None] * written[None, :]
            if z is not None:
                gate = tl.load(z + batch * z_batch + time * z_time + channel, now, other=0.0).to(ACC)
                open_ = tl.sigmoid(gate)
                out = tl.sum(h * read[None, :], 1) + skip * drive
                tl.store(dz + row * E + channel, (upstream * out * open_ * (1.0 + gate * (1.0 - open_))).to(dz.dtype.element_ty), now)
                upstream *= gate * open_
            carried += upstream[:, None] * read[None, :]
            share = (row * blocks + block) * N + number
            tl.store(dC + share, tl.sum(upstream[:, None] * h, 0), there)
            tl.store(dB + share, tl.sum(carried * (step * drive)[:, None], 0), there)
            along = tl.sum(carried * written[None, :], 1)
            through = carried * before
            tl.store(du + row * E + channel, (step * along + skip * upstream).to(du.dtype.element_ty), now)
            tl.store(ddt + row * E + channel, (drive * along + tl.sum(through * rate, 1)).to(ddt.dtype.element_ty), now)
            drate += through * step[:, None]
            dskip += upstream * drive
            carried *= decay
        first -= STEPS
    tl.store(dA + batch * E * N + place, drate, whole)
    tl.store(dD + batch * E + channel, dskip, live)
    tl.store(dh0 + batch * E * N + place, carried, whole)


def _config(numbers: int) -> tuple[int, int, int]:
    return next((most, *config) for most, config in CONFIGS.items() if numbers <= most)


def _steps(u: Tensor) -> int:
    """Steps between stored states; the gradient keeps so many states in registers."""
    return 2 if u.dtype == torch.float64 else 8


def _gate(z: Tensor | None) -> tuple:
    """A gate whose channels have no gaps, for it is often half of a wider projection; and its other strides."""
    if z is None:
        return None, 0, 0
    z = z if z.stride(2) == 1 else z.contiguous()
    return z, *z.stride()[:2]


def _forward_launch(u, dt, A, B, C, D, z, h0, training):
    y, starts, end = _forward_fake(u, dt, A, B, C, D, z, h0, training)
    (batch, time, channels), numbers = u.shape, A.shape[1]
    if end.numel():
        state, block, warps = _config(numbers)
        blocks = -(-channels // block)
        u, dt, A, B, C, D, h0 = (None if x is None else x.contiguous() for x in (u, dt, A, B, C, D, h0))
        z, *strides = _gate(z)
        _forward_kernel[(batch * blocks,)](
            u, dt, A, B, C, D, z, h0, y, starts if training else None, end, time, *strides,
            E=channels, N=numbers, ACC=accumulate_in(u.dtype), BLOCK=block, STATE=state, STEPS=_steps(u), num_warps=warps,
        )  # fmt: skip
    return y, starts, end


def _forward_fake(u, dt, A, B, C, D, z, h0, training):
    wide, (batch, time, _) = accumulator(u.dtype), u.shape
    starts = (batch, -(-time // _steps(u)), *A.shape) if training else (0,)
    end = torch.empty((batch, *A.shape), dtype=wide, device=u.device)
    return torch.empty(u.shape, dtype=u.dtype, device=u.device), torch.empty(starts, dtype=wide, device=u.device), end


def _forward_plain(u, dt, A, B, C, D, z, h0, training):
    y, end = reference(u, dt, A, B, C, D, z, h0)
    starts = _states(u, dt, A, B, h0)[0][:, :: _steps(u)] if training else end.new_empty(0)
    return y.contiguous(), starts.contiguous(), end.clone()


def _backward_launch(dy, dend, u, dt, A, B, C, D, z, starts):
    du, ddt, dA, dB, dC, dD, dz, dh0 = _backward_fake(dy, dend, u, dt, A, B, C, D, z, starts)
    (batch, time, channels), numbers = u.shape, A.shape[1]
    if not dh0.numel():
        return du, ddt, dA.zero_(), dB.zero_(), dC.zero_(), dD.zero_(), dz, dh0
    state, block, warps = _config(numbers)
    blocks = -(-channels // block)
    empty = dict(dtype=accumulator(u.dtype), device=u.device)
    # Every program has its own part of the sums that go over programs.
    parts = torch.empty((batch, channels, numbers), **empty), torch.empty((batch, channels), **empty)
    shares = [torch.empty((batch, time, blocks, numbers), **empty) for _ in range(2)]
    dy, dend, u, dt, A, B, C, D, starts = (None if x is None else x.contiguous() for x in (dy, dend, u, dt, A, B, C, D, starts))
    z, *strides = _gate(z)
    _backward_kernel[(batch * blocks,)](
        dy, dend, u, dt, A, B, C, D, z, starts, du, ddt, parts[0], *shares, parts[1], None if z is None else dz, dh0, time, *strides,
        E=channels, N=numbers, ACC=accumulate_in(u.dtype), BLOCK=block, STATE=state, STEPS=_steps(u), num_warps=warps,
    )  # fmt: skip
    dB, dC = (share.sum(2).to(x.dtype) for share, x in zip(shares, (B, C)))
    return du, ddt, parts[0].sum(0), dB, dC, parts[1].sum(0), dz, dh0


def _backward_fake(dy, dend, u, dt, A, B, C, D, z, starts):
    def like(x, shape=None):
        return torch.empty(x.shape if shape is None else shape, dtype=x.dtype, device=u.device)

    return like(u), like(dt), like(A), like(B), like(C), like(A, A.shape[:1]), like(u, (0,)) if z is None else like(z), like(dend)


def _backward_plain(dy, dend, u, dt, A, B, C, D, z, starts):
    h0 = starts[:, 0] if starts.shape[1] else dend
    dtypes = [x.dtype for x in (u, dt, A, B, C, A, u if z is None else z, dend)]
    u, dt, B, C, dy = (x.to(dend.dtype) for x in (u, dt, B, C, dy))
    decay, (before, h, _) = _decays(dt, A, dend.dtype), _states(u, dt, A, B, h0)
    gate = None if z is None else z.to(dend.dtype)
    skip = torch.zeros_like(A[:, 0]) if D is None else D
    dz = dy.new_empty(0)
    if gate is not None:
        open_ = gate.sigmoid()
        dz = dy * ((h * C[:, :, None]).sum(-1) + skip * u) * open_ * (1 + gate * (1 - open_))
        dy = dy * gate * open_
    # h_t reaches h_{t+1} through the decay of t + 1, and the last state is a result of its own.
    upstream = torch.cat([dy[..., None] * C[:, :, None], dend[:, None]], 1)
    carried = states(torch.cat([decay, torch.zeros_like(decay[:, :1])], 1)[:, 1:], upstream[:, :-1], None, reverse=True)
    carried = carried + torch.cat([decay, torch.ones_like(dend[:, None])], 1)[:, 1:].flip(1).cumprod(1).flip(1) * dend[:, None]
    through = carried * before * decay
    along = (carried * B[:, :, None]).sum(-1)
    found = (
        dt * along + skip * dy, u * along + (through * A).sum(-1), (through * dt[..., None]).sum((0, 1)),
        (carried * (dt * u)[..., None]).sum(2), (dy[..., None] * h).sum(2), (dy * u).sum((0, 1)), dz,
        decay[:, 0] * carried[:, 0] if u.shape[1] else dend,
    )  # fmt: skip
    return tuple(x.to(dtype).clone(memory_format=torch.contiguous_format) for x, dtype in zip(found, dtypes))


_forward = register(
    "vocab::selective_scan_forward",
    "(Tensor u, Tensor dt, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? z, Tensor? h0, bool training) -> (Tensor, Tensor, Tensor)",
    launch=_forward_launch,
    plain=_forward_plain,
    fake=_forward_fake,
)
_backward = register(
    "vocab::selective_scan_backward",
    "(Tensor dy, Tensor dend, Tensor u, Tensor dt, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? z, Tensor starts) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    launch=_backward_launch,
    plain=_backward_plain,
    fake=_backward_fake,
)


class _SelectiveScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx, u, dt, A, B, C, D, z, h0, training):
        y, starts, end = _forward(u, dt, A, B, C, D, z, h0, training)
        ctx.save_for_backward(u, dt, A, B, C, D, z, starts)
        ctx.started = h0 is not None
        return y, end

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, dy, dend):
        du, ddt, dA, dB, dC, dD, dz, dh0 = _backward(dy, dend, *ctx.saved_tensors)
        D, z = ctx.saved_tensors[5:7]
        return du, ddt, dA, dB, dC, None if D is None else dD, None if z is None else dz, dh0 if ctx.started else None, None


def selective_scan(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    h0: Tensor | None = None,
    *,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Runs ``h = exp(dt A) h + dt u B`` over time and gives ``(C . h + D u) silu(z)`` and the last h.

    States are kept in float32 (float64 for float64).

    Args:
        u: Input ``(B, T, E)``; contiguous tensors are not copied.
        dt: Step sizes ``(B, T, E)``.
        A: Rates ``(E, N)``, negative.
        B: What is written ``(B, T, N)``.
        C: What is read ``(B, T, N)``.
        D: Weight ``(E,)`` of the path around the state.
        z: Gate ``(B, T, E)`` before its SiLU; rows may be apart, as in half of a wider projection.
        h0: The state before the first step ``(B, E, N)``; zero if not given.
        backend: ``"auto"``, ``"torch"`` or ``"triton"``.

    Returns:
        ``(B, T, E)`` in the dtype of ``u``, and the state after the last step ``(B, E, N)`` in at least float32.
    """
    return (fused if applies(u, A, backend) else reference)(u, dt, A, B, C, D, z, h0)


def applies(u: Tensor, A: Tensor, backend: str, axis: int = 1) -> bool:
    """Whether the kernel is to run over time on ``axis``; raises where it was asked for and cannot."""
    limit = None
    if u.dtype not in POINTER:
        limit = f"u has dtype {u.dtype}"
    elif A.shape[1] > max(CONFIGS):
        limit = f"A has {A.shape[1]} numbers of state a channel, and the kernel keeps up to {max(CONFIGS)} in registers"
    return use_triton("selective_scan", backend, u, limit=limit, worthwhile=u.shape[axis] >= WORTHWHILE_STEPS)


def fused(u, dt, A, B, C, D=None, z=None, h0=None) -> tuple[Tensor, Tensor]:
    """``selective_scan`` by the kernel, whatever the size."""
    A, D, h0 = (None if x is None else x.to(accumulator(u.dtype)) for x in (A, D, h0))
    training = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in (u, dt, A, B, C, D, z, h0))
    return _SelectiveScan.apply(u, dt, A, B, C, D, z, h0, training)


def reference(u, dt, A, B, C, D=None, z=None, h0=None) -> tuple[Tensor, Tensor]:
    """The same in plain torch, with all states in memory."""
    wide = accumulator(u.dtype)
    _, h, end = _states(u, dt, A, B, h0)
    y = (h * C.to(wide)[:, :, None]).sum(-1)
    if D is not None:
        y = y + D.to(wide) * u.to(wide)
    if z is not None:
        y = y * F.silu(z.to(wide))
    return y.to(u.dtype), end


def _states(u, dt, A, B, h0) -> tuple[Tensor, Tensor, Tensor]:
    """States before and after every step, ``(B, T, E, N)``, and the last."""
    wide = accumulator(u.dtype)
    h0 = torch.zeros((len(u), *A.shape), dtype=wide, device=u.device) if h0 is None else h0.to(wide)
    h = states(_decays(dt, A, wide), (dt.to(wide) * u.to(wide))[..., None] * B.to(wide)[:, :, None], h0)
    all_ = torch.cat([h0[:, None], h], 1)
    return all_[:, :-1], h, all_[:, -1]


def _decays(dt, A, wide) -> Tensor:
    return (dt.to(wide)[..., None] * A.to(wide)).exp()


def _inputs(sizes, dtype, device):
    batch, time, channels, numbers = sizes["batch"], sizes["time"], sizes["channels"], sizes["state"]
    wide = accumulator(dtype)
    u, z = (random((batch, time, channels), dtype, device) for _ in range(2))
    dt = random((batch, time, channels), torch.float32, "cpu", scale=0.3, shift=0.5).abs().to(device=device, dtype=dtype)
    A = -random((channels, numbers), torch.float32, "cpu", scale=0.5, shift=1.0).abs().to(device=device, dtype=wide)
    B, C = (random((batch, time, numbers), dtype, device) for _ in range(2))
    D, h0 = random((channels,), wide, device), random((batch, channels, numbers), wide, device)
    return tuple(x.requires_grad_() for x in (u, dt, A, B, C, D, z, h0))


def _spec_run(u, dt, A, B, C, D, z, h0, *, bare=False, backend="auto"):
    more = (None, None, None) if bare else (D, z, h0)
    return selective_scan(u, dt, A, B, C, *more, backend=backend)


def _cost(sizes, dtype, direction):
    rows = sizes["batch"] * sizes["time"]
    # forward reads u, dt and z and writes y; backward reads those and dy and writes three gradients; B and C come beside them
    wide, narrow, flops = (4, 2, 7) if direction == "forward" else (7, 4, 25)
    numbers = rows * (wide * sizes["channels"] + narrow * sizes["state"])
    return Cost(bytes=numbers * dtype.itemsize, flops=flops * rows * sizes["channels"] * sizes["state"])


def _loop(u, dt, A, B, C, D, z, h0):
    """Step by step, without a table of states."""
    wide, outputs = accumulator(u.dtype), []
    u_, dt_, B_, C_ = (x.to(wide) for x in (u, dt, B, C))
    h = h0
    for t in range(u.shape[1]):
        h = torch.exp(dt_[:, t, :, None] * A) * h + (dt_[:, t] * u_[:, t])[..., None] * B_[:, t, None]
        outputs.append((h @ C_[:, t, :, None])[..., 0])
    return ((torch.stack(outputs, 1) + D * u_) * F.silu(z.to(wide))).to(u.dtype), h


def _mamba_ssm(u, dt, A, B, C, D, z, h0):
    """Without a first state, which it does not take: it has less to do."""
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

    y, end = selective_scan_fn(*(x.transpose(1, 2) for x in (u, dt)), A, *(x.transpose(1, 2) for x in (B, C)), D, z.transpose(1, 2), return_last_state=True)
    return y.transpose(1, 2), end


def _builds():
    for dtype, pointer in POINTER.items():
        acc = "*fp64" if dtype == torch.float64 else "*fp32"
        for state, (block, warps) in CONFIGS.items():
            if dtype != torch.bfloat16 and state != 16:
                continue  # the dtypes share one table

            def at(sizes, state=state):
                return _config(sizes["state"])[0] == state

            sizes = {"T": "i32", "z_batch": "i64", "z_time": "i64"}
            steps = _steps(torch.empty(0, dtype=dtype))
            constants = {"E": 4096, "N": state, "ACC": accumulate_in(dtype), "BLOCK": block, "STATE": state, "STEPS": steps}
            more = dict(num_warps=warps, multiples=("z_batch", "z_time"), at=at)
            data = {n: pointer for n in ("u", "dt", "B", "C", "z")} | {n: acc for n in ("A", "D")}
            yield Build("_forward_kernel", {**data, "h0": acc, "y": pointer, "starts": acc, "end": acc, **sizes}, constants, **more)
            gradients = {n: pointer for n in ("dy", "du", "ddt", "dz")} | {n: acc for n in ("dend", "starts", "dA", "dB", "dC", "dD", "dh0")}
            yield Build("_backward_kernel", {**data, **gradients, **sizes}, constants, **more)


SPEC = Spec(
    name="selective_scan",
    summary="Mamba's scan with read-out, skip and gate; states stay in registers.",
    run=_spec_run,
    inputs=_inputs,
    dtypes=tuple(POINTER),
    shapes={
        # Small enough for the tables that autograd keeps of plain torch
        "2 x 2048, E=4096, N=16": {"batch": 2, "time": 2048, "channels": 4096, "state": 16},
        "8 x 1024, E=1536, N=16": {"batch": 8, "time": 1024, "channels": 1536, "state": 16},
        "small, 2 x 128, E=256, N=16": {"batch": 2, "time": 128, "channels": 256, "state": 16},
    },
    tails=(
        {"batch": 1, "time": 1, "channels": 1, "state": 1},
        {"batch": 2, "time": 9, "channels": 33, "state": 3},
        {"batch": 1, "time": 63, "channels": 2, "state": 5},
        {"batch": 1, "time": 3, "channels": 9, "state": 63},
        {"batch": 1, "time": 2, "channels": 3, "state": 65},
        {"batch": 2, "time": 5, "channels": 0, "state": 4},
        {"batch": 2, "time": 0, "channels": 3, "state": 4},
    ),
    probe={"batch": 2, "time": 11, "channels": 34, "state": 5},
    cost=_cost,
    directions=("forward", "backward"),
    variants=({}, {"bare": True}),
    baselines={"loop": _loop, "mamba_ssm": _mamba_ssm},
    targets={
        "eager": {"2 x 2048, E=4096, N=16": 20.0},
        "compile": {"2 x 2048, E=4096, N=16": 10.0},
        "mamba_ssm": {"2 x 2048, E=4096, N=16": 0.8},
    },
    builds=tuple(_builds()) if triton else (),
    gpu=tuple({"batch": b, "time": t, "channels": e, "state": n} for b, t, e, n in ((1, 1, 1, 1), (2, 65, 33, 63), (1, 9, 7, 255), (3, 1000, 65, 15))),
    operators=("selective_scan_forward", "selective_scan_backward"),
)
