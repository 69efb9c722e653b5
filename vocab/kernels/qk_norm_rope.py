"""RMS norm of every query and key head and the rotary turn behind it, for queries and keys in one launch.

Source: Su et al. 2021, arXiv:2104.09864, equation 34; the norm: Dehghani et al. 2023, arXiv:2302.05442, section 2. Eager PyTorch
walks over queries and keys some ten times each; here a program takes the heads of one token, which share its angles, reads them
once and writes them once. Turning back is turning by the negative angle, so without a norm the backward pass needs the angles only.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from vocab.kernels.dispatch import accumulate_in, accumulator, jit, register, tl, triton, use_triton
from vocab.kernels.spec import POINTER, Build, Cost, Spec, random

__all__ = ["LAYOUTS", "SPEC", "applies", "fused", "qk_norm_rope", "reference"]

# B batch, H query heads, G key heads, T time, d head width, r rotated width (r/2 pairs)

LAYOUTS = ("half", "interleaved")
MOST_WIDTH = 512
# Fewer numbers in queries and keys than this are not worth a launch. Provisional until measured here.
WORTHWHILE = 2**22
# Up to so many pairs of numbers in a head -> (heads a program, warps): 8 or 16 pairs a thread.
CONFIGS = {32: (16, 2), 64: (8, 2), 128: (8, 4), 256: (4, 4)}


@jit
def _places(WIDTH: tl.constexpr, ROTARY: tl.constexpr, HALF: tl.constexpr, PAIRS: tl.constexpr):
    # Where the two numbers of each pair are. What is not turned makes pairs of neighbours; an odd width leaves one without a second.
    pair = tl.arange(0, PAIRS)
    first, second = 2 * pair, 2 * pair + 1
    if HALF:
        if ROTARY == WIDTH:  # without tl.where the compiler sees that these lie next to each other
            first, second = pair, pair + ROTARY // 2
        else:
            first = tl.where(pair < ROTARY // 2, pair, first)
            second = tl.where(pair < ROTARY // 2, pair + ROTARY // 2, second)
    return pair, first, second


@jit
def _read(x, first, second, has_first, has_second, ACC: tl.constexpr):
    return tl.load(x + first, has_first, other=0.0).to(ACC), tl.load(x + second, has_second, other=0.0).to(ACC)


@jit
def _write(y, a, b, first, second, has_first, has_second):
    tl.store(y + first, a.to(y.dtype.element_ty), has_first)
    tl.store(y + second, b.to(y.dtype.element_ty), has_second)


@jit
def _angles(cos, sin, pair, ROTARY: tl.constexpr, ACC: tl.constexpr):
    turned = pair < ROTARY // 2  # the others by no angle: cos 1, sin 0
    return tl.load(cos + pair, turned, other=1.0).to(ACC)[None, :], tl.load(sin + pair, turned, other=0.0).to(ACC)[None, :]


@jit
def _forward_heads(
    x, weight, y, cos, sin, token, batch, time, block, N_HEADS, x_batch, x_head, x_time, eps,
    INVERSE: tl.constexpr, NORM: tl.constexpr, HALF: tl.constexpr, WIDTH: tl.constexpr, ROTARY: tl.constexpr, ACC: tl.constexpr,
    HEADS: tl.constexpr, PAIRS: tl.constexpr,
):  # fmt: skip
    pair, first, second = _places(WIDTH, ROTARY, HALF, PAIRS)
    head = block * HEADS + tl.arange(0, HEADS)
    in_first, in_second = pair < (WIDTH + 1) // 2, pair < WIDTH // 2
    has_first, has_second = (head < N_HEADS)[:, None] & in_first[None, :], (head < N_HEADS)[:, None] & in_second[None, :]
    x += batch * x_batch + time * x_time + head.to(tl.int64)[:, None] * x_head
    a, b = _read(x, first[None, :], second[None, :], has_first, has_second, ACC)
    if NORM:
        scale = tl.rsqrt(tl.sum(a * a + b * b, 1) / WIDTH + eps)[:, None]
        a, b = a * scale, b * scale
        if weight is not None:
            gain_a, gain_b = _read(weight, first, second, in_first, in_second, ACC)
            a, b = a * gain_a[None, :], b * gain_b[None, :]
    c, s = _angles(cos, sin, pair, ROTARY, ACC)
    if INVERSE:
        s = -s
    y += token * N_HEADS * WIDTH + head[:, None] * WIDTH
    _write(y, a * c - b * s, a * s + b * c, first[None, :], second[None, :], has_first, has_second)


@jit(do_not_specialize=["T"])
def _forward_kernel(
    q, k, q_weight, k_weight, cos, sin, q_out, k_out, T, H, G, q_batch, q_head, q_time, k_batch, k_head, k_time, angle_batch,
    eps: tl.float64, INVERSE: tl.constexpr, NORM: tl.constexpr, HALF: tl.constexpr, WIDTH: tl.constexpr, ROTARY: tl.constexpr,
    ACC: tl.constexpr, HEADS: tl.constexpr, PAIRS: tl.constexpr,
):  # fmt: skip
    q_blocks, k_blocks = (H + HEADS - 1) // HEADS, (G + HEADS - 1) // HEADS
    token = (tl.program_id(0) // (q_blocks + k_blocks)).to(tl.int64)
    block = tl.program_id(0) % (q_blocks + k_blocks)
    batch, time = token // T, token % T
    cos += batch * angle_batch + time * (ROTARY // 2)
    sin += batch * angle_batch + time * (ROTARY // 2)
    small = tl.full((), eps, ACC)
    if block < q_blocks:
        _forward_heads(q, q_weight, q_out, cos, sin, token, batch, time, block, H, q_batch, q_head, q_time, small,
                       INVERSE, NORM, HALF, WIDTH, ROTARY, ACC, HEADS, PAIRS)  # fmt: skip
    elif k is not None:
        _forward_heads(k, k_weight, k_out, cos, sin, token, batch, time, block - q_blocks, G, k_batch, k_head, k_time, small,
                       INVERSE, NORM, HALF, WIDTH, ROTARY, ACC, HEADS, PAIRS)  # fmt: skip


@jit
def _backward_heads(
    dy, x, weight, dx, partial, cos, sin, first_token, tokens, T, block, N_HEADS, x_batch, x_head, x_time, angle_batch, eps,
    HALF: tl.constexpr, WIDTH: tl.constexpr, ROTARY: tl.constexpr, ACC: tl.constexpr, HEADS: tl.constexpr, PAIRS: tl.constexpr,
):  # fmt: skip
    pair, first, second = _places(WIDTH, ROTARY, HALF, PAIRS)
    head = block * HEADS + tl.arange(0, HEADS)
    in_first, in_second = pair < (WIDTH + 1) // 2, pair < WIDTH // 2
    has_first, has_second = (head < N_HEADS)[:, None] & in_first[None, :], (head < N_HEADS)[:, None] & in_second[None, :]
    place = head.to(tl.int64)[:, None] * x_head
    if weight is not None:
        gain_a, gain_b = _read(weight, first, second, in_first, in_second, ACC)
        dgain_a, dgain_b = tl.zeros((HEADS, PAIRS), ACC), tl.zeros((HEADS, PAIRS), ACC)
    token = first_token
    for _ in range(tokens):
        batch, time = token // T, token % T
        angles = batch * angle_batch + time * (ROTARY // 2)
        c, s = _angles(cos + angles, sin + angles, pair, ROTARY, ACC)
        where = token * N_HEADS * WIDTH + head[:, None] * WIDTH
        up_a, up_b = _read(dy + where, first[None, :], second[None, :], has_first, has_second, ACC)
        da, db = up_a * c + up_b * s, up_b * c - up_a * s  # turned back
        a, b = _read(x + batch * x_batch + time * x_time + place, first[None, :], second[None, :], has_first, has_second, ACC)
        scale = tl.rsqrt(tl.sum(a * a + b * b, 1) / WIDTH + eps)
        scale = tl.where(head < N_HEADS, scale, 0.0)[:, None]  # heads that are not there are zeros, of which eps = 0 makes infinity
        a, b = a * scale, b * scale
        if weight is not None:
            dgain_a += da * a
            dgain_b += db * b
            da, db = da * gain_a[None, :], db * gain_b[None, :]
        along = tl.sum(da * a + db * b, 1)[:, None] / WIDTH
        _write(dx + where, scale * (da - a * along), scale * (db - b * along), first[None, :], second[None, :], has_first, has_second)
        token += 1
    if weight is not None:
        # Each program keeps its own sum; adding them up afterwards is deterministic, atomics are not.
        _write(partial, tl.sum(dgain_a, 0), tl.sum(dgain_b, 0), first, second, in_first, in_second)


@jit(do_not_specialize=["N", "ROWS", "T"])
def _backward_kernel(
    dq_out, dk_out, q, k, q_weight, k_weight, cos, sin, dq, dk, partial, N, ROWS, T, H, G,
    q_batch, q_head, q_time, k_batch, k_head, k_time, angle_batch, eps: tl.float64,
    HALF: tl.constexpr, WIDTH: tl.constexpr, ROTARY: tl.constexpr, ACC: tl.constexpr, HEADS: tl.constexpr, PAIRS: tl.constexpr,
):  # fmt: skip
    q_blocks, k_blocks = (H + HEADS - 1) // HEADS, (G + HEADS - 1) // HEADS
    first_token = (tl.program_id(0) // (q_blocks + k_blocks)).to(tl.int64) * ROWS
    block = tl.program_id(0) % (q_blocks + k_blocks)
    tokens = tl.minimum(ROWS, N - first_token)
    if partial is not None:
        partial += tl.program_id(0).to(tl.int64) * WIDTH
    small = tl.full((), eps, ACC)
    if block < q_blocks:
        _backward_heads(dq_out, q, q_weight, dq, partial, cos, sin, first_token, tokens, T, block, H, q_batch, q_head, q_time,
                        angle_batch, small, HALF, WIDTH, ROTARY, ACC, HEADS, PAIRS)  # fmt: skip
    elif k is not None:
        _backward_heads(dk_out, k, k_weight, dk, partial, cos, sin, first_token, tokens, T, block - q_blocks, G, k_batch, k_head, k_time,
                        angle_batch, small, HALF, WIDTH, ROTARY, ACC, HEADS, PAIRS)  # fmt: skip


def _config(width: int) -> tuple[int, int, int]:
    """Pairs, heads a program, warps."""
    return next((pairs, *config) for pairs, config in CONFIGS.items() if width <= 2 * pairs)


def _programs(x: Tensor) -> int:
    return 16 * torch.cuda.get_device_properties(x.device).multi_processor_count if x.is_cuda else 6


def _neighbours(x: Tensor | None) -> Tensor | None:
    """A tensor whose last dimension lies in one piece; its others may be anywhere."""
    return x if x is None or x.stride(-1) == 1 else x.contiguous()


def _strides(x: Tensor | None) -> tuple[int, int, int]:
    return (0, 0, 0) if x is None else x.stride()[:3]


def _beside(x: Tensor | None, like: Tensor) -> Tensor:
    """Room for a result: the heads of a token next to each other, as projections leave them and their gradients need them."""
    if x is None:
        return torch.empty((0,), dtype=like.dtype, device=like.device)
    batch, heads, time, width = x.shape
    return torch.empty((batch, time, heads, width), dtype=x.dtype, device=x.device).transpose(1, 2)


def _token_major(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.transpose(1, 2).contiguous().transpose(1, 2)


def _turn_launch(q, k, q_weight, k_weight, cos, sin, eps, half, inverse):
    out = _beside(q, q), _beside(k, q)
    batch, heads, time, width = q.shape
    if q.numel() or (k is not None and k.numel()):
        q, k, cos, sin = (_neighbours(t) for t in (q, k, cos.contiguous(), sin.contiguous()))
        pairs, block, warps = _config(width)
        kv_heads = 0 if k is None else k.shape[1]
        _forward_kernel[(batch * time * (-(-heads // block) - (-kv_heads // block)),)](
            q, k, *(None if w is None else w.contiguous() for w in (q_weight, k_weight)), cos, sin, out[0], None if k is None else out[1],
            time, heads, kv_heads, *_strides(q), *_strides(k), cos.stride(0) if cos.ndim == 3 else 0, eps or 0.0,
            INVERSE=inverse, NORM=eps is not None, HALF=half, WIDTH=width, ROTARY=2 * cos.shape[-1], ACC=accumulate_in(q.dtype),
            HEADS=block, PAIRS=pairs, num_warps=warps,
        )  # fmt: skip
    return out


def _forward_launch(q, k, q_weight, k_weight, cos, sin, eps, half):
    return _turn_launch(q, k, q_weight, k_weight, cos, sin, eps, half, False)


def _forward_fake(q, k, q_weight, k_weight, cos, sin, eps, half):
    return _beside(q, q), _beside(k, q)


def _forward_plain(q, k, q_weight, k_weight, cos, sin, eps, half):
    out = reference(q, k, cos, sin, q_weight, k_weight, layout=LAYOUTS[not half], eps=eps)
    return _token_major(out[0]), _beside(None, q) if k is None else _token_major(out[1])


def _backward_launch(dq_out, dk_out, q, k, q_weight, k_weight, cos, sin, eps, half):
    if eps is None:
        return *_turn_launch(dq_out, dk_out, None, None, cos, sin, None, half, True), _beside(None, cos), _beside(None, cos)
    dq, dk, dq_weight, dk_weight = found = _backward_fake(dq_out, dk_out, q, k, q_weight, k_weight, cos, sin, eps, half)
    batch, heads, time, width = q.shape
    if not (q.numel() or (k is not None and k.numel())):
        return dq, dk, dq_weight.zero_(), dk_weight.zero_()
    q, k, cos, sin = (_neighbours(t) for t in (q, k, cos.contiguous(), sin.contiguous()))
    pairs, block, warps = _config(width)
    kv_heads = 0 if k is None else k.shape[1]
    q_blocks, k_blocks = -(-heads // block), -(-kv_heads // block)
    n = batch * time
    rows = -(-n // min(n, max(1, _programs(q) // (q_blocks + k_blocks)))) if q_weight is not None else 1
    shape = (-(-n // rows), q_blocks + k_blocks, width)
    partial = None if q_weight is None else torch.empty(shape, dtype=accumulator(q.dtype), device=q.device)
    _backward_kernel[(shape[0] * shape[1],)](
        _token_major(dq_out), _token_major(dk_out), q, k, *(None if w is None else w.contiguous() for w in (q_weight, k_weight)), cos, sin,
        dq, None if k is None else dk, partial, n, rows, time, heads, kv_heads,
        *_strides(q), *_strides(k), cos.stride(0) if cos.ndim == 3 else 0, eps,
        HALF=half, WIDTH=width, ROTARY=2 * cos.shape[-1], ACC=accumulate_in(q.dtype), HEADS=block, PAIRS=pairs, num_warps=warps,
    )  # fmt: skip
    if partial is None:
        return found
    dk_weight = dk_weight if k is None else partial[:, q_blocks:].sum((0, 1)).to(k_weight.dtype)
    return dq, dk, partial[:, :q_blocks].sum((0, 1)).to(q_weight.dtype), dk_weight


def _backward_fake(dq_out, dk_out, q, k, q_weight, k_weight, cos, sin, eps, half):
    weights = (torch.empty(like.shape, dtype=like.dtype, device=like.device) for like in (q_weight, k_weight) if like is not None)
    absent = (_beside(None, cos) for _ in range(2))
    return _beside(dq_out, dq_out), _beside(dk_out, dq_out), *(*weights, *absent)[:2]


def _backward_plain(dq_out, dk_out, q, k, q_weight, k_weight, cos, sin, eps, half):
    heads, gains = [], []
    for dy, x, weight in ((dq_out, q, q_weight), (dk_out, k, k_weight)):
        if dy is None:
            heads.append(_beside(None, dq_out))
            continue
        grad = _turned(dy.to(accumulator(dy.dtype)), cos, -sin, half)
        if eps is not None:
            wide = x.to(grad.dtype)
            scale = (wide.square().mean(-1, keepdim=True) + eps).rsqrt()
            normed = wide * scale
            if weight is not None:
                gains.append((grad * normed).sum((0, 1, 2)).to(weight.dtype))
                grad = grad * weight.to(grad.dtype)
            grad = scale * (grad - normed * (grad * normed).mean(-1, keepdim=True))
        heads.append(_token_major(grad.to(dy.dtype)))
    return *heads, *(*gains, _beside(None, cos), _beside(None, cos))[:2]


_forward = register(
    "vocab::qk_norm_rope_forward",
    "(Tensor q, Tensor? k, Tensor? q_weight, Tensor? k_weight, Tensor cos, Tensor sin, float? eps, bool half) -> (Tensor, Tensor)",
    launch=_forward_launch,
    plain=_forward_plain,
    fake=_forward_fake,
)
_backward = register(
    "vocab::qk_norm_rope_backward",
    "(Tensor dq_out, Tensor? dk_out, Tensor? q, Tensor? k, Tensor? q_weight, Tensor? k_weight, Tensor cos, Tensor sin, float? eps, "
    "bool half) -> (Tensor, Tensor, Tensor, Tensor)",
    launch=_backward_launch,
    plain=_backward_plain,
    fake=_backward_fake,
)


class _QKNormRope(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, q_weight, k_weight, cos, sin, eps, half):
        kept = (q, k, q_weight, k_weight) if eps is not None else (None,) * 4
        ctx.save_for_backward(*kept, cos, sin)
        ctx.options, ctx.has = (eps, half), (k is not None, q_weight is not None, k_weight is not None)
        q_out, k_out = _forward(q, k, q_weight, k_weight, cos, sin, eps, half)
        return (q_out, k_out) if k is not None else q_out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, dq_out, dk_out=None):
        dq, *rest = _backward(dq_out, dk_out, *ctx.saved_tensors, *ctx.options)
        return dq, *(x if has else None for x, has in zip(rest, ctx.has)), None, None, None, None


def qk_norm_rope(
    q: Tensor,
    k: Tensor | None,
    cos: Tensor,
    sin: Tensor,
    q_weight: Tensor | None = None,
    k_weight: Tensor | None = None,
    *,
    layout: str = "half",
    eps: float | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor | None]:
    """Divides every head of queries and keys by its root mean square, weighs it, and turns its pairs by the angles of its position.

    Sums are kept in float32 (float64 for float64 inputs); the result is rounded once, behind the turn.

    Args:
        q: ``(B, H, T, d)``, any strides.
        k: ``(B, G, T, d)``, or None to turn one tensor alone.
        cos: Cosines of the angles, ``(T, r / 2)`` or ``(B, T, r / 2)``; the rest of a head, ``d - r`` numbers, is not turned. No gradient.
        sin: Their sines, of the same shape.
        q_weight: Gains of the queries, ``(d,)``; needs ``eps``.
        k_weight: Gains of the keys; those of both are given, or none.
        layout: Which numbers make a pair, ``"half"`` for (i, i + r/2) or ``"interleaved"`` for (2i, 2i + 1).
        eps: Added to the mean square under the root; None leaves out the norm.
        backend: ``"auto"``, ``"torch"`` or ``"triton"``.

    Returns:
        The turned q and k, None for a k that is None. From the kernel the heads of a token lie next to each other in memory.

    Raises:
        ValueError: If a layout is unknown, or weights, tables and heads do not fit each other.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"layout={layout!r} is neither 'half' nor 'interleaved'")
    if (k_weight is not None) != (k is not None and q_weight is not None) or (q_weight is not None and eps is None):
        given = ", ".join(name for name, x in (("k", k), ("q_weight", q_weight), ("k_weight", k_weight), ("eps", eps)) if x is not None)
        raise ValueError(f"of k, q_weight, k_weight and eps these are given: {given or 'none'}; weights come for all heads, and with eps")
    width, shapes = q.shape[-1], (q.shape[:1] + q.shape[2:3], q.shape[2:3])
    if cos.shape != sin.shape or cos.shape[:-1] not in shapes or 2 * cos.shape[-1] > width:
        expected = f"([{q.shape[0]},] {q.shape[2]}, up to {width // 2})"
        raise ValueError(f"cos is {tuple(cos.shape)} and sin {tuple(sin.shape)}; expected {expected}")
    run = fused if applies(q, k, cos, backend) else reference
    return run(q, k, cos, sin, q_weight, k_weight, layout=layout, eps=eps)


