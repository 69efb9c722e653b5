"""Depthwise causal convolution with bias, SiLU and a state, in one pass over the sequence; the layer in front of Mamba.

Source: the short convolution of Gu and Dao 2023, arXiv:2312.00752, section 3.4. A few taps for each channel are far too little
arithmetic for a matrix product; what counts is that input and output cross the memory once.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from vocab.kernels.dispatch import accumulate_in, accumulator, jit, register, tl, triton, use_triton
from vocab.kernels.spec import POINTER, Build, Cost, Spec, random

__all__ = ["SPEC", "applies", "causal_conv", "fused", "reference"]

# B batch, C channels, L positions, K taps, S = (K - 1) * dilation remembered positions

# Fewer numbers than this are not worth a launch. Provisional until measured here.
WORTHWHILE = 2**20
MOST_TAPS = 16
# Up to so many positions -> (positions a program, warps)
CONFIGS = {256: (256, 2), 2**31: (512, 4)}


@jit
def _seen(x, state, at, L, S, dilation, K: tl.constexpr, TAPS: tl.constexpr, ACC: tl.constexpr):
    """What each tap reads for the outputs at positions ``at``: (TAPS, positions). Positions before 0 are in the state."""
    tap = tl.arange(0, TAPS)[:, None]
    place = at[None, :] - (K - 1 - tap) * dilation
    seen = tl.load(x + place, (place >= 0) & (place < L) & (tap < K), other=0.0).to(ACC)
    if state is not None:
        seen += tl.load(state + S + place, (place < 0) & (place >= -S) & (tap < K), other=0.0).to(ACC)
    return seen


@jit
def _before(seen, weight, bias, K: tl.constexpr, TAPS: tl.constexpr, ACC: tl.constexpr):
    """The output before its activation."""
    tap = tl.arange(0, TAPS)
    total = tl.sum(seen * tl.load(weight + tap, tap < K, other=0.0).to(ACC)[:, None], 0)
    if bias is not None:
        total += tl.load(bias).to(ACC)
    return total


@jit
def _upstream(dy, seen, weight, bias, at, L, SILU: tl.constexpr, K: tl.constexpr, TAPS: tl.constexpr, ACC: tl.constexpr):
    """The gradient before the activation, at positions ``at``."""
    grad = tl.load(dy + at, (at >= 0) & (at < L), other=0.0).to(ACC)
    if SILU:
        value = _before(seen, weight, bias, K, TAPS, ACC)
        gate = tl.sigmoid(value)
        grad *= gate * (1.0 + value * (1.0 - gate))
    return grad


@jit
def _forward_kernel(
    x, state, weight, bias, y, C, L, S, dilation,
    SILU: tl.constexpr, K: tl.constexpr, TAPS: tl.constexpr, ACC: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    channel = row % C
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    if state is not None:
        state += row * S
    if bias is not None:
        bias += channel
    value = _before(_seen(x + row * L, state, at, L, S, dilation, K, TAPS, ACC), weight + channel * K, bias, K, TAPS, ACC)
    if SILU:
        value *= tl.sigmoid(value)
    tl.store(y + row * L + at, value.to(y.dtype.element_ty), at < L)


@jit
def _input_kernel(
    dy, x, state, weight, bias, dx, dstate, C, L, S, dilation,
    SILU: tl.constexpr, K: tl.constexpr, TAPS: tl.constexpr, ACC: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    channel = row % C
    x, dy, weight = x + row * L, dy + row * L, weight + channel * K
    if state is not None:
        state += row * S
    if bias is not None:
        bias += channel
    place = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK) - S  # the state comes before position 0
    result = tl.zeros((BLOCK,), ACC)
    for tap in tl.static_range(K):
        # This place was read by this tap for one output, whose value is computed again rather than kept.
        at = place + (K - 1 - tap) * dilation
        seen = _seen(x, state, at, L, S, dilation, K, TAPS, ACC)
        result += tl.load(weight + tap).to(ACC) * _upstream(dy, seen, weight, bias, at, L, SILU, K, TAPS, ACC)
    tl.store(dx + row * L + place, result.to(dx.dtype.element_ty), (place >= 0) & (place < L))
    if dstate is not None:
        tl.store(dstate + row * S + S + place, result.to(dstate.dtype.element_ty), place < 0)


@jit
def _weight_kernel(
    dy, x, state, weight, bias, dweight, dbias, C, L, S, dilation,
    SILU: tl.constexpr, K: tl.constexpr, TAPS: tl.constexpr, ACC: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    channel = row % C
    x, dy, weight = x + row * L, dy + row * L, weight + channel * K
    if state is not None:
        state += row * S
    if bias is not None:
        bias += channel
    of_weight = tl.zeros((TAPS, BLOCK), ACC)
    of_bias = tl.zeros((BLOCK,), ACC)
    for start in range(0, L, BLOCK):
        at = start + tl.arange(0, BLOCK)
        seen = _seen(x, state, at, L, S, dilation, K, TAPS, ACC)
        grad = _upstream(dy, seen, weight, bias, at, L, SILU, K, TAPS, ACC)
        of_weight += seen * grad[None, :]
        of_bias += grad
    # One sum for each sequence of the batch; adding them up afterwards is deterministic, atomics are not.
    tap = tl.arange(0, TAPS)
    tl.store(dweight + row * K + tap, tl.sum(of_weight, 1), tap < K)
    tl.store(dbias + row, tl.sum(of_bias, 0))


def _config(positions: int) -> tuple[int, int]:
    return next(config for most, config in CONFIGS.items() if positions <= most)


def _prepared(x, state, weight, bias):
    return [None if t is None else t.contiguous() for t in (x, state, weight, bias)]


def _constants(x, weight, silu, block):
    k = weight.shape[1]
    return dict(SILU=silu, K=k, TAPS=max(2, 1 << (k - 1).bit_length()), ACC=accumulate_in(x.dtype), BLOCK=block)


def _forward_launch(x, state, weight, bias, dilation, silu):
    y = _forward_fake(x, state, weight, bias, dilation, silu)
    batch, channels, positions = x.shape
    if x.numel():
        block, warps = _config(positions)
        _forward_kernel[(batch * channels, -(-positions // block))](
            *_prepared(x, state, weight, bias), y, channels, positions, (weight.shape[1] - 1) * dilation, dilation,
            **_constants(x, weight, silu, block), num_warps=warps,
        )  # fmt: skip
    return y


def _forward_fake(x, state, weight, bias, dilation, silu):
    return torch.empty(x.shape, dtype=x.dtype, device=x.device)


def _backward_launch(dy, x, state, weight, bias, dilation, silu):
    dx, dstate, dweight, dbias = _backward_fake(dy, x, state, weight, bias, dilation, silu)
    batch, channels, positions = x.shape
    if not x.numel():
        return dx, dstate.zero_(), dweight.zero_(), dbias.zero_()
    past, acc = (weight.shape[1] - 1) * dilation, accumulator(x.dtype)
    block, warps = _config(positions)
    inputs = (dy.contiguous(), *_prepared(x, state, weight, bias))
    constants = dict(**_constants(x, weight, silu, block), num_warps=warps)
    sizes = (channels, positions, past, dilation)
    _input_kernel[(batch * channels, -(-(positions + past) // block))](*inputs, dx, None if state is None else dstate, *sizes, **constants)
    of_weight = torch.empty((batch, *weight.shape), dtype=acc, device=x.device)
    of_bias = torch.empty((batch, channels), dtype=acc, device=x.device)
    _weight_kernel[(batch * channels,)](*inputs, of_weight, of_bias, *sizes, **constants)
    dweight.copy_(of_weight.sum(0))
    return dx, dstate, dweight, dbias if bias is None else dbias.copy_(of_bias.sum(0))


def _backward_fake(dy, x, state, weight, bias, dilation, silu):
    def like(tensor):
        shape, dtype = (0, x.dtype) if tensor is None else (tensor.shape, tensor.dtype)
        return torch.empty(shape if tensor is not None else (0,), dtype=dtype, device=x.device)

    return like(x), like(state), like(weight), like(bias)


def _backward_plain(dy, x, state, weight, bias, dilation, silu):
    acc = accumulator(x.dtype)
    x_, dy_, w = x.to(acc), dy.to(acc), weight.to(acc)
    past = (weight.shape[1] - 1) * dilation
    seen = torch.cat([x_.new_zeros(*x.shape[:2], past) if state is None else state.to(acc), x_], -1)
    windows = torch.stack([seen[..., tap * dilation :][..., : x.shape[-1]] for tap in range(weight.shape[1])])  # (K, B, C, L)
    grad = dy_
    if silu:
        value = torch.einsum("kbcl,ck->bcl", windows, w) + (0 if bias is None else bias.to(acc)[:, None])
        gate = value.sigmoid()
        grad = dy_ * gate * (1 + value * (1 - gate))
    dseen = torch.zeros_like(seen)
    for tap in range(weight.shape[1]):
        dseen[..., tap * dilation :][..., : x.shape[-1]] += w[:, tap, None] * grad
    empty = _backward_fake(dy, x, state, weight, bias, dilation, silu)
    return (
        dseen[..., past:].to(x.dtype).contiguous(), empty[1] if state is None else dseen[..., :past].to(state.dtype).contiguous(),
        torch.einsum("kbcl,bcl->ck", windows, grad).to(weight.dtype), empty[3] if bias is None else grad.sum((0, 2)).to(bias.dtype),
    )  # fmt: skip


_forward = register(
    "vocab::causal_conv_forward",
    "(Tensor x, Tensor? state, Tensor weight, Tensor? bias, int dilation, bool silu) -> Tensor",
    launch=_forward_launch,
    plain=lambda *inputs: reference(*inputs).contiguous(),
    fake=_forward_fake,
)
_backward = register(
    "vocab::causal_conv_backward",
    "(Tensor dy, Tensor x, Tensor? state, Tensor weight, Tensor? bias, int dilation, bool silu) -> (Tensor, Tensor, Tensor, Tensor)",
    launch=_backward_launch,
    plain=_backward_plain,
    fake=_backward_fake,
)


class _CausalConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, state, weight, bias, dilation, silu):
        ctx.save_for_backward(x, state, weight, bias)
        ctx.options = dilation, silu
        return _forward(x, state, weight, bias, dilation, silu)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, dy):
        inputs = ctx.saved_tensors
        found = _backward(dy, *inputs, *ctx.options)
        return *(None if given is None else grad for given, grad in zip(inputs, found)), None, None


def causal_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    state: Tensor | None = None,
    *,
    dilation: int = 1,
    silu: bool = False,
    backend: str = "auto",
) -> Tensor:
    """``y[t] = act(bias + sum_j weight[j] x[t - (K - 1 - j) dilation])`` in each channel; before position 0 stands the state.

    Args:
        x: ``(B, C, L)``. Only copied if its positions do not lie next to each other.
        weight: ``(C, K)``; the last tap reads the present.
        bias: ``(C,)``.
        state: The ``(K - 1) * dilation`` positions before, ``(B, C, S)``; none is zeros.
        dilation: Positions from one tap to the next.
        silu: Whether the result goes through SiLU.
        backend: ``"auto"``, ``"torch"`` or ``"triton"``.

    Returns:
        ``(B, C, L)``.
    """
    if applies(x, weight, backend):
        return fused(x, weight, bias, state, dilation=dilation, silu=silu)
    return reference(x, state, weight, bias, dilation, silu)


def applies(x: Tensor, weight: Tensor, backend: str, limit: str | None = None) -> bool:
    """Whether the kernel is to run; raises where it was asked for and cannot, for instance because of the caller's ``limit``."""
    if x.dtype not in POINTER:
        limit = f"x has dtype {x.dtype}"
    elif limit is None and weight.shape[1] > MOST_TAPS:
        limit = f"{weight.shape[1]} taps are more than {MOST_TAPS}"
    return use_triton("causal_conv", backend, x, limit=limit, worthwhile=x.numel() >= WORTHWHILE)


