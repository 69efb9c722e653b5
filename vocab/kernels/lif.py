"""Leaky integrate-and-fire neurons over a whole sequence: one launch forward, one backward through time.

In eager PyTorch every time step is a handful of tiny kernels, and launching them takes longer than computing. Here one
program owns a block of neurons and keeps their membranes in registers from the first step to the last.

Source: the exact step of Gerstner and Kistler 2002, section 4.1; surrogate derivatives of Zenke and Ganguli 2018,
arXiv:1705.11146 (fast sigmoid) and Fang et al. 2021, arXiv:2007.05785 (arctangent).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vocab.kernels.dispatch import accumulate_in, accumulator, jit, register, tl, triton, use_triton
from vocab.kernels.spec import POINTER, Build, Cost, Spec, random

__all__ = ["SPEC", "SURROGATES", "applies", "fused", "lif", "reference", "surrogate_derivative"]

# T steps, M neurons (batch and all)

SURROGATES = ("fast_sigmoid", "atan")
# Fewer steps than this are not worth a kernel. Provisional until measured here.
WORTHWHILE_STEPS = 4
# Neurons -> (neurons a program, warps). Few neurons are spread thin so that every multiprocessor gets some.
CONFIGS = {2**14: (32, 1), 2**17: (128, 2), math.inf: (256, 4)}
PREFETCH = 4  # steps whose inputs are on the way while one is computed


@jit(do_not_specialize=["T", "refractory"])
def _forward_kernel(
    current, v0, wait0, spikes, v, held, wait, T, M,
    decay: tl.float64, gain: tl.float64, v_rest: tl.float64, v_th: tl.float64, v_reset: tl.float64, refractory,
    REFRACTORY: tl.constexpr, SUBTRACT: tl.constexpr, ACC: tl.constexpr, BLOCK: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    decay, gain = tl.full((), decay, ACC), tl.full((), gain, ACC)
    v_rest, v_th, v_reset = tl.full((), v_rest, ACC), tl.full((), v_th, ACC), tl.full((), v_reset, ACC)
    cols = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = cols < M
    membrane = tl.load(v0 + cols, inside, other=0.0)
    left = tl.load(wait0 + cols, inside, other=0)
    step = tl.full((), 0, tl.int64)  # where this time step begins: T * M may exceed 32 bits
    for _ in tl.range(T, num_stages=STAGES):
        drive = tl.load(current + step + cols, inside, other=0.0).to(ACC)
        before_reset = v_rest + decay * (membrane - v_rest) + gain * drive
        fires = before_reset >= v_th
        if REFRACTORY:
            waiting = left > 0
            tl.store(held + step + cols, waiting.to(tl.uint8), inside)
            fires = fires & (left == 0)
            before_reset = tl.where(waiting, membrane, before_reset)
            left = tl.where(fires, refractory, tl.maximum(left - 1, 0))
        if SUBTRACT:
            membrane = tl.where(fires, before_reset - (v_th - v_reset), before_reset)
        else:
            membrane = tl.where(fires, v_reset, before_reset)
        tl.store(spikes + step + cols, fires.to(spikes.dtype.element_ty), inside)
        tl.store(v + step + cols, membrane, inside)
        step += M
    tl.store(wait + cols, left, inside)


@jit(do_not_specialize=["T"])
def _backward_kernel(
    dspikes, dv, current, v, v0, spikes, held, dcurrent, dv0, T, M,
    decay: tl.float64, gain: tl.float64, v_rest: tl.float64, v_th: tl.float64, slope: tl.float64,
    REFRACTORY: tl.constexpr, SUBTRACT: tl.constexpr, ATAN: tl.constexpr, ACC: tl.constexpr, BLOCK: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    decay, gain, v_rest = tl.full((), decay, ACC), tl.full((), gain, ACC), tl.full((), v_rest, ACC)
    v_th, slope = tl.full((), v_th, ACC), tl.full((), slope, ACC)
    cols = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = cols < M
    step = (T - 1).to(tl.int64) * M
    carried = tl.zeros((BLOCK,), ACC)  # gradient of the membrane that this step hands to the next
    for _ in tl.range(T, num_stages=STAGES):
        if dv is not None:
            carried += tl.load(dv + step + cols, inside, other=0.0).to(ACC)
        # The potential before the reset is cheaper to compute again than to keep for every step.
        membrane = tl.load(v + step - M + cols, inside & (step > 0), other=0.0)
        membrane += tl.load(v0 + cols, inside & (step == 0), other=0.0)
        drive = tl.load(current + step + cols, inside, other=0.0).to(ACC)
        before_reset = v_rest + decay * (membrane - v_rest) + gain * drive
        if SUBTRACT:
            grad = carried
        else:
            fired = tl.load(spikes + step + cols, inside, other=0.0) > 0
            grad = tl.where(fired, 0.0, carried)
        if dspikes is not None:
            distance = slope * (before_reset - v_th)
            if ATAN:
                angle = distance * 1.5707963267948966
                derivative = slope * 0.5 / (1.0 + angle * angle)
            else:
                root = 1.0 + tl.abs(distance)
                derivative = 1.0 / (root * root)
            grad += tl.load(dspikes + step + cols, inside, other=0.0).to(ACC) * derivative
        if REFRACTORY:
            waiting = tl.load(held + step + cols, inside, other=0) > 0
            carried = tl.where(waiting, carried, decay * grad)
            grad = tl.where(waiting, 0.0, grad)
        else:
            carried = decay * grad
        tl.store(dcurrent + step + cols, (gain * grad).to(dcurrent.dtype.element_ty), inside)
        step -= M
    tl.store(dv0 + cols, carried, inside)


def _config(neurons: int) -> tuple[int, int]:
    return next(config for most, config in CONFIGS.items() if neurons <= most)


def _forward_launch(current, v0, wait0, decay, gain, v_rest, v_th, v_reset, refractory, subtract):
    spikes, v, held, wait = _forward_fake(current, v0, wait0, decay, gain, v_rest, v_th, v_reset, refractory, subtract)
    steps, neurons = current.shape
    if neurons:
        block, warps = _config(neurons)
        _forward_kernel[(-(-neurons // block),)](
            current.contiguous(), v0.contiguous(), wait0.contiguous(), spikes, v, held, wait, steps, neurons,
            decay, gain, v_rest, v_th, v_reset, refractory,
            REFRACTORY=refractory > 0, SUBTRACT=subtract, ACC=accumulate_in(current.dtype), BLOCK=block, STAGES=PREFETCH,
            num_warps=warps,
        )  # fmt: skip
    return spikes, v, held, wait


def _forward_fake(current, v0, wait0, decay, gain, v_rest, v_th, v_reset, refractory, subtract):
    spikes = torch.empty(current.shape, dtype=current.dtype, device=current.device)
    v = torch.empty(current.shape, dtype=v0.dtype, device=current.device)
    held = torch.empty(current.shape if refractory else (0,), dtype=torch.uint8, device=current.device)
    return spikes, v, held, torch.empty(wait0.shape, dtype=torch.int32, device=current.device)


def _forward_plain(current, v0, wait0, decay, gain, v_rest, v_th, v_reset, refractory, subtract):
    constants = dict(decay=decay, gain=gain, v_rest=v_rest, v_th=v_th, v_reset=v_reset, refractory=refractory)
    spikes, v, wait = reference(current, v0, wait0, **constants, subtract=subtract)
    held = torch.zeros(current.shape if refractory else (0,), dtype=torch.uint8, device=current.device)
    left = wait0
    for t in range(len(current) if refractory else 0):
        held[t] = left > 0
        left = torch.where(spikes[t] > 0, refractory, (left - 1).clamp(min=0))
    return spikes, v, held, wait.clone()


def _backward_launch(dspikes, dv, current, v, v0, spikes, held, decay, gain, v_rest, v_th, subtract, atan, slope):
    dcurrent, dv0 = _backward_fake(dspikes, dv, current, v, v0, spikes, held, decay, gain, v_rest, v_th, subtract, atan, slope)
    steps, neurons = current.shape
    if neurons:
        block, warps = _config(neurons)
        _backward_kernel[(-(-neurons // block),)](
            None if dspikes is None else dspikes.contiguous(), None if dv is None else dv.contiguous(),
            current.contiguous(), v.contiguous(), v0.contiguous(), spikes.contiguous(), held, dcurrent, dv0, steps, neurons,
            decay, gain, v_rest, v_th, slope,
            REFRACTORY=held.numel() > 0, SUBTRACT=subtract, ATAN=atan, ACC=accumulate_in(current.dtype), BLOCK=block,
            STAGES=PREFETCH, num_warps=warps,
        )  # fmt: skip
    return dcurrent, dv0


def _backward_fake(dspikes, dv, current, v, v0, spikes, held, decay, gain, v_rest, v_th, subtract, atan, slope):
    dcurrent = torch.empty(current.shape, dtype=current.dtype, device=current.device)
    return dcurrent, torch.empty(v0.shape, dtype=v0.dtype, device=v0.device)


def _backward_plain(dspikes, dv, current, v, v0, spikes, held, decay, gain, v_rest, v_th, subtract, atan, slope):
    dcurrent = torch.empty(current.shape, dtype=current.dtype, device=current.device)
    carried = torch.zeros_like(v0)
    for t in reversed(range(len(current))):
        if dv is not None:
            carried = carried + dv[t]
        before_reset = v_rest + decay * ((v[t - 1] if t else v0) - v_rest) + gain * current[t].to(v.dtype)
        grad = carried if subtract else carried * (spikes[t] == 0)
        if dspikes is not None:
            derivative = surrogate_derivative(before_reset - v_th, "atan" if atan else "fast_sigmoid", slope)
            grad = grad + dspikes[t].to(v.dtype) * derivative
        waiting = held[t] > 0 if held.numel() else torch.zeros_like(grad, dtype=torch.bool)
        carried = torch.where(waiting, carried, decay * grad)
        dcurrent[t] = torch.where(waiting, 0.0, gain * grad)
    return dcurrent, carried.clone()


_forward = register(
    "vocab::lif_forward",
    "(Tensor current, Tensor v0, Tensor wait0, float decay, float gain, float v_rest, float v_th, float v_reset, "
    "int refractory, bool subtract) -> (Tensor, Tensor, Tensor, Tensor)",
    launch=_forward_launch,
    plain=_forward_plain,
    fake=_forward_fake,
)
_backward = register(
    "vocab::lif_backward",
    "(Tensor? dspikes, Tensor? dv, Tensor current, Tensor v, Tensor v0, Tensor spikes, Tensor held, float decay, "
    "float gain, float v_rest, float v_th, bool subtract, bool atan, float slope) -> (Tensor, Tensor)",
    launch=_backward_launch,
    plain=_backward_plain,
    fake=_backward_fake,
)


class _LIF(torch.autograd.Function):
    @staticmethod
    def forward(ctx, current, v0, wait0, decay, gain, v_rest, v_th, v_reset, refractory, subtract, atan, slope):
        spikes, v, held, wait = _forward(current, v0, wait0, decay, gain, v_rest, v_th, v_reset, refractory, subtract)
        ctx.save_for_backward(current, v, v0, spikes, held)
        ctx.constants = (decay, gain, v_rest, v_th, subtract, atan, slope)
        ctx.mark_non_differentiable(wait)
        ctx.set_materialize_grads(False)
        return spikes, v, wait

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, dspikes, dv, dwait):
        return *_backward(dspikes, dv, *ctx.saved_tensors, *ctx.constants), *(None,) * 10


def lif(
    current: Tensor,
    v0: Tensor,
    wait0: Tensor,
    *,
    decay: float,
    gain: float,
    v_rest: float = 0.0,
    v_th: float = 1.0,
    v_reset: float = 0.0,
    refractory: int = 0,
    subtract: bool = False,
    surrogate: str = "fast_sigmoid",
    slope: float = 25.0,
    backend: str = "auto",
) -> tuple[Tensor, Tensor, Tensor]:
    """Runs ``v <- v_rest + decay (v - v_rest) + gain I``, spikes where it reaches ``v_th``, and resets.

    The gradient of a spike is the surrogate's; the reset is taken as a constant, as is the wait after it.

    Args:
        current: Input I, ``(T, M)``.
        v0: Membrane before the first step, ``(M,)``, float32 or float64.
        wait0: Steps for which each neuron is still refractory, ``(M,)``, int32; of no effect if ``refractory`` is 0.
        decay: ``exp(-dt / tau)``.
        gain: What one unit of input adds in one step.
        v_rest: Where the membrane decays to.
        v_th: Threshold.
        v_reset: Where the membrane goes after a spike.
        refractory: Steps after a spike during which the membrane is held and cannot spike.
        subtract: Lower the membrane by ``v_th - v_reset`` instead of setting it.
        surrogate: ``"fast_sigmoid"`` or ``"atan"``.
        slope: Its steepness.
        backend: ``"auto"``, ``"torch"`` or ``"triton"``.

    Returns:
        Spikes ``(T, M)`` in the dtype of ``current``, the membrane after each step ``(T, M)`` in that of ``v0``, and the
        steps still to wait ``(M,)``.
    """
    constants = dict(decay=decay, gain=gain, v_rest=v_rest, v_th=v_th, v_reset=v_reset, refractory=refractory)
    options = dict(**constants, subtract=subtract, surrogate=surrogate, slope=slope)
    return (fused if applies(current, v0, backend) else reference)(current, v0, wait0, **options)


def applies(current: Tensor, v0: Tensor, backend: str) -> bool:
    """Whether the kernel is to run; raises where it was asked for and cannot."""
    return use_triton("lif", backend, current, limit=_limit(current, v0), worthwhile=len(current) >= WORTHWHILE_STEPS)


def fused(current, v0, wait0, *, decay, gain, v_rest, v_th, v_reset, refractory, subtract, surrogate, slope):
    """``lif`` by the kernel, whatever the size."""
    constants = (decay, gain, v_rest, v_th, v_reset, refractory, subtract, surrogate == "atan", slope)
    return _LIF.apply(current, v0, wait0, *constants)


def _limit(current: Tensor, v0: Tensor) -> str | None:
    if current.dtype not in POINTER:
        return f"current has dtype {current.dtype}"
    if v0.dtype != accumulator(current.dtype):
        return f"the membrane has dtype {v0.dtype}, and with a {current.dtype} input it is {accumulator(current.dtype)}"
    return None


def surrogate_derivative(distance: Tensor, surrogate: str, slope: float) -> Tensor:
    """What stands for the derivative of the spike at a membrane ``distance`` above threshold."""
    if surrogate == "atan":
        return slope / 2 / (1 + (math.pi / 2 * slope * distance) ** 2)
    return 1 / (1 + slope * distance.abs()) ** 2


class _Spike(torch.autograd.Function):
    @staticmethod
    def forward(ctx, distance, surrogate, slope):
        ctx.save_for_backward(distance)
        ctx.surrogate, ctx.slope = surrogate, slope
        return (distance >= 0).to(distance.dtype)

    @staticmethod
    def backward(ctx, grad):
        return grad * surrogate_derivative(ctx.saved_tensors[0], ctx.surrogate, ctx.slope), None, None


def reference(
    current, v0, wait0, *, decay, gain, v_rest, v_th, v_reset, refractory, subtract, surrogate="fast_sigmoid", slope=25.0
) -> tuple[Tensor, Tensor, Tensor]:
    """The same as a loop over time in plain torch."""
    membrane, left, spikes, history = v0, wait0, [], []
    for drive in current.to(v0.dtype).unbind(0):
        before_reset = v_rest + decay * (membrane - v_rest) + gain * drive
        spike = _Spike.apply(before_reset - v_th, surrogate, slope)
        if refractory:
            waiting = left > 0
            before_reset = torch.where(waiting, membrane, before_reset)
            spike = torch.where(waiting, 0.0, spike)
            left = torch.where(spike.detach() > 0, refractory, (left - 1).clamp(min=0))
        reset_to = before_reset - (v_th - v_reset) if subtract else v_reset
        membrane = torch.where(spike.detach() > 0, reset_to, before_reset)
        spikes.append(spike)
        history.append(membrane)
    if not spikes:
        return torch.zeros_like(current), current.to(v0.dtype), wait0
    return torch.stack(spikes).to(current.dtype), torch.stack(history), left


def _inputs(sizes, dtype, device):
    current = random((sizes["steps"], sizes["neurons"]), dtype, device, scale=1.0, shift=0.8).requires_grad_()
    v0 = random((sizes["neurons"],), accumulator(dtype), device, scale=0.3).requires_grad_()
    wait0 = (torch.arange(sizes["neurons"], dtype=torch.int32) % 3).clamp(max=1).to(device)
    return current, v0, wait0


TAU_20 = {"decay": math.exp(-1 / 20), "gain": -math.expm1(-1 / 20) * 4}


def _run(current, v0, wait0, *, backend="auto", **options):
    return lif(current, v0, wait0, **{**TAU_20, **options}, backend=backend)[:2]


def _cost(sizes, dtype, direction):
    numbers, wide = sizes["steps"] * sizes["neurons"], accumulator(dtype).itemsize
    # forward reads the input, writes spikes and membrane; backward reads those and two gradients, writes one
    traffic = 2 * dtype.itemsize + wide if direction == "forward" else 4 * dtype.itemsize + 2 * wide
    return Cost(bytes=traffic * numbers, flops=(8 if direction == "forward" else 16) * numbers)


def _spikingjelly(current, v0, wait0):
    from spikingjelly.activation_based import neuron, surrogate

    node = neuron.LIFNode(
        tau=1 / (1 - TAU_20["decay"]), v_reset=0.0, surrogate_function=surrogate.ATan(), detach_reset=True, step_mode="m",
        backend="cupy", store_v_seq=True,
    )  # fmt: skip
    return node(current * 4), node.v_seq


def _builds():
    for dtype, pointer in POINTER.items():
        wide = "*fp64" if dtype == torch.float64 else "*fp32"
        for block, warps in CONFIGS.values():
            if dtype != torch.bfloat16 and (block, warps) != CONFIGS[math.inf]:
                continue  # the dtypes share one table
            for refractory, subtract in ((True, False), (False, True)):
                flags = {"REFRACTORY": refractory, "SUBTRACT": subtract, "ACC": accumulate_in(dtype), "BLOCK": block, "STAGES": PREFETCH}
                sizes = {"T": "i32", "M": "i32"}
                scalars = dict.fromkeys(("decay", "gain", "v_rest", "v_th"), "fp64")
                signature = {
                    "current": pointer, "v0": wide, "wait0": "*i32", "spikes": pointer, "v": wide, "held": "*u8", "wait": "*i32",
                    **sizes, **scalars, "v_reset": "fp64", "refractory": "i32",
                }  # fmt: skip

                def at(sizes, config=(block, warps)):
                    return _config(sizes["neurons"]) == config

                yield Build("_forward_kernel", signature, flags, warps, at=at)
                signature = {
                    "dspikes": pointer, "dv": wide, "current": pointer, "v": wide, "v0": wide, "spikes": pointer, "held": "*u8",
                    "dcurrent": pointer, "dv0": wide, **sizes, **scalars, "slope": "fp64",
                }  # fmt: skip
                yield Build("_backward_kernel", signature, {**flags, "ATAN": subtract}, warps, at=at)


SPEC = Spec(
    name="lif",
    summary="Leaky integrate-and-fire neurons over all time steps in one launch.",
    run=_run,
    inputs=_inputs,
    dtypes=tuple(POINTER),
    shapes={
        "T=100, 65536 neurons": {"steps": 100, "neurons": 65_536},
        "T=1000, 65536 neurons": {"steps": 1000, "neurons": 65_536},
        "T=16, 1M neurons": {"steps": 16, "neurons": 2**20},
        "small, T=16, 1024 neurons": {"steps": 16, "neurons": 1024},
    },
    tails=(
        {"steps": 1, "neurons": 1},
        {"steps": 63, "neurons": 33},
        {"steps": 65, "neurons": 31},
        {"steps": 7, "neurons": 0},
        {"steps": 0, "neurons": 5},
    ),
    probe={"steps": 6, "neurons": 35},
    cost=_cost,
    directions=("forward", "backward"),
    variants=(
        {"refractory": 2, "v_rest": -0.1, "v_reset": 0.2, "v_th": 0.35},
        {"subtract": True, "surrogate": "atan", "slope": 2.0, "v_th": 0.8},
    ),
    baselines={"spikingjelly": _spikingjelly},
    targets={
        "eager": {"T=16, 1M neurons": 10.0, "T=100, 65536 neurons": 10.0, "T=1000, 65536 neurons": 10.0},
        "compile": {"T=100, 65536 neurons": 1.5, "T=1000, 65536 neurons": 1.5},
    },
    builds=tuple(_builds()) if triton else (),
    gpu=tuple({"steps": t, "neurons": n} for t, n in ((1, 65), (63, 65), (17, 2**14 + 1), (9, 2**17 + 3))),
    smooth=False,
    operators=("lif_forward", "lif_backward"),
)
