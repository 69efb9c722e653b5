"""The delta rule: a memory that replaces what it holds for a key; and Gated DeltaNet, where it also fades.

Source: Schlag et al. 2021, arXiv:2102.11174, section 4 (delta rule); Yang et al. 2024, arXiv:2406.06484, section 3 (chunks); Yang et
al. 2025, arXiv:2412.06464, section 3 (gate and layer).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vocab.attention.multi_head import merge_heads, split_heads
from vocab.check import expect
from vocab.convolution.causal import CausalConv1d
from vocab.normalization.rms import RMSNorm
from vocab.state_space.mamba_2 import decay_chunk, segment_sum

__all__ = ["DeltaState", "GatedDeltaNet", "delta_rule"]

# B batch, T time, D model width, H heads, d width of a query or key, e of a value, K convolution taps


class DeltaState(NamedTuple):
    """What a layer remembers between calls; its size does not grow with time.

    Attributes:
        conv: ``(B, H (2 d + e), K - 1)``, the latest inputs of the convolution.
        memory: ``(B, H, d, e)``, the matrix that maps keys to values.
    """

    conv: Tensor
    memory: Tensor


class GatedDeltaNet(nn.Module):
    """Sequence layer: short causal convolution, gated delta rule in heads, norm and gate, projection.

    Args:
        d_model: Width D of input and output.
        n_heads: Heads H.
        head_dim: Width d of a query or key.
        expand_v: Width e of a value over d.
        conv_size: Taps K of the convolution over queries, keys and values.
        chunk_size: Steps that are computed together; changes speed and memory, not the result.
        negative_eigenvalues: Whether beta runs to 2 instead of 1, so that a write may also mirror what is stored.
        eps: Added under the roots of the norms.

    Shapes:
        x ``(B, T, D)`` and a state, or None for an empty past -> y ``(B, T, D)`` and the state after the last token.

    Raises:
        ValueError: If a size is below 1, or ``x`` or ``state`` has another shape.

    Examples:
        >>> layer, x = GatedDeltaNet(8, n_heads=2, head_dim=4), torch.randn(1, 6, 8)
        >>> first, state = layer(x[:, :4])
        >>> rest, state = layer(x[:, 4:], state)
        >>> torch.allclose(torch.cat([first, rest], 1), layer(x)[0], atol=1e-5), state.memory.shape
        (True, torch.Size([1, 2, 4, 8]))
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        head_dim: int,
        *,
        expand_v: int = 2,
        conv_size: int = 4,
        chunk_size: int = 64,
        negative_eigenvalues: bool = False,
        eps: float = 1e-6,
    ) -> None:
        super().__init__()
        sizes = dict(d_model=d_model, n_heads=n_heads, head_dim=head_dim, expand_v=expand_v, conv_size=conv_size, chunk_size=chunk_size)
        for name, value in sizes.items():
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}={value!r} is not a whole number above 0")
        self.head_dim, self.value_dim, self.chunk_size, self.eps = head_dim, expand_v * head_dim, chunk_size, eps
        self.beta_max = 2.0 if negative_eigenvalues else 1.0
        keys, values = n_heads * head_dim, n_heads * self.value_dim
        self.widths = keys, keys, values
        self.qkv_proj = nn.Linear(d_model, sum(self.widths), bias=False)
        self.conv = CausalConv1d(
            sum(self.widths), sum(self.widths), conv_size, groups=sum(self.widths), bias=False, activation="silu"
        )
        self.beta_proj = nn.Linear(d_model, n_heads, bias=False)
        self.decay_proj = nn.Linear(d_model, n_heads, bias=False)
        self.A_log = nn.Parameter(torch.empty(n_heads).uniform_(1, 16).log())  # both as in Mamba-2
        dt = torch.empty(n_heads).uniform_(math.log(1e-3), math.log(1e-1)).exp()
        self.dt_bias = nn.Parameter(dt.expm1().log())
        self.gate_proj = nn.Linear(d_model, values, bias=False)
        self.norm = RMSNorm(self.value_dim, eps)
        self.o_proj = nn.Linear(values, d_model, bias=False)

    def forward(self, x: Tensor, state: DeltaState | None = None) -> tuple[Tensor, DeltaState]:
        expect("x", x, "batch time d_model", d_model=self.qkv_proj.in_features)
        conv, memory = (None, None) if state is None else state
        if state is not None:
            expect("state[0]", conv, "batch width past", batch=len(x), width=sum(self.widths), past=self.conv.past)
            sizes = dict(batch=len(x), heads=len(self.A_log), head_dim=self.head_dim, value_dim=self.value_dim)
            expect("state[1]", memory, "batch heads head_dim value_dim", **sizes)
        mixed, conv = self.conv(self.qkv_proj(x).transpose(1, 2), conv)
        q, k, v = mixed.transpose(1, 2).split(self.widths, -1)
        q_BHTd, k_BHTd = (self._unit(split_heads(y, self.head_dim)) for y in (q, k))
        v_BHTe = split_heads(v, self.value_dim)
        beta_BHT = self.beta_max * self.beta_proj(x).transpose(1, 2).sigmoid()
        dtype = torch.promote_types(x.dtype, torch.float32)
        step_BTH = F.softplus((self.decay_proj(x) + self.dt_bias).to(dtype))
        log_alpha_BHT = (-self.A_log.to(dtype).exp() * step_BTH).transpose(1, 2)
        out_BHTe, memory = delta_rule(
            q_BHTd / self.head_dim**0.5, k_BHTd, v_BHTe, beta_BHT, log_alpha_BHT, memory, mode="chunk", chunk_size=self.chunk_size
        )
        y = merge_heads(self.norm(out_BHTe)) * F.silu(self.gate_proj(x))
        return self.o_proj(y), DeltaState(conv, memory)

    def _unit(self, x: Tensor) -> Tensor:
        """Vectors of length 1: a write then erases along its key and does not overshoot."""
        return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + self.eps)


def delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    log_alpha: Tensor | None = None,
    state: Tensor | None = None,
    *,
    mode: str = "recurrent",
    chunk_size: int = 64,
) -> tuple[Tensor, Tensor]:
    """Runs ``S = alpha (S - beta k (k S)) + beta k v^T`` over time and reads ``o = q S``.

    What the memory returns for a key is moved by the share beta towards the new value. Computes in 32 bits or more and
    returns the dtype of ``v``.

    Args:
        q: Queries ``(B, H, T, d)``.
        k: Keys ``(B, H, T, d)``, of length 1.
        v: Values ``(B, H, T, e)``.
        beta: How much of the old value is replaced ``(B, H, T)``: 0 nothing, 1 all, above 1 more than all.
        log_alpha: Logarithms of the decay ``(B, H, T)``; without it nothing fades.
        state: ``S`` before the first step ``(B, H, d, e)``; zero if not given.
        mode: ``"recurrent"``: one step after the other; ``"chunk"``: a triangular system per chunk, then matrix products.
        chunk_size: Steps in a chunk.

    Returns:
        o ``(B, H, T, e)`` and ``S`` after the last step.

    Raises:
        ValueError: If a shape does not fit, there is no step, ``mode`` is another word, or ``chunk_size`` is below 1.

    Examples:
        >>> k, v = torch.ones(1, 1, 3, 1), torch.tensor([[[[5.0], [7.0], [9.0]]]])  # one key, three values
        >>> delta_rule(k, k, v, torch.ones(1, 1, 3))[0].flatten()  # the latest counts
        tensor([5., 7., 9.])
        >>> delta_rule(k, k, v, torch.full((1, 1, 3), 0.5))[0].flatten()  # half of the way to it
        tensor([2.5000, 4.7500, 6.8750])
    """
    expect("q", q, "batch heads time head_dim")
    batch, heads, time, width = q.shape
    sizes = dict(batch=batch, heads=heads, time=time)
    expect("k", k, "batch heads time head_dim", **sizes, head_dim=width)
    expect("v", v, "batch heads time value_dim", **sizes)
    if log_alpha is None:
        log_alpha = torch.zeros_like(beta)
    for name, x in (("beta", beta), ("log_alpha", log_alpha)):
        expect(name, x, "batch heads time", **sizes)
    if mode not in ("recurrent", "chunk"):
        raise ValueError(f"mode={mode!r} is neither 'recurrent' nor 'chunk'")
    if chunk_size < 1 or time < 1:
        raise ValueError(f"chunk_size={chunk_size} or the number of steps, {time}, is below 1")
    dtype = torch.promote_types(v.dtype, torch.float32)
    out_dtype, (q, k, v, beta, log_alpha) = v.dtype, (x.to(dtype) for x in (q, k, v, beta, log_alpha))
    if state is None:
        state = v.new_zeros(batch, heads, width, v.shape[-1])
    expect("state", state, "batch heads head_dim value_dim", batch=batch, heads=heads, head_dim=width, value_dim=v.shape[-1])
    step, state = (1 if mode == "recurrent" else chunk_size), state.to(dtype)
    outputs = []
    for start in range(0, time, step):
        now = slice(start, start + step)
        parts = q[:, :, now], k[:, :, now], v[:, :, now], beta[:, :, now], log_alpha[:, :, now]
        out, state = (_step if mode == "recurrent" else _chunk)(*parts, state)
        outputs.append(out)
    return torch.cat(outputs, 2).to(out_dtype), state


def _step(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, log_alpha: Tensor, S: Tensor) -> tuple[Tensor, Tensor]:
    S = log_alpha.exp()[..., None] * S
    S = S + k.transpose(-1, -2) @ (beta[..., None] * (v - k @ S))
    return q @ S, S


def _chunk(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, log_alpha: Tensor, S: Tensor) -> tuple[Tensor, Tensor]:
    # A step adds k_t u_t^T, where u_t = beta_t (v_t - what S returns for k_t). That depends on the u before it: a
    # triangular system. Once u is known, the rest is linear attention with decay, and u are its values.
    kept = segment_sum(log_alpha).exp()
    since = log_alpha.cumsum(-1).exp()[..., None]
    before = (beta[..., None] * (k @ k.transpose(-1, -2)) * kept).tril(-1)
    target = beta[..., None] * (v - since * (k @ S))
    one = torch.eye(k.shape[-2], dtype=k.dtype, device=k.device)
    u = torch.linalg.solve_triangular(one + before, target, upper=False, unitriangular=True)
    return decay_chunk(q, k, u, log_alpha, S)
