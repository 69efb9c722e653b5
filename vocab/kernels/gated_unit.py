"""Gated units: an activation of one half times the other half in one pass, with nothing kept but the inputs.

Source: Shazeer 2020, arXiv:2002.05202, equations 5 and 6; squared ReLU: So et al. 2021, arXiv:2109.08668, section 3. Eager PyTorch
keeps the activated gate for the backward pass and glues the gradients of the two halves together; here the backward pass computes
the activation again and writes both halves where they belong.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from vocab.kernels.dispatch import accumulate_in, jit, register, tl, triton, use_triton
from vocab.kernels.spec import POINTER, Build, Cost, Spec, random

__all__ = ["ACTIVATIONS", "ORDERS", "SPEC", "applies", "fused", "gated_unit", "reference"]

# N rows, W units (the width of a half)

ACTIVATIONS = ("silu", "gelu", "gelu_tanh", "relu", "sigmoid", "squared_relu")
ORDERS = ("", "gate_up", "up_gate")
# Fewer results than this are not worth a launch. Provisional until measured here.
WORTHWHILE = 2**22
# Up to so many units -> (units a program, warps): 8 a thread, one load of 16 bytes in half precision.
CONFIGS = {256: (256, 1), math.inf: (1024, 4)}


@jit
def _activated(g, beta, ACT: tl.constexpr):
    # An activation and its slope, of which the forward pass drops the second.
    if ACT == "silu":
        s = tl.sigmoid(beta * g)
        value, slope = g * s, s * (1.0 + beta * g * (1.0 - s))
    elif ACT == "gelu":
        s = 0.5 * (1.0 + tl.erf(0.7071067811865476 * g))
        value, slope = g * s, s + 0.3989422804014327 * g * tl.exp(-0.5 * g * g)
    elif ACT == "gelu_tanh":
        # (1 + tanh(u)) / 2 is sigmoid(2 u), with 2 u = 2 sqrt(2 / pi) (g + 0.044715 g^3)
        s = tl.sigmoid(1.5957691216057308 * (g + 0.044715 * g * g * g))
        value, slope = g * s, s + g * s * (1.0 - s) * 1.5957691216057308 * (1.0 + 0.134145 * g * g)
    elif ACT == "sigmoid":
        value = tl.sigmoid(g)
        slope = value * (1.0 - value)
    else:
        off = g <= 0.0  # false for NaN, which must stay
        value, slope = tl.where(off, 0.0, g), tl.where(off, 0.0, 1.0)
        if ACT == "squared_relu":
            value, slope = value * value, 2.0 * value
    return value, slope


@jit
def _forward_kernel(
    gate, up, y, W, gate_stride, up_stride, beta: tl.float64, limit: tl.float64, offset: tl.float64,
    ACT: tl.constexpr, LIMIT: tl.constexpr, ACC: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    blocks = (W + BLOCK - 1) // BLOCK
    row = (tl.program_id(0) // blocks).to(tl.int64)
    start = (tl.program_id(0) % blocks).to(tl.int64) * BLOCK
    cols = tl.arange(0, BLOCK)
    inside = cols < W - start
    cap = tl.full((), limit, ACC)
    g = tl.load(gate + row * gate_stride + start + cols, inside, other=0.0).to(ACC)
    if LIMIT:
        g = tl.where(g > cap, cap, g)
    value, _ = _activated(g, tl.full((), beta, ACC), ACT)
    if up is not None:
        u = tl.load(up + row * up_stride + start + cols, inside, other=0.0).to(ACC)
        if LIMIT:
            u = tl.where(u > cap, cap, tl.where(u < -cap, -cap, u))
        value *= u + tl.full((), offset, ACC)
    tl.store(y + row * W + start + cols, value.to(y.dtype.element_ty), inside)


@jit
def _backward_kernel(
    dy, gate, up, dgate, dup, W, gate_stride, up_stride, out_stride, beta: tl.float64, limit: tl.float64, offset: tl.float64,
    ACT: tl.constexpr, LIMIT: tl.constexpr, ACC: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    blocks = (W + BLOCK - 1) // BLOCK
    row = (tl.program_id(0) // blocks).to(tl.int64)
    start = (tl.program_id(0) % blocks).to(tl.int64) * BLOCK
    cols = tl.arange(0, BLOCK)
    inside = cols < W - start
    cap = tl.full((), limit, ACC)
    grad = tl.load(dy + row * W + start + cols, inside, other=0.0).to(ACC)
    g = tl.load(gate + row * gate_stride + start + cols, inside, other=0.0).to(ACC)
    if LIMIT:
        cut = g > cap
        g = tl.where(cut, cap, g)
    value, slope = _activated(g, tl.full((), beta, ACC), ACT)
    if up is not None:
        u = tl.load(up + row * up_stride + start + cols, inside, other=0.0).to(ACC)
        through = grad * value
        if LIMIT:
            through = tl.where(tl.abs(u) > cap, 0.0, through)
            u = tl.where(u > cap, cap, tl.where(u < -cap, -cap, u))
        tl.store(dup + row * out_stride + start + cols, through.to(dup.dtype.element_ty), inside)
        grad *= u + tl.full((), offset, ACC)
    grad *= slope
    if LIMIT:
        grad = tl.where(cut, 0.0, grad)
    tl.store(dgate + row * out_stride + start + cols, grad.to(dgate.dtype.element_ty), inside)


def _config(units: int) -> tuple[int, int]:
    return next(config for most, config in CONFIGS.items() if units <= most)


def _halves(gate: Tensor, up: Tensor | None, order: str) -> tuple[Tensor, Tensor | None]:
    """Gate and up, of one tensor where it holds both."""
    if not order:
        return gate, up
    first, second = gate.chunk(2, -1)
    return (first, second) if order == "gate_up" else (second, first)


def _rows(*tensors: Tensor | None) -> tuple[int, int, list[Tensor | None]]:
    """The tensors with neighbouring columns, and their rows and columns: all in one row where nothing lies between the rows."""
    tensors = [t if t is None or t.stride(1) == 1 else t.contiguous() for t in tensors]
    n, width = tensors[0].shape
    dense = all(t is None or t.is_contiguous() for t in tensors)
    return (1, n * width, tensors) if dense else (n, width, tensors)


def _stride(x: Tensor | None) -> int:
    return 0 if x is None else x.stride(0)


def _forward_launch(gate, up, order, activation, beta, limit, offset):
    y = _forward_fake(gate, up, order, activation, beta, limit, offset)
    if y.numel():
        n, width, (gate, up) = _rows(*_halves(gate, up, order))
        block, warps = _config(width)
        _forward_kernel[(n * -(-width // block),)](
            gate, up, y, width, _stride(gate), _stride(up), beta, limit, offset,
            ACT=activation, LIMIT=limit > 0, ACC=accumulate_in(y.dtype), BLOCK=block, num_warps=warps,
        )  # fmt: skip
    return y


def _forward_fake(gate, up, order, activation, beta, limit, offset):
    n, width = gate.shape
    return torch.empty((n, width // 2 if order else width), dtype=gate.dtype, device=gate.device)


def _forward_plain(gate, up, order, activation, beta, limit, offset):
    return reference(gate, up, order=order, activation=activation, beta=beta, limit=limit, offset=offset).contiguous()


def _backward_launch(dy, gate, up, order, activation, beta, limit, offset):
    found = _backward_fake(dy, gate, up, order, activation, beta, limit, offset)
    if dy.numel():
        dgate, dup = _halves(found[0], found[1] if up is not None else None, order)
        n, width, (dy, gate, up, *_) = _rows(dy.contiguous(), *_halves(gate, up, order), dgate)
        block, warps = _config(width)
        _backward_kernel[(n * -(-width // block),)](
            dy, gate, up, dgate, dup, width, _stride(gate), _stride(up), _stride(dgate), beta, limit, offset,
            ACT=activation, LIMIT=limit > 0, ACC=accumulate_in(dy.dtype), BLOCK=block, num_warps=warps,
        )  # fmt: skip
    return found


def _backward_fake(dy, gate, up, order, activation, beta, limit, offset):
    dgate = torch.empty(gate.shape, dtype=gate.dtype, device=gate.device)
    return dgate, torch.empty((0,) if up is None else up.shape, dtype=gate.dtype, device=gate.device)


def _backward_plain(dy, gate, up, order, activation, beta, limit, offset):
    grad, g, u = (None if t is None else t.to(torch.promote_types(dy.dtype, torch.float32)) for t in (dy, *_halves(gate, up, order)))
    kept = g <= limit if limit else torch.ones_like(g, dtype=torch.bool)
    if limit:
        g = g.clamp(max=limit)
    if activation == "silu":
        s = torch.sigmoid(beta * g)
        slope = s * (1 + beta * g * (1 - s))
    elif activation in ("gelu", "gelu_tanh"):
        slope = torch.ops.aten.gelu_backward(torch.ones_like(g), g, approximate="none" if activation == "gelu" else "tanh")
    elif activation == "sigmoid":
        slope = torch.sigmoid(g) * torch.sigmoid(-g)
    else:
        slope = (g > 0).to(g.dtype) if activation == "relu" else 2 * F.relu(g)
    dgate = grad * slope * kept
    if u is None:
        return dgate.to(dy.dtype), dy.new_empty(0)
    dup = grad * reference(g, activation=activation, beta=beta)
    if limit:
        dup, u = dup * (u.abs() <= limit), u.clamp(-limit, limit)
    dgate, dup = (dgate * (u + offset)).to(dy.dtype), dup.to(dy.dtype)
    if order:
        return torch.cat((dgate, dup) if order == "gate_up" else (dup, dgate), 1), dy.new_empty(0)
    return dgate, dup


_forward = register(
    "vocab::gated_unit_forward",
    "(Tensor gate, Tensor? up, str order, str activation, float beta, float limit, float offset) -> Tensor",
    launch=_forward_launch,
    plain=_forward_plain,
    fake=_forward_fake,
)
_backward = register(
    "vocab::gated_unit_backward",
    "(Tensor dy, Tensor gate, Tensor? up, str order, str activation, float beta, float limit, float offset) -> (Tensor, Tensor)",
    launch=_backward_launch,
    plain=_backward_plain,
    fake=_backward_fake,
)


class _GatedUnit(torch.autograd.Function):
    @staticmethod
    def forward(ctx, gate, up, *options):
        ctx.save_for_backward(gate, up)
        ctx.options = options
        return _forward(gate, up, *options)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, dy):
        gate, up = ctx.saved_tensors
        dgate, dup = _backward(dy, gate, up, *ctx.options)
        return dgate, None if up is None else dup, *(None,) * 5


def gated_unit(
    gate: Tensor,
    up: Tensor | None = None,
    *,
    order: str = "",
    activation: str = "silu",
    beta: float = 1.0,
    limit: float = 0.0,
    offset: float = 0.0,
    backend: str = "auto",
) -> Tensor:
    """An activation of ``gate`` times ``up``; half precision is computed in float32 and rounded once.

    Args:
        gate: ``(..., W)``; or ``(..., 2 W)``, both halves side by side as one projection leaves them: their gradient comes in one piece.
        up: ``(..., W)``, of the dtype of ``gate``. Without it, and without ``order``, the result is the activation alone.
        order: Which half of ``gate`` comes first, ``"gate_up"`` or ``"up_gate"``; empty if it is the gate only.
        activation: ``"silu"`` (SwiGLU), ``"gelu"``, ``"gelu_tanh"`` (GEGLU), ``"relu"`` (ReGLU), ``"sigmoid"`` (GLU) or ``"squared_relu"``.
        beta: Steepness of the sigmoid in ``"silu"``.
        limit: The gate is cut off above it, ``up`` on both sides; 0 for none. gpt-oss has 7.
        offset: Added to ``up`` behind the limit.
        backend: ``"auto"``, ``"torch"`` or ``"triton"``.

    Returns:
        ``(..., W)`` in the dtype of ``gate``.

    Raises:
        ValueError: If a word is unknown, or the halves do not fit each other.
    """
    if activation not in ACTIVATIONS or order not in ORDERS:
        words = f"{', '.join(ACTIVATIONS)}; {', '.join(map(repr, ORDERS))}"
        raise ValueError(f"activation={activation!r} or order={order!r} is none of {words}")
    if order and (up is not None or gate.shape[-1] % 2):
        other = "None" if up is None else "not None"
        raise ValueError(f"order={order!r} needs both halves in gate: it has {gate.shape[-1]} columns, and up is {other}")
    if up is not None and (up.shape, up.dtype) != (gate.shape, gate.dtype):
        raise ValueError(f"up is {tuple(up.shape)} {up.dtype}; expected {tuple(gate.shape)} {gate.dtype} as gate")
    run = fused if applies(gate, activation, backend) else reference
    return run(gate, up, order=order, activation=activation, beta=beta, limit=limit, offset=offset)


def applies(gate: Tensor, activation: str, backend: str, limit: str | None = None) -> bool:
    """Whether the kernel is to run; raises where it was asked for and cannot, for instance because of the caller's ``limit``."""
    if activation not in ACTIVATIONS:
        limit = f"it has no activation {activation!r}"
    elif gate.dtype not in POINTER:
        limit = f"gate has dtype {gate.dtype}"
    return use_triton("gated_unit", backend, gate, limit=limit, worthwhile=gate.numel() >= WORTHWHILE)


