"""Linear state space layer: a system of differential equations, sampled, as a recurrence or as a convolution.

Source: Gu et al. 2021, arXiv:2110.13985, sections 2 and 3; Gu et al. 2022, arXiv:2111.00396, section 2 (kernel); first values of A and B from
Gu et al. 2020, arXiv:2008.07669, theorem 2.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from vocab.check import expect
from vocab.state_space.hippo import hippo_legs

__all__ = ["StateSpaceLayer", "discretize", "fft_convolve", "ssm_kernel"]

# B batch, T time, D channels, N numbers of state per channel

METHODS = ("zoh", "bilinear", "euler")


class StateSpaceLayer(nn.Module):
    """Runs every channel through ``dh/dt = A h + B x``, ``y = C h + D x``, sampled with a step of its own.

    A and B are shared by the channels and start as HiPPO-LegS; C, D and the step are each channel's own. A is kept as a
    skew part minus a positive one, so that no training can make the system unstable.

    Args:
        d_model: Channels D.
        d_state: Numbers N of state per channel.
        discretization: What the input does between samples: ``"zoh"`` it stands still, ``"bilinear"`` trapezoidal rule.
        mode: How ``forward`` computes: ``"recurrent"`` or ``"convolution"``; the result is the same.
        dt_min: Smallest first step; a channel remembers about 1 / step samples.
        dt_max: Largest first step.

    Shapes:
        x ``(B, T, D)`` -> ``(B, T, D)``.

    Raises:
        ValueError: If a size is below 1, a word is unknown, steps are not ``0 < dt_min <= dt_max``, or a shape does not fit.

    Examples:
        >>> layer, x = StateSpaceLayer(3, d_state=8), torch.randn(1, 6, 3)
        >>> y, state = layer.step(x[:, 0])
        >>> torch.allclose(y, layer(x)[:, 0], atol=1e-5)
        True
    """

    def __init__(
        self,
        d_model: int,
        d_state: int = 64,
        *,
        discretization: str = "zoh",
        mode: str = "convolution",
        dt_min: float = 1e-3,
        dt_max: float = 1e-1,
    ) -> None:
        super().__init__()
        for name, value in dict(d_model=d_model, d_state=d_state).items():
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}={value!r} is not a whole number above 0")
        if discretization not in METHODS[:2]:
            raise ValueError(f"discretization={discretization!r} is neither 'zoh' nor 'bilinear'")
        if mode not in ("recurrent", "convolution"):
            raise ValueError(f"mode={mode!r} is neither 'recurrent' nor 'convolution'")
        if not 0 < dt_min <= dt_max:
            raise ValueError(f"dt_min={dt_min} and dt_max={dt_max} are not 0 < dt_min <= dt_max")
        self.discretization, self.mode = discretization, mode
        A, B = (x.to(torch.get_default_dtype()) for x in hippo_legs(d_state))
        self.skew = nn.Parameter(A.tril(-1) / 2)
        self.low_rank = nn.Parameter(B.clone())
        self.log_decay = nn.Parameter(torch.zeros(d_state))
        self.B = nn.Parameter(B)
        self.C = nn.Parameter(torch.randn(d_model, d_state))
        self.D = nn.Parameter(torch.ones(d_model))
        self.log_dt = nn.Parameter(torch.empty(d_model).uniform_(math.log(dt_min), math.log(dt_max)))

    @property
    def A(self) -> Tensor:
        """``(N, N)``; its symmetric part is negative, so every eigenvalue has a negative real part."""
        lost = torch.outer(self.low_rank, self.low_rank) + torch.diag(self.log_decay.exp())
        return self.skew - self.skew.T - lost / 2

    def forward(self, x: Tensor) -> Tensor:
        expect("x", x, "batch time d_model", d_model=len(self.D))
        Ad_DNN, Bd_DN = discretize(self.A, self.B, self.log_dt.exp(), self.discretization)
        if self.mode == "convolution":
            time = x.shape[1]
            return fft_convolve(x, ssm_kernel(Ad_DNN, Bd_DN, self.C, time)) + self.D * x
        state, outputs = self._start(x), []
        for x_BD in x.unbind(1):
            y, state = self._advance(x_BD, state, Ad_DNN, Bd_DN)
            outputs.append(y)
        return torch.stack(outputs, 1)

    def step(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Takes one sample ``(B, D)``; gives its output and the state ``(B, D, N)``.

        Args:
            x: The sample.
            state: What the call before returned; None for the first sample.
        """
        expect("x", x, "batch d_model", d_model=len(self.D))
        if state is None:
            state = self._start(x)
        expect("state", state, "batch d_model d_state", batch=len(x), d_model=len(self.D), d_state=len(self.B))
        return self._advance(x, state, *discretize(self.A, self.B, self.log_dt.exp(), self.discretization))

    def _start(self, x: Tensor) -> Tensor:
        return x.new_zeros(len(x), *self.C.shape)

    def _advance(self, x_BD: Tensor, h_BDN: Tensor, Ad_DNN: Tensor, Bd_DN: Tensor) -> tuple[Tensor, Tensor]:
        h_BDN = torch.einsum("dnm,bdm->bdn", Ad_DNN, h_BDN) + Bd_DN * x_BD.unsqueeze(-1)
        return (self.C * h_BDN).sum(-1) + self.D * x_BD, h_BDN