def fused(x: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor | None, *, dilation: int, silu: bool) -> Tensor:
    """``causal_conv`` by the kernel, whatever the size."""
    return _CausalConv.apply(x, state, weight, bias, dilation, silu)


def reference(x: Tensor, state: Tensor | None, weight: Tensor, bias: Tensor | None, dilation: int, silu: bool) -> Tensor:
    """The same in plain torch."""
    past = (weight.shape[1] - 1) * dilation
    seen = F.pad(x, (past, 0)) if state is None else torch.cat([state.to(x.dtype), x], -1)
    if not x.numel():
        return x + 0 * weight.sum()
    y = F.conv1d(seen, weight[:, None].to(x.dtype), None if bias is None else bias.to(x.dtype), dilation=dilation, groups=len(weight))
    return F.silu(y) if silu else y


def _inputs(sizes, dtype, device):
    b, c, positions, k = sizes["batch"], sizes["channels"], sizes["positions"], sizes["taps"]
    shapes = ((b, c, positions), (c, k), (c,), (b, c, k - 1))
    return tuple(random(shape, dtype, device).requires_grad_() for shape in shapes)


def _run(x, weight, bias, state, *, dilation=1, plain=False, backend="auto"):
    if plain:
        return causal_conv(x, weight, dilation=dilation, backend=backend)
    return causal_conv(x, weight, bias, torch.cat([state] * dilation, -1), dilation=dilation, silu=True, backend=backend)