def fused(
    gate: Tensor, up: Tensor | None = None, *, order: str = "", activation: str, beta: float = 1.0, limit: float = 0.0, offset: float = 0.0
) -> Tensor:
    """``gated_unit`` by the kernel, whatever the size."""
    flat = gate.reshape(math.prod(gate.shape[:-1]), *(gate.shape[-1:] or (1,)))
    y = _GatedUnit.apply(flat, None if up is None else up.reshape(flat.shape), order, activation, beta, limit, offset)
    return y.view(*gate.shape[:-1], y.shape[1]) if gate.ndim else y.view(())


def reference(
    gate: Tensor,
    up: Tensor | None = None,
    *,
    order: str = "",
    activation: str = "silu",
    beta: float = 1.0,
    limit: float = 0.0,
    offset: float = 0.0,
) -> Tensor:
    """The same in plain torch."""
    dtype = gate.dtype
    g, u = (None if t is None else t.to(torch.promote_types(dtype, torch.float32)) for t in _halves(gate, up, order))
    if limit:  # not clamp, whose gradient on the limit itself depends on the version of PyTorch
        g = g.masked_fill(g > limit, limit)
        u = None if u is None else u.masked_fill(u > limit, limit).masked_fill(u < -limit, -limit)
    if activation == "silu":
        y = g * torch.sigmoid(beta * g)
    elif activation in ("gelu", "gelu_tanh"):
        y = F.gelu(g, approximate="none" if activation == "gelu" else "tanh")
    elif activation == "sigmoid":
        y = torch.sigmoid(g)
    else:
        y = F.relu(g) if activation == "relu" else F.relu(g).square()
    return (y if u is None else y * (u + offset)).to(dtype)