def discretize(A: Tensor, B: Tensor, dt: Tensor, method: str = "zoh") -> tuple[Tensor, Tensor]:
    """The step ``h <- Ad h + Bd x`` that stands for a time ``dt`` of ``dh/dt = A h + B x``.

    Args:
        A: ``(N, N)``; may be singular.
        B: ``(N,)``.
        dt: Steps ``(...)``, of any shape.
        method: ``"zoh"``: exact for an input that stands still during the step; ``"bilinear"``: trapezoidal rule, stable
            whenever A is; ``"euler"``: stable for small ``dt`` only.

    Returns:
        Ad ``(..., N, N)`` and Bd ``(..., N)``.

    Raises:
        ValueError: If a shape does not fit or ``method`` is unknown.

    Examples:
        >>> A, B = torch.tensor([[-1.0]]), torch.tensor([1.0])
        >>> discretize(A, B, torch.tensor(1.0))[0], discretize(A, B, torch.tensor(1.0), "bilinear")[0]
        (tensor([[0.3679]]), tensor([[0.3333]]))
    """
    expect("B", B, "d_state")
    N = len(B)
    expect("A", A, "d_state d_state", d_state=N)
    expect("dt", dt, "...")
    if method not in METHODS:
        raise ValueError(f"method={method!r} is none of {METHODS}")
    # One matrix for state and input together: its exponential holds Ad and Bd, and A need not be inverted.
    rate = torch.cat([torch.cat([A, B[:, None]], 1), A.new_zeros(1, N + 1)]) * dt[..., None, None]
    if method == "zoh":
        both = torch.linalg.matrix_exp(rate)
    elif method == "euler":
        both = torch.eye(N + 1).to(rate) + rate
    else:
        both = torch.linalg.solve(torch.eye(N + 1).to(rate) - rate / 2, torch.eye(N + 1).to(rate) + rate / 2)
    return both[..., :N, :N], both[..., :N, N]


def fft_convolve(x: Tensor, kernel: Tensor) -> Tensor:
    """Causal convolution with a kernel as long as the sequence: ``y[t]`` is the sum of ``kernel[j] * x[t - j]``.

    Args:
        x: ``(B, T, D)``.
        kernel: ``(D, T)``, one for each channel.

    Returns:
        ``(B, T, D)``.

    Raises:
        ValueError: If a shape does not fit.

    Examples:
        >>> x = torch.tensor([1.0, 0.0, 2.0]).view(1, 3, 1)
        >>> fft_convolve(x, torch.tensor([[1.0, 0.5, 0.25]])).flatten().round(decimals=4)
        tensor([1.0000, 0.5000, 2.2500])
    """
    expect("x", x, "batch time d_model")
    time = x.shape[1]
    expect("kernel", kernel, "d_model time", d_model=x.shape[2], time=time)
    # An FFT of length T would let the end of the sequence run into its beginning.
    spectrum = torch.fft.rfft(x, 2 * time, dim=1) * torch.fft.rfft(kernel.T, 2 * time, dim=0)
    return torch.fft.irfft(spectrum, 2 * time, dim=1)[:, :time]


def ssm_kernel(Ad: Tensor, Bd: Tensor, C: Tensor, L: int) -> Tensor:
    """The response to a single 1: ``C Bd, C Ad Bd, C Ad^2 Bd, ...``, by doubling.

    Args:
        Ad: ``(..., N, N)``.
        Bd: ``(..., N)``.
        C: ``(..., N)``.
        L: Length.

    Returns:
        ``(..., L)``.

    Raises:
        ValueError: If a shape does not fit or ``L`` is below 1.

    Examples:
        >>> ssm_kernel(torch.tensor([[0.5]]), torch.ones(1), torch.ones(1), 4)
        tensor([1.0000, 0.5000, 0.2500, 0.1250])
    """
    expect("Bd", Bd, "... d_state")
    N = Bd.shape[-1]
    expect("Ad", Ad, "... d_state d_state", d_state=N)
    expect("C", C, "... d_state", d_state=N)
    if L < 1:
        raise ValueError(f"L={L} is below 1")
    states, power = Bd.unsqueeze(-1), Ad  # the first states as columns, and the step over as many of them
    while states.shape[-1] < L:
        states = torch.cat([states, power @ states], -1)
        power = power @ power
    return (C.unsqueeze(-2) @ states[..., :L]).squeeze(-2)
