"""Retention: linear attention whose memory fades at a fixed rate, a different one for each head.

Source: Sun et al. 2023, arXiv:2307.08621, equations 5 to 8; the chunks are those of Mamba-2 with a constant decay.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vocab.attention.multi_head import merge_heads, split_heads
from vocab.check import expect
from vocab.kernels.linear_attention import applies, fused
from vocab.normalization.group import group_norm
from vocab.positional.rope import RotaryEmbedding
from vocab.state_space.mamba_2 import decay_attention

__all__ = ["MultiScaleRetention", "RetentionState", "decays", "retention"]

# B batch, T time, D model width, H heads, d width of a query or key, e of a value

MODES = ("parallel", "recurrent", "chunkwise")
GATES = {"swish": F.silu, "gelu": F.gelu}


class RetentionState(NamedTuple):
    """What a layer remembers between calls; its size does not grow with time.

    Attributes:
        memory: ``(B, H, d, e)``, the decaying sum of ``k^T v``.
        position: How many tokens have been read: the rotation counts from there.
    """

    memory: Tensor
    position: int


class MultiScaleRetention(nn.Module):
    """Retention in heads of different memory, a norm of each head's output, and a gate.

    Args:
        d_model: Width D of input and output.
        n_heads: Heads H; head h forgets a share of ``2**(-5 - h)`` of its memory at each step.
        value_factor: Width of all values over D.
        gate: What the gate goes through, ``"swish"`` or ``"gelu"``.
        chunk_size: Tokens in a chunk of ``mode="chunkwise"``.
        eps: Added to the variance in the norm.
        backend: ``"auto"``, ``"torch"`` or ``"triton"``, for all modes but ``"recurrent"``.

    Shapes:
        x ``(B, T, D)`` and a state, or None for an empty past -> y ``(B, T, D)`` and the state after the last token.

    Raises:
        ValueError: If the heads do not come out even, a word is unknown, or ``x`` or ``state`` has another shape.

    Examples:
        >>> layer, x = MultiScaleRetention(8, 2), torch.randn(1, 6, 8)
        >>> first, state = layer(x[:, :4])
        >>> rest, state = layer(x[:, 4:], "recurrent", state)
        >>> torch.allclose(torch.cat([first, rest], 1), layer(x)[0], atol=1e-5)
        True
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        *,
        value_factor: int = 2,
        gate: str = "swish",
        chunk_size: int = 64,
        eps: float = 1e-6,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        if n_heads < 1 or d_model < 1 or d_model % (2 * n_heads):
            raise ValueError(f"d_model={d_model} is not a multiple of 2 * n_heads={2 * n_heads}; a head is turned in pairs")
        if value_factor < 1 or chunk_size < 1:
            raise ValueError(f"value_factor={value_factor} or chunk_size={chunk_size} is below 1")
        if gate not in GATES:
            raise ValueError(f"gate={gate!r} is neither 'swish' nor 'gelu'")
        if not eps >= 0:
            raise ValueError(f"eps={eps} is negative")
        self.n_heads, self.head_dim, self.value_dim = n_heads, d_model // n_heads, value_factor * d_model // n_heads
        self.gate, self.chunk_size, self.eps, self.backend = gate, chunk_size, eps, backend
        inner = value_factor * d_model
        self.q_proj = nn.Linear(d_model, d_model, bias=False)
        self.k_proj = nn.Linear(d_model, d_model, bias=False)
        self.v_proj = nn.Linear(d_model, inner, bias=False)
        self.gate_proj = nn.Linear(d_model, inner, bias=False)
        self.o_proj = nn.Linear(inner, d_model, bias=False)
        self.rotary = RotaryEmbedding(self.head_dim, layout="interleaved")

    def forward(
        self, x: Tensor, mode: str = "parallel", state: RetentionState | None = None
    ) -> tuple[Tensor, RetentionState]:
        expect("x", x, "batch time d_model", d_model=self.q_proj.in_features)
        memory, start = (None, 0) if state is None else state
        position = torch.arange(start, start + x.shape[1], device=x.device)
        q_BHTd, k_BHTd = (split_heads(p(x), self.head_dim) for p in (self.q_proj, self.k_proj))
        q_BHTd, k_BHTd = self.rotary(q_BHTd / self.head_dim**0.5, k_BHTd, position)
        v_BHTe = split_heads(self.v_proj(x), self.value_dim)
        settings = dict(mode=mode, chunk_size=self.chunk_size, backend=self.backend)
        out_BHTe, memory = retention(q_BHTd, k_BHTd, v_BHTe, decays(self.n_heads), memory, **settings)
        out_BTE = merge_heads(out_BHTe)
        # Each head of each token by itself: tokens as the batch, heads as the groups.
        normal = group_norm(out_BTE.flatten(0, 1), self.n_heads, eps=self.eps).view_as(out_BTE)
        y = self.o_proj(GATES[self.gate](self.gate_proj(x)) * normal)
        return y, RetentionState(memory, start + x.shape[1])