def _inputs(sizes, dtype, device):
    return (random((sizes["rows"], 2 * sizes["units"]), dtype, device, scale=1.5).requires_grad_(),)


def _run(both, *, split="", backend="auto", **options):
    """``split``: the halves ``"apart"`` in memory, as ``"views"`` of one tensor, or the whole tensor ``"alone"`` without a gate."""
    if split == "alone":
        return gated_unit(both, **options, backend=backend)
    if split:
        gate, up = both.chunk(2, -1)
        gate, up = (gate.contiguous(), up.contiguous()) if split == "apart" else (gate, up)
        return gated_unit(gate, up, **options, backend=backend)
    return gated_unit(both, **{"order": "up_gate", **options}, backend=backend)


def _cost(sizes, dtype, direction):
    numbers = sizes["rows"] * sizes["units"]
    # forward reads both halves and writes one result; backward reads those and a gradient, and writes two
    moved, computed = (3, 6) if direction == "forward" else (5, 12)
    return Cost(bytes=moved * numbers * dtype.itemsize, flops=computed * numbers)


def _torch_native(both):
    up, gate = both.chunk(2, -1)
    return F.silu(gate) * up


def _liger(both):
    from liger_kernel.transformers.functional import liger_swiglu

    up, gate = both.chunk(2, -1)
    return liger_swiglu(gate, up)