def applies(q: Tensor, k: Tensor | None, cos: Tensor, backend: str, limit: str | None = None) -> bool:
    """Whether the kernel is to run; raises where it was asked for and cannot, for instance because of the caller's ``limit``."""
    if q.dtype not in POINTER:
        limit = f"q has dtype {q.dtype}"
    elif k is not None and k.dtype != q.dtype:
        limit = f"q is {q.dtype} and k is {k.dtype}"
    elif q.shape[-1] > MOST_WIDTH:
        limit = f"a head of {q.shape[-1]} numbers is wider than {MOST_WIDTH}"
    elif cos.requires_grad:
        limit = "the angles need a gradient"
    numbers = q.numel() + (0 if k is None else k.numel())
    return use_triton("qk_norm_rope", backend, q, limit=limit, worthwhile=numbers >= WORTHWHILE)


def fused(
    q: Tensor, k: Tensor | None, cos: Tensor, sin: Tensor, q_weight: Tensor | None = None, k_weight: Tensor | None = None,
    *, layout: str, eps: float | None = None,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """``qk_norm_rope`` by the kernel, whatever the size."""
    out = _QKNormRope.apply(q, k, q_weight, k_weight, cos, sin, eps, layout == "half")
    return (out, None) if k is None else out


def _turned(x: Tensor, cos: Tensor, sin: Tensor, half: bool) -> Tensor:
    cos, sin = cos.to(x.dtype).unsqueeze(-3), sin.to(x.dtype).unsqueeze(-3)  # one for all heads
    width = 2 * cos.shape[-1]
    turned, kept = x[..., :width], x[..., width:]
    a, b = turned.chunk(2, -1) if half else (turned[..., 0::2], turned[..., 1::2])
    pair = a * cos - b * sin, a * sin + b * cos
    return torch.cat((torch.cat(pair, -1) if half else torch.stack(pair, -1).flatten(-2), kept), -1)


def reference(
    q: Tensor, k: Tensor | None, cos: Tensor, sin: Tensor, q_weight: Tensor | None = None, k_weight: Tensor | None = None,
    *, layout: str = "half", eps: float | None = None,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """The same in plain torch."""
    out = []
    for x, weight in ((q, q_weight), (k, k_weight)):
        if x is None:
            out.append(None)
            continue
        wide = x.to(accumulator(x.dtype))
        if eps is not None:
            wide = wide * (wide.square().mean(-1, keepdim=True) + eps).rsqrt()
            if weight is not None:
                wide = wide * weight.to(wide.dtype)
        out.append(_turned(wide, cos, sin, layout == "half").to(x.dtype))
    return tuple(out)


def _inputs(sizes, dtype, device):
    batch, time, width = sizes["batch"], sizes["time"], sizes["width"]
    q, k = (random((batch, heads, time, width), dtype, device).requires_grad_() for heads in (sizes["heads"], sizes["kv_heads"]))
    weights = (random((width,), dtype, device, scale=0.3, shift=1.0).requires_grad_() for _ in range(2))
    angle = 7 * torch.rand(batch, time, sizes["rotary"] // 2)
    return q, k, *weights, *(t.to(device, accumulator(dtype)) for t in (angle.cos(), angle.sin()))


def _run(q, k, q_weight, k_weight, cos, sin, *, norm=True, weights=True, whole=False, alone=False, eps=1e-6, backend="auto", **options):
    """Without norm or weights; with heads cut to what is turned (``whole``); or without keys and with one row of angles for the batch."""
    if whole:
        q, k, q_weight, k_weight = (x[..., : 2 * cos.shape[-1]] for x in (q, k, q_weight, k_weight))
    gains = (q_weight, k_weight) if norm and weights else (None, None)
    if alone:
        return qk_norm_rope(q, None, cos[0], sin[0], gains[0], **options, eps=eps if norm else None, backend=backend)[0]
    return qk_norm_rope(q, k, cos, sin, *gains, **options, eps=eps if norm else None, backend=backend)


def _cost(sizes, dtype, direction):
    tokens = sizes["batch"] * sizes["time"]
    numbers = tokens * (sizes["heads"] + sizes["kv_heads"]) * sizes["width"]
    angles = tokens * sizes["rotary"] * accumulator(dtype).itemsize
    # forward reads and writes q and k; backward reads them and two gradients and writes two
    moved, computed = (2, 7) if direction == "forward" else (3, 16)
    return Cost(bytes=moved * numbers * dtype.itemsize + angles, flops=computed * numbers)


def _torch_native(q, k, q_weight, k_weight, cos, sin):
    return tuple(_turned(F.rms_norm(x, w.shape, w, 1e-6), cos, sin, True) for x, w in ((q, q_weight), (k, k_weight)))


def _liger(q, k, q_weight, k_weight, cos, sin):
    from liger_kernel.transformers.functional import liger_rope

    q, k = (F.rms_norm(x, w.shape, w, 1e-6) for x, w in ((q, q_weight), (k, k_weight)))
    return liger_rope(q, k, torch.cat((cos, cos), -1), torch.cat((sin, sin), -1))


def _builds():
    def build(kernel, dtype, width, *, rotary=None, half=True, weights=True, norm=True, inverse=False):
        pointer, (pairs, heads, warps) = POINTER[dtype], _config(width)
        table = "*fp64" if dtype == torch.float64 else "*fp32"
        sizes = ("T", "H", "G", "q_batch", "q_head", "q_time", "k_batch", "k_head", "k_time", "angle_batch")
        names = ("q", "k", "q_weight", "k_weight", "q_out", "k_out")
        if kernel == "_backward_kernel":
            names = ("dq_out", "dk_out", "q", "k", "q_weight", "k_weight", "dq", "dk")
            sizes = ("N", "ROWS", *sizes)
        absent = {} if weights else {"q_weight": None, "k_weight": None}
        signature = {n: pointer for n in names if n not in absent} | {"cos": table, "sin": table}
        flags = {"HALF": half, "WIDTH": width, "ROTARY": width if rotary is None else rotary, "HEADS": heads, "PAIRS": pairs}
        if kernel == "_backward_kernel":
            absent = absent if weights else {**absent, "partial": None}
            signature |= {"partial": table} if weights else {}
        else:
            flags |= {"NORM": norm, "INVERSE": inverse}
        signature |= {**dict.fromkeys(sizes, "i32"), "eps": "fp64"}

        def at(sizes):
            return _config(sizes["width"])[0] == pairs and sizes["width"] == sizes["rotary"] and norm and weights and half and not rotary

        constants = {**flags, **absent, "ACC": accumulate_in(dtype)}
        return Build(kernel, signature, constants, warps, multiples=sizes[-7:], at=at)

    forward, backward, short = "_forward_kernel", "_backward_kernel", torch.bfloat16
    for width in (64, 128, 256, 512):
        for kernel in (forward, backward):
            yield build(kernel, short, width)
    yield build(forward, short, 128, half=False)
    yield build(backward, short, 128, half=False)
    yield build(forward, short, 128, rotary=64, weights=False)
    yield build(backward, short, 128, rotary=64, weights=False)
    yield build(forward, short, 128, norm=False, weights=False)
    yield build(forward, short, 128, norm=False, weights=False, inverse=True)
    for dtype in (torch.float32, torch.float64):  # the dtypes share one table
        for kernel in (forward, backward):
            yield build(kernel, dtype, 128)
            yield build(kernel, dtype, 512)


SPEC = Spec(
    name="qk_norm_rope",
    summary="RMS norm and rotary embedding of all query and key heads in one launch.",
    run=_run,
    inputs=_inputs,
    dtypes=tuple(POINTER),
    shapes={
        "4 x 4096 tokens, 32 + 8 heads of 128": {"batch": 4, "time": 4096, "heads": 32, "kv_heads": 8, "width": 128, "rotary": 128},
        "1 x 32768 tokens, 16 + 8 heads of 64": {"batch": 1, "time": 32_768, "heads": 16, "kv_heads": 8, "width": 64, "rotary": 64},
        "small, 1 x 128 tokens": {"batch": 1, "time": 128, "heads": 32, "kv_heads": 8, "width": 128, "rotary": 128},
    },
    tails=(
        {"batch": 1, "time": 1, "heads": 1, "kv_heads": 1, "width": 2, "rotary": 2},
        {"batch": 1, "time": 2, "heads": 9, "kv_heads": 1, "width": 65, "rotary": 64},
        {"batch": 2, "time": 1, "heads": 2, "kv_heads": 3, "width": 63, "rotary": 10},
        {"batch": 2, "time": 0, "heads": 2, "kv_heads": 1, "width": 8, "rotary": 8},
    ),
    probe={"batch": 2, "time": 2, "heads": 17, "kv_heads": 2, "width": 11, "rotary": 6},
    cost=_cost,
    directions=("forward", "backward"),
    variants=(
        {},
        {"layout": "interleaved", "eps": 0.1, "weights": False},
        {"whole": True},
        {"norm": False, "layout": "interleaved"},
        {"alone": True},
    ),
    baselines={"F.rms_norm, then a turn": _torch_native, "F.rms_norm, then liger": _liger},
    targets={
        "eager": {"4 x 4096 tokens, 32 + 8 heads of 128": 5.0, "1 x 32768 tokens, 16 + 8 heads of 64": 5.0},
        "compile": {"4 x 4096 tokens, 32 + 8 heads of 128": 2.0, "1 x 32768 tokens, 16 + 8 heads of 64": 2.0},
    },
    builds=tuple(_builds()) if triton else (),
    gpu=tuple(
        {"batch": 2, "time": time, "heads": heads, "kv_heads": 3, "width": width, "rotary": rotary}
        for time, heads, width, rotary in (
            (1, 5, 64, 64), (65, 17, 63, 20), (63, 9, 128, 128), (65, 9, 200, 200), (33, 5, 500, 256), (17, 5, 512, 512),
        )  # fmt: skip
    ),
    operators=("qk_norm_rope_forward", "qk_norm_rope_backward"),
)