def retention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gamma: Tensor,
    state: Tensor | None = None,
    *,
    mode: str = "parallel",
    chunk_size: int = 64,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Computes ``o_t = sum over s <= t of gamma^(t - s) (q_t . k_s) v_s``, in one of three ways that give the same.

    Computes in 32 bits or more and returns the dtype of ``v``.

    Args:
        q: Queries ``(B, H, T, d)``, turned already.
        k: Keys ``(B, H, T, d)``, turned already.
        v: Values ``(B, H, T, e)``.
        gamma: The share of its memory that a head keeps at each step ``(H,)``, above 0 and at most 1.
        state: The memory of the steps before ``(B, H, d, e)``; empty if not given.
        mode: ``"parallel"``: all T x T weights at once; ``"recurrent"``: one step after the other; ``"chunkwise"``: weights
            within a chunk, a memory between chunks.
        chunk_size: Steps in a chunk.
        backend: ``"auto"``, ``"torch"`` or ``"triton"``: a kernel that goes in chunks of its own size, whatever ``mode`` is, unless
            it is ``"recurrent"``. It multiplies in the dtype of the inputs and adds up in 32 bits.

    Returns:
        o ``(B, H, T, e)`` and the memory after the last step.

    Raises:
        ValueError: If a shape does not fit, ``mode`` is another word or ``chunk_size`` is below 1.
        RuntimeError: If ``backend="triton"`` cannot run here; the message says why.

    Examples:
        >>> one, half = torch.ones(1, 1, 4, 1), torch.tensor([0.5])
        >>> retention(one, one, one, half, mode="recurrent")[0].flatten()
        tensor([1.0000, 1.5000, 1.7500, 1.8750])
    """
    expect("q", q, "batch heads time head_dim")
    batch, heads, time, width = q.shape
    sizes = dict(batch=batch, heads=heads, time=time)
    expect("k", k, "batch heads time head_dim", **sizes, head_dim=width)
    expect("v", v, "batch heads time value_dim", **sizes)
    expect("gamma", gamma, "heads", heads=heads)
    if mode not in MODES:
        raise ValueError(f"mode={mode!r} is none of {MODES}")
    if state is not None:
        expect("state", state, "batch heads head_dim value_dim", batch=batch, heads=heads, head_dim=width, value_dim=v.shape[-1])
    limit = "mode='recurrent' goes step by step" if mode == "recurrent" else None
    time_first = [y.transpose(1, 2) for y in (q, k, v)]
    if (mode != "chunkwise" or chunk_size > 0) and applies(*time_first, gamma, backend, limit):
        out, state = fused(*time_first, gamma.log(), state)
        return out.transpose(1, 2), state
    dtype = torch.promote_types(v.dtype, torch.float32)  # a memory is added to thousands of times
    out_dtype, (q, k, v, gamma) = v.dtype, (y.to(dtype) for y in (q, k, v, gamma))
    if state is None:
        state = v.new_zeros(batch, heads, width, v.shape[-1])
    if mode == "recurrent":
        steps = []
        for t in range(time):
            state = gamma[:, None, None] * state + k[:, :, t, :, None] * v[:, :, t, None]
            steps.append((q[:, :, t, None] @ state)[:, :, 0])
        out = torch.stack(steps, 2)
    else:  # (Q K^T * D) V, with the whole sequence or a part of it as the chunk
        log_gamma_HT = gamma.log()[:, None].expand(-1, time)
        out, state = decay_attention(q, k, v, log_gamma_HT, state, time if mode == "parallel" else chunk_size)
    return out.to(out_dtype), state


def decays(n_heads: int) -> Tensor:
    """What each head keeps of its memory at a step: ``1 - 2**(-5 - h)``.

    Args:
        n_heads: Heads H.

    Returns:
        ``(H,)``, in float64: in 16 bits those of later heads would be 1.

    Examples:
        >>> decays(3)
        tensor([0.9688, 0.9844, 0.9922], dtype=torch.float64)
    """
    return 1 - 2.0 ** (-5 - torch.arange(n_heads, dtype=torch.float64))