def _builds():
    for dtype, pointer in POINTER.items():
        for (most, (block, warps)), activation in ((c, a) for c in CONFIGS.items() for a in ACTIVATIONS):
            common = dtype == torch.bfloat16 and (most == math.inf or activation == "silu")
            if not common and (dtype == torch.float16 or most < math.inf or activation not in ("gelu", "gelu_tanh")):
                continue  # the dtypes share one table; the dearest activations stand for the others
            alone = activation == "squared_relu"

            def at(sizes, block=block, activation=activation):
                return activation == "silu" and _config(sizes["units"])[0] == block

            constants = {"ACT": activation, "LIMIT": activation == "silu", "ACC": accumulate_in(dtype), "BLOCK": block}
            numbers = {"W": "i32", "gate_stride": "i32", "up_stride": "i32"}
            scalars = dict.fromkeys(("beta", "limit", "offset"), "fp64")
            forward, backward = ("gate", "up", "y"), ("dy", "gate", "up", "dgate", "dup")
            for kernel, names, more in (("_forward_kernel", forward, {}), ("_backward_kernel", backward, {"out_stride": "i32"})):
                absent = {n: None for n in names if alone and n in ("up", "dup")}
                signature = {n: pointer for n in names if n not in absent} | numbers | more | scalars
                yield Build(kernel, signature, {**constants, **absent}, warps, multiples=(*numbers, *more), at=at)