def _cost(sizes, dtype, direction):
    numbers = sizes["batch"] * sizes["channels"] * sizes["positions"]
    # forward reads x and writes y; backward reads x and dy twice, for inputs and for weights, and writes dx
    return Cost(bytes=(2 if direction == "forward" else 5) * numbers * dtype.itemsize, flops=2 * sizes["taps"] * numbers)


def _library(x, weight, bias, state):
    from causal_conv1d import causal_conv1d_fn

    return causal_conv1d_fn(x.transpose(1, 2).contiguous().transpose(1, 2), weight, bias, initial_states=state, activation="silu")


def _builds():
    for dtype, pointer in POINTER.items():
        acc = "*fp64" if dtype == torch.float64 else "*fp32"
        for block, warps in CONFIGS.values():
            if dtype != torch.bfloat16 and block < 512:
                continue  # the dtypes share one table

            def at(sizes, block=block):
                return _config(sizes["positions"])[0] == block and sizes["taps"] == 4

            for silu in (True, False):
                sizes = {"C": "i32", "L": "i32", "S": "i32", "dilation": "i32"}
                constants = {"SILU": silu, "K": 4, "TAPS": 4, "ACC": accumulate_in(dtype), "BLOCK": block}
                inputs = {"x": pointer, "state": pointer, "weight": pointer, "bias": pointer}
                yield Build("_forward_kernel", {**inputs, "y": pointer, **sizes}, constants, warps, multiples=("L",), at=at)
                signature = {"dy": pointer, **inputs, "dx": pointer, "dstate": pointer, **sizes}
                yield Build("_input_kernel", signature, constants, warps, multiples=("L",), at=at)
                signature = {"dy": pointer, **inputs, "dweight": acc, "dbias": acc, **sizes}
                yield Build("_weight_kernel", signature, constants, warps, multiples=("L",), at=at)


