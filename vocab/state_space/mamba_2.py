"""Mamba-2: a selective state space whose decay is one number per head, so that matrix products compute it.

Source: Dao and Gu 2024, arXiv:2405.21060, section 6 (chunks), section 7 (the layer) and listing 1.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vocab.attention.masks import causal_mask
from vocab.check import expect
from vocab.convolution.causal import CausalConv1d
from vocab.kernels.linear_attention import applies, fused
from vocab.normalization.rms import rms_norm
from vocab.state_space.mamba import MambaState

__all__ = ["Mamba2", "decay_attention", "decay_chunk", "segment_sum", "ssd"]

# B batch, T time, D model width, E inner width, H heads, P width of a head, G groups that share B and C, N numbers of state per
# channel, K convolution taps


class Mamba2(nn.Module):
    """Sequence layer: projection, short causal convolution, state space duality, gate and norm, projection.

    The state is a ``MambaState`` of ``conv (B, E + 2 G N, K - 1)`` and ``ssm (B, H, N, P)``; it does not grow with time.

    Args:
        d_model: Width D of input and output.
        d_state: Numbers N of state per channel.
        d_conv: Taps K of the convolution.
        expand: Inner width E over D.
        head_dim: Channels P that share a decay.
        n_groups: Groups G of heads; the heads of a group share B and C, and each group is normalized by itself.
        chunk_size: Steps that are computed together; changes speed and memory, not the result.
        eps: Added to the mean square in the norm.
        backend: ``"auto"``, ``"torch"`` or ``"triton"``, for the recurrence.

    Shapes:
        x ``(B, T, D)`` and a state, or None for an empty past -> y ``(B, T, D)`` and the state after the last token.

    Raises:
        ValueError: If a size is below 1 or does not divide what it must, or ``x`` or ``state`` has another shape.

    Examples:
        >>> layer, x = Mamba2(8, d_state=4, head_dim=4), torch.randn(1, 6, 8)
        >>> first, state = layer(x[:, :4])
        >>> rest, state = layer(x[:, 4:], state)
        >>> torch.allclose(torch.cat([first, rest], 1), layer(x)[0], atol=1e-5), state.ssm.shape
        (True, torch.Size([1, 4, 4, 4]))
    """

    def __init__(
        self,
        d_model: int,
        d_state: int = 128,
        d_conv: int = 4,
        expand: int = 2,
        head_dim: int = 64,
        n_groups: int = 1,
        chunk_size: int = 256,
        *,
        eps: float = 1e-5,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        sizes = dict(d_model=d_model, d_state=d_state, d_conv=d_conv, expand=expand, head_dim=head_dim, n_groups=n_groups)
        for name, value in dict(**sizes, chunk_size=chunk_size).items():
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}={value!r} is not a whole number above 0")
        inner = expand * d_model
        if inner % head_dim:
            raise ValueError(f"the inner width {inner} (expand * d_model) is not a multiple of head_dim={head_dim}")
        heads = inner // head_dim
        if heads % n_groups:
            raise ValueError(f"the {heads} heads are not a multiple of n_groups={n_groups}")
        shared = n_groups * d_state
        self.head_dim, self.n_groups, self.d_state, self.chunk_size, self.eps = head_dim, n_groups, d_state, chunk_size, eps
        self.backend = backend
        self.widths = inner, shared, shared
        # All at once and from x alone: gate z, then what is convolved (u, B, C), then the steps dt.
        self.in_proj = nn.Linear(d_model, 2 * inner + 2 * shared + heads, bias=False)
        self.conv = CausalConv1d(sum(self.widths), sum(self.widths), d_conv, groups=sum(self.widths), activation="silu")
        self.A_log = nn.Parameter(torch.empty(heads).uniform_(1, 16).log())
        dt = torch.empty(heads).uniform_(math.log(1e-3), math.log(1e-1)).exp()
        self.dt_bias = nn.Parameter(dt.expm1().log())  # softplus of this is dt
        self.D = nn.Parameter(torch.ones(heads))
        self.norm_weight = nn.Parameter(torch.ones(inner))
        self.out_proj = nn.Linear(inner, d_model, bias=False)

    def forward(self, x: Tensor, state: MambaState | None = None) -> tuple[Tensor, MambaState]:
        expect("x", x, "batch time d_model", d_model=self.in_proj.in_features)
        heads, (inner, *_) = len(self.D), self.widths
        conv, ssm = (None, None) if state is None else state
        if state is not None:
            width, past = sum(self.widths), self.conv.past
            expect("state[0]", conv, "batch width past", batch=len(x), width=width, past=past)
            sizes = dict(batch=len(x), heads=heads, d_state=self.d_state, head_dim=self.head_dim)
            expect("state[1]", ssm, "batch heads d_state head_dim", **sizes)
        z_BTE, mixed, dt_BTH = self.in_proj(x).split([inner, sum(self.widths), heads], -1)
        mixed, conv = self.conv(mixed.transpose(1, 2), conv)
        u_BTE, B_BTn, C_BTn = mixed.transpose(1, 2).split(self.widths, -1)
        u_BTHP = u_BTE.unflatten(-1, (heads, self.head_dim))
        B_BTGN, C_BTGN = (p.unflatten(-1, (self.n_groups, self.d_state)) for p in (B_BTn, C_BTn))
        dtype = torch.promote_types(x.dtype, torch.float32)
        dt_BTH = F.softplus((dt_BTH + self.dt_bias).to(dtype))
        log_a_BTH = -self.A_log.to(dtype).exp() * dt_BTH
        settings = dict(state=ssm, return_state=True, backend=self.backend)
        y_BTHP, ssm = ssd(u_BTHP.to(dtype) * dt_BTH[..., None], log_a_BTH, B_BTGN, C_BTGN, self.chunk_size, **settings)
        y_BTE = (y_BTHP + self.D[:, None] * u_BTHP).flatten(-2) * F.silu(z_BTE)
        y_BTE = rms_norm(y_BTE.unflatten(-1, (self.n_groups, -1)), eps=self.eps).flatten(-2) * self.norm_weight
        return self.out_proj(y_BTE.to(x.dtype)), MambaState(conv, ssm)


def ssd(
    x: Tensor,
    log_a: Tensor,
    B: Tensor,
    C: Tensor,
    chunk_size: int = 64,
    *,
    state: Tensor | None = None,
    return_state: bool = False,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """Runs ``S = a S + B x^T`` over time and reads ``y = C S``, chunk by chunk.

    A chunk of T is the quadratic form ``(L * C B^T) x``, a chunk of 1 the recurrence; all sizes give the same. Computes in
    32 bits or more and returns the dtype of ``x``.

    Args:
        x: What is written ``(B, T, H, P)``: the values of linear attention.
        log_a: Logarithms of the decays ``(B, T, H)``, at most 0 for a state that does not grow; ``-inf`` clears the state.
        B: Where it is written ``(B, T, G, N)``: the keys; G divides H, and the heads of a group share them.
        C: From where it is read ``(B, T, G, N)``: the queries.
        chunk_size: Steps that are computed together. The last chunk may be shorter.
        state: ``S`` before the first step ``(B, H, N, P)``; zero if not given.
        return_state: Whether ``S`` after the last step is returned too.
        backend: ``"auto"``, ``"torch"`` or ``"triton"``: a kernel with chunks of its own size. It multiplies in the dtype of ``B`` and
            adds up in 32 bits.

    Returns:
        y ``(B, T, H, P)``, and the state where asked for.

    Raises:
        ValueError: If a shape does not fit or ``chunk_size`` is below 1.
        RuntimeError: If ``backend="triton"`` cannot run here; the message says why.

    Examples:
        >>> one = torch.ones(1, 4, 1, 1)
        >>> ssd(one, torch.full((1, 4, 1), 0.5).log(), one, one, chunk_size=2).flatten()
        tensor([1.0000, 1.5000, 1.7500, 1.8750])
    """
    expect("x", x, "batch time heads head_dim")
    batch, time, heads, width = x.shape
    expect("log_a", log_a, "batch time heads", batch=batch, time=time, heads=heads)
    expect("B", B, "batch time groups d_state", batch=batch, time=time)
    groups, d_state = B.shape[2:]
    expect("C", C, "batch time groups d_state", batch=batch, time=time, groups=groups, d_state=d_state)
    if heads % groups:
        raise ValueError(f"x has {heads} heads, not a multiple of the {groups} groups of B")
    if state is not None:
        expect("state", state, "batch heads d_state head_dim", batch=batch, heads=heads, d_state=d_state, head_dim=width)
    if chunk_size > 0 and time > 0 and applies(C, B, x.to(B.dtype), log_a, backend):
        y, S = fused(C, B, x.to(B.dtype), log_a, state)
        return (y.to(x.dtype), S) if return_state else y.to(x.dtype)
    dtype = torch.promote_types(x.dtype, torch.float32)
    v = x.to(dtype).unflatten(2, (groups, -1)).movedim(1, 3)  # (B, G, H / G, T, P)
    log_a = log_a.to(dtype).unflatten(2, (groups, -1)).movedim(1, 3)
    k, q = (y.to(dtype).transpose(1, 2).unsqueeze(2) for y in (B, C))  # (B, G, 1, T, N): scores once for a whole group
    if state is None:
        state = v.new_zeros(batch, heads, d_state, width)
    S = state.to(dtype).unflatten(1, (groups, -1))
    y, S = decay_attention(q, k, v, log_a, S, chunk_size)
    y = y.movedim(3, 1).flatten(2, 3).to(x.dtype)
    return (y, S.flatten(1, 2)) if return_state else y


def decay_attention(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, state: Tensor, chunk_size: int
) -> tuple[Tensor, Tensor]:
    """Runs ``S = a S + k v^T`` over time and reads ``o = q S``, chunk by chunk; leading dimensions broadcast.

    Args:
        q: Queries ``(..., T, N)``.
        k: Keys ``(..., T, N)``.
        v: Values ``(..., T, P)``.
        log_decay: Logarithms of a ``(..., T)``.
        state: ``S`` before the first step ``(..., N, P)``.
        chunk_size: Steps that are computed together.

    Returns:
        o ``(..., T, P)`` and ``S`` after the last step.

    Raises:
        ValueError: If there is no step, ``chunk_size`` is below 1, or a shape does not fit.

    Examples:
        >>> one = torch.ones(3, 1)
        >>> decay_attention(one, one, one, torch.full((3,), 0.5).log(), torch.zeros(1, 1), 2)[0].flatten()
        tensor([1.0000, 1.5000, 1.7500])
    """
    expect("q", q, "... time d_state")
    time = q.shape[-2]
    if chunk_size < 1 or time < 1:
        raise ValueError(f"chunk_size={chunk_size} or the number of steps, {time}, is below 1")
    expect("log_decay", log_decay, "... time", time=time)
    outputs = []
    for start in range(0, time, chunk_size):
        now = slice(start, start + chunk_size)
        out, state = decay_chunk(q[..., now, :], k[..., now, :], v[..., now, :], log_decay[..., now], state)
        outputs.append(out)
    return torch.cat(outputs, -2), state


def decay_chunk(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """One chunk of ``S = a S + k v^T``, ``o = q S``: linear attention with decaying weights inside, one state in and one out.

    Leading dimensions broadcast. Retention and the gated delta rule are made of it too.

    Args:
        q: Queries ``(..., c, N)``.
        k: Keys ``(..., c, N)``.
        v: Values ``(..., c, P)``.
        log_decay: Logarithms of a ``(..., c)``.
        state: ``S`` before the chunk ``(..., N, P)``.

    Returns:
        o ``(..., c, P)`` and ``S`` after the chunk.

    Raises:
        ValueError: If a shape does not fit that of ``q``.

    Examples:
        >>> one = torch.ones(2, 1)
        >>> decay_chunk(one, one, one, torch.zeros(2), torch.tensor([[10.0]]))  # nothing decays: sums
        (tensor([[11.],
                [12.]]), tensor([[12.]]))
    """
    expect("q", q, "... time d_state")
    sizes = dict(time=q.shape[-2], d_state=q.shape[-1])
    expect("k", k, "... time d_state", **sizes)
    expect("v", v, "... time width", time=sizes["time"])
    expect("log_decay", log_decay, "... time", time=sizes["time"])
    expect("state", state, "... d_state width", d_state=sizes["d_state"], width=v.shape[-1])
    kept = segment_sum(log_decay).exp()  # (..., c, c): of what step s wrote, at step t
    since = log_decay.cumsum(-1).exp()[..., None]  # (..., c, 1): of the state before the chunk, at step t
    out = (q @ k.transpose(-1, -2) * kept) @ v + since * (q @ state)
    written = (k * kept[..., -1, :, None]).transpose(-1, -2) @ v
    return out, since[..., -1:, :] * state + written


def segment_sum(x: Tensor) -> Tensor:
    """Sums of every segment: entry (t, s) is ``x[s+1] + ... + x[t]`` for s <= t and ``-inf`` above the diagonal.

    Added up as they stand. The difference of two cumulative sums would be shorter, and lose the digits of short segments
    late in a sequence; with a term of ``-inf`` it would be NaN.

    Args:
        x: ``(..., T)``.

    Returns:
        ``(..., T, T)``.

    Examples:
        >>> segment_sum(torch.tensor([5.0, 1.0, 2.0]))
        tensor([[0., -inf, -inf],
                [1., 0., -inf],
                [3., 2., 0.]])
    """
    expect("x", x, "... time")
    seen = causal_mask(x.shape[-1], device=x.device)
    # Column s adds up the terms of the rows below s.
    terms = x.unsqueeze(-1).expand(*x.shape, x.shape[-1]).masked_fill(~seen.tril(-1), 0.0)
    return terms.cumsum(-2).masked_fill(~seen, -math.inf)