SPEC = Spec(
    name="gated_unit",
    summary="An activation of one half times the other half in one pass, forward and backward.",
    run=_run,
    inputs=_inputs,
    dtypes=tuple(POINTER),
    shapes={
        "8192 x 11008": {"rows": 8192, "units": 11_008},
        "16384 x 2048": {"rows": 16_384, "units": 2048},
        "small, 128 x 1024": {"rows": 128, "units": 1024},
    },
    tails=(
        {"rows": 1, "units": 1},
        {"rows": 3, "units": 63},
        {"rows": 2, "units": 65},
        {"rows": 2, "units": 1027},
        {"rows": 0, "units": 7},
        {"rows": 3, "units": 0},
    ),
    probe={"rows": 2, "units": 300},
    cost=_cost,
    directions=("forward", "backward"),
    variants=(
        {},
        {"order": "gate_up", "beta": 1.7, "limit": 1.2, "offset": 1.0},
        {"split": "views", "activation": "gelu_tanh"},
        {"split": "apart", "activation": "gelu", "limit": 2.0, "offset": 0.5},
        {"split": "views", "activation": "relu"},
        {"activation": "sigmoid"},
        {"split": "alone", "activation": "squared_relu"},
    ),
    baselines={"F.silu times up": _torch_native, "liger": _liger},
    targets={
        "eager": {"8192 x 11008": 2.2, "16384 x 2048": 2.2},
        "compile": {"8192 x 11008": 1.0, "16384 x 2048": 1.0},
        "liger": {"8192 x 11008": 1.0},
    },
    builds=tuple(_builds()) if triton else (),
    gpu=tuple({"rows": n, "units": w} for n, w in ((1, 1), (63, 65), (300, 1000), (65, 4099))),
    operators=("gated_unit_forward", "gated_unit_backward"),
)