def _sizes(batch, channels, positions, taps):
    return {"batch": batch, "channels": channels, "positions": positions, "taps": taps}


SPEC = Spec(
    name="causal_conv",
    summary="Depthwise causal convolution with bias, SiLU and state in one pass.",
    run=_run,
    inputs=_inputs,
    dtypes=tuple(POINTER),
    shapes={
        "8 x 4096 channels x 4096": _sizes(8, 4096, 4096, 4),
        "1 x 8192 channels x 16384": _sizes(1, 8192, 16_384, 4),
        "small, 1 x 256 channels x 64": _sizes(1, 256, 64, 4),
    },
    tails=(_sizes(1, 1, 1, 1), _sizes(2, 2, 63, 4), _sizes(1, 2, 65, 3), _sizes(1, 1, 2, 5), _sizes(0, 3, 5, 4), _sizes(2, 1, 0, 4)),
    probe=_sizes(1, 2, 530, 4),
    cost=_cost,
    directions=("forward", "backward"),
    variants=({}, {"dilation": 2}, {"plain": True}),
    baselines={"causal-conv1d": _library},
    targets={"eager": {"8 x 4096 channels x 4096": 3.0}, "compile": {"8 x 4096 channels x 4096": 2.0}, "causal-conv1d": {"8 x 4096 channels x 4096": 0.85}},
    builds=tuple(_builds()) if triton else (),
    gpu=tuple(_sizes(*s) for s in ((1, 1, 1, 1), (3, 5, 63, 4), (2, 17, 1000, 3), (2, 33, 3001, 4))),
    operators=("causal_conv_forward", "causal_conv_backward"),
)
