"""Mamba: a state space layer whose step size, input and output weights depend on the token.

Source: Gu and Dao 2023, arXiv:2312.00752, algorithm 2 and figure 3; initialization in section 3.6.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vocab.check import expect
from vocab.convolution.causal import CausalConv1d
from vocab.kernels.selective_scan import applies, fused
from vocab.state_space.parallel_scan import linear_scan

__all__ = ["Mamba", "MambaState", "selective_scan"]

# B batch, T time, D model width, E inner width, N numbers of state per inner channel, K convolution taps, R rank of dt


class MambaState(NamedTuple):
    """What a layer remembers between calls; its size does not grow with time.

    Attributes:
        conv: ``(B, E, K - 1)``, the latest inputs of the convolution.
        ssm: ``(B, E, N)``, the state of the recurrence.
    """

    conv: Tensor
    ssm: Tensor


class Mamba(nn.Module):
    """Sequence layer: projection, short causal convolution, selective scan, gate, projection.

    Args:
        d_model: Width D of input and output.
        d_state: Numbers N of state per channel.
        d_conv: Taps K of the convolution.
        expand: Inner width E over D.
        dt_rank: Rank R of the projection that makes the step sizes; ``"auto"`` is ``ceil(d_model / 16)``.
        backend: ``"auto"``, ``"torch"`` or ``"triton"`` (one kernel for scan, read-out, skip and gate).

    Shapes:
        x ``(B, T, D)`` and a state, or None for an empty past -> y ``(B, T, D)`` and the state after the last token.

    Raises:
        ValueError: If a size is below 1, or ``x`` or ``state`` has another shape.
        RuntimeError: If ``backend="triton"`` cannot run here; the message says why.

    Examples:
        >>> mamba = Mamba(d_model=8)
        >>> y, state = mamba(torch.zeros(1, 5, 8))
        >>> next_y, state = mamba.step(torch.zeros(1, 8), state)
        >>> next_y.shape, state.ssm.shape
        (torch.Size([1, 8]), torch.Size([1, 16, 16]))
    """

    def __init__(
        self, d_model: int, d_state: int = 16, d_conv: int = 4, expand: int = 2, dt_rank: int | str = "auto", *, backend: str = "auto"
    ) -> None:
        super().__init__()
        self.backend = backend
        rank = math.ceil(d_model / 16) if dt_rank == "auto" else dt_rank
        for name, value in dict(d_model=d_model, d_state=d_state, d_conv=d_conv, expand=expand, dt_rank=rank).items():
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}={value!r} is not a whole number above 0")
        inner = expand * d_model
        self.sizes = rank, d_state, d_state
        self.in_proj = nn.Linear(d_model, 2 * inner, bias=False)
        self.conv = CausalConv1d(inner, inner, d_conv, groups=inner, activation="silu")
        self.x_proj = nn.Linear(inner, sum(self.sizes), bias=False)
        self.dt_proj = nn.Linear(rank, inner)  # starts within ±rank**-0.5, as the paper's code asks
        self.A_log = nn.Parameter(torch.arange(1.0, d_state + 1).log().repeat(inner, 1))
        self.D = nn.Parameter(torch.ones(inner))
        self.out_proj = nn.Linear(inner, d_model, bias=False)
        dt = torch.empty(inner).uniform_(math.log(1e-3), math.log(1e-1)).exp()
        with torch.no_grad():
            self.dt_proj.bias.copy_(dt.expm1().log())  # softplus of this is dt

    def forward(self, x: Tensor, state: MambaState | None = None) -> tuple[Tensor, MambaState]:
        expect("x", x, "batch time d_model", d_model=self.in_proj.in_features)
        state = self._checked(state, x)
        u_BET, z_BET = self.in_proj(x).transpose(1, 2).chunk(2, 1)
        u_BET, last = self.conv(u_BET, state.conv)
        dt_BTR, B_BTN, C_BTN = self.x_proj(u_BET.transpose(1, 2)).split(self.sizes, -1)
        dt_BET = F.softplus(self.dt_proj(dt_BTR)).transpose(1, 2)
        A_EN = -self.A_log.exp()  # negative whatever is learned: every state decays
        y_BET, ssm = selective_scan(
            u_BET, dt_BET, A_EN, B_BTN.transpose(1, 2), C_BTN.transpose(1, 2), self.D, z_BET,
            state=state.ssm, return_state=True, backend=self.backend,
        )  # fmt: skip
        return self.out_proj(y_BET.transpose(1, 2)), MambaState(last, ssm)

    def step(self, x: Tensor, state: MambaState | None = None) -> tuple[Tensor, MambaState]:
        """Takes one token ``(B, D)`` and gives its output: generation, at a cost that does not grow with time.

        Args:
            x: The token.
            state: What the call before returned; None for the first token.
        """
        expect("x", x, "batch d_model", d_model=self.in_proj.in_features)
        y, state = self(x[:, None], state)
        return y[:, 0], state

    def _checked(self, state: MambaState | None, x: Tensor) -> MambaState:
        inner, d_state, past = *self.A_log.shape, self.conv.kernel_size[0] - 1
        if state is None:
            # At least 32 bits, as in the scan: a state is added to thousands of times.
            ssm = x.new_zeros(len(x), inner, d_state, dtype=torch.promote_types(x.dtype, torch.float32))
            return MambaState(x.new_zeros(len(x), inner, past), ssm)
        expect("state[0]", state[0], "batch d_inner past", batch=len(x), d_inner=inner, past=past)
        expect("state[1]", state[1], "batch d_inner d_state", batch=len(x), d_inner=inner, d_state=d_state)
        return MambaState(*state)


def selective_scan(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    *,
    state: Tensor | None = None,
    return_state: bool = False,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """Runs ``h = exp(dt * A) * h + dt * B * u`` over time and reads ``y = C . h + D * u``, gated by ``silu(z)``.

    Computes in 32 bits or more and returns the dtype of ``u``.

    Args:
        u: Input ``(B, E, T)``.
        dt: Step size ``(B, E, T)``, at least 0; where it is 0 the token leaves no trace.
        A: Decay rates ``(E, N)``, negative.
        B: What is written ``(B, N, T)``, shared by all channels.
        C: What is read ``(B, N, T)``, shared by all channels.
        D: Weight ``(E,)`` of the path around the state.
        z: Gate ``(B, E, T)``, before its SiLU.
        state: ``h`` before the first token ``(B, E, N)``; zero if not given.
        return_state: Whether ``h`` after the last token is returned too.
        backend: ``"auto"``, ``"torch"`` or ``"triton"`` (one kernel that keeps states in registers).

    Raises:
        ValueError: If a shape does not fit that of ``u``.
        RuntimeError: If ``backend="triton"`` cannot run here; the message says why.

    Examples:
        >>> one = torch.ones(1, 1, 4)
        >>> selective_scan(one, torch.tensor([[[1.0, 0.0, 0.0, 1.0]]]), torch.tensor([[-1.0]]), one, one)
        tensor([[[1.0000, 1.0000, 1.0000, 1.3679]]])
    """
    expect("u", u, "batch d_inner time")
    batch, inner, time = u.shape
    expect("A", A, "d_inner d_state", d_inner=inner)
    for name, x in [("dt", dt)] + [("z", z)] * (z is not None):
        expect(name, x, "batch d_inner time", batch=batch, d_inner=inner, time=time)
    for name, x in [("B", B), ("C", C)]:
        expect(name, x, "batch d_state time", batch=batch, d_state=A.shape[1], time=time)
    if D is not None:
        expect("D", D, "d_inner", d_inner=inner)
    if state is not None:
        expect("state", state, "batch d_inner d_state", batch=batch, d_inner=inner, d_state=A.shape[1])
    if applies(u, A, backend, axis=2):
        u, dt, B, C, z = (x if x is None else x.transpose(1, 2) for x in (u, dt, B, C, z))
        y, h = fused(u, dt, A, B, C, D, z, state)
        return (y.transpose(1, 2), h) if return_state else y.transpose(1, 2)
    dtype = torch.promote_types(u.dtype, torch.float32)
    A_EN, B_BNT, C_BNT, dt_BET, u_BET = (x.to(dtype) for x in (A, B, C, dt, u))
    dt_BET1 = dt_BET.unsqueeze(-1)
    write_BETN = dt_BET1 * u_BET.unsqueeze(-1) * B_BNT.transpose(1, 2).unsqueeze(1)
    h_BETN = linear_scan((dt_BET1 * A_EN.unsqueeze(1)).exp(), write_BETN, None if state is None else state.to(dtype), axis=2)
    y_BET = torch.einsum("betn,bnt->bet", h_BETN, C_BNT)
    if D is not None:
        y_BET = y_BET + D.to(dtype)[:, None] * u_BET
    if z is not None:
        y_BET = y_BET * F.silu(z.to(dtype))
    y_BET = y_BET.to(u.dtype)
    return (y_BET, h_BETN[:, :, -1]) if return_state else y_BET
